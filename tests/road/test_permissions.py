"""What each part of the road really calls, through a proxy that writes it down, against what it is said to call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import pipeline
from components import local, permissions, storage
from components.champion import evaluate_champion, find_champion
from components.commands.submission import contract_at
from components.conclude import why
from components.contest import Contest
from components.data import Labelled, read_data
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DataError
from components.endpoint import find_or_create_endpoint
from components.evaluation import Evaluation
from components.gate import Decision
from components.record import Record
from components.versions import VERIFIED, label_version
from components.vertex import Vertex, storage_client
from containers.serving import storage as serving
from tests.faults.proxy import Call, Proxy, proxied
from tests.road.runs import Run, deploy_by_hand, registered, spoil, variant
from tests.trigger.function import custom_entry, environment, pipeline_entry, running

pytestmark = pytest.mark.slow

_HERE = r"/v1/projects/[^/]+/locations/[^/]+"
# Of Vertex AI's methods by their calls; a method of two resources asks for the first one's.
_VERTEX = (
    ("GET", rf"{_HERE}/(endpoints|schedules|models)", "{}.list"),
    ("GET", rf"{_HERE}/(endpoints|models|pipelineJobs|customJobs|schedules)/[^/:]+", "{}.get"),
    ("GET", rf"{_HERE}/(models)/[^/]+:listVersions", "{}.list"),
    ("POST", rf"{_HERE}/(endpoints|pipelineJobs|schedules)", "{}.create"),
    ("PATCH", rf"{_HERE}/(endpoints|models|schedules)/[^/:]+", "{}.update"),
    ("POST", rf"{_HERE}/(models)/[^/]+:mergeVersionAliases", "{}.update"),
    ("POST", rf"{_HERE}/(schedules)/[^/]+:(?:pause|resume)", "{}.update"),
    ("DELETE", rf"{_HERE}/(endpoints|schedules)/[^/:]+", "{}.delete"),
    ("DELETE", rf"{_HERE}/(models)/[^/]+:deleteVersion", "{}.delete"),
    ("POST", rf"{_HERE}/(models):upload", "{}.upload"),
    ("POST", rf"{_HERE}/(endpoints)/[^/]+:deployModel", "{}.deploy"),
    ("POST", rf"{_HERE}/(endpoints)/[^/]+:undeployModel", "{}.undeploy"),
    ("POST", rf"{_HERE}/(endpoints)/[^/]+:(?:predict|rawPredict|directRawPredict)", "{}.predict"),
    ("GET", r"/(?:v1|ui)/.*/(operations)(?:/[^/]+)?", "{}.list"),
)
_STORAGE = (
    ("GET", r"/storage/v1/b/[^/]+/o", "storage.objects.list"),
    ("GET", r"/(?:download/)?storage/v1/b/[^/]+/o/[^/]+", "storage.objects.get"),
    ("(?:POST|PUT)", r"/upload/storage/v1/b/[^/]+/o", "storage.objects.create"),
    ("DELETE", r"/storage/v1/b/[^/]+/o/[^/]+", "storage.objects.delete"),
)


def asks_for(call: Call) -> str:
    """The permission that a call needs."""
    path = call.path.partition("?")[0]
    for method, pattern, permission in (*_VERTEX, *_STORAGE):
        found = re.fullmatch(pattern, path)
        if found and re.fullmatch(method, call.method):
            return permission if permission.startswith("storage.") else f"aiplatform.{permission.format(found[1])}"
    raise AssertionError(f"{call.method} {path} asks for a permission that this table lacks")


@dataclass
class Watch:
    """What is called while something is done."""

    vertex: Proxy
    storage: Proxy
    written: set[str] = field(default_factory=set)
    seen: dict[str, set[str]] = field(default_factory=dict)

    def during(self, part: str, do: Callable[[], Any]) -> Any:
        """Do it, and note what it needs as a part of the road."""
        self.vertex.calls.clear()
        self.storage.calls.clear()
        needed = self.seen.setdefault(part, set())
        try:
            answer = do()
        finally:
            needed.update(map(asks_for, (*self.vertex.calls, *self.storage.calls)))
        for call in self.storage.calls:
            if call.path.startswith("/upload/") and (name := _name_of(call)):
                if name in self.written:
                    needed.add("storage.objects.delete")
                self.written.add(name)
        return answer


def _name_of(call: Call) -> str:
    """Of the object that an upload writes; empty for the later calls of one that is resumed."""
    found = re.search(r'"name":\s*"([^"]+)"', call.body.decode("latin-1"))
    return found[1] if found else ""


@pytest.fixture
def watch(vertex: Vertex, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Proxies before the local Vertex AI and its storage, which the environment leads to from now on."""
    import os

    ports = [int(os.environ[name].rpartition(":")[2]) for name in ("VERTEX_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")]
    with proxied(ports[0]) as vertex_proxy, proxied(ports[1]) as storage_proxy:
        monkeypatch.setenv("VERTEX_EMULATOR_HOST", vertex_proxy.address)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{storage_proxy.address}")
        yield Watch(vertex_proxy, storage_proxy)


