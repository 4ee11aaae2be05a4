"""Conclude: the last step of a run, however the others ended.

Released: older deployments and versions are retired. Not released: traffic as it was, what the run deployed is removed.
In either case the trial endpoint goes, and what came of the run is told.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from google.api_core import exceptions

from components import job
from components.deadline import DEPLOY_SECONDS, reserved
from components.earthengine.errors import PipelineError, VertexError
from components.earthengine.redaction import redact
from components.operations import wait_for_pending, wait_until_ended
from components.parameters import check_numbers
from components.record import Deployment, Record
from components.release import take_back
from components.releases import remember_release
from components.retention import retire_deployments, retire_versions
from components.traffic import (
    Split,
    change_traffic,
    read_endpoint,
    shares_at,
    undeploy,
    without,
)
from components.trial import remove_trial
from components.verification import Verification
from components.versions import make_default
from components.vertex import Vertex

log = logging.getLogger(__name__)

_ATTEMPTS = 3


@dataclass(frozen=True)
class Conclusion:
    """What came of a run.

    Attributes:
        released: whether its model has all the traffic.
        changed: whether the run has changed the endpoint's models or traffic.
        reason: why it is not released; empty where it is.
        deployment: what the run deployed; None if it came to none.
        verifications: the first first.
        traffic: the endpoint's split now.
        retired: deployed models, by id, and versions, as `M@V`, that were removed because newer ones are kept.
        untidy: what could not be tidied up, and why.
        stays: whether the model is deployed at the endpoint still.
    """

    released: bool
    changed: bool
    reason: str
    deployment: Deployment | None
    verifications: tuple[Verification, ...]
    traffic: Split
    retired: tuple[str, ...]
    untidy: tuple[str, ...] = ()
    stays: bool = False

    @property
    def outcome(self) -> str:
        """What became of what the run deployed."""
        if self.deployment is None:
            return "nothing was deployed"
        model = f"{self.deployment.model.rsplit('/', 1)[-1]} (deployed model {self.deployment.deployed_model})"
        if self.released and not self.changed:
            return f"{model} had all the traffic already and was verified again; nothing was changed"
        if self.released:
            return f"{model} is verified and has all the traffic; retired: {', '.join(self.retired) or 'none'}"
        stays = "stays deployed" if self.deployment.created else "was there before this run and stays"
        traffic = ", ".join(f"{share} % to {each}" for each, share in self.traffic.items() if share)
        return f"{model} {stays if self.stays else 'was removed'}; traffic: {traffic or 'none'}"

    @property
    def sentence(self) -> str:
        """The outcome, the reason where there is one, and what could not be tidied up, in a sentence."""
        untidy = "".join(f"; not tidied up: {each}" for each in self.untidy)
        if self.released:
            return f"{self.outcome}{untidy}"
        return f"{self.outcome}{';' if self.deployment else ':'} {self.reason}{untidy}"

    def metrics(self) -> dict[str, float]:
        """What compares from run to run: whether it released, and the figures of its last verification."""
        measured = self.verifications[-1].metrics() if self.verifications else {}
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        return {"released": float(self.released), **finite}


def conclude_run(vertex: Vertex, record: Record, *, fault: str, keep_previous: int, keep_versions: int) -> Conclusion:
    """Tidy up after a run and tell what came of it; what cannot be tidied up is told and stops nothing else.

    Args:
        vertex: where.
        record: where the run wrote down what it did.
        fault: why the run failed; empty if every step before succeeded.
        keep_previous: how many of the models that served before stay deployed without traffic.
        keep_versions: how many earlier versions stay in the registry.

    Raises:
        StorageError: the record cannot be read.
        VertexError: the endpoint cannot be read.
    """
    deployment = record.deployment()
    if deployment is None:
        return Conclusion(False, False, fault, None, (), {}, ())
    tidying = _Tidying()
    if fault:
        tidying.try_to(lambda: take_back(vertex, record))
        tidying.try_to(lambda: _remove(vertex, deployment))
    if deployment.trial:
        tidying.try_to(lambda: remove_trial(vertex, deployment.trial))
    with reserved():
        serves = shares_at(read_endpoint(vertex, deployment.endpoint)).get(deployment.deployed_model, 0) > 0
    if not fault and not serves:
        fault = "another run or a person took its traffic when it had been released"
    elif not fault:
        _retire(vertex, record, deployment, tidying, keep_previous, keep_versions)
    with reserved():
        found = read_endpoint(vertex, deployment.endpoint)
        verifications = tuple(record.verifications())
    traffic = dict(sorted(shares_at(found).items()))
    share = traffic.get(deployment.deployed_model, 0)
    removed = deployment.leftovers or tidying.retired
    changed = deployment.created or deployment.share_before != share or bool(removed)
    return Conclusion(
        not fault,
        changed,
        fault,
        deployment,
        verifications,
        traffic,
        tuple(tidying.retired),
        tuple(tidying.failed),
        deployment.deployed_model in {each.id for each in found.deployed_models},
    )


def why(vertex: Vertex, record: Record, run: str, told: str | None) -> str:
    """Why a run fails: what a step wrote down, else what Vertex AI tells of the step, else what it `told` of all."""
    for ask in (record.fault, lambda: job.fault(vertex, run)):
        with suppress(PipelineError):  # the reason is for people; without one a run is concluded too
            if text := ask():
                return redact(text)
    return redact(told or "a step ended without saying why; see its log")


@dataclass
class _Tidying:
    """What was retired, and what could not be tidied up."""

    retired: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def try_to(self, tidy: Callable[[], list[str] | None]) -> None:
        try:
            with reserved():
                self.retired += tidy() or []
        except PipelineError as error:
            log.exception("not tidied up")
            self.failed.append(str(error))


def _retire(
    vertex: Vertex, record: Record, deployment: Deployment, tidying: _Tidying, keep_previous: int, keep_versions: int
) -> None:
    endpoint, serving = deployment.endpoint, deployment.deployed_model
    if deployment.share_before < 100:
        tidying.try_to(lambda: remember_release(vertex, endpoint, serving, deployment.traffic_before))
        tidying.try_to(lambda: make_default(vertex, deployment.model))
    tidying.try_to(lambda: check_numbers(keep_previous=keep_previous, keep_versions=keep_versions))
    if not tidying.failed:
        tidying.try_to(lambda: retire_deployments(vertex, record, endpoint, serving, keep_previous, deployment.run))
        tidying.try_to(lambda: retire_versions(vertex, record, deployment.model, keep_versions))


def _remove(vertex: Vertex, deployment: Deployment) -> None:
    """Take what the run has deployed off its endpoint, once the operations that deploy it have ended."""
    endpoint, model = deployment.endpoint, deployment.deployed_model
    wait_until_ended(vertex, deployment.operations, DEPLOY_SECONDS)
    if not deployment.operations:  # killed before it could write them down
        wait_for_pending(vertex, endpoint)
    there = {each.id for each in read_endpoint(vertex, endpoint).deployed_models}
    if not deployment.created or model not in there:
        return
    for attempt in range(1, _ATTEMPTS + 1):
        # Another run that goes back to what it found may give the model its share again, and it is not let go with one.
        change_traffic(vertex, endpoint, lambda now: without(now, model) if model in now else now)
        try:
            undeploy(vertex, endpoint, model)
            return
        except VertexError as error:
            if attempt == _ATTEMPTS or not isinstance(error.__cause__, exceptions.BadRequest):
                raise
