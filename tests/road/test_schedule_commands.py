"""The `schedule` command, as a user types it, against a real local Vertex AI."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.cloud.aiplatform_v1.types import Schedule

from components import local, storage
from components.schedule import delete_schedule, put_schedule
from components.schedules import list_schedules
from components.vertex import Vertex
from tests.conftest import WriteModel
from tests.road.conftest import ROOT, pipeline
from tests.road.test_schedule import NEVER, state_of, template, until

__all__ = ["template"]  # a fixture

pytestmark = pytest.mark.slow

PROJECT = ("--project", local.PROJECT)
MODEL = f"gs://{local.BUCKET}/models/small"
STAGING = f"gs://{local.BUCKET}/earth-engine-models"
CREATE = ("schedule", *PROJECT, "--repository", "images", "--contract", MODEL)
WEEKLY = "TZ=Europe/Paris 0 3 * * 1"


@pytest.fixture(autouse=True)
def model(vertex: Vertex, write_model: WriteModel) -> Iterator[str]:
    """A model's contract in the bucket; what is scheduled is deleted afterwards."""
    storage.stage(write_model(), MODEL)
    yield MODEL
    for schedule in list_schedules(vertex):
        delete_schedule(vertex, schedule.resource.rsplit("/", 1)[-1])


def done(*arguments: str) -> str:
    ended = pipeline(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def refused(*arguments: str, status: int = 1) -> str:
    ended = pipeline(*arguments)
    assert (ended.returncode, ended.stdout) == (status, "")
    return " ".join(ended.stderr.replace("\u2502", " ").split())


def message(vertex: Vertex) -> Schedule:
    [found] = vertex.schedules.list_schedules(parent=vertex.parent)
    return found


def test_a_schedule_is_made_changed_listed_paused_resumed_and_deleted(vertex: Vertex) -> None:
    made = done(*CREATE, "--cron", WEEKLY)
    first = message(vertex)
    assert made.startswith(f"schedule  small, created\ncron      {WEEKLY}\nnext run  ")
    assert "03:00 CE" in made
    assert made.endswith(f"/console/{first.name}\n")
    assert done("schedule", "pause", "small", *PROJECT) == "paused    small\n"
    assert done("schedule", "pause", "small", *PROJECT) == "paused    small, as it was: nothing is changed\n"
    changed = done(*CREATE, "--cron", NEVER, "-p", "keep_previous=2", "--service-account", "robot@local")
    assert changed.startswith(f"schedule  small, changed in place\ncron      {NEVER}\nstate     paused, as it was")
    second = message(vertex)
    assert (second.name, second.cron, second.state.name) == (first.name, NEVER, "PAUSED")
    job = second.create_pipeline_job_request.pipeline_job
    assert dict(job.runtime_config.parameter_values) == {
        "contract_uri": MODEL,
        "staging": STAGING,
        "keep_previous": 2,
    }
    assert job.runtime_config.gcs_output_directory == f"{STAGING}/pipeline-root"
    assert job.service_account == "robot@local"
    listed = done("schedule", "list", *PROJECT)
    for part in (vertex.parent, "small", "retrain-pytorch", NEVER, "paused", "0 runs"):
        assert part in listed
    assert done("schedule", "resume", "small", *PROJECT) == "active    small\n"
    assert done("schedule", "resume", "small", *PROJECT) == "active    small, as it was: nothing is changed\n"
    assert done("schedule", "delete", "small", *PROJECT) == "deleted   small; runs that it has begun go on\n"
    assert list_schedules(vertex) == []


def test_a_schedule_runs_now(vertex: Vertex, template: Path) -> None:
    root = f"gs://{local.BUCKET}/root"
    put_schedule(vertex, name="tiny", cron=NEVER, template=template, parameters={}, pipeline_root=root)
    submitted, watch = done("schedule", "run", "tiny", *PROJECT).splitlines()
    name = submitted.removeprefix("submitted ")
    assert watch == f"watch     {vertex.page(name)}"
    until(lambda: state_of(vertex, name) == "PIPELINE_STATE_SUCCEEDED", 60)


def test_two_who_schedule_at_once_make_one(vertex: Vertex) -> None:
    command = [sys.executable, str(ROOT / "pipeline.py"), *CREATE, "--cron", WEEKLY, "--name", "both"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    told = [each.communicate(timeout=120)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], told
    assert message(vertex).display_name == "both"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--cron", "often"), "error cron 'often' has 1 field; allowed are five fields"),
        (("--cron", "TZ=Europe/Pris 0 3 * * 1"), "is Europe/Paris meant?"),
        (("--cron", WEEKLY, "-p", "canary=1"), "--parameter canary=1 is not NAME=VALUE with NAME one of"),
        (("--cron", WEEKLY, "-p", "held_out_share=30"), "the share to hold out is 30; allowed"),
        (("--cron", WEEKLY, "-p", "margin=-1"), "margin is -1; allowed: 0 or more"),
        (("--cron", WEEKLY, "-p", "data=table.csv"), "data is table.csv, which the steps of a pipeline cannot reach"),
        (("--cron", WEEKLY, "--staging", "build/st"), "staging is build/st, which the steps"),
        (("--cron", WEEKLY, "--name", "n" * 129), "129 characters; allowed are 1 to 128"),
        (("--cron", WEEKLY, "--location", "mars-north1"), "mars-north1"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(vertex: Vertex, given: tuple[str, ...], told: str) -> None:
    assert told in refused(*CREATE, *given)
    assert list_schedules(vertex) == []


@pytest.mark.parametrize("command", ["pause", "resume", "delete", "run"])
def test_an_unknown_schedule_is_told(command: str) -> None:
    told = refused("schedule", command, "smal", *PROJECT)
    assert told == "error schedule 'smal' does not exist in projects/local/locations/us-central1; there are: none"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--cron", WEEKLY), "Missing option '--project', '--repository'."),
        (("--name", "x"), "Missing option '--cron', '--project', '--repository'."),
        ((*PROJECT, "list", *PROJECT), "options before 'list' make a schedule; give its own after it"),
        (("pause", *PROJECT), "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_command_line_is_told(arguments: tuple[str, ...], told: str) -> None:
    assert told in refused("schedule", *arguments, status=2)


def test_without_anything_it_shows_its_help() -> None:
    ended = pipeline("schedule")
    for part in ("--cron", "--contract", "list", "pause", "resume", "delete", "run"):
        assert part in ended.stdout + ended.stderr
