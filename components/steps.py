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
from kfp.dsl import Artifact, Input, Markdown, Metrics, Model, Output

VERTEX_IMAGE = "steps-vertex"
EXPORT_IMAGE = "steps-export"


@dsl.component(base_image=EXPORT_IMAGE, install_kfp_package=False)
def export(model: Input[Model], allow_pickle: bool, exported: Output[Model]) -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from components.export import export_model
    from components.storage import fetch

    with TemporaryDirectory() as folder:
        contract = export_model(fetch(model.uri, Path(folder)), Path(exported.path), allow_pickle=allow_pickle)
    exported.metadata.update(name=contract.name, framework=contract.framework)


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def archive(exported: Input[Model], serving_image: str, archived: Output[UnmanagedContainerModel]) -> None:
    from pathlib import Path

    from components.archive import archive_model

    archive_model(Path(exported.path), Path(archived.path))
    archived.metadata["containerSpec"] = {"imageUri": serving_image}


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def upload(
    archived: Input[UnmanagedContainerModel],
    project: str,
    location: str,
    serving_image: str,
    model_uri: str,
    staging: str,
    registered: Output[VertexModel],
) -> None:
    from pathlib import Path

    from components.storage import staging_folder
    from components.upload import upload_model
    from components.vertex import Vertex

    vertex = Vertex(project, location)
    model = upload_model(vertex, Path(archived.path), serving_image, staging_folder(staging, model_uri))
    registered.uri = vertex.uri(model.name)
    registered.metadata["resourceName"] = model.name


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def create_endpoint(
    registered: Input[VertexModel], project: str, location: str, endpoint: str, found: Output[VertexEndpoint]
) -> None:
    from components.endpoint import find_or_create_endpoint
    from components.vertex import Vertex, model_id

    vertex = Vertex(project, location)
    name = find_or_create_endpoint(vertex, endpoint or model_id(registered.metadata["resourceName"]))
    found.uri = vertex.uri(name)
    found.metadata["resourceName"] = name


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
    canary_percent: int,
) -> str:
    from components.deploy import deploy_model, record_address
    from components.storage import staging_folder
    from components.vertex import Vertex

    return deploy_model(
        Vertex(project, location),
        endpoint.metadata["resourceName"],
        registered.metadata["resourceName"],
        record_address(staging_folder(staging, model_uri), run),
        run=run,
        machine_type=machine_type,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        canary_percent=canary_percent,
    ).deployed_model


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def verify(
    endpoint: Input[VertexEndpoint],
    archived: Input[UnmanagedContainerModel],
    deployed_model: str,
    project: str,
    location: str,
    metrics: Output[Metrics],
    pictures: Output[Artifact],
    earth_engine_call: Output[Markdown],
) -> None:
    from pathlib import Path

    from components.verify import verify_deployment, write_call
    from components.vertex import Vertex

    vertex, name = Vertex(project, location), endpoint.metadata["resourceName"]
    folder = Path(archived.path)
    result = verify_deployment(vertex, name, deployed_model, folder, Path(pictures.path))
    pictures.metadata["scene"] = result.picture is not None
    for key, value in result.metrics().items():
        metrics.log_metric(key, value)
    write_call(folder, name, Path(earth_engine_call.path))


@dsl.component(base_image=VERTEX_IMAGE, install_kfp_package=False)
def release(
    status: dsl.PipelineTaskFinalStatus,
    project: str,
    location: str,
    run: str,
    model_uri: str,
    staging: str,
    keep_previous: int,
) -> None:
    from components.deploy import record_address
    from components.release import release_deployment
    from components.storage import staging_folder
    from components.vertex import Vertex

    done = release_deployment(
        Vertex(project, location),
        record_address(staging_folder(staging, model_uri), run),
        verified=status.state == "SUCCEEDED",
        keep_previous=keep_previous,
    )
    print(done)  # noqa: T201 -- the step's log
