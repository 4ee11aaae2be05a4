"""The steps as Kubeflow components: thin functions, each calling its module's.

A component's body runs on its own, in a subprocess, in Docker or on Vertex AI, and imports what it
needs there. The components stand apart from the modules that they call because kfp leaves its
decorators out of a running step, where importing this module would fail. The images are names here
and become URIs when a pipeline is compiled.
"""

# No `from __future__ import annotations`: kfp reads the annotations themselves.

from google_cloud_pipeline_components.types.artifact_types import (
    UnmanagedContainerModel,
    VertexEndpoint,
    VertexModel,
)
from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Markdown, Metrics, Model, Output

VERTEX_IMAGE = "steps-vertex"
EXPORT_IMAGE = "steps-export"


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def export(model: Input[Model], allow_pickle: bool, exported: Output[Model]) -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.deadline import within
    from components.export import export_model
    from components.model_directory import fetch_model

    with within("export"), TemporaryDirectory() as folder:
        contract = export_model(fetch_model(model.uri, Path(folder)), Path(exported.path), allow_pickle=allow_pickle)
    exported.metadata.update(name=contract.name, framework=contract.framework)


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def archive(exported: Input[Model], serving_image: str, archived: Output[UnmanagedContainerModel]) -> None:
    from pathlib import Path

    from components.archive import archive_model

    archive_model(Path(exported.path), Path(archived.path))
    archived.metadata["containerSpec"] = {"imageUri": serving_image}


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def preflight(
    archived: Input[UnmanagedContainerModel],
    serving_image: str,
    min_replicas: int,
    max_replicas: int,
    canary_percent: int,
    promotion_steps: list[int],
    max_latency_seconds: float,
    keep_previous: int,
    keep_versions: int,
) -> None:
    from pathlib import Path

    from components.earthengine.contract import ModelContract
    from components.images import check_release
    from components.parameters import check_numbers
    from components.preflight import check_archive

    folder = Path(archived.path)
    check_release(ModelContract.read(folder), serving_image, canary_percent)
    check_numbers(
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        canary_percent=canary_percent,
        promotion_steps=[int(step) for step in promotion_steps],
        max_latency_seconds=max_latency_seconds,
        keep_previous=keep_previous,
        keep_versions=keep_versions,
    )
    print(check_archive(folder))  # noqa: T201 -- the step's log


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def upload(
    archived: Input[UnmanagedContainerModel],
    project: str,
    location: str,
    serving_image: str,
    run: str,
    model_uri: str,
    staging: str,
    registered: Output[VertexModel],
) -> None:
    from pathlib import Path

    from components.deadline import within
    from components.record import Record
    from components.storage import staging_folder
    from components.upload import upload_model
    from components.versions import label_version
    from components.vertex import Vertex

    vertex, folder = Vertex(project, location), staging_folder(staging, model_uri)
    with within("upload"):
        model = upload_model(vertex, Path(archived.path), serving_image, folder, run)
        if decision := Record.of(folder, run).decision():
            label_version(vertex, model.name, decision.labels())
    registered.uri = vertex.uri(model.name)
    registered.metadata.update(resourceName=model.name, created=model.created)
    print(f"{model.name}: {'registered' if model.created else 'was registered already, nothing is uploaded'}")  # noqa: T201


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def create_endpoint(
    registered: Input[VertexModel],
    project: str,
    location: str,
    run: str,
    endpoint: str,
    found: Output[VertexEndpoint],
) -> None:
    from components.deadline import within
    from components.endpoint import find_or_create_endpoint
    from components.vertex import Vertex, model_id

    vertex = Vertex(project, location)
    with within("create_endpoint"):
        made = find_or_create_endpoint(vertex, endpoint or model_id(registered.metadata["resourceName"]), run)
    found.uri = vertex.uri(made.name)
    found.metadata.update(resourceName=made.name, created=made.created)
    print(f"{made.name}: {'created' if made.created else 'was there already'}")  # noqa: T201


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def deploy(
    registered: Input[VertexModel],
    endpoint: Input[VertexEndpoint],
    project: str,
    location: str,
    run: str,
    model_uri: str,
    staging: str,
    machine_type: str,
    min_replicas: int,
    max_replicas: int,
) -> str:
    from components.deadline import within
    from components.deploy import deploy_model
    from components.record import Record
    from components.storage import staging_folder
    from components.vertex import Vertex

    record = Record.of(staging_folder(staging, model_uri), run)
    found = [artifact.metadata for artifact in (registered, endpoint)]
    with record.telling("deploy"), within("deploy"):
        return deploy_model(
            Vertex(project, location),
            endpoint.metadata["resourceName"],
            registered.metadata["resourceName"],
            record,
            run=run,
            machine_type=machine_type,
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            made=[metadata["resourceName"] for metadata in found if metadata["created"]],
        ).deployed_model


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def verify(
    archived: Input[UnmanagedContainerModel],
    project: str,
    location: str,
    run: str,
    model_uri: str,
    staging: str,
    max_latency_seconds: float,
    pictures: Output[Artifact],
) -> str:
    from pathlib import Path

    from components.deadline import within
    from components.record import Record
    from components.storage import staging_folder
    from components.verify import verify_run
    from components.vertex import Vertex

    record = Record.of(staging_folder(staging, model_uri), run)
    with record.telling("verify"), within("verify"):
        verification = verify_run(
            Vertex(project, location),
            record,
            Path(archived.path),
            Path(pictures.path),
            max_latency_seconds=max_latency_seconds,
        )
    pictures.metadata["scene"] = (Path(pictures.path) / "scene.png").exists()
    for check in verification.checks:
        print(f"{check.what}: {check.text}")  # noqa: T201 -- the step's log
    return verification.deployed_model


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def release(
    archived: Input[UnmanagedContainerModel],
    project: str,
    location: str,
    run: str,
    model_uri: str,
    staging: str,
    canary_percent: int,
    promotion_steps: list[int],
    max_latency_seconds: float,
) -> str:
    from pathlib import Path

    from components.deadline import within
    from components.record import Record
    from components.release import release_deployment
    from components.storage import staging_folder
    from components.vertex import Vertex

    record = Record.of(staging_folder(staging, model_uri), run)
    with record.telling("release"), within("release"):
        return release_deployment(
            Vertex(project, location),
            record,
            Path(archived.path),
            canary_percent=canary_percent,
            promotion_steps=[int(step) for step in promotion_steps],
            max_latency_seconds=max_latency_seconds,
        )


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def conclude(
    status: dsl.PipelineTaskFinalStatus,
    project: str,
    location: str,
    run: str,
    model_uri: str,
    staging: str,
    keep_previous: int,
    keep_versions: int,
    report: Output[HTML],
    metrics: Output[Metrics],
    earth_engine_call: Output[Markdown],
) -> str:
    from pathlib import Path

    from components.conclude import conclude_run, why
    from components.deadline import reserved, within
    from components.record import Record
    from components.report import declared, write_call, write_report
    from components.storage import staging_folder
    from components.vertex import Vertex

    vertex = Vertex(project, location)
    record = Record.of(staging_folder(staging, model_uri), run)
    with within("conclude"):
        conclusion = conclude_run(
            vertex,
            record,
            fault="" if status.state == "SUCCEEDED" else why(vertex, record, run, status.error_message),
            keep_previous=keep_previous,
            keep_versions=keep_versions,
        )
        for key, value in conclusion.metrics().items():
            metrics.log_metric(key, value)
        with reserved():
            contract = declared(record, model_uri)
            write_report(vertex, contract, conclusion, Path(report.path), record.decision())
            write_call(contract, conclusion, Path(earth_engine_call.path))
    return conclusion.sentence
