"""The road from a trained model to Google Earth Engine: the pipeline, and the command line."""

# No `from __future__ import annotations`: kfp and typer read the annotations themselves.

import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.markup import escape

from components import job, shown, storage
from components.built_images import Images
from components.check import check_model
from components.commands.follow import follow
from components.commands.options import (
    AllowPickle,
    Contract,
    Digests,
    Endpoint,
    ForFramework,
    Location,
    ModelDir,
    Parameter,
    Project,
    Repository,
    ServiceAccount,
    Staging,
    Tag,
    console,
    errors,
)
from components.commands.schedule import schedules
from components.commands.submission import (
    contract_at,
    defaults,
    read_parameters,
    retraining_of,
    submit_deploy,
    warn_of_platform,
)
from components.dags import CustomTraining, compile_deploy, compile_retrain, deploy_pipeline
from components.disk import disk_error
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.earthengine.errors import JobError, ParameterError, PipelineError
from components.endpoint import known_endpoint
from components.land_cover import METRICS_NAME
from components.local import REPOSITORY as LOCAL_REPOSITORY
from components.local import TAG as LOCAL_TAG
from components.local import Runner as LocalRunner
from components.model_directory import fetch_model
from components.plan import plan_run
from components.rollback import roll_back
from components.status import endpoint_status
from components.vertex import Vertex
from components.whole import whole_folder

FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The road from a trained model to Google Earth Engine, on Vertex AI or on this machine.",
)
app.add_typer(schedules, name="schedule")


