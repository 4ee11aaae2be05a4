"""Plan: what a submitted run would make, reuse and retire, told by what its steps decide with, and nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from components import storage
from components.check import check_platform
from components.deploy import planned_deployment
from components.digest import source_digest
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.endpoint import check_new_id, find_endpoint
from components.images import check_release
from components.record import Deployment
from components.release import planned_splits
from components.releases import with_release
from components.retention import outdated_deployments, outdated_versions
from components.traffic import Split, read_endpoint
from components.trial import leftover_trials
from components.upload import artifact_folder, same_version, version_digest
from components.versions import DEFAULT, list_versions, version_of
from components.vertex import Vertex


@dataclass(frozen=True)
class Plan:
    """What a run would do, if nobody else changes the endpoint or the registry meanwhile.

    Attributes:
        registers: whether the version is registered anew; otherwise it is there.
        artifacts: folder in Cloud Storage that a new version is staged to; empty where its bucket is not known yet.
        staged: how many files lie there.
        creates_endpoint: whether the endpoint is made; otherwise it is there.
        deployment: what is deployed, where, and the traffic now; the id is a stand-in where it is deployed anew.
        steps: the traffic after each step of the release.
        names: the version `M@V` of each model that is or would be at the endpoint, by its id.
        leftovers: trial endpoints of ended runs that are removed.
        retired: deployed models that are taken off the endpoint, by id.
        retired_versions: versions `M@V` that are deleted from the registry.
        warnings: of what the platform carries, though not for long or not for sure.
    """

    registers: bool
    artifacts: str
    staged: int
    creates_endpoint: bool
    deployment: Deployment
    steps: tuple[Split, ...]
    names: dict[str, str]
    leftovers: tuple[str, ...]
    retired: tuple[str, ...]
    retired_versions: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether anything is made, removed or given other traffic; a version is verified again in any case."""
        made = self.registers or self.creates_endpoint or self.deployment.created
        return bool(made or self.steps or self.leftovers or self.retired or self.retired_versions)


@dataclass(frozen=True)
class _Endpoint:
    """What of an endpoint the steps decide by; empty before it is made."""

    deployed_models: list[Any] = field(default_factory=list)
    traffic_split: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Version:
    """What of a version the steps decide by."""

    version_id: str
    version_aliases: list[str]
    labels: Mapping[str, str]
    deployed_models: list[Any]


def plan_run(
    vertex: Vertex, contract: ModelContract, directory: Path, staging: str, parameters: Mapping[str, Any]
) -> Plan:
    """What a run would do with a trained model.

    Whether a version is there already is told for steps of this project's version.

    Args:
        vertex: where.
        contract: the model's.
        directory: holds the trained model.
        staging: folder in Cloud Storage; empty where it is not known yet.
        parameters: the value of each parameter of the pipeline.

    Raises:
        ContractError, ImageError: the platform cannot carry what the contract declares.
        ModelError: the directory does not hold the model that the contract names.
        StorageError: the staging bucket does not exist.
        VertexError: Vertex AI does not answer, or the endpoint cannot be made.
    """
    if not (directory / contract.model.file).exists():
        raise ModelError(
            f"{contract.model.file} is not beside model.yaml, which names it; add it, or correct model.file"
        )
    image = parameters["serving_image"]
    warnings = check_platform(contract, image, date.today())
    check_release(contract, image, parameters["canary_percent"])
    digest = version_digest(source_digest(directory, contract), image)
    artifacts = artifact_folder(staging, contract.name, digest) if staging else ""
    staged = storage.count_files(artifacts) if artifacts else 0
    versions = list_versions(vertex, contract.name)
    same = same_version(versions, digest)
    version = int(same or 0) or 1 + max((int(each.version_id) for each in versions), default=0)
    model = f"{vertex.parent}/models/{contract.name}@{version}"
    wanted = parameters["endpoint"] or contract.name
    name = find_endpoint(vertex, wanted)
    if not name:
        check_new_id(wanted)
    endpoint = name or f"{vertex.parent}/endpoints/{wanted}"
    found = read_endpoint(vertex, name) if name else _Endpoint()
    deployment = planned_deployment(vertex, found, endpoint, model, run="")
    steps = planned_splits(deployment, parameters["canary_percent"], parameters["promotion_steps"])
    leftovers = leftover_trials(vertex, endpoint)
    retired = _retired(vertex, found, deployment, parameters["keep_previous"])
    gone = {(endpoint.rsplit("/", 1)[-1], each) for each in retired}
    trials = {each.rsplit("/", 1)[-1] for each in leftovers}
    later = [_without(each, gone, trials) for each in versions]
    return Plan(
        not same,
        artifacts,
        staged,
        not name,
        deployment,
        tuple(steps),
        {
            **{each.id: version_of(each) for each in found.deployed_models},
            deployment.deployed_model: f"{contract.name}@{version}",
        },
        tuple(leftovers),
        tuple(retired),
        tuple(
            f"{contract.name}@{each.version_id}"
            for each in outdated_versions(later, version, parameters["keep_versions"])
        ),
        tuple(warnings),
    )


def _retired(vertex: Vertex, found: Any, deployment: Deployment, keep: int) -> list[str]:
    """The deployed models that go once the new one has all the traffic."""
    serving = deployment.deployed_model
    labels = found.labels
    if deployment.share_before < 100:
        labels = with_release(found, serving, deployment.traffic_before)
    later = _Endpoint(found.deployed_models, {serving: 100}, labels)
    return [each.id for each in outdated_deployments(vertex, later, serving, keep, deployment.run)]


def _without(version: Any, gone: set[tuple[str, str]], trials: set[str]) -> _Version:
    """An older version once deployed models are `gone`, as (endpoint, id), and all those of trial endpoints."""
    there = [(each.endpoint.rsplit("/", 1)[-1], each) for each in version.deployed_models]
    stays = [each for where, each in there if where not in trials and (where, each.deployed_model_id) not in gone]
    aliases = [alias for alias in version.version_aliases if alias != DEFAULT]  # which the released one gets
    return _Version(version.version_id, aliases, version.labels, stays)
