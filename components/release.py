"""Release: a verified model gets its canary share of the traffic, then more in steps, verified after each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from components.deadline import reserved
from components.earthengine.contract import ModelContract
from components.earthengine.errors import VerificationError
from components.gate import Decision
from components.golden import Golden
from components.parameters import check_numbers, next_share
from components.record import Deployment, Record
from components.replay import ENOUGH
from components.retention import previous, trusted_at
from components.traffic import Split, change_traffic, given, read_endpoint, shares_at, taken
from components.verification import Verification
from components.verify import judge, verify_endpoint
from components.versions import has_failed, versions_at
from components.vertex import Vertex

log = logging.getLogger(__name__)


def release_deployment(
    vertex: Vertex,
    record: Record,
    archive: Path,
    *,
    canary_percent: int,
    promotion_steps: Sequence[int],
    max_latency_seconds: float,
) -> str:
    """Give a run's deployment the traffic of its endpoint, step by step.

    Args:
        vertex: where.
        record: where the run's deployment and its verification are written down.
        archive: folder with model.yaml and golden.npz.
        canary_percent: the first share; all at once where no other model has traffic.
        promotion_steps: the shares after it, rising to 100.
        max_latency_seconds: what the 99th percentile of the requests may take.

    Returns:
        What was done, in a sentence.

    Raises:
        ParameterError: a number is out of its range.
        VerificationError: the model was not verified, or does not answer rightly where it serves, and has its traffic
            of before again; or others have taken the traffic that it had; or another than the one that it was found
            better than serves by now.
        VertexError: Vertex AI refuses.
    """
    check_numbers(
        canary_percent=canary_percent, promotion_steps=promotion_steps, max_latency_seconds=max_latency_seconds
    )
    deployment, verifications = record.deployment(), record.verifications()
    if deployment is None or not verifications or verifications[0].fault:
        raise VerificationError(f"{record.folder} holds no verification that passed; nothing is released")
    decision = record.decision()
    model = deployment.deployed_model
    if deployment.share_before == 100:
        return f"deployed model {model} had all the traffic already; nothing is changed"
    share = deployment.share_before
    if verifications[1:]:  # this step is tried again
        share = verifications[-1].share
        _settle(vertex, record, deployment, verifications[-1])
    for number in count(len(verifications)):
        percent = next_share(share, canary_percent, promotion_steps)
        if percent is None:
            break
        deployment, split = _give(vertex, record, deployment, share, percent, decision)
        share = split[model]
        log.warning("traffic: %s", split)
        contract, golden = ModelContract.read(archive), Golden.load(archive)
        verification, _ = verify_endpoint(
            vertex, deployment.endpoint, model, share, contract, golden, max_latency_seconds, at_most=ENOUGH
        )
        with reserved():
            try:
                record.add(verification, number)
            finally:
                _settle(vertex, record, deployment, verification)
    return f"deployed model {model} has all the traffic"


def _settle(vertex: Vertex, record: Record, deployment: Deployment, verification: Verification) -> None:
    """Take the traffic back from a model that has not passed, and write the verdict on its version."""
    try:
        if verification.fault:  # at once, and not only when the run's last step has started
            take_back(vertex, record)
    finally:  # what the model has not passed is the reason, also where its traffic stays until that step
        judge(vertex, deployment, verification)


def take_back(vertex: Vertex, record: Record) -> None:
    """Give an endpoint the traffic that it had before a run, or what others have made of it since.

    What has failed its verification since then gets nothing back. Where nothing of that is deployed any more, the best
    of the models that could take over gets all of it. A run that has given its model no traffic changes none.

    Raises:
        VertexError: Vertex AI refuses.
    """
    deployment = record.deployment()
    if deployment is None or not deployment.given:
        return
    endpoint, model, before = deployment.endpoint, deployment.deployed_model, deployment.traffic_before
    found = read_endpoint(vertex, endpoint)
    failed = {each for each, version in versions_at(vertex, found).items() if has_failed(version)}

    def restored(now: Split) -> Split:
        return {each: share for each, share in taken(now, before, model).items() if each in now or each not in failed}

    split = change_traffic(vertex, endpoint, restored)
    if shares_at(found).get(model) and before and not split:
        found = read_endpoint(vertex, endpoint)
        for best in previous(found, model, trusted_at(vertex, found))[:1]:
            split = change_traffic(vertex, endpoint, lambda now: now or {best.id: 100})  # noqa: B023
    log.warning("traffic: %s", split)


def _give(
    vertex: Vertex, record: Record, deployment: Deployment, share: int, percent: int, decision: Decision | None
) -> tuple[Deployment, Split]:
    """Give the model a larger share, unless others have taken the one that it had, or what it was better than is gone.

    What others have made of the rest is written down first: at 100 % the endpoint itself does not tell any more.
    """
    model = deployment.deployed_model

    def step(now: Split) -> Split:
        nonlocal deployment
        if share and not now.get(model):
            raise VerificationError(
                f"deployed model {model} had {share} % of the traffic of {deployment.endpoint}, which is now split as "
                f"{now}: another run or a person changed it; run again if this model is to serve"
            )
        if decision:
            _check_champion(decision, deployment, now)
        deployment = replace(deployment, traffic_before=taken(now, deployment.traffic_before, model), given=True)
        record.write(deployment)
        return given(now, deployment.traffic_before, model, percent)

    if model not in {each.id for each in read_endpoint(vertex, deployment.endpoint).deployed_models}:
        raise VerificationError(
            f"deployed model {model} is not at {deployment.endpoint} any more: another run or a person took it off; "
            "run again if this model is to serve"
        )
    return deployment, change_traffic(vertex, deployment.endpoint, step)


def _check_champion(decision: Decision, deployment: Deployment, now: Split) -> None:
    """See that the model that the gate found another better than is the one with most traffic still."""
    champion = decision.contest.deployed_model
    others = {each: share for each, share in now.items() if share and each != deployment.deployed_model}
    if max(others.values(), default=0) > others.get(champion, 0):
        than = f"deployed model {champion}" if champion else "no model, as none served"
        raise VerificationError(
            f"the gate found deployed model {deployment.deployed_model} better than {than}; the traffic of "
            f"{deployment.endpoint} is split as {now} now, as another run or a person changed it meanwhile: train again"
        )


def planned_splits(deployment: Deployment, canary_percent: int, promotion_steps: Sequence[int]) -> list[Split]:
    """The traffic after each step of a release, where nobody else changes it meanwhile."""
    before, model = deployment.traffic_before, deployment.deployed_model
    share = deployment.share_before
    splits: list[Split] = []
    while percent := next_share(share, canary_percent, promotion_steps):
        splits.append(given(splits[-1] if splits else before, before, model, percent))
        share = splits[-1][model]
    return splits