def walk(watch: Watch, small: Path, folder: Path, staging: str) -> None:
    """The steps of three runs: a first model, a second that retires it, and one that is refused."""
    vertex = Vertex(local.PROJECT, local.LOCATION)
    source = f"gs://{local.BUCKET}/source"
    storage.stage(small, source)
    watch.during("export", lambda: storage.fetch(source, folder / "fetched"))
    endpoint = watch.during("create-endpoint", lambda: find_or_create_endpoint(vertex, "small").name)
    for number in range(3):
        archive = small if not number else variant(small, folder / f"archive-{number}")
        model = watch.during("upload", partial(registered, vertex, archive, staging))
        run = Run(f"permitted-{number}", endpoint, model, str(archive), keep_previous=0, keep_versions=0)
        watch.during("deploy", run.deploy)
        if number == 2:
            spoil(archive)
            fault = watch.during("conclude", partial(why, vertex, run.record, run.name, ""))
            watch.during("conclude", partial(run.conclude, fault))
            return
        watch.during("verify", run.verify)
        watch.during("release", run.release)
        watch.during("conclude", run.conclude)
        if not number:
            watch.during("evaluate", lambda: find_champion(vertex, "By no id"))
            watch.during("evaluate", lambda: _ask_champion(vertex, endpoint))


def _ask_champion(vertex: Vertex, endpoint: str) -> None:
    champion = find_champion(vertex, endpoint.rsplit("/", 1)[-1])
    assert champion
    tiles = np.zeros((2, 1, 16, 16), np.float32)
    evaluate_champion(vertex, champion, champion.contract, Labelled(tiles, np.zeros((2, 16, 16), np.float32), "zeros"))


def test_each_step_calls_what_it_is_said_to_and_nothing_more(
    watch: Watch, small: Path, staging: str, tmp_path: Path
) -> None:
    walk(watch, small, tmp_path, staging)
    folder, table = f"gs://{local.BUCKET}/contract", tmp_path / "table.csv"
    table.write_text("B2,index\n0.5,1\n0.25,0\n")
    storage.stage(tmp_path, f"gs://{local.BUCKET}/data")
    storage.write_text(f"{folder}/model.yaml", ModelContract.read(small).dump())
    watch.during("train", lambda: read_data(contract_at(folder), f"gs://{local.BUCKET}/data/table.csv"))
    # Patches are all that lie in a folder; that these are none is found when they have been listed.
    with suppress(DataError):
        watch.during("train", lambda: read_data(contract_at(folder), f"gs://{local.BUCKET}/data/"))
    evaluation = Evaluation("small@1", {"rmse": 0.5}, 512)
    decision = Decision(True, "better", 0.0, Contest(("rmse",), "zeros", evaluation, None))
    watch.during("gate", lambda: Record.of(staging, "gate").keep_decision(decision))
    expected = {step: set(needed) for step, needed in permissions.STEPS.items() if needed}
    assert watch.seen == expected


