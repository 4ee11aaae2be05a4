"""The commands of `pipeline.py schedule`."""

# No `from __future__ import annotations`: typer reads the annotations itself.

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from components import shown
from components.built_images import Images
from components.commands.options import (
    PROJECT,
    REPOSITORY,
    Contract,
    Digests,
    ForFramework,
    Location,
    Parameter,
    Project,
    ScheduleName,
    ServiceAccount,
    Staging,
    Tag,
    console,
)
from components.commands.submission import retraining_of
from components.dags import compile_retrain
from components.schedule import delete_schedule, pause_schedule, put_schedule, resume_schedule, run_schedule
from components.schedules import list_schedules
from components.vertex import Vertex

schedules = typer.Typer()


@schedules.callback(invoke_without_command=True, no_args_is_help=True)
def schedule(
    context: typer.Context,
    cron: Annotated[
        str | None,
        typer.Option(help='When it runs, as "TZ=Europe/Paris 0 3 * * 1": Mondays at 3. Without TZ=, in UTC.'),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the schedule; the model's if not given.")] = None,
    project: Annotated[str | None, PROJECT] = None,
    repository: Annotated[str | None, REPOSITORY] = None,
    tag: Tag = "latest",
    digests: Digests = None,
    location: Location = "us-central1",
    contract: Contract = "",
    framework: ForFramework = "pytorch",
    staging: Staging = "",
    service_account: ServiceAccount = None,
    parameter: Parameter = None,
) -> None:
    """Retrain by the clock; or list, pause, resume, delete and run schedules, with the commands below.

    With --cron, --project and --repository it makes a schedule, or changes the one of its name in place.
    One that is paused stays so. A run that is due while another of the schedule is at work is skipped.
    The commands have options of their own, which stand after them.
    """
    if context.invoked_subcommand:
        sources = map(context.get_parameter_source, context.params)
        if any(source is not None and source.name == "COMMANDLINE" for source in sources):
            context.fail(f"options before '{context.invoked_subcommand}' make a schedule; give its own after it")
        return
    if not (cron and project and repository):
        needed = {"--cron": cron, "--project": project, "--repository": repository}
        context.fail(f"Missing option {', '.join(repr(option) for option, value in needed.items() if not value)}.")
    images = Images.named(repository, tag, digests)
    vertex = Vertex(project, location)
    retraining = retraining_of(contract, framework, staging, parameter, images)
    with tempfile.TemporaryDirectory() as folder, console.status("scheduling"):
        put = put_schedule(
            vertex,
            name=name or retraining.name,
            cron=cron,
            template=compile_retrain(retraining.framework, images, Path(folder) / "retrain.yaml"),
            parameters=retraining.parameters,
            pipeline_root=retraining.pipeline_root,
            service_account=service_account,
        )
    for line in shown.schedule_lines(put, vertex.page(put.schedule.resource)):
        console.print(line)


@schedules.command(name="list")
def list_(project: Project, location: Location = "us-central1") -> None:
    """List all schedules: cron line, state, the next run in the schedule's own time zone, and how the last one went."""
    vertex = Vertex(project, location)
    console.print(shown.schedule_table(list_schedules(vertex), vertex.parent), soft_wrap=False)


@schedules.command()
def pause(name: ScheduleName, project: Project, location: Location = "us-central1") -> None:
    """Start no more runs until `resume`; runs that have begun go on."""
    changed = pause_schedule(Vertex(project, location), name)
    console.print(escape(f"paused    {name}" if changed else f"paused    {name}, as it was: nothing is changed"))


@schedules.command()
def resume(name: ScheduleName, project: Project, location: Location = "us-central1") -> None:
    """Start runs again, at the next time that is due; what was missed is not made up for."""
    changed = resume_schedule(Vertex(project, location), name)
    console.print(escape(f"active    {name}" if changed else f"active    {name}, as it was: nothing is changed"))


@schedules.command()
def delete(name: ScheduleName, project: Project, location: Location = "us-central1") -> None:
    """Delete a schedule; runs that it has begun go on."""
    delete_schedule(Vertex(project, location), name)
    console.print(escape(f"deleted   {name}; runs that it has begun go on"))


@schedules.command(name="run")
def run_now(name: ScheduleName, project: Project, location: Location = "us-central1") -> None:
    """Run a schedule's pipeline now, once, even while it is paused; its own times stay."""
    vertex = Vertex(project, location)
    job_name = run_schedule(vertex, name)
    console.print(f"submitted {job_name}\nwatch     {vertex.page(job_name)}")
