"""Shown: plans, endpoints, rollbacks and schedules as the command line prints them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from components.check import Finding
from components.plan import Plan
from components.rollback import Rollback
from components.schedule import Put
from components.schedules import Schedule
from components.status import DeployedModel, Status
from components.traffic import Split

_MOMENT = "%Y-%m-%d %H:%M"  # UTC, but for schedules


def plan_lines(plan: Plan, parameters: Mapping[str, Any]) -> Iterator[str]:
    """What a run would do, with the parameters that it is submitted with."""
    deployment = plan.deployment
    model, there = deployment.model.rsplit("/", 1)[-1], "is there and would be used again"
    if not plan.changes:
        where = f"{deployment.endpoint} as {deployment.deployed_model}"
        yield _line(
            "nothing", f"would change: {model} has all the traffic of {where}, and would be verified there again"
        )
        yield from _warnings(plan)
        return
    yield _line("model", f"{model} {'would be registered' if plan.registers else there}")
    yield _line("files", _files(plan))
    yield _line("endpoint", f"{deployment.endpoint} {'would be created' if plan.creates_endpoint else there}")
    if deployment.created:
        fewest, most = parameters["min_replicas"], parameters["max_replicas"]
        replicas = f"{fewest} to {most} replicas" if most > fewest else f"{fewest} replica{'s' * (fewest > 1)}"
        yield _line("deploy", f"{model} would be deployed, {replicas} of {parameters['machine_type']}")
    else:
        yield _line("deploy", f"{model} is deployed already, as {deployment.deployed_model}")
    verified_first = "an endpoint of its own would be made, verify the model there, and be removed"
    yield _line("trial", verified_first if deployment.trial else "none, the model is verified where it serves")
    names = plan.names
    new = deployment.deployed_model if deployment.created else None
    yield _line("traffic", f"now: {_split(deployment.traffic_before, names)}")
    for step, split in enumerate(plan.steps, 1):
        when = "at the end" if step == len(plan.steps) else "then"
        yield _line("", f"{when}: {_split(split, names, new)}")
    yield _line("retired", ", ".join(_named(each, names) for each in plan.retired) or "no deployed model")
    yield _line("", ", ".join(f"version {each}" for each in plan.retired_versions) or "no version")
    yield _line("leftovers", ", ".join(plan.leftovers) or "none of ended runs")
    yield from _warnings(plan)


def status_table(status: Status) -> Table:
    """A row for each model at an endpoint."""
    table = _table(status.endpoint)
    table.add_column("model, id", overflow="fold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("deployed (UTC), by", overflow="fold")
    table.add_column("verified (UTC)", overflow="fold")
    table.add_column("rollback", justify="right", no_wrap=True)
    for each in status.models:
        table.add_row(
            f"{escape(each.version)}\n{each.id}",
            f"{each.share} %",
            f"{each.since:{_MOMENT}}\n{escape(each.run or 'hand')}",
            _verification(each),
            f"to {each.after_rollback} %" if each.after_rollback else "",
        )
    return table


def status_lines(status: Status) -> Iterator[str]:
    """What stands below the table of an endpoint."""
    if not any(each.after_rollback for each in status.models):
        yield _line("rollback", "no model to return to")
    for trial in status.trials:
        text = "is at work" if trial.at_work else "has ended: the next run to this endpoint removes the trial"
        yield _line("trial", f"{trial.name}; its run {trial.run} {text}")


def rollback_lines(rollback: Rollback, endpoint: str) -> Iterator[str]:
    """What a rollback did, and what doing it again would do."""
    names, after = rollback.names, rollback.after
    yield _line("endpoint", endpoint)
    yield _line("before", _split(rollback.before, names))
    yield _line("now", _split(after, names) + ("" if after != rollback.before else ", as before: nothing is changed"))
    for run in rollback.interrupted:
        yield _line("run", f"{run} is at work, and ends with an error when it finds its model without traffic")
    for each in rollback.before:
        if each not in after and each in names:
            yield _line("note", f"submitting {names[each]} again, on a schedule too, would release it again")
    yield _line("again", "no model to return to" if rollback.again is None else _split(rollback.again, names))
    if undo := [each for each in rollback.before if each not in after and each in names]:
        yield _line("undo", f"with --to {max(undo, key=lambda each: rollback.before[each])}")


def finding_line(finding: Finding) -> str:
    """What one check found, after a mark."""
    mark = {"passed": "[green]✓[/]", "warning": "[yellow]![/]", "failed": "[red]✗[/]"}[finding.verdict]
    return f"{mark} {finding.what:12}{escape(finding.text)}"


def schedule_lines(put: Put, page: str) -> Iterator[str]:
    """What became of a schedule that was put, and where it is shown."""
    schedule = put.schedule
    yield _line("schedule", f"{schedule.name}, {'created' if put.created else 'changed in place'}")
    if put.removed:
        yield _line("removed", f"{', '.join(each.rsplit('/', 1)[-1] for each in put.removed)}, of the same name")
    yield _line("cron", schedule.cron)
    if schedule.state == "PAUSED":
        yield _line("state", "paused, as it was; `schedule resume` lets it run")
    else:
        yield _line("next run", _local(schedule.next_run))
    yield _line("watch", page)


def schedule_table(schedules: Sequence[Schedule], where: str) -> Table:
    """A row for each schedule of a project and region."""
    table = _table(where)
    table.add_column("schedule, pipeline", overflow="fold")
    table.add_column("cron", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("next run", overflow="fold")
    table.add_column("last run", overflow="fold")
    colour = {"ACTIVE": "green", "PAUSED": "yellow"}
    for each in schedules:
        state = each.state.lower()
        table.add_row(
            escape(f"{each.name}\n{each.pipeline}"),
            escape(each.cron),
            (f"[{colour[each.state]}]{state}[/]" if each.state in colour else state) + f"\n{_counted(each.runs)}",
            _local(each.next_run),
            _last_run(each),
        )
    return table


def _table(title: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False  # narrow, for 80 columns
    return table


def _last_run(schedule: Schedule) -> str:
    run = schedule.last_run
    if run is None:
        return "none"
    # The answer is to the start alone (reference of Schedule); how the run itself went, its job says.
    started = run.answer.startswith("OK")
    went = run.state.lower() or "its job is gone" if started else run.answer
    colour = {"succeeded": "green", "failed": "red", "cancelled": "red"}.get(went, "default" if started else "yellow")
    return f"{_local(run.due)}\n[{colour}]{escape(went)}[/]"


def _local(moment: datetime | None) -> str:
    return f"{moment:{_MOMENT} %Z}" if moment else "none"


def _counted(runs: int) -> str:
    return f"{runs} run{'s' * (runs != 1)}"


def _line(what: str, text: str) -> str:
    return f"{what:10}{escape(text)}"


def _warnings(plan: Plan) -> Iterator[str]:
    for warning in plan.warnings:
        yield f"[yellow]{'warning':10}[/]{escape(warning)}"


def _files(plan: Plan) -> str:
    if not plan.registers:
        return "none would be sent, the version has its own"
    if not plan.artifacts:
        return "would be sent to the bucket that the model is submitted from"
    if plan.staged:
        return f"{plan.staged} are at {plan.artifacts}; those that differ would be sent"
    return f"would be sent to {plan.artifacts}"


def _split(split: Split, names: Mapping[str, str], new: str | None = None) -> str:
    """A split in words, the largest share first; `new` is the model that has no id yet."""
    largest_first = sorted(split.items(), key=lambda each: -each[1])
    return ", ".join(f"{share} % {_named(each, names, new)}" for each, share in largest_first) or "none has any"


def _named(model: str, names: Mapping[str, str], new: str | None = None) -> str:
    return f"{names.get(model, 'gone')} ({'new' if model == new else model})"


def _verification(model: DeployedModel) -> str:
    found = model.verification
    if not found:
        return "never"
    colour, verdict = ("green", "passed") if found.passed else ("red", "failed")
    by = "" if found.run in {"", model.run} else f" by {escape(found.run)}"
    return f"[{colour}]{verdict}[/] {found.moment:{_MOMENT}}{by}"