@app.command()
def check(
    model_dir: ModelDir,
    serving_image: Annotated[str | None, typer.Option(help="The image that is to serve it; ours if not given.")] = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Check a trained model against its contract and the platform; nothing is made."""
    colour = {"passed": "green", "warning": "yellow", "failed": "red"}
    findings = check_model(model_dir, serving_image, date.today(), allow_pickle=allow_pickle)
    failed = False
    for finding in findings:
        out = errors if finding.verdict == "failed" else console
        out.print(f"[{colour[finding.verdict]}]{finding.verdict:8}[/]{finding.what:9} {escape(finding.text)}")
        failed = failed or finding.verdict == "failed"
    if failed:
        raise typer.Exit(1)


@app.command()
def run(
    model_dir: ModelDir,
    parameter: Parameter = None,
    allow_pickle: AllowPickle = False,
    output: Annotated[Path, typer.Option(help="Folder for pictures and the Earth Engine call.")] = Path(
        "build/rehearsal"
    ),
    runner: Annotated[
        LocalRunner, typer.Option(help="What steps and models are run by: programs of this machine, or their images.")
    ] = "process",
    repository: Annotated[str, typer.Option(help="Where the images lie.")] = LOCAL_REPOSITORY,
    tag: Annotated[str, typer.Option(help="Tag of the images.")] = LOCAL_TAG,
    running: Annotated[
        bool,
        typer.Option(
            "--running",
            help="On the Vertex AI that VERTEX_EMULATOR_HOST and STORAGE_EMULATOR_HOST name, with its runner.",
        ),
    ] = False,
) -> None:
    """Rehearse the whole pipeline on this machine, against a Vertex AI of its own, with no account.

    That Vertex AI starts empty and ends with the rehearsal; for one that lasts, see `local` and --running.
    """
    from components import local

    contract = ModelContract.read(model_dir)
    images = Images(repository, tag)
    deploy = deploy_pipeline(contract.framework, images)
    parameters = read_parameters(deploy, parameter) | ({"allow_pickle": True} if allow_pickle else {})
    warn_of_platform(contract, parameters, images)
    if running:
        if runner == "docker":
            raise ParameterError(
                "--runner docker is for a Vertex AI of its own; the one that is --running has its runner: leave one of "
                "the two out"
            )
        local.check_running()
    elif runner == "docker":
        named = images.of_framework(contract.framework)
        if serving_image := parameters.get("serving_image"):
            named[f"serving-{contract.framework}"] = serving_image
        local.check_images(named.values())
    results = output / contract.name
    with (
        tempfile.TemporaryDirectory(prefix="rehearsal-") as state,
        nullcontext() if running else local.local_vertex(Path(state), runner),
    ):
        model_uri = f"gs://{local.BUCKET}/models/{contract.name}"
        storage.stage(model_dir, model_uri)
        vertex = Vertex(local.PROJECT, local.LOCATION)
        name = submit_deploy(vertex, contract, {"model_uri": model_uri, **parameters}, images)
        console.print(f"watch     {vertex.host}/console/{name}")
        try:
            follow(vertex, name, results)
        except JobError as error:
            if running:
                raise
            with whole_folder(results / "logs") as aside:
                shutil.copytree(local.logs_of(Path(state), name), aside, dirs_exist_ok=True)
            error.add_note(f"the logs of every step: {results / 'logs'}")
            raise
    if (metrics := model_dir / METRICS_NAME).is_file():
        measured = json.loads(metrics.read_text(encoding="utf-8"))
        if "held_out_samples" in measured:  # ours, of components/land_cover.py
            console.print(f"accuracy  {measured['accuracy']:.1%} on {measured['held_out_samples']} held-out samples")


@app.command(name="compile")
def compile_(
    repository: Repository,
    tag: Tag = "latest",
    digests: Digests = None,
    output: Annotated[Path, typer.Option(help="Folder for the templates.")] = Path("build/templates"),
    train_on_vertex: Annotated[
        bool, typer.Option("--train-on-vertex", help="Train in a Vertex AI CustomJob, on a machine of its own.")
    ] = False,
    train_machine: Annotated[str, typer.Option(help="Machine of the CustomJob.")] = "n1-standard-8",
    train_accelerator: Annotated[
        str, typer.Option(help="Accelerator of the CustomJob, such as NVIDIA_TESLA_T4; none if not given.")
    ] = "",
    train_accelerators: Annotated[int, typer.Option(help="How many of these.", min=1)] = 1,
    train_service_account: Annotated[
        str, typer.Option(help="Account that the CustomJob runs as; Vertex AI's own for custom code if not given.")
    ] = "",
) -> None:
    """Compile the templates, deploy and retrain of each framework, for Vertex AI's console or the SDK's PipelineJob."""
    if train_accelerator and not train_on_vertex:
        raise ParameterError("--train-accelerator is of a CustomJob; give --train-on-vertex too, or leave it out")
    machine = CustomTraining(train_machine, train_accelerator, train_accelerators, train_service_account)
    training = machine if train_on_vertex else None
    images = Images.named(repository, tag, digests)
    for framework in FRAMEWORKS:
        images.of_framework(framework)  # where digests lack one, no template is written
    with whole_folder(output) as aside:
        for framework in FRAMEWORKS:
            compile_deploy(framework, images, aside / f"deploy-{framework}.yaml")
            compile_retrain(framework, images, aside / f"retrain-{framework}.yaml", training)
    for framework in FRAMEWORKS:
        for name in ("deploy", "retrain"):
            console.print(str(output / f"{name}-{framework}.yaml"))


@app.command()
def submit(
    model_uri: Annotated[
        str, typer.Argument(help=f"Folder with the trained model and {FILE_NAME}, gs://bucket/folder.")
    ],
    project: Project,
    repository: Repository,
    tag: Tag = "latest",
    digests: Digests = None,
    location: Location = "us-central1",
    service_account: ServiceAccount = None,
    parameter: Parameter = None,
    output: Annotated[Path | None, typer.Option(help="Wait for the end, and write pictures to this folder.")] = None,
) -> None:
    """Submit the pipeline to Vertex AI, or to a `local` one that VERTEX_EMULATOR_HOST names."""
    images = Images.named(repository, tag, digests)
    contract = contract_at(model_uri)
    deploy = deploy_pipeline(contract.framework, images)
    parameters = {"model_uri": model_uri, **read_parameters(deploy, parameter)}
    warn_of_platform(contract, parameters, images)
    vertex = Vertex(project, location)
    name = submit_deploy(vertex, contract, parameters, images, service_account)
    console.print(f"submitted {name}")
    if output:
        follow(vertex, name, output)


@app.command()
def retrain(
    project: Project,
    repository: Repository,
    tag: Tag = "latest",
    digests: Digests = None,
    location: Location = "us-central1",
    contract: Contract = "",
    framework: ForFramework = "pytorch",
    staging: Staging = "",
    service_account: ServiceAccount = None,
    parameter: Parameter = None,
    output: Annotated[Path | None, typer.Option(help="Wait for the end, and write the report to this folder.")] = None,
) -> None:
    """Train a model anew, and deploy it where it is better than the one that serves.

    What to train on is a parameter: `-p data=gs://bucket/table.csv`; see the template's description of each.
    """
    images = Images.named(repository, tag, digests)
    vertex = Vertex(project, location)
    retraining = retraining_of(contract, framework, staging, parameter, images)
    with tempfile.TemporaryDirectory() as folder, console.status("submitting"):
        template = compile_retrain(retraining.framework, images, Path(folder) / "retrain.yaml")
        name = job.submit(
            vertex, template, retraining.parameters, retraining.pipeline_root, retraining.name, service_account
        )
    console.print(f"submitted {name}")
    if output:
        follow(vertex, name, output)


@app.command()
def plan(
    model: Annotated[
        str, typer.Argument(help=f"Folder with the trained model and {FILE_NAME}, or gs://bucket/folder.")
    ],
    project: Project,
    repository: Repository,
    tag: Tag = "latest",
    digests: Digests = None,
    location: Location = "us-central1",
    parameter: Parameter = None,
) -> None:
    """Print what `submit` would create, reuse and retire, and how traffic would move; nothing is changed.

    Of a model that is not in a bucket yet, all but where its files would be sent is told.
    """
    images = Images.named(repository, tag, digests)
    contract = contract_at(model)
    deploy = deploy_pipeline(contract.framework, images)
    parameters = defaults(deploy) | read_parameters(deploy, parameter)
    staging = parameters["staging"]
    if not staging and model.startswith("gs://"):
        staging = storage.staging_folder("", model)
    with tempfile.TemporaryDirectory() as folder, console.status("looking"):
        directory = fetch_model(model, Path(folder))
        planned = plan_run(Vertex(project, location), contract, directory, staging, parameters)
    for line in shown.plan_lines(planned, parameters):
        console.print(line)


@app.command()
def status(endpoint: Endpoint, project: Project, location: Location = "us-central1") -> None:
    """Show an endpoint's models: traffic, who deployed them, their last verification, and what `rollback` would do."""
    vertex = Vertex(project, location)
    found = endpoint_status(vertex, known_endpoint(vertex, endpoint))
    console.print(shown.status_table(found), soft_wrap=False)
    for line in shown.status_lines(found):
        console.print(line)


@app.command()
def rollback(
    endpoint: Endpoint,
    project: Project,
    location: Location = "us-central1",
    to: Annotated[str | None, typer.Option(help="Id of the deployed model that gets all traffic instead.")] = None,
) -> None:
    """Give an endpoint's traffic back to the model that had it before; during a canary, take the newcomer's away.

    The model that served stays deployed, without traffic. `status` shows which model would get it.
    """
    vertex = Vertex(project, location)
    name = known_endpoint(vertex, endpoint)
    for line in shown.rollback_lines(roll_back(vertex, name, to), name):
        console.print(line)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def local(context: typer.Context) -> None:
    """Start a local Vertex AI that lasts; all options are those of python -m containers.vertex_local."""
    os.execv(sys.executable, [sys.executable, "-m", "containers.vertex_local", *context.args])  # noqa: S606


@app.command()
def doctor(
    project: Project,
    bucket: Annotated[str, typer.Option(help="Bucket that models are submitted from, with or without gs://.")],
    repository: Repository,
    tag: Tag = "latest",
    digests: Digests = None,
    location: Location = "us-central1",
    service_account: ServiceAccount = None,
    machine_type: Annotated[str, typer.Option(help="Machine of each replica.")] = "n1-standard-2",
    replicas: Annotated[int, typer.Option(help="Replicas at most.", min=1)] = 1,
) -> None:
    """Check what a Google Cloud project lacks of what the road needs, and print what to run; nothing is changed."""
    from components.doctor import Needs, examine
    from components.project import Project as CloudProject

    bucket = bucket.removeprefix("gs://").partition("/")[0]
    images = Images.named(repository.rstrip("/"), tag, digests)
    wanted = Needs(CloudProject(project), location, bucket, images, service_account, machine_type, replicas)
    failed = False
    for finding in examine(wanted):
        console.print(shown.finding_line(finding))
        failed = failed or finding.verdict == "failed"
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """The command line: what a user can mend is said in one line on stderr."""
    # As Ctrl-C does: end what was started before ending.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        try:
            # Not app() itself, which has Python print what nobody foresaw, with whatever credentials are in it.
            typer.main.get_command(app)()
        except OSError as error:
            # What is written for a moment alone: templates that are submitted, the state of a rehearsal.
            if refused := disk_error(error, Path(tempfile.gettempdir()) / "pipeline"):
                raise refused from error
            raise
    except PipelineError as error:
        errors.print(f"[red]error[/] {escape(str(error))}")
        for note in getattr(error, "__notes__", []):
            errors.print(note)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
