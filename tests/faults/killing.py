"""Runs of the pipelines whose steps can be killed at one of their remote calls, on sites of their own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from components import local, storage
from components.deploy import _id
from components.earthengine.contract import FILE_NAME, ModelContract
from components.traffic import change_traffic, read_endpoint, undeploy
from components.trial import trial_name
from components.versions import VERIFIED, label_version
from components.vertex import EMULATOR, Vertex
from tests.faults import steps
from tests.faults.proxy import Call, Fault, Hold, When, proxied
from tests.road.runs import PYTORCH_IMAGE, deploy_by_hand, registered, variant

STAGING = f"gs://{local.BUCKET}/staging"
OLD = "1"  # id of the deployment that serves before the run
_SECONDS = 120  # within which any of these steps has ended on a busy machine


@dataclass(frozen=True)
class World:
    """A local Vertex AI with its Cloud Storage by their ports, and a trained model.

    Attributes:
        model: its folder.
        exported: what the export step makes of it.
        archive: what the archive step makes of it.
        held_out: what it is judged by.
        data: address of what it can be trained on.
    """

    vertex_port: int
    storage_port: int
    model: Path
    exported: Path
    archive: Path
    held_out: Path
    data: str

    def variables(self, vertex_port: int = 0, storage_port: int = 0) -> dict[str, str]:
        """What leads a process there, or through proxies."""
        return {
            EMULATOR: f"127.0.0.1:{vertex_port or self.vertex_port}",
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{storage_port or self.storage_port}",
        }


@dataclass(frozen=True)
class Point:
    """A call of a step: the n-th of its kind, from 1, so that how often a step polls before it does not matter."""

    kind: str
    number: int
    when: When


@dataclass
class Calls:
    """The remote calls of a step, as the policy of proxies that holds one of them.

    Attributes:
        names: of the site, which stand in paths.
        point: what is held; None for nothing.
        kinds: of the calls so far, in their order: method, and path without what differs between sites.
        held: set as soon as a call waits.
    """

    names: dict[str, str]
    point: Point | None
    kinds: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    _operations: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, call: Call) -> Fault | None:
        with self._lock:
            kind = self._kind(call)
            self.kinds.append(kind)
            point = self.point
            so = point and (kind, self.kinds.count(kind)) == (point.kind, point.number)
            return Hold(point.when) if point and so else None

    def _kind(self, call: Call) -> str:
        path = call.path.partition("&%24alt=")[0].partition("?%24alt=")[0]
        for name, what in self.names.items():
            path = path.replace(name, what)
        before, operations, number = path.partition("/operations/")
        if number:
            path = f"{before}{operations}{self._operations.setdefault(number, len(self._operations) + 1)}"
        return f"{call.method} {path}"


@dataclass(frozen=True)
class Site:
    """A model, its endpoint, and one run of a pipeline that is to bring the one onto the other.

    Attributes:
        world: where.
        folder: for the steps' outputs.
        name: of model, endpoint and run; no other site has it.
    """

    world: World
    folder: Path
    name: str

    @cached_property
    def vertex(self) -> Vertex:
        return Vertex(local.PROJECT, local.LOCATION)

    @property
    def endpoint(self) -> str:
        return f"{self.vertex.parent}/endpoints/{self.name}"

    @property
    def run(self) -> str:
        return f"run-{self.name}"

    @property
    def deployed_model(self) -> str:
        return _id(self.run)

    @property
    def log(self) -> str:
        """The last that the steps said."""
        return (self.folder / "log").read_text()[-3000:]

    @property
    def parameters(self) -> dict[str, Any]:
        """Of both pipelines. Nothing that has served before stays, so that the last step has something to retire."""
        return {
            "project": local.PROJECT,
            "location": local.LOCATION,
            "run": self.run,
            "model_uri": f"gs://{local.BUCKET}/models/{self.name}",
            "staging": STAGING,
            "endpoint": self.name,
            "serving_image": PYTORCH_IMAGE,
            "machine_type": "n1-standard-2",
            "min_replicas": 1,
            "max_replicas": 1,
            "canary_percent": 50,
            "promotion_steps": [100],
            "max_latency_seconds": 20.0,
            "keep_previous": 0,
            "keep_versions": 0,
            "allow_pickle": False,
            "status": {"state": "SUCCEEDED", "pipelineJobResourceName": "", "pipelineTaskName": ""},
            "framework": "pytorch",
            "contract_uri": f"gs://{local.BUCKET}/models/{self.name}",
            "data": self.world.data,
            "held_out": "",
            "held_out_share": 0.5,
            "margin": 0.0,
            "seed": 0,
        }

    def prepare(self) -> None:
        """What there is before the run: the trained model in a bucket, and what the steps before upload make of it."""
        self.folder.mkdir()
        model = self.folder / "model"
        contract = ModelContract.read(self.world.model).model_copy(update={"name": self.name})
        model.mkdir()
        (model / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
        (model / "model.pt").write_bytes((self.world.model / "model.pt").read_bytes())
        storage.stage(model, self.parameters["model_uri"])
        archive = variant(self.world.archive, self.folder / "newer", name=self.name)
        given = {"model": self.parameters["model_uri"], "archived": archive}
        given |= {"exported": self.world.exported, "trained": self.world.model, "judged_by": self.world.held_out}
        artifacts = {
            name: {"artifacts": [{"name": name, "uri": str(uri), "metadata": {}}]} for name, uri in given.items()
        }
        (self.folder / steps.IMPORTED).write_text(json.dumps({"artifacts": artifacts}))

    def serve(self) -> None:
        """Let an older version of the model serve at the endpoint, beside which an ended run has left its trial."""
        vertex = self.vertex
        trial = {"display_name": "ended", "labels": {"trial_of": self.name}}
        begun = [
            vertex.endpoints.create_endpoint(parent=vertex.parent, endpoint=endpoint, endpoint_id=each)
            for each, endpoint in ((self.name, {"display_name": self.name}), (f"left-{self.name}", trial))
        ]
        for operation in begun:
            operation.result(timeout=_SECONDS)
        older = variant(self.world.archive, self.folder / "older", name=self.name)
        model = registered(vertex, older, STAGING)
        label_version(vertex, model, {VERIFIED: "passed-by-hand"})
        deploy_by_hand(vertex, [(self.endpoint, model, OLD)], {"0": 100})

    def leave(self) -> None:
        """Take everything off the endpoint, so that no server stays."""
        change_traffic(self.vertex, self.endpoint, lambda _: {})
        for each in read_endpoint(self.vertex, self.endpoint).deployed_models:
            undeploy(self.vertex, self.endpoint, each.id)

    def walk(self, names: Sequence[str], **changes: Any) -> None:
        """Run steps that nothing disturbs."""
        if names:
            process = steps.start(self.folder, names, self.parameters | changes, self.world.variables())
            process.join(_SECONDS)
            process.kill()

    def kill_when(self, name: str, reached: Callable[[], bool]) -> bool:
        """Run a step and kill it as soon as something is so; whether it came to that."""
        process = steps.start(self.folder, [name], self.parameters, self.world.variables())
        while not (so := reached()) and process.is_alive():
            process.join(0.002)
        alive = process.is_alive()
        process.kill()
        process.join()
        return so and alive

    def kill(self, name: str, point: Point | None, **changes: Any) -> Calls:
        """Run a step and kill it at one of its remote calls, if it comes to that."""
        trial = trial_name(self.vertex, self.run).rsplit("/", 1)[-1]
        world = self.world
        calls = Calls({trial: "TRIAL", self.deployed_model: "NEW", self.name: "NAME"}, point)
        with proxied(world.vertex_port, calls) as vertex, proxied(world.storage_port, calls) as bucket:
            vertex.held = bucket.held = calls.held
            variables = world.variables(vertex.port, bucket.port)
            process = steps.start(self.folder, [name], self.parameters | changes, variables)
            for _ in range(int(_SECONDS / 0.02)):
                if calls.held.wait(0.02) or process.exitcode is not None:
                    break
            process.kill()
            process.join()
        return calls