def test_the_serving_container_and_the_trigger_call_no_more(
    watch: Watch, vertex: Vertex, small: Path, tmp_path: Path
) -> None:
    storage.stage(small, f"gs://{local.BUCKET}/models/served")
    (tmp_path / "s").mkdir()
    watch.during("the serving container", lambda: serving.fetch(f"gs://{local.BUCKET}/models/served", tmp_path / "s"))
    storage.write_text(f"gs://{local.BUCKET}/templates/deploy-pytorch.yaml", "{}")
    storage.write_text(f"gs://{local.BUCKET}/models/served/model.pt", "weights")
    settings = {"MODEL_BUCKET": local.BUCKET, "MODEL_PREFIX": "models/", "TEMPLATES": f"gs://{local.BUCKET}/templates"}
    settings["VERTEX_EMULATOR_HOST"] = watch.vertex.address
    settings["STORAGE_EMULATOR_HOST"] = f"http://{watch.storage.address}"
    blob = storage_client().bucket(local.BUCKET).get_blob("models/served/model.yaml")
    assert blob
    with running(tmp_path / "log", environment(**settings)) as function:
        watch.during(
            "the trigger",
            lambda: (
                function.finalize(local.BUCKET, blob.name, blob.generation),
                function.publish(custom_entry("1")),
                function.publish(pipeline_entry("deploy-1")),
            ),
        )
    for part in ("the serving container", "the trigger"):
        assert watch.seen[part] | {permissions.ACT_AS} == {*permissions.PROGRAMS[part], permissions.ACT_AS}


def test_the_tables_of_the_document_are_those_of_the_module() -> None:
    document = permissions.DOCUMENT.read_text(encoding="utf-8")
    assert permissions.with_tables(document) == document, "run python -m components.permissions"


def test_no_account_gets_a_role_on_the_project_that_can_be_had_on_less() -> None:
    for grant in permissions.GRANTS:
        assert not grant.role.startswith(
            ("roles/owner", "roles/editor", "roles/storage.admin", "roles/aiplatform.admin")
        )
        if grant.role.startswith(("roles/storage.", "roles/iam.", "roles/run.", "roles/artifactregistry.")):
            assert "project" not in grant.on.partition(",")[0]


def test_who_submits_needs_no_more_than_doctor_asks_for(watch: Watch, small: Path, tmp_path: Path) -> None:
    uri = f"gs://{local.BUCKET}/models/submitted"
    storage.stage(small.parent / "model", uri)
    vertex = Vertex(local.PROJECT, local.LOCATION)
    endpoint = find_or_create_endpoint(vertex, "commanded").name
    archives = [variant(small, tmp_path / version, name="commanded") for version in ("first", "second")]
    first, second = (registered(vertex, archive, f"gs://{local.BUCKET}/staging") for archive in archives)
    deploy_by_hand(vertex, [(endpoint, first, "5")], {"5": 100})
    deploy_by_hand(vertex, [(endpoint, second, "6")], {"5": 100})
    label_version(vertex, second, {VERIFIED: "passed-2026-11-22t13-05-59-00-00"})
    images = ("--repository", "r", "--tag", "1")
    schedule = ("--cron", "0 0 29 2 *", "--contract", "", "--staging", f"gs://{local.BUCKET}/staging", *images)
    for words in (
        ("plan", uri, *images),
        ("status", "commanded"),
        ("rollback", "commanded", "--to", "6"),
        ("schedule", "--name", "leap", *schedule),
        ("schedule", "--name", "leap", *schedule),
        *(("schedule", verb, "leap") for verb in ("pause", "resume")),
        ("schedule", "list"),
        ("schedule", "delete", "leap"),
        ("submit", uri, *images),
    ):
        watch.during("pipeline.py", partial(command, *words))
    # What is left over: following a job, and gcloud's upload of the model.
    mine = {*permissions.SUBMITTER_VERTEX, *permissions.SUBMITTER_STORAGE}
    elsewhere = {"aiplatform.pipelineJobs.get", "storage.objects.create", "storage.objects.delete"}
    assert watch.seen["pipeline.py"] | elsewhere == mine


def command(*words: str) -> None:
    """A command of pipeline.py, within this process."""
    typer.main.get_command(pipeline.app)([*words, "--project", local.PROJECT], standalone_mode=False)
