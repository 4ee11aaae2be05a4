"""Endpoint: found by its id or display name, else made; never a second one for the same name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from google.api_core import exceptions

from components.earthengine.errors import VertexError
from components.traffic import create_endpoint, read_endpoint
from components.trial import is_trial
from components.versions import MADE_BY, label_value, made_by
from components.vertex import Vertex, explained

# What a new endpoint may have for an id (aiplatform_v1, CreateEndpointRequest.endpoint_id).
_ID = re.compile(r"[1-9][0-9]{0,8}|[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Vertex AI's own ids are longer.
_FOUND_BY = re.compile(r"[a-z0-9-]+|projects/[^/]+/locations/[^/]+/endpoints/[^/]+")


@dataclass(frozen=True)
class FoundEndpoint:
    """An endpoint's resource name, and whether this run made it."""

    name: str
    created: bool


def find_or_create_endpoint(vertex: Vertex, name: str, run: str = "") -> FoundEndpoint:
    """The endpoint with an id or display name, made where there is none.

    Its name says the project as the caller does: the service's own answers have the project's number, which no page
    says that Earth Engine takes.

    A new one is a shared public endpoint: Earth Engine is given a resource name only, and no page
    says that it can reach a dedicated one.

    Args:
        vertex: where.
        name: an id, a display name, or a full resource name.
        run: id of the pipeline job, which a new endpoint is labelled with.

    Raises:
        VertexError: several endpoints have the display name, or the endpoint cannot be made.
    """
    if found := find_endpoint(vertex, name):
        return FoundEndpoint(found, created=made_by(read_endpoint(vertex, found), run))
    check_new_id(name)
    resource = f"{vertex.parent}/endpoints/{name}"
    wanted = {"display_name": name, "labels": {MADE_BY: label_value(run)} if run else {}}
    created = create_endpoint(vertex, resource, wanted) or made_by(read_endpoint(vertex, resource), run)
    return FoundEndpoint(resource, created)


def check_new_id(name: str) -> None:
    """Check that an endpoint that is not there can be made with an id.

    Raises:
        VertexError: it cannot.
    """
    if not _ID.fullmatch(name):
        raise VertexError(
            f"endpoint {name!r} does not exist and cannot be an endpoint's id; allowed for a new one: lower case "
            "letters, digits and dashes that begin with a letter, or up to 9 digits that do not begin with 0"
        )


def known_endpoint(vertex: Vertex, name: str) -> str:
    """The resource name of the endpoint with an id, a display name or a resource name.

    Raises:
        VertexError: there is none, or several have the display name.
    """
    if found := find_endpoint(vertex, name):
        return found
    with explained("list endpoints"):
        there = [each for each in vertex.endpoints.list_endpoints(parent=vertex.parent) if not is_trial(each)]
    ids = [each.name.rsplit("/", 1)[-1] for each in there]
    raise VertexError(f"endpoint {name!r} does not exist in {vertex.parent}; there are: {', '.join(ids) or 'none'}")


def find_endpoint(vertex: Vertex, name: str) -> str | None:
    """The resource name of the endpoint with an id, a display name or a resource name; None if there is none.

    Raises:
        VertexError: several have the display name.
    """
    resource = name if name.startswith("projects/") else f"{vertex.parent}/endpoints/{name}"
    with explained(f"look up endpoint {name}"):
        if _FOUND_BY.fullmatch(name):
            try:
                vertex.endpoints.get_endpoint(name=resource)
                return resource
            except exceptions.NotFound:
                pass
        wanted = f"display_name={json.dumps(name)}"
        named = list(vertex.endpoints.list_endpoints({"parent": vertex.parent, "filter": wanted}))
    ids = [endpoint.name.rsplit("/", 1)[-1] for endpoint in named]
    if len(ids) > 1:
        raise VertexError(
            f"{len(ids)} endpoints are named {name!r} ({', '.join(ids)}); give the id of the one that is meant"
        )
    return f"{vertex.parent}/endpoints/{ids[0]}" if ids else None
