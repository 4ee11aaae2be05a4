"""The methods of aiplatform_v1's services and their HTTP paths, read from the client library itself.

A service here is an object with a method for each that it implements: ``UploadModel`` is ``upload_model``, which takes
the request message and gives the response message, or an awaitable of it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from google.cloud import aiplatform_v1
from google.longrunning import operations_pb2

from .. import messages
from ..errors import InvalidArgumentError

OPERATIONS = "Operations"
_PACKAGE = "google.cloud.aiplatform_v1.services"
# Every service of the library lists the paths of long-running operations alike.
_LISTS_OPERATIONS = "EndpointService"
_OF_ALL_SERVICES = {"GetLocation", "ListLocations", "GetIamPolicy", "SetIamPolicy", "TestIamPermissions"}
# Names become paths on this machine: none may lead out of its folder.
_SEGMENT = r"(?!\.\.?(?:[/:]|$))[^/]+"
_TEMPLATE = re.compile(r"(?P<before>[^{]*)\{(?P<field>[\w.]+)=(?P<pattern>[^}]+)\}(?P<after>[^:]*)(?::(?P<verb>\w+))?")


@dataclass(frozen=True)
class HttpRule:
    """One path of a method: ``POST /v1/{parent=projects/*/locations/*}/models:upload``, say.

    Attributes:
        verb: what follows the colon, "" where nothing does.
        field: the request's field that the path fills, dotted.
        names: what that field may hold.
        body: the field that the body fills, "*" for the whole request, "" for none.
    """

    http_method: str
    path: re.Pattern[str]
    verb: str
    field: str
    names: re.Pattern[str]
    body: str


@dataclass(frozen=True)
class Method:
    """One method of a service, and the class of its request."""

    service: str
    name: str
    request: Any
    rules: tuple[HttpRule, ...]

    @property
    def python_name(self) -> str:
        """``upload_model`` for ``UploadModel``."""
        return _snake(self.name)

    def check_names(self, request: Any) -> None:
        """Refuses a request that names no resource as the method's paths have it, of which gRPC knows nothing.

        Raises:
            InvalidArgumentError: the field that a path would fill holds something else.
        """
        name = ""
        for rule in self.rules:
            name = request
            for part in rule.field.split("."):
                name = getattr(name, part)
            if rule.names.fullmatch(name):
                return
        raise InvalidArgumentError(f"{self.name}: {rule.field} {name!r} is no name of a resource for this method")

    @property
    def grpc_path(self) -> str:
        """As it stands in the ``:path`` of a gRPC call."""
        package = "google.longrunning" if self.service == OPERATIONS else "google.cloud.aiplatform.v1"
        return f"/{package}.{self.service}/{self.name}"


def method_names(service: str) -> list[str]:
    """All methods that aiplatform_v1 has for a service, streaming ones too, in alphabetical order."""
    found = (name.removeprefix("_Base") for name in vars(_paths(service)) if name.startswith("_Base"))
    return sorted(
        name
        for name in found
        if name not in _OF_ALL_SERVICES and name.endswith(("Operation", "Operations")) == (service == OPERATIONS)
    )


def methods_of(service: str) -> Iterator[Method]:
    """Those of them that take one message and give one."""
    for name in method_names(service):
        options = getattr(getattr(_paths(service), f"_Base{name}"), "_get_http_options", None)
        request = _request_class(service, name)
        if options and request is not None:
            yield Method(service, name, request, tuple(_rule(option) for option in options()))


def implemented(services: Mapping[str, object]) -> Iterator[tuple[Method, Any]]:
    """The methods that these services have, each with what answers it."""
    for service, answering in services.items():
        for method in methods_of(service):
            answer = getattr(answering, method.python_name, None)
            if answer:
                yield method, answer


def _paths(service: str) -> Any:
    name = _LISTS_OPERATIONS if service == OPERATIONS else service
    return getattr(import_module(f"{_PACKAGE}.{_snake(name)}.transports.rest_base"), f"_Base{name}RestTransport")


def _request_class(service: str, rpc: str) -> Any:
    if service == OPERATIONS:
        return getattr(operations_pb2, f"{rpc}Request")
    # Streaming methods have no request of this name.
    request = getattr(aiplatform_v1, f"{rpc}Request", None)
    return request and request.pb()


def _rule(option: Mapping[str, str]) -> HttpRule:
    parts = _TEMPLATE.fullmatch(option["uri"])
    assert parts, option  # noqa: S101
    pattern = re.escape(parts["pattern"]).replace(r"\*", _SEGMENT)
    verb = parts["verb"] or ""
    path = f"{re.escape(parts['before'])}({pattern}){re.escape(parts['after'])}{verb and ':' + verb}"
    field, body = parts["field"], option.get("body", "")
    return HttpRule(option["method"].upper(), re.compile(path), verb, field, re.compile(pattern), body)


def _snake(name: str) -> str:
    return messages.snake_case(name).lower()
