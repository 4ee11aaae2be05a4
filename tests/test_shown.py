"""What the command line prints of plans, endpoints, rollbacks and schedules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from components import shown
from components.plan import Plan
from components.record import Deployment
from components.rollback import Rollback
from components.schedule import Put
from components.schedules import Run, Schedule
from components.status import DeployedModel, Status
from components.trial import Trial
from components.versions import LastVerification

PARENT = "projects/p/locations/r"
PARAMETERS: dict[str, Any] = {"machine_type": "n1-standard-2", "min_replicas": 1, "max_replicas": 3}
NEW = Plan(
    registers=True,
    artifacts="gs://bucket/staging/fields/abc",
    staged=0,
    creates_endpoint=False,
    deployment=Deployment(
        "", f"{PARENT}/models/fields@3", f"{PARENT}/endpoints/fields", "77", {"2": 100}, True, "trial"
    ),
    steps=({"2": 90, "77": 10}, {"77": 100}),
    names={"1": "fields@1", "2": "fields@2", "77": "fields@3"},
    leftovers=(f"{PARENT}/endpoints/trial-1",),
    retired=("1",),
    retired_versions=("fields@1",),
    warnings=("the image ends [soon]",),
)
SAME = replace(
    NEW,
    registers=False,
    deployment=replace(NEW.deployment, deployed_model="2", model=f"{PARENT}/models/fields@2", created=False, trial=""),
    steps=(),
    leftovers=(),
    retired=(),
    retired_versions=(),
    warnings=(),
)
MOMENT = datetime(2026, 11, 22, 13, 5, 59, tzinfo=UTC)
RUN = "deploy-tensorflow-to-earth-engine-20261122130559"


def printed(*shown_: Any, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    for each in shown_:
        console.print(each, soft_wrap=isinstance(each, str))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_plan_is_told_in_the_order_of_the_steps() -> None:
    assert printed(*shown.plan_lines(NEW, PARAMETERS)).splitlines() == [
        "model     fields@3 would be registered",
        "files     would be sent to gs://bucket/staging/fields/abc",
        f"endpoint  {PARENT}/endpoints/fields is there and would be used again",
        "deploy    fields@3 would be deployed, 1 to 3 replicas of n1-standard-2",
        "trial     an endpoint of its own would be made, verify the model there, and be removed",
        "traffic   now: 100 % fields@2 (2)",
        "          then: 90 % fields@2 (2), 10 % fields@3 (new)",
        "          at the end: 100 % fields@3 (new)",
        "retired   fields@1 (1)",
        "          version fields@1",
        f"leftovers {PARENT}/endpoints/trial-1",
        "warning   the image ends [soon]",
    ]


def test_a_plan_that_changes_nothing_is_told_in_a_line() -> None:
    (line,) = printed(*shown.plan_lines(SAME, PARAMETERS)).splitlines()
    assert line.startswith("nothing   would change: fields@2 has all the traffic of ")


@pytest.mark.parametrize(
    "change",
    [
        {"registers": True},
        {"creates_endpoint": True},
        {"steps": ({"2": 100},)},
        {"leftovers": ("a",)},
        {"retired": ("1",)},
        {"retired_versions": ("fields@1",)},
        {"deployment": NEW.deployment},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_one_thing_is_a_change(change: dict[str, Any]) -> None:
    assert not SAME.changes
    assert replace(SAME, **change).changes


def test_files_are_told_as_they_lie() -> None:
    (there,) = (line for line in shown.plan_lines(replace(NEW, staged=5), PARAMETERS) if line.startswith("files"))
    assert "5 are at gs://bucket/staging/fields/abc; those that differ would be sent" in there
    (unknown,) = (line for line in shown.plan_lines(replace(NEW, artifacts=""), PARAMETERS) if line.startswith("files"))
    assert unknown.endswith("would be sent to the bucket that the model is submitted from")


@pytest.mark.parametrize("width", [80, 200])
def test_a_status_loses_nothing_in_80_columns(width: int) -> None:
    models = (
        DeployedModel("2", "fields@2", 100, MOMENT, RUN, LastVerification(False, MOMENT, RUN), 0),
        DeployedModel("1" * 19, "fields@1", 0, MOMENT, "", LastVerification(True, MOMENT, RUN), 100),
        DeployedModel("3", "others@1", 0, MOMENT, "", None, 0),
    )
    text = printed(shown.status_table(Status(f"{PARENT}/endpoints/fields", models, ())), width=width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("fields@1", "1" * 19, "100 %", "hand", "passed", "failed", "never", "13:05", "to 100 %", "rollback"):
        assert word in text
    assert (RUN in text) == (width == 200)  # in 80 columns it is folded


def test_below_it_stand_trials_and_what_a_rollback_would_lack() -> None:
    trials = (Trial("trial-1", "run-1", True), Trial("trial-2", "run-2", False))
    assert printed(*shown.status_lines(Status("fields", (), trials))).splitlines() == [
        "rollback  no model to return to",
        "trial     trial-1; its run run-1 is at work",
        "trial     trial-2; its run run-2 has ended: the next run to this endpoint removes the trial",
    ]


def test_a_rollback_tells_what_the_next_would_do_and_what_undoes_it() -> None:
    rollback = Rollback({"1": "m@1", "2": "m@2"}, {"2": 100}, {"1": 100}, None, ("run-2",))
    assert printed(*shown.rollback_lines(rollback, "fields")).splitlines() == [
        "endpoint  fields",
        "before    100 % m@2 (2)",
        "now       100 % m@1 (1)",
        "run       run-2 is at work, and ends with an error when it finds its model without traffic",
        "note      submitting m@2 again, on a schedule too, would release it again",
        "again     no model to return to",
        "undo      with --to 2",
    ]
    same = replace(rollback, before={"1": 100}, again={"2": 100}, interrupted=())
    assert printed(*shown.rollback_lines(same, "fields")).splitlines()[2:] == [
        "now       100 % m@1 (1), as before: nothing is changed",
        "again     100 % m@2 (2)",
    ]


PARIS = datetime(2026, 11, 23, 3, 0, tzinfo=ZoneInfo("Europe/Paris"))
WEEKLY = Schedule(
    f"{PARENT}/schedules/1", "fields [weekly]", "TZ=Europe/Paris 0 3 * * 1", "ACTIVE", "deploy", 1, PARIS, None
)


def test_a_schedule_that_was_put_is_told_with_its_next_run() -> None:
    assert printed(*shown.schedule_lines(Put(WEEKLY, True, ()), "https://page")).splitlines() == [
        "schedule  fields [weekly], created",
        "cron      TZ=Europe/Paris 0 3 * * 1",
        "next run  2026-11-23 03:00 CET",
        "watch     https://page",
    ]
    paused = Put(replace(WEEKLY, state="PAUSED"), False, (f"{PARENT}/schedules/2", f"{PARENT}/schedules/3"))
    assert printed(*shown.schedule_lines(paused, "https://page")).splitlines()[:4] == [
        "schedule  fields [weekly], changed in place",
        "removed   2, 3, of the same name",
        "cron      TZ=Europe/Paris 0 3 * * 1",
        "state     paused, as it was; `schedule resume` lets it run",
    ]


def test_schedules_are_a_table_that_fits() -> None:
    lines = printed(shown.schedule_table([WEEKLY, replace(WEEKLY, next_run=None, state="COMPLETED")], PARENT))
    assert lines.splitlines()[0].strip() == PARENT
    assert max(map(len, lines.splitlines())) <= 80
    for part in ("fields [weekly]", "deploy", "active", "1 run", "2026-11-23 03:00", "completed", "none"):
        assert part in lines


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (None, "none"),
        (Run(PARIS, "OK: job", "SUCCEEDED"), "succeeded"),
        (Run(PARIS, "OK: job", ""), "its job is gone"),
        (Run(PARIS, "Skipped: 1 is active", "RUNNING"), "Skipped: 1 is active"),
        (Run(None, "OK", "FAILED"), "failed"),
    ],
)
def test_how_the_last_run_went_is_told(run: Run | None, told: str) -> None:
    table = printed(shown.schedule_table([replace(WEEKLY, next_run=None, last_run=run)], PARENT), width=200)
    assert told in table
    assert ("2026-11-23 03:00 CET" in table) == bool(run and run.due)
