"""Runs as functions: what the steps of the pipeline do, called one after another, here or in a process of its own.

    python -m tests.road.runs JSON

JSON holds the fields of a Run, and under `halt` perhaps the name of a point at which the process stops and waits to be
killed; it says `halted` then, or else the sentence that the run was concluded with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components import deploy, local
from components.conclude import Conclusion, conclude_run
from components.deploy import deploy_model
from components.digest import FILE_NAME as DIGEST_NAME
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import PipelineError
from components.earthengine.payloads import Outputs
from components.golden import Golden
from components.parameters import CANARY_PERCENT, MAX_LATENCY_SECONDS, PROMOTION_STEPS
from components.record import Deployment, Record
from components.release import release_deployment
from components.traffic import Split
from components.upload import upload_model
from components.verification import Verification
from components.verify import verify_run
from components.vertex import Vertex

PYTORCH_IMAGE = "images/serving-pytorch:1"
_STAGING = f"gs://{local.BUCKET}/staging"


@dataclass(frozen=True)
class Run:
    """One run of the pipeline from the deployment on, with the numbers that it is submitted with."""

    name: str
    endpoint: str
    model: str
    archive: str
    canary_percent: int = CANARY_PERCENT
    promotion_steps: Sequence[int] = PROMOTION_STEPS
    max_latency_seconds: float = MAX_LATENCY_SECONDS
    keep_previous: int = 1
    keep_versions: int = 10

    @property
    def vertex(self) -> Vertex:
        return Vertex(local.PROJECT, local.LOCATION)

    @property
    def record(self) -> Record:
        return Record.of(_STAGING, self.name)

    def deploy(self, *, max_replicas: int = 1) -> Deployment:
        return deploy_model(
            self.vertex,
            self.endpoint,
            self.model,
            self.record,
            run=self.name,
            machine_type="n1-standard-2",
            min_replicas=1,
            max_replicas=max_replicas,
        )

    def verify(self, **changes: Any) -> Verification:
        pictures = Path(self.archive).parent / f"pictures-{self.name}"
        numbers = {"max_latency_seconds": self.max_latency_seconds, **changes}
        return verify_run(self.vertex, self.record, Path(self.archive), pictures, **numbers)

    def release(self, *, record: Record | None = None, **changes: Any) -> str:
        numbers: dict[str, Any] = {
            "canary_percent": self.canary_percent,
            "promotion_steps": self.promotion_steps,
            "max_latency_seconds": self.max_latency_seconds,
        }
        return release_deployment(self.vertex, record or self.record, Path(self.archive), **(numbers | changes))

    def conclude(self, fault: str = "") -> Conclusion:
        return conclude_run(
            self.vertex,
            self.record,
            fault=fault,
            keep_previous=self.keep_previous,
            keep_versions=self.keep_versions,
        )

    def walk(self) -> Conclusion:
        """All of it; what goes wrong is what it is concluded with."""
        try:
            self.deploy()
            self.verify()
            self.release()
        except PipelineError as error:
            return self.conclude(f"{type(error).__name__}: {error}")
        return self.conclude()

    def start(self, halt: str = "") -> subprocess.Popen[str]:
        """Walk it in a process of its own."""
        fields = json.dumps({**asdict(self), "halt": halt})
        return subprocess.Popen([sys.executable, "-m", "tests.road.runs", fields], stdout=subprocess.PIPE, text=True)


@dataclass(frozen=True)
class Doing(Record):
    """A record that lets something happen after the verification in service at a share."""

    share: int
    what: Callable[[], object]

    def add(self, verification: Verification, number: int) -> None:
        super().add(verification, number)
        if verification.share == self.share and "/trial-" not in verification.endpoint:
            self.what()


@dataclass(frozen=True)
class Site:
    """An endpoint, and what makes runs that release versions of one model there."""

    vertex: Vertex
    staging: str
    source: Path
    folder: Path
    endpoint: str

    @property
    def name(self) -> str:
        """The endpoint's id, and the model's."""
        return self.endpoint.rsplit("/", 1)[-1]

    def archive(self, version: str) -> Path:
        """The archive of a version, registered or not."""
        folder = self.folder / version
        return folder if folder.exists() else variant(self.source, folder, name=self.name)

    def run(self, version: str, name: str = "", **numbers: Any) -> Run:
        """A run that is to release a version, which has its name where none is given."""
        archive = self.archive(version)
        model = registered(self.vertex, archive, self.staging)
        return Run(f"{self.name}-{name or version}", self.endpoint, model, str(archive), **numbers)

    @property
    def traffic(self) -> Split:
        return traffic(self.vertex, self.endpoint)

    @property
    def deployed(self) -> set[str]:
        return deployed(self.vertex, self.endpoint)

    @property
    def trials(self) -> list[str]:
        """The runs whose trial endpoints there are."""
        return trials(self.vertex, self.endpoint)

    @property
    def versions(self) -> set[str]:
        name = f"{self.vertex.parent}/models/{self.name}"
        return {each.version_id for each in self.vertex.models.list_model_versions(name=name)}

    def deploy_by_hand(self, version: str, ids: Sequence[str]) -> None:
        """Deploy a version several times, without traffic."""
        model = registered(self.vertex, self.archive(version), self.staging)
        deploy_by_hand(self.vertex, [(self.endpoint, model, each) for each in ids], {})


def deploy_by_hand(vertex: Vertex, wanted: Sequence[tuple[str, str, str]], split: Split) -> None:
    """Deploy models to endpoints under given ids, all at once."""
    machine = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
    begun = [
        vertex.endpoints.deploy_model(
            endpoint=endpoint,
            deployed_model={"id": each, "model": model, "dedicated_resources": machine},
            traffic_split=split,
        )
        for endpoint, model, each in wanted
    ]
    for operation in begun:
        operation.result(timeout=120)


def spoil(archive: str | Path) -> None:
    """Golden answers that no model gives."""
    golden = Golden.load(Path(archive))
    wrong: Outputs = {name: array.astype(np.float32) + 1 for name, array in golden.outputs.items()}
    Golden(golden.tiles, wrong, golden.scene).save(Path(archive))


def halted(process: subprocess.Popen[str]) -> None:
    """Wait until a process has come to the point where it stops."""
    assert process.stdout
    said = process.stdout.readline()
    assert said == "halted\n", said


def variant(archive: Path, folder: Path, **changes: object) -> Path:
    """A copy of an archive that counts as another model."""
    shutil.copytree(archive, folder)
    contract = ModelContract.read(folder).model_copy(update=changes)
    (folder / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
    (folder / DIGEST_NAME).write_text(str(folder), encoding="ascii")
    return folder


def registered(vertex: Vertex, archive: Path, staging: str, image: str = PYTORCH_IMAGE) -> str:
    """The version that an archive is uploaded as."""
    return upload_model(vertex, archive, image, staging).name


def traffic(vertex: Vertex, endpoint: str) -> dict[str, int]:
    return {each: share for each, share in vertex.endpoints.get_endpoint(name=endpoint).traffic_split.items() if share}


def deployed(vertex: Vertex, endpoint: str) -> set[str]:
    return {model.id for model in vertex.endpoints.get_endpoint(name=endpoint).deployed_models}


def trials(vertex: Vertex, endpoint: str) -> list[str]:
    """The trial endpoints there are of an endpoint."""
    wanted = f'labels.trial_of="{endpoint.rsplit("/", 1)[-1]}"'
    found = vertex.endpoints.list_endpoints({"parent": vertex.parent, "filter": wanted})
    return [each.display_name for each in found]


def labels(vertex: Vertex, model: str) -> dict[str, str]:
    return dict(vertex.models.get_model(name=model).labels)


def _halt() -> None:
    os.write(1, b"halted\n")  # whole, also where several threads come to it
    threading.Event().wait()


def _halt_after(owner: Any, name: str, reached: Callable[..., bool] = lambda *_: True) -> None:
    """Make this process stop after a call of a function, with arguments for which that is so."""
    function = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        answer = function(*arguments, **keywords)
        if reached(*arguments):
            _halt()
        return answer

    setattr(owner, name, call)


def _halt_at(point: str) -> None:
    """Make this process stop at a point within a step of its run."""
    match point:
        case "written down":
            _halt_after(Record, "write")
        case "trial made":
            _halt_after(deploy, "make_trial")
        case "deploying":
            _halt_after(Record, "write", lambda _, deployment: bool(deployment.operations))
        case "verifying":
            _halt_after(Vertex, "predict", lambda _, endpoint, __: "/trial-" in endpoint)
        case "verified at 50":
            _halt_after(Record, "add", lambda _, verification, __: verification.share == 50)


def main(fields: dict[str, Any]) -> None:
    point = fields.pop("halt")
    run = Run(**fields)
    _halt_at(point)
    steps: list[tuple[str, Callable[[], object]]] = [
        ("deployed", run.deploy),
        ("verified", run.verify),
        ("released", run.release),
    ]
    for reached, step in steps:
        try:
            step()
        except PipelineError as error:
            print(run.conclude(f"{type(error).__name__}: {error}").sentence)  # noqa: T201
            return
        if point == reached:
            _halt()
    if point == "concluding":
        _halt_after(Record, "deployment")
    print(run.conclude().sentence)  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
