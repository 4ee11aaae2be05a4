"""A request to one of the project's APIs."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from ..errors import InvalidArgumentError
from .description import Description


class _Permissions(BaseModel):
    permissions: list[str]


@dataclass(frozen=True)
class Asked:
    """A request, and the project as it is described at its moment."""

    request: Request
    project: Description

    @property
    def names(self) -> dict[str, str]:
        """What the path names."""
        return self.request.path_params

    def listed(self, parameter: str) -> list[str]:
        """The values of a parameter in the query.

        Raises:
            InvalidArgumentError: there are none.
        """
        values = self.request.query_params.getlist(parameter)
        if not values:
            raise InvalidArgumentError(f"{self.request.url.path}: the parameter {parameter!r} is required")
        return values

    async def permissions(self) -> list[str]:
        """The permissions that the body asks about.

        Raises:
            InvalidArgumentError: it has none.
        """
        try:
            return _Permissions.model_validate_json(await self.request.body()).permissions
        except ValidationError as fault:
            raise InvalidArgumentError(f"Invalid JSON payload received. {fault.errors()[0]['msg']}") from fault

    def granted(self, permissions: Iterable[str]) -> list[str]:
        """Which of these permissions who asks has."""
        return [permission for permission in permissions if permission not in self.project.permissions_denied]
