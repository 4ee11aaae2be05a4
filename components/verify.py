"""Verify: golden tiles through an endpoint, packed as Earth Engine packs them, against the source model."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from components.asking import ATTEMPTS, asking
from components.earthengine.contract import ModelContract
from components.earthengine.errors import PipelineError, VerificationError, VertexError
from components.golden import Golden
from components.pictures import save_pictures
from components.record import Deployment, Record
from components.replay import NobodyAnsweredError, Replay, percentile_ms, replay, tile_bytes
from components.verification import Check, Verification, checks_of, figures_of, latency_check, pictures_of
from components.versions import VERIFIED, VERIFIED_BY, label_version
from components.vertex import Vertex
from components.whole import whole_folder

log = logging.getLogger(__name__)


def verify_run(
    vertex: Vertex, record: Record, archive: Path, pictures: Path, *, max_latency_seconds: float
) -> Verification:
    """Verify what a run has deployed, at its trial endpoint or where it serves already, with every golden tile.

    Args:
        vertex: where.
        record: where the run's deployment is written down, and this verification.
        archive: folder with model.yaml and golden.npz.
        pictures: folder to make pictures in, where the golden tiles are of a scene.
        max_latency_seconds: what the 99th percentile of the requests may take.

    Raises:
        VerificationError: a check did not pass, or the model could not be judged; the record says so too, and of a
            model that was judged the version's label.
        VertexError: it passed and the version cannot be labelled.
    """
    deployment = record.deployment()
    if deployment is None:
        raise VerificationError(f"{record.folder} holds no deployment; nothing can be verified")
    endpoint, share = (deployment.trial, 100) if deployment.trial else (deployment.endpoint, deployment.share_before)
    contract, golden = ModelContract.read(archive), Golden.load(archive)
    record.keep_contract(contract)
    verification, replayed = verify_endpoint(
        vertex, endpoint, deployment.deployed_model, share, contract, golden, max_latency_seconds
    )
    with whole_folder(pictures) as aside:
        if replayed and golden.scene and not verification.fault:
            save_pictures(contract, golden.tiles, replayed.answers[0], golden.scene, aside)
    record.add(verification, 0)
    judge(vertex, deployment, verification)
    return verification


def judge(vertex: Vertex, deployment: Deployment, verification: Verification) -> None:
    """Write on the version what a verification says of it, where it says something.

    Raises:
        VerificationError: it did not pass.
        VertexError: it passed and the version cannot be labelled.
    """
    if verification.conclusive:
        verdict = "failed" if verification.fault else "passed"
        labels = {VERIFIED: f"{verdict}-{verification.moment}", VERIFIED_BY: deployment.run}
        try:
            label_version(vertex, deployment.model, labels)
        except VertexError:
            if not verification.fault:
                raise
            log.exception("version %s is not labelled", deployment.model)
    if verification.fault:
        raise VerificationError(
            f"deployed model {verification.deployed_model} ({deployment.model.rsplit('/', 1)[-1]}) is not released: "
            f"{verification.fault}"
        )


def verify_endpoint(
    vertex: Vertex,
    endpoint: str,
    deployed_model: str,
    share: int,
    contract: ModelContract,
    golden: Golden,
    max_latency_seconds: float,
    *,
    at_most: int | None = None,
) -> tuple[Verification, Replay | None]:
    """Send golden tiles through an endpoint and compare what the deployed model answers.

    Args:
        vertex: where.
        endpoint: resource name.
        deployed_model: whose answers count; requests that traffic leads elsewhere are sent again.
        share: percent of the endpoint's traffic that it has.
        contract: the model's contract.
        golden: the tiles, and what the source model answers.
        max_latency_seconds: what the 99th percentile of the requests may take.
        at_most: requests' worth of tiles that are sent, without pictures; all if not given.

    Returns:
        What was found, and what was answered; None where there is no answer that can be read.
    """
    in_request, in_answer = tile_bytes(contract, golden)
    found = Verification(
        endpoint, deployed_model, share, (), output_multiplier=max(1.0, math.ceil(10 * in_answer / in_request) / 10)
    )
    try:
        with asking(vertex, endpoint, deployed_model, contract) as ask:
            replayed = replay(contract, golden, ask, attempts=ATTEMPTS, at_most=at_most)
    except NobodyAnsweredError:
        text = f"deployed model {deployed_model} answered none of {ATTEMPTS} requests to {endpoint}; see its traffic"
        return replace(found, checks=(Check("answers", False, text),), conclusive=False), None
    except PipelineError as error:
        disturbed = isinstance(error, (VerificationError, VertexError))
        return replace(found, checks=(Check("answers", False, str(error)),), conclusive=not disturbed), None
    return replace(
        found,
        checks=(*checks_of(contract, replayed), latency_check(replayed, max_latency_seconds)),
        tiles=len(replayed.sent),
        requests=len(replayed.exchanges),
        elsewhere=sum(one.elsewhere for one in replayed.exchanges),
        p50_ms=percentile_ms(replayed, 50),
        p99_ms=percentile_ms(replayed, 99),
        largest_request=max(one.request_bytes for one in replayed.exchanges),
        largest_answer=max(one.answer_bytes for one in replayed.exchanges),
        outputs=figures_of(contract, replayed),
        pictures={} if at_most else pictures_of(contract, replayed, golden.scene),
    ), replayed
