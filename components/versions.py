"""Versions of a model in the registry, and the labels that this project writes on them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.api_core import exceptions

from components.vertex import Vertex, explained, model_id

SOURCE = "source-sha256"
"""Label: the digest of the trained model and its serving image."""
GOLDEN = "golden-sha256"
"""Label: the digest of the golden tiles that a version must answer."""
VERIFIED = "verified"
"""Label: the last verification, `passed-TIME` or `failed-TIME`."""
VERIFIED_BY = "verified-by"
"""Label: the run that did it."""

MADE_BY = "made-by"
"""Label, of versions and of endpoints: the run that made it, which a step that is run again knows it by."""

DEFAULT = "default"
"""Alias of the version that is meant where none is named."""

_LONGEST = 63  # characters of a label's value (Google Cloud's rules for labels)
_NOT_ALLOWED = re.compile(r"[^a-z0-9_-]")
_MOMENT = "%Y-%m-%dt%H-%M-%S-00-00"  # a moment in UTC in ISO 8601, as a label can hold it


@dataclass(frozen=True)
class LastVerification:
    """What a version's labels say of its last verification: the verdict, when in UTC, and the run that did it."""

    passed: bool
    moment: datetime
    run: str


def list_versions(vertex: Vertex, name: str) -> list[Any]:
    """The versions of the model of an id, the newest first; none if there is no such model.

    Raises:
        VertexError: the registry does not answer.
    """
    with explained(f"list the versions of model {name}"):
        try:
            found = list(vertex.models.list_model_versions(name=f"{vertex.parent}/models/{name}"))
        except exceptions.NotFound:
            return []
    return sorted(found, key=lambda version: int(version.version_id), reverse=True)


def version_of(deployed: Any) -> str:
    """The version of a deployed model, as `M@V`."""
    return f"{model_id(deployed.model)}@{deployed.model_version_id}"


def versions_at(vertex: Vertex, endpoint: Any) -> dict[str, Any]:
    """The version of each model deployed at an endpoint, by its id there; none of those that the registry lacks.

    Raises:
        VertexError: the registry does not answer.
    """
    names = {model_id(each.model) for each in endpoint.deployed_models}
    versions = {(name, each.version_id): each for name in names for each in list_versions(vertex, name)}
    wanted = {each.id: (model_id(each.model), each.model_version_id) for each in endpoint.deployed_models}
    return {deployed: versions[version] for deployed, version in wanted.items() if version in versions}


def label_version(vertex: Vertex, model: str, labels: dict[str, str]) -> None:
    """Add labels to a version `.../models/M@V`, in place of those of the same keys.

    Raises:
        VertexError: the registry refuses.
    """
    with explained(f"label {model}"):
        version = vertex.models.get_model(name=model)
        values = {key: label_value(value) for key, value in labels.items()}
        vertex.models.update_model(
            model={"name": model, "labels": {**version.labels, **values}}, update_mask={"paths": ["labels"]}
        )


def label_value(text: str) -> str:
    """A text as the value of a label can hold it."""
    return _NOT_ALLOWED.sub("-", text.lower())[:_LONGEST]


def made_by(resource: Any, run: str) -> bool:
    """Whether a run has made a version or an endpoint; "" is no run."""
    return bool(run) and resource.labels.get(MADE_BY) == label_value(run)


def make_default(vertex: Vertex, model: str) -> None:
    """Make a version `.../models/M@V` the one that is meant where none is named.

    Raises:
        VertexError: the registry refuses.
    """
    with explained(f"make {model} the default version"):
        if DEFAULT not in vertex.models.get_model(name=model).version_aliases:
            vertex.models.merge_version_aliases(name=model, version_aliases=[DEFAULT])


def has_failed(version: Any) -> bool:
    """Whether a version did not pass its last verification."""
    return str(version.labels.get(VERIFIED, "")).startswith("failed")


def is_trusted(version: Any) -> bool:
    """Whether a version has passed its last verification, or is not one that this project verifies."""
    return SOURCE not in version.labels or str(version.labels.get(VERIFIED, "")).startswith("passed")


def last_verification(version: Any) -> LastVerification | None:
    """The last verification of a version; None where it had none, or its labels are not of this project."""
    verdict, _, moment = str(version.labels.get(VERIFIED, "")).partition("-")
    if verdict in {"passed", "failed"}:
        with suppress(ValueError):
            when = datetime.strptime(moment, _MOMENT).replace(tzinfo=UTC)
            return LastVerification(verdict == "passed", when, str(version.labels.get(VERIFIED_BY, "")))
    return None
