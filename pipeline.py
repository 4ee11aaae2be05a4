"""The road from a trained model to Google Earth Engine: the pipeline, and the command line."""

# No `from __future__ import annotations`: kfp and typer read the annotations themselves.

import inspect
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from components import job, shown, storage
from components.check import check_model, check_platform
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.earthengine.errors import ContractError, JobError, PipelineError
from components.endpoint import known_endpoint
from components.images import check_release
from components.parameters import CANARY_PERCENT, MAX_LATENCY_SECONDS, PROMOTION_STEPS, check_numbers
from components.plan import plan_run
from components.rollback import roll_back
from components.status import endpoint_status
from components.train import METRICS_NAME
from components.vertex import Vertex

# Vertex AI and the local one put the job's own project and region in their place.
PROJECT = "{{$.pipeline_google_cloud_project_id}}"
LOCATION = "{{$.pipeline_google_cloud_location}}"
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The road from a trained model to Google Earth Engine, on Vertex AI or on this machine.",
)


def deploy_pipeline(framework: Framework, repository: str, tag: str) -> Any:
    """The deploy DAG of a framework, its parameters' defaults and descriptions as the console shows them."""
    from kfp import dsl

    from components import steps

    @dsl.pipeline(
        name=f"deploy-{framework}-to-earth-engine", display_name=f"Deploy a {framework} model to Earth Engine"
    )
    def deploy(
        model_uri: str,
        staging: str = "",
        endpoint: str = "",
        serving_image: str = f"{repository}/serving-{framework}:{tag}",
        machine_type: str = "n1-standard-2",
        min_replicas: int = 1,
        max_replicas: int = 1,
        canary_percent: int = CANARY_PERCENT,
        promotion_steps: list[int] = list(PROMOTION_STEPS),  # noqa: B006 -- kfp reads it, nothing changes it
        max_latency_seconds: float = MAX_LATENCY_SECONDS,
        keep_previous: int = 1,
        keep_versions: int = 10,
        allow_pickle: bool = False,
    ) -> None:
        """Exports a trained model, registers and deploys it, and gives it traffic once it answers rightly.

        Args:
            model_uri: Folder in Cloud Storage that holds the trained model and its model.yaml, gs://bucket/folder.
            staging: Folder that models are staged to. Empty: earth-engine-models in the bucket of model_uri.
            endpoint: Id or display name of the endpoint; made if there is none. Empty: the model's name.
            serving_image: URI of the prediction server's image, in the same region.
            machine_type: Machine of each replica.
            min_replicas: Replicas that always run, and are billed. At least 1.
            max_replicas: Replicas at most; quota is charged for these.
            canary_percent: Share of the traffic that a verified model gets first, 1 to 100; all on a new endpoint.
            promotion_steps: Shares that it gets after that, each verified before the next, rising to 100.
            max_latency_seconds: What a request may take at the 99th percentile; more than 0, at most 60.
            keep_previous: How many earlier models stay deployed without traffic, to go back to; each is billed.
            keep_versions: How many earlier versions stay in the registry; what is deployed stays in any case.
            allow_pickle: Whether a whole pickled PyTorch module may be loaded, which runs any code inside it.
        """
        where = {"project": PROJECT, "location": LOCATION}
        of_model = {"model_uri": model_uri, "staging": staging}
        run = {"run": dsl.PIPELINE_JOB_NAME_PLACEHOLDER, **of_model, **where}
        model = dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model, reimport=True)
        model.set_display_name("import model")
        exported = steps.export(model=model.output, allow_pickle=allow_pickle)
        archived = steps.archive(exported=exported.output, serving_image=serving_image)
        answered = steps.preflight(
            archived=archived.output,
            serving_image=serving_image,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            canary_percent=canary_percent,
            promotion_steps=promotion_steps,
            max_latency_seconds=max_latency_seconds,
            keep_previous=keep_previous,
            keep_versions=keep_versions,
        )
        registered = steps.upload(archived=archived.output, serving_image=serving_image, **of_model, **where).after(
            answered
        )
        found = steps.create_endpoint(registered=registered.output, endpoint=endpoint, **where)
        concluded = steps.conclude(keep_previous=keep_previous, keep_versions=keep_versions, **run)
        with dsl.ExitHandler(concluded, name="deploy, verify and release"):
            deployed = steps.deploy(
                registered=registered.output,
                endpoint=found.output,
                machine_type=machine_type,
                min_replicas=min_replicas,
                max_replicas=max_replicas,
                **run,
            )
            verified = steps.verify(
                archived=archived.output,
                max_latency_seconds=max_latency_seconds,
                **run,
            ).after(deployed)
            released = steps.release(
                archived=archived.output,
                canary_percent=canary_percent,
                promotion_steps=promotion_steps,
                max_latency_seconds=max_latency_seconds,
                **run,
            ).after(verified)
        # What a step finds in the registry or on an endpoint is not in its inputs, so none may be skipped.
        tasks = (model, exported, archived, answered, registered, found, deployed, verified, released, concluded)
        for task in tasks:
            task.set_caching_options(enable_caching=False)

    return deploy


