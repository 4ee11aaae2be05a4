"""Upload, endpoint, deploy, verify and release as functions, against a local Vertex AI and real servers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import storage
from components.archive import ARCHIVE_NAME, archive_model
from components.deploy import Deployment, deploy_model, read_record, record_address
from components.earthengine.contract import FILE_NAME, Band, Framework, ModelContract, Output, Source
from components.earthengine.errors import ImageError, StorageError, VerificationError, VertexError
from components.endpoint import find_or_create_endpoint
from components.export import export_model
from components.golden import Golden
from components.release import release_deployment
from components.train import train_land_cover
from components.upload import upload_model
from components.verify import verify_deployment, write_call
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
    by_hand = vertex.endpoints.create_endpoint(parent=vertex.parent, endpoint={"display_name": "By hand"}).result()
    named = f"{vertex.parent}/endpoints/{by_hand.name.rsplit('/', 1)[-1]}"  # answers have the project's number
    assert find_or_create_endpoint(vertex, "By hand") == named
    assert find_or_create_endpoint(vertex, named.rsplit("/", 1)[-1]) == named  # an id of Vertex AI's own making
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


def test_over_grpc_only_the_new_models_answers_count(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    train_land_cover(tmp_path / "model", "pytorch", seed=1)
    export_model(tmp_path / "model", tmp_path / "exported")
    archive_model(tmp_path / "exported", tmp_path / "archived")
    keys = {"name": "grpc", "payload_format": "GRPC_TF_TENSORS"}
    old_archive = variant(archives["pytorch"], tmp_path / "old", **keys)
    new_archive = variant(tmp_path / "archived", tmp_path / "new", **keys)
    endpoint = find_or_create_endpoint(vertex, "grpc")
    old = upload_model(vertex, old_archive, PYTORCH_IMAGE, staging).name
    new = upload_model(vertex, new_archive, PYTORCH_IMAGE, staging).name
    deploy(vertex, staging, endpoint, old, "grpc-1")
    newcomer = deploy(vertex, staging, endpoint, new, "grpc-2", canary_percent=30).deployed_model
    for _ in range(3):  # an answer of the old model, of which most are, would be far off
        found = verify_deployment(vertex, endpoint, newcomer, new_archive, tmp_path / "pictures")
        assert found.largest_difference <= 1e-5
    with pytest.raises(VerificationError, match="does not answer as the source model"):
        verify_deployment(vertex, endpoint, newcomer, old_archive, tmp_path / "pictures")


def test_a_deployment_that_outlives_its_step_is_taken_back(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    archive = variant(archives["tensorflow"], tmp_path / "outlives", name="outlives")
    endpoint = find_or_create_endpoint(vertex, "outlives")
    model = upload_model(vertex, archive, "images/serving-tensorflow:1", staging).name
    call = (
        "from components.deploy import *; from components.vertex import Vertex\n"
        f"deploy_model(Vertex({vertex.project!r}, {vertex.location!r}), {endpoint!r}, {model!r}, "
        f"record_address({staging!r}, 'killed'), run='killed', machine_type='n1-standard-2', min_replicas=1, "
        "max_replicas=1, canary_percent=10)"
    )
    record = record_address(staging, "killed")
    with subprocess.Popen([sys.executable, "-c", call]) as step:
        while not ((written := read_record(record)) and written.operation):
            assert step.poll() is None
            time.sleep(0.05)
        step.kill()
    assert deployed(vertex, endpoint) == set()  # TensorFlow takes seconds to start
    said = release_deployment(vertex, record, verified=False, keep_previous=0)
    assert said == f"deployed model {written.deployed_model} is removed; traffic is as before: none"
    assert deployed(vertex, endpoint) == set()


def test_two_runs_on_one_endpoint_leave_each_others_models_alone(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    endpoint = find_or_create_endpoint(vertex, "shared")
    models = [
        upload_model(vertex, variant(archives["pytorch"], tmp_path / name, name="shared"), PYTORCH_IMAGE, staging).name
        for name in ("shared-1", "shared-2", "shared-3")
    ]
    ids = [deploy(vertex, staging, endpoint, model, f"shared-{i}").deployed_model for i, model in enumerate(models)]
    assert traffic(vertex, endpoint) == {ids[0]: 64, ids[1]: 16, ids[2]: 20}
    release_deployment(vertex, record_address(staging, "shared-1"), verified=True, keep_previous=0)
    assert traffic(vertex, endpoint) == {ids[1]: 100}
    assert deployed(vertex, endpoint) == {ids[1], ids[2]}  # the third is not verified yet
    release_deployment(vertex, record_address(staging, "shared-2"), verified=False, keep_previous=0)
    assert traffic(vertex, endpoint) == {ids[1]: 100}
    assert deployed(vertex, endpoint) == {ids[1]}


def test_answers_larger_than_requests_are_packed_by_the_answer(vertex: Vertex, staging: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    torch.jit.script(torch.nn.Conv2d(1, 12, 1)).save(str(folder / "model.pt"))
    contract = ModelContract(
        name="many-outputs",
        framework="pytorch",
        payload_format="SERIALIZED_TF_TENSORS",
        model=Source(file="model.pt"),
        bands=(Band(name="B2"),),
        tile=(64, 64),
        scale=10,
        outputs=(Output(name="embedding", dimensions=1),),
    )
    (folder / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
    sample: dict[str, Any] = {"B2": np.random.default_rng(0).random((300, 300), np.float32)}
    np.savez(folder / "sample.npz", **sample)
    export_model(folder, tmp_path / "exported")
    archive_model(tmp_path / "exported", tmp_path / "archived")
    endpoint = find_or_create_endpoint(vertex, "many-outputs")
    model = upload_model(vertex, tmp_path / "archived", PYTORCH_IMAGE, staging).name
    newcomer = deploy(vertex, staging, endpoint, model, "many-outputs").deployed_model
    found = verify_deployment(vertex, endpoint, newcomer, tmp_path / "archived", tmp_path / "pictures")
    assert found.largest_answer <= 1_500_000
    assert found.largest_answer > 5 * found.largest_request
    write_call(tmp_path / "archived", endpoint, tmp_path / "call.md")
    assert "outputMultiplier=12" in (tmp_path / "call.md").read_text()


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
