"""Retention: which older deployments and versions stay when a model has been released."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from components import job
from components.deadline import OPERATION_SECONDS
from components.deploy import run_of
from components.operations import carry_out
from components.record import Record
from components.releases import released, since
from components.traffic import gone_is_no_fault, read_endpoint, undeploy
from components.versions import SOURCE, is_trusted, list_versions, version_of, versions_at
from components.vertex import Vertex, model_id


def previous(endpoint: Any, serving: str, trusted: Callable[[Any], bool]) -> list[Any]:
    """The deployed models without traffic that could take over from the one that serves, the best first.

    First those that were released before it, the last first; then those of which no release is remembered, the newest
    first, save what was deployed after all of these: traffic was taken back from it, or never given.

    Args:
        endpoint: as Vertex AI describes it.
        serving: id of the model that has the traffic.
        trusted: whether a deployed model's version has passed its verification.
    """
    own = {version_of(each) for each in endpoint.deployed_models if each.id == serving}
    # Two runs at once may have deployed a version twice, which is nothing to go back to.
    candidates = {each.id: each for each in _idle(endpoint, serving) if trusted(each) and version_of(each) not in own}
    order = released(endpoint)
    earlier = [candidates[each] for each in since(order, serving) if each in candidates]
    others = [each for each in candidates.values() if each.id not in order]
    arrived = {each.id: each.create_time for each in endpoint.deployed_models}
    if serving in arrived:
        latest = max(arrived[each] for each in since(order, serving))
        others = [each for each in others if each.create_time < latest]
    return earlier + sorted(others, key=lambda each: each.create_time, reverse=True)


def outdated_deployments(vertex: Vertex, endpoint: Any, serving: str, keep: int, run: str) -> list[Any]:
    """The deployed models that go: those without traffic beyond the best `keep`, save those of runs at work."""
    kept = {each.id for each in previous(endpoint, serving, trusted_at(vertex, endpoint))[:keep]}
    idle = _idle(endpoint, serving)
    # What a person deployed and never gave traffic is that person's.
    ours = [each for each in idle if run_of(each) or each.id in released(endpoint)]
    return [each for each in ours if each.id not in kept and not job.is_at_work(vertex, run_of(each), run)]


def outdated_versions(versions: Iterable[Any], released: int, keep: int) -> list[Any]:
    """The versions that go: ours, older than the released one, deployed nowhere, beyond the newest `keep` of them.

    One that has an alias stays: a person gave it that.
    """
    older = [each for each in versions if int(each.version_id) < released and SOURCE in each.labels]
    newest_first = sorted(older, key=lambda each: int(each.version_id), reverse=True)
    return [each for each in newest_first[keep:] if not (each.deployed_models or each.version_aliases)]


def trusted_at(vertex: Vertex, endpoint: Any) -> Callable[[Any], bool]:
    """Whether what is deployed at an endpoint is of a version that passed its verification."""
    versions = versions_at(vertex, endpoint)
    return lambda deployed: deployed.id in versions and is_trusted(versions[deployed.id])


def retire_deployments(vertex: Vertex, record: Record, name: str, serving: str, keep: int, run: str) -> list[str]:
    """Take older models off an endpoint; returns their ids, with those that a killed attempt has taken off.

    Raises:
        StorageError: the record cannot be written.
        VertexError: Vertex AI refuses.
    """
    found = read_endpoint(vertex, name)
    outdated = [each.id for each in outdated_deployments(vertex, found, serving, keep, run)]
    stay = {each.id for each in found.deployed_models} - {*outdated}
    going = record.retire("deployments", outdated)
    for each in outdated:
        undeploy(vertex, name, each)
    return [each for each in going if each not in stay]


def retire_versions(vertex: Vertex, record: Record, model: str, keep: int) -> list[str]:
    """Delete older versions of a model `.../models/M@V` from the registry.

    The version itself must be the default one, which the registry deletes only with the whole model.

    Returns:
        Their names as `M@V`, with those that a killed attempt has deleted.

    Raises:
        StorageError: the record cannot be written.
        VertexError: the registry refuses.
    """
    name = model_id(model)
    versions = list_versions(vertex, name)
    outdated = [each.version_id for each in outdated_versions(versions, int(model.rsplit("@", 1)[-1]), keep)]
    stay = {each.version_id for each in versions} - {*outdated}
    going = record.retire("versions", outdated)
    for version in outdated:
        with gone_is_no_fault():
            _delete_version(vertex, name, version)
    return [f"{name}@{version}" for version in going if version not in stay]


def _delete_version(vertex: Vertex, name: str, version: str) -> None:
    parent = f"{vertex.parent}/models/{name}"
    carry_out(
        vertex,
        f"delete version {name}@{version}",
        parent,
        lambda: vertex.models.delete_model_version(name=f"{parent}@{version}"),
        lambda: version not in {each.version_id for each in list_versions(vertex, name)},
        OPERATION_SECONDS,
    )


def _idle(endpoint: Any, serving: str) -> list[Any]:
    return [each for each in endpoint.deployed_models if each.id != serving and not endpoint.traffic_split.get(each.id)]