def compile_template(framework: Framework, repository: str, tag: str, path: Path) -> Path:
    """Compile the deploy DAG of a framework to a template that aiplatform.PipelineJob runs."""
    from kfp import compiler

    from components import steps

    images = {steps.VERTEX_IMAGE: steps.VERTEX_IMAGE, steps.EXPORT_IMAGE: f"steps-{framework}"}
    compiler.Compiler().compile(deploy_pipeline(framework, repository, tag), str(path))
    template = yaml.safe_load(path.read_text(encoding="utf-8"))
    for executor in template["deploymentSpec"]["executors"].values():
        if container := executor.get("container"):
            container["image"] = f"{repository}/{images[container['image']]}:{tag}"
    path.write_text(yaml.safe_dump(template, sort_keys=True), encoding="utf-8")
    return path


ModelDir = Annotated[Path, typer.Argument(help=f"Folder with the trained model and its {FILE_NAME}.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Load a whole pickled module, which runs any code inside it.")
]
Repository = Annotated[str, typer.Option(help="Where the images lie, as HOST/PROJECT/NAME.", envvar="IMAGE_REPOSITORY")]
Tag = Annotated[str, typer.Option(help="Tag of the images.", envvar="IMAGE_TAG")]
Project = Annotated[str, typer.Option(help="Google Cloud project.", envvar="GOOGLE_CLOUD_PROJECT")]
Location = Annotated[str, typer.Option(help="Region.", envvar="GOOGLE_CLOUD_LOCATION")]
Endpoint = Annotated[str, typer.Argument(help="Endpoint, by its id, display name or resource name.")]
Parameter = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", help="NAME=VALUE for the pipeline, any number of times.", show_default=False),
]


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
) -> None:
    """Rehearse the whole pipeline on this machine, against a Vertex AI of its own, with no account.

    That Vertex AI starts empty and ends with the rehearsal; for one that lasts, see `local`.
    """
    from components import local

    contract = ModelContract.read(model_dir)
    parameters = _parameters(contract, parameter) | ({"allow_pickle": True} if allow_pickle else {})
    _check_platform(contract, parameters, local.REPOSITORY, local.TAG)
    results = output / contract.name
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as state, local.local_vertex(Path(state)):
        model_uri = f"gs://{local.BUCKET}/models/{contract.name}"
        storage.stage(model_dir, model_uri)
        vertex = Vertex(local.PROJECT, local.LOCATION)
        name = _submit(vertex, contract, {"model_uri": model_uri, **parameters}, local.REPOSITORY, local.TAG)
        console.print(f"watch     {vertex.host}/console/{name}")
        try:
            _follow(vertex, name, results)
        except JobError as error:
            shutil.copytree(local.logs_of(Path(state), name), results / "logs", dirs_exist_ok=True)
            error.add_note(f"the logs of every step: {results / 'logs'}")
            raise
    if (metrics := model_dir / METRICS_NAME).is_file():
        measured = json.loads(metrics.read_text(encoding="utf-8"))
        if "held_out_samples" in measured:  # ours, of components/train.py
            console.print(f"accuracy  {measured['accuracy']:.1%} on {measured['held_out_samples']} held-out samples")


