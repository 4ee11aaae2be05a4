"""Upload, endpoint, deploy, verify and release as functions, against a local Vertex AI and real servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from components import storage
from components.archive import ARCHIVE_NAME
from components.deploy import Deployment, deploy_model, read_record, record_address
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.earthengine.errors import ImageError, StorageError, VerificationError, VertexError
from components.endpoint import find_or_create_endpoint
from components.golden import Golden
from components.release import release_deployment
from components.upload import upload_model
from components.verify import verify_deployment
from components.vertex import Vertex

pytestmark = pytest.mark.slow

Archives = dict[Framework, Path]
PYTORCH_IMAGE = "images/serving-pytorch:1"


def variant(archive: Path, folder: Path, **changes: object) -> Path:
    """A copy of an archive that counts as another model."""
    shutil.copytree(archive, folder)
    contract = ModelContract.read(folder).model_copy(update=changes)
    (folder / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
    (folder / "source.sha256").write_text(folder.name, encoding="ascii")
    return folder


def deploy(vertex: Vertex, staging: str, endpoint: str, model: str, run: str, canary_percent: int = 20) -> Deployment:
    return deploy_model(
        vertex,
        endpoint,
        model,
        record_address(staging, run),
        run=run,
        machine_type="n1-standard-2",
        min_replicas=1,
        max_replicas=1,
        canary_percent=canary_percent,
    )


def traffic(vertex: Vertex, endpoint: str) -> dict[str, int]:
    return dict(vertex.endpoints.get_endpoint(name=endpoint).traffic_split)


def deployed(vertex: Vertex, endpoint: str) -> set[str]:
    return {model.id for model in vertex.endpoints.get_endpoint(name=endpoint).deployed_models}


def test_the_same_model_is_uploaded_once_and_another_becomes_a_version(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    first = upload_model(vertex, archives["pytorch"], PYTORCH_IMAGE, staging)
    again = upload_model(vertex, archives["pytorch"], PYTORCH_IMAGE, staging)
    other_image = upload_model(vertex, archives["pytorch"], "images/serving-pytorch:2", staging)
    other_model = upload_model(vertex, variant(archives["pytorch"], tmp_path / "other"), PYTORCH_IMAGE, staging)
    assert first.created
    assert (again.name, again.created) == (first.name, False)
    versions = [model.name.split("@")[1] for model in (first, other_image, other_model)]
    assert versions == ["1", "2", "3"]
    registered = vertex.models.get_model(name=first.name)
    assert [port.container_port for port in registered.container_spec.grpc_ports] == [8500]
    sent = storage.fetch(registered.artifact_uri, tmp_path / "downloaded")
    assert (sent / ARCHIVE_NAME).read_bytes() == (archives["pytorch"] / ARCHIVE_NAME).read_bytes()


def test_only_files_that_are_not_there_are_sent(staging: str, archives: Archives) -> None:
    uri = f"{staging}/twice"
    files = sum(path.is_file() for path in archives["tensorflow"].rglob("*"))
    assert storage.stage(archives["tensorflow"], uri) == files
    assert storage.stage(archives["tensorflow"], uri) == 0
    storage.write_text(f"{uri}/{FILE_NAME}", "changed")
    assert storage.stage(archives["tensorflow"], uri) == 1


def test_an_image_of_the_other_framework_is_refused_before_anything_is_sent(
    vertex: Vertex, staging: str, archives: Archives
) -> None:
    with pytest.raises(ImageError, match="serves tensorflow, the model is pytorch; use REPOSITORY/serving-pytorch"):
        upload_model(vertex, archives["pytorch"], "images/serving-tensorflow:1", f"{staging}/never")
    with pytest.raises(StorageError, match="holds no files"):
        storage.fetch(f"{staging}/never", Path("nowhere"))


def test_a_bucket_that_does_not_exist_is_named(vertex: Vertex, archives: Archives, tmp_path: Path) -> None:
    archive = variant(archives["pytorch"], tmp_path / "unsent", name="unsent")
    with pytest.raises(StorageError, match=r"gs://no-such-bucket does not exist; create it"):
        upload_model(vertex, archive, PYTORCH_IMAGE, "gs://no-such-bucket/staging")
    assert not [model for model in vertex.models.list_models(parent=vertex.parent) if model.display_name == "unsent"]


def test_an_endpoint_is_found_by_id_name_and_resource_name_and_made_once(vertex: Vertex) -> None:
    made = find_or_create_endpoint(vertex, "fields")
    assert made == f"{vertex.parent}/endpoints/fields"
    assert find_or_create_endpoint(vertex, "fields") == made
    assert find_or_create_endpoint(vertex, made) == made
    named = vertex.endpoints.create_endpoint(parent=vertex.parent, endpoint={"display_name": "By hand"}).result().name
    assert find_or_create_endpoint(vertex, "By hand") == named
    vertex.endpoints.create_endpoint(parent=vertex.parent, endpoint={"display_name": "By hand"}).result()
    with pytest.raises(VertexError, match="2 endpoints are named 'By hand'"):
        find_or_create_endpoint(vertex, "By hand")
    with pytest.raises(VertexError, match="'No such' does not exist and cannot be an endpoint's id; allowed"):
        find_or_create_endpoint(vertex, "No such")


def test_a_canary_is_verified_then_promoted_or_taken_back(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    archive = archives["pytorch"]
    endpoint = find_or_create_endpoint(vertex, "canary")
    one = upload_model(vertex, variant(archive, tmp_path / "one", name="canary"), PYTORCH_IMAGE, staging).name
    two = upload_model(vertex, variant(archive, tmp_path / "two", name="canary"), PYTORCH_IMAGE, staging).name

    first = deploy(vertex, staging, endpoint, one, "run-1")
    assert traffic(vertex, endpoint) == {first.deployed_model: 100}  # nothing else serves
    done = release_deployment(vertex, record_address(staging, "run-1"), verified=True, keep_previous=1)
    assert f"{first.deployed_model} has all the traffic" in done

    second = deploy(vertex, staging, endpoint, two, "run-2")
    assert traffic(vertex, endpoint) == {first.deployed_model: 80, second.deployed_model: 20}
    found = verify_deployment(vertex, endpoint, second.deployed_model, archive, tmp_path / "pictures")
    assert found.largest_difference <= 1e-5
    release_deployment(vertex, record_address(staging, "run-2"), verified=False, keep_previous=1)
    assert traffic(vertex, endpoint) == {first.deployed_model: 100}
    assert deployed(vertex, endpoint) == {first.deployed_model}

    third = deploy(vertex, staging, endpoint, two, "run-3")
    release_deployment(vertex, record_address(staging, "run-3"), verified=True, keep_previous=0)
    assert traffic(vertex, endpoint) == {third.deployed_model: 100}
    assert deployed(vertex, endpoint) == {third.deployed_model}

    again = deploy(vertex, staging, endpoint, two, "run-4")
    assert (again.deployed_model, again.created) == (third.deployed_model, False)
    release_deployment(vertex, record_address(staging, "run-4"), verified=False, keep_previous=0)
    assert traffic(vertex, endpoint) == {third.deployed_model: 100}


def test_answers_that_are_not_the_source_models_are_refused_with_the_place(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    archive = variant(archives["pytorch"], tmp_path / "wrong", name="wrong")
    golden = Golden.load(archive)
    swapped = golden.tiles[:, ::-1]  # as if the bands had been declared in another order
    Golden(np.ascontiguousarray(swapped), golden.outputs, golden.scene).save(archive)
    endpoint = find_or_create_endpoint(vertex, "wrong")
    model = upload_model(vertex, archive, PYTORCH_IMAGE, staging).name
    deployment = deploy(vertex, staging, endpoint, model, "run-wrong")
    with pytest.raises(
        VerificationError, match=r"output landcover differs at \d+ of \d+ values, first in tile 0 at row"
    ):
        verify_deployment(vertex, endpoint, deployment.deployed_model, archive, tmp_path / "pictures")


@pytest.mark.parametrize("payload_format", ["ND_ARRAYS", "GRPC_TF_TENSORS"])
@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_other_formats_reach_the_model_too(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path, framework: Framework, payload_format: str
) -> None:
    name = f"{framework}-{payload_format.lower().replace('_', '-')}"
    archive = variant(archives[framework], tmp_path / name, name=name, payload_format=payload_format)
    endpoint = find_or_create_endpoint(vertex, name)
    model = upload_model(vertex, archive, f"images/serving-{framework}:1", staging).name
    deployment = deploy(vertex, staging, endpoint, model, name)
    found = verify_deployment(vertex, endpoint, deployment.deployed_model, archive, tmp_path / "pictures")
    assert found.largest_difference <= 1e-5
    release_deployment(vertex, record_address(staging, name), verified=False, keep_previous=0)
    assert deployed(vertex, endpoint) == set()


def test_a_model_whose_server_does_not_start_leaves_the_endpoint_as_it_was(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    archive = variant(archives["pytorch"], tmp_path / "broken", name="broken")
    (archive / ARCHIVE_NAME).write_bytes(b"no archive")
    endpoint = find_or_create_endpoint(vertex, "broken")
    model = upload_model(vertex, archive, PYTORCH_IMAGE, staging).name
    with pytest.raises(VertexError, match=rf"(?s)could not deploy {model} to {endpoint}: .*model\.mar"):
        deploy(vertex, staging, endpoint, model, "run-broken")
    release_deployment(vertex, record_address(staging, "run-broken"), verified=False, keep_previous=0)
    assert traffic(vertex, endpoint) == {}
    assert deployed(vertex, endpoint) == set()


def test_a_run_that_deployed_nothing_releases_nothing(vertex: Vertex, staging: str) -> None:
    assert read_record(record_address(staging, "no-such-run")) is None
    said = release_deployment(vertex, record_address(staging, "no-such-run"), verified=False, keep_previous=0)
    assert said == "nothing was deployed, nothing is released"
