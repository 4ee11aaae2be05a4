"""Runs by all their steps through proxies before Vertex AI and Cloud Storage, and what they leave."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from components import calls, local, operations, storage
from components.champion import find_champion
from components.deadline import within
from components.endpoint import find_or_create_endpoint
from components.upload import upload_model
from components.versions import list_versions
from components.vertex import EMULATOR, Vertex
from tests.faults.proxy import Call, Cut, Fault, Proxy, Reset, Status, proxied
from tests.road.runs import PYTORCH_IMAGE, Run, deployed, traffic, trials, variant

STORAGE = "STORAGE_EMULATOR_HOST"
FAULTS: tuple[Fault, ...] = (
    Status(429),
    Status(500),
    Status(503),
    Reset(),
    Reset("after"),
    Status(500, "after"),
    Status(503, "after"),
    Cut(),
)
# Of a path: what differs from run to run.
_IDS = (
    (re.compile(r"(?<=/operations/)[^/:?]+"), "ID"),
    (re.compile(r"(?<=/endpoints/)trial-[0-9a-f]+"), "TRIAL"),
    (re.compile(r"(?<=/pipelineJobs/)[^/:?]+"), "RUN"),
    (re.compile(r"[0-9a-f]{63}"), "DIGEST"),
)


@dataclass(frozen=True)
class World:
    """A local Vertex AI with its Cloud Storage, and the proxies before them.

    Attributes:
        vertex: as the tests look at it, past the proxies.
        proxies: of Vertex AI and of Cloud Storage, to which the environment points.
        addresses: of what they stand before, by the variables that name it.
    """

    vertex: Vertex
    proxies: tuple[Proxy, Proxy]
    addresses: dict[str, str]

    def breaking(self, policy: Callable[[Call], Fault | None]) -> None:
        """Let calls from here on meet their faults."""
        for proxy in self.proxies:
            proxy.policy = policy
            proxy.calls.clear()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The environment points past the proxies for the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name, address in self.addresses.items():
                patch.setenv(name, address)
            yield


@contextmanager
def world(state: Path) -> Iterator[World]:
    """A world, in which calls are repeated after next to no time."""
    with local.local_vertex(state), ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        addresses = {name: os.environ[name] for name in (EMULATOR, STORAGE)}
        vertex = Vertex(local.PROJECT, local.LOCATION)
        assert vertex.endpoints  # made before the environment points elsewhere
        assert vertex.models
        before = [stack.enter_context(proxied(_port(addresses[name]))) for name in (EMULATOR, STORAGE)]
        patch.setenv(EMULATOR, before[0].address)
        patch.setenv(STORAGE, f"http://{before[1].address}")
        patch.setattr(calls, "FIRST_PAUSE", 0.01)
        patch.setattr(calls, "LONGEST_PAUSE", 0.05)
        patch.setattr(operations, "_PAUSES", (0.01, 0.05))
        yield World(vertex, (before[0], before[1]), addresses)


def _port(address: str) -> int:
    return int(address.rsplit(":", 1)[-1])


def walk(here: World, source: Path, name: str, number: int, folder: Path) -> dict[str, Any]:
    """Release a variant of an archive by all steps, in place of the one before; what that leaves.

    Args:
        here: where.
        source: the archive.
        name: of the model and its endpoint.
        number: of the run, from 1.
        folder: for the variant.
    """
    archive = variant(source, folder / f"{name}-{number}", name=name)
    vertex, run = Vertex(local.PROJECT, local.LOCATION), f"{name}-{number}"
    with within("upload"):
        model = upload_model(vertex, archive, PYTORCH_IMAGE, f"gs://{local.BUCKET}/staging").name
    with within("create_endpoint"):
        endpoint = find_or_create_endpoint(vertex, name).name
    steps = Run(run, endpoint, model, str(archive), keep_previous=0, keep_versions=0)
    with within("evaluate"):
        champion = find_champion(vertex, name)
    with within("deploy"):
        steps.deploy()
    with within("verify"):
        steps.verify()
    with within("release"):
        steps.release()
    with within("conclude"):
        done = steps.conclude()
    assert done.released, done.reason
    assert not done.untidy
    with here.aside():
        return _left(here, name, endpoint, run) | {"champion": (champion.version if champion else "").split("@")[-1]}


def _left(here: World, name: str, endpoint: str, run: str) -> dict[str, Any]:
    """What a run leaves, without what differs from name to name."""
    versions = list_versions(here.vertex, name)
    own = str(int(hashlib.sha256(run.encode()).hexdigest(), 16) % 10**10)
    return {
        # The registry gives no number twice, so what was made and removed shows in the next one.
        "versions": [(each.version_id, sorted(each.labels), list(each.version_aliases)) for each in versions],
        "endpoints": [
            each.display_name
            for each in here.vertex.endpoints.list_endpoints(parent=here.vertex.parent)
            if each.display_name.startswith(name)
        ]
        == [name],
        "deployed": deployed(here.vertex, endpoint) == {own},
        "traffic": list(traffic(here.vertex, endpoint).items()) == [(own, 100)],
        "trials": trials(here.vertex, endpoint),
        "objects": sorted(_nameless(blob, name) for each in (f"runs/{run}", name) for blob in _objects(each)),
    }


def _objects(folder: str) -> list[str]:
    bucket, prefix = storage.split(f"gs://{local.BUCKET}/staging/{folder}")
    return [blob.name for blob in bucket.list_blobs(prefix=prefix)]


def _nameless(path: str, name: str) -> str:
    for pattern, what in _IDS:
        path = pattern.sub(what, path)
    return path.replace(name, "NAME")


def kind_of(call: Call, name: str) -> str:
    """What tells a call from others: its method, and its path without what differs from name to name."""
    parts = urlsplit(call.path)
    if "/upload/" in parts.path:  # its name stands in the body
        named = re.search(rb'"name": ?"([^"]+)"', call.body)
        return f"{call.method} {parts.path} {_nameless(named[1].decode(), name) if named else ''}"
    asked = parse_qs(parts.query)
    made = _nameless(f"/endpoints/{asked['endpointId'][0]}", name) if "endpointId" in asked else ""
    listed = "".join(f"?{each}" for each in ("filter", "prefix") if each in asked)
    return f"{call.method} {_nameless(parts.path, name)}{made}{listed}"