@app.command(name="compile")
def compile_(
    repository: Repository,
    tag: Tag = "latest",
    output: Annotated[Path, typer.Option(help="Folder for the templates.")] = Path("build/templates"),
) -> None:
    """Compile the templates, one a framework, for Vertex AI's console or aiplatform.PipelineJob."""
    output.mkdir(parents=True, exist_ok=True)
    for framework in FRAMEWORKS:
        console.print(str(compile_template(framework, repository, tag, output / f"deploy-{framework}.yaml")))


@app.command()
def submit(
    model_uri: Annotated[
        str, typer.Argument(help=f"Folder with the trained model and {FILE_NAME}, gs://bucket/folder.")
    ],
    project: Project,
    repository: Repository,
    tag: Tag = "latest",
    location: Location = "us-central1",
    service_account: Annotated[
        str | None, typer.Option(help="Account that the steps run as; Compute Engine's default if not given.")
    ] = None,
    parameter: Parameter = None,
    output: Annotated[Path | None, typer.Option(help="Wait for the end, and write pictures to this folder.")] = None,
) -> None:
    """Submit the pipeline to Vertex AI, or to a `local` one that VERTEX_EMULATOR_HOST names."""
    contract = _contract(model_uri)
    parameters = {"model_uri": model_uri, **_parameters(contract, parameter)}
    _check_platform(contract, parameters, repository, tag)
    vertex = Vertex(project, location)
    name = _submit(vertex, contract, parameters, repository, tag, service_account)
    console.print(f"submitted {name}")
    if output:
        _follow(vertex, name, output)


@app.command()
def plan(
    model: Annotated[
        str, typer.Argument(help=f"Folder with the trained model and {FILE_NAME}, or gs://bucket/folder.")
    ],
    project: Project,
    repository: Repository,
    tag: Tag = "latest",
    location: Location = "us-central1",
    parameter: Parameter = None,
) -> None:
    """Print what `submit` would create, reuse and retire, and how traffic would move; nothing is changed.

    Of a model that is not in a bucket yet, all but where its files would be sent is told.
    """
    contract = _contract(model)
    given = _parameters(contract, parameter)
    parameters = _defaults(contract.framework, repository, tag) | given
    staging = parameters["staging"]
    if not staging and model.startswith("gs://"):
        staging = storage.staging_folder("", model)
    with tempfile.TemporaryDirectory() as folder, console.status("looking"):
        directory = storage.fetch(model, Path(folder))
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


def _contract(model: str) -> ModelContract:
    """The contract beside a trained model, in a folder or in Cloud Storage."""
    text = storage.read_text(f"{model.rstrip('/')}/{FILE_NAME}")
    if text is None:
        raise ContractError(f"{model} holds no {FILE_NAME}; write the model's contract there")
    return ModelContract.parse(text, f"{model}/{FILE_NAME}")


def _check_platform(contract: ModelContract, parameters: dict[str, Any], repository: str, tag: str) -> None:
    """Stop where the platform cannot carry what the contract declares, before anything is made."""
    image = parameters.get("serving_image") or f"{repository}/serving-{contract.framework}:{tag}"
    check_release(contract, image, parameters.get("canary_percent", CANARY_PERCENT))
    for warning in check_platform(contract, image, date.today()):
        errors.print(f"[yellow]warning[/] {escape(warning)}")


def _submit(
    vertex: Vertex,
    contract: ModelContract,
    parameters: dict[str, Any],
    repository: str,
    tag: str,
    service_account: str | None = None,
) -> str:
    """Compile the contract's template and submit it; returns the job's resource name."""
    staging = storage.staging_folder(parameters.get("staging", ""), parameters["model_uri"])
    with tempfile.TemporaryDirectory() as folder, console.status("submitting"):
        template = compile_template(contract.framework, repository, tag, Path(folder) / "deploy.yaml")
        return job.submit(vertex, template, parameters, f"{staging}/pipeline-root", contract.name, service_account)


