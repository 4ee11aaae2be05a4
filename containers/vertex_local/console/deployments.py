"""Models and endpoints as their pages show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..servers.fleet import Fleet
from ..servers.server import ServerStatus


@dataclass(frozen=True)
class ModelView:
    """A model: its versions, newest first."""

    name: str
    versions: tuple[Any, ...]

    @classmethod
    def group(cls, versions: Sequence[Any]) -> list["ModelView"]:
        """The models of a list of versions, in the order of each one's first."""
        by_name: dict[str, list[Any]] = {}
        for version in versions:
            by_name.setdefault(version.name, []).append(version)
        return [cls(name, tuple(found)) for name, found in by_name.items()]

    @property
    def newest(self) -> Any:
        return self.versions[0]

    @property
    def deployment_count(self) -> int:
        return sum(len(version.deployed_models) for version in self.versions)


@dataclass(frozen=True)
class Deployed:
    """A deployed model, its share of the traffic in percent, and how its server does."""

    message: Any
    percent: int
    status: ServerStatus


@dataclass(frozen=True)
class EndpointView:
    """An endpoint with what is deployed on it, most traffic first."""

    message: Any
    deployed: tuple[Deployed, ...]

    @classmethod
    def of(cls, endpoint: Any, fleet: Fleet) -> "EndpointView":
        """Reads an Endpoint and asks for its servers."""
        deployed = [
            Deployed(one, endpoint.traffic_split.get(one.id, 0), fleet.status(endpoint.name, one.id))
            for one in endpoint.deployed_models
        ]
        return cls(endpoint, tuple(sorted(deployed, key=lambda one: -one.percent)))

    @property
    def requests(self) -> int:
        return sum(one.status.requests for one in self.deployed)

    @property
    def failures(self) -> int:
        return sum(one.status.failures for one in self.deployed)