def _follow(vertex: Vertex, name: str, output: Path) -> None:
    """Show each step as it ends, and then what came of it all."""
    ended: dict[str, job.Step] = {}
    try:
        with console.status("the pipeline begins") as status:
            for step in job.follow(vertex, name):
                ended[step.name] = step
                if step.state == "RUNNING":
                    status.update(step.name)
                    continue
                mark = "[green]✓[/]" if step.state == "SUCCEEDED" else f"[red]✗[/] {step.state.lower()}"
                console.print(f"{mark} {step.name:22}{step.seconds:6.1f} s")
    except JobError:
        with suppress(PipelineError):  # the job's error is the one to tell
            _show(ended, output)
        raise
    _show(ended, output)


def _show(ended: dict[str, job.Step], output: Path) -> None:
    """What came of a run: its report, and where it released a model the Earth Engine call and the picture."""
    concluded = ended.get("conclude")
    if concluded is None or concluded.state != "SUCCEEDED":
        return
    measured = concluded.outputs["metrics"][1]
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.html").write_text(storage.read_text(concluded.outputs["report"][0]) or "", encoding="utf-8")
    if measured["released"]:
        call = storage.read_text(concluded.outputs["earth_engine_call"][0]) or ""
        (output / "earth-engine-call.md").write_text(call, encoding="utf-8")
        console.print(f"\n{escape(call)}")
        console.print(f"endpoint  {ended['create-endpoint'].outputs['found'][1]['resourceName']}")
        console.print(f"parity    {measured['largest_difference']:.2g} is the largest difference from the source model")
        pictures, shown = ended["verify"].outputs["pictures"]
        if shown.get("scene"):
            found = storage.fetch(pictures, output)
            if found != output:
                shutil.copytree(found, output, dirs_exist_ok=True)
            console.print(f"picture   {output / 'scene.png'}")
    console.print(f"outcome   {escape(concluded.parameters['Output'])}")
    console.print(f"report    {output / 'report.html'}")


def _defaults(framework: Framework, repository: str, tag: str) -> dict[str, Any]:
    """The parameters of the pipeline that have a default, with it."""
    inputs = deploy_pipeline(framework, repository, tag).component_spec.inputs
    return {name: each.default for name, each in inputs.items() if each.optional}


def _parameters(contract: ModelContract, given: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE pairs as parameters of the pipeline, each of the type that it has there."""
    inputs = deploy_pipeline(contract.framework, "", "").component_spec.inputs
    names = [name for name in inputs if name != "model_uri"]
    readers: dict[str, Callable[[str], Any]] = {
        "String": str,
        "Integer": int,
        "Float": float,
        "List[Integer]": lambda text: [int(each) for each in text.split(",")],
        "Boolean": lambda text: {"true": True, "false": False}[text.lower()],
    }
    parameters = {}
    for pair in given or []:
        name, is_pair, text = pair.partition("=")
        if not is_pair or name not in names:
            raise PipelineError(f"--parameter {pair} is not NAME=VALUE with NAME one of {', '.join(names)}; correct it")
        try:
            parameters[name] = readers[inputs[name].type](text)
        except (ValueError, KeyError):
            raise PipelineError(
                f"--parameter {pair}: {name} takes a value of type {inputs[name].type}; correct it"
            ) from None
    limits = inspect.signature(check_numbers).parameters
    check_numbers(**{name: value for name, value in parameters.items() if name in limits})
    return parameters


def main() -> None:
    """The command line: what a user can mend is said in one line on stderr."""
    # As Ctrl-C does: end what was started before ending.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except PipelineError as error:
        errors.print(f"[red]error[/] {escape(str(error))}")
        for note in getattr(error, "__notes__", []):
            errors.print(note)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
