"""Upload, endpoint, deploy, verify and conclude as functions, against a local Vertex AI and real servers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from components import storage
from components.archive import ARCHIVE_NAME, archive_model
from components.digest import FILE_NAME as DIGEST_NAME
from components.earthengine.contract import FILE_NAME, Band, Framework, ModelContract, Output, Source
from components.earthengine.errors import ImageError, StorageError, VerificationError, VertexError
from components.endpoint import find_or_create_endpoint
from components.export import export_model
from components.golden import Golden
from components.land_cover import train_land_cover
from components.traffic import change_traffic
from components.upload import artifact_folder, upload_model, version_digest
from components.verify import verify_endpoint
from components.vertex import Vertex, storage_client
from tests.road.runs import PYTORCH_IMAGE, Run, deployed, registered, traffic, trials, variant

pytestmark = pytest.mark.slow

Archives = dict[Framework, Path]


def prepared(vertex: Vertex, staging: str, archive: Path, name: str, image: str = PYTORCH_IMAGE) -> Run:
    """A run that is to release an archive on an endpoint of a name."""
    endpoint = find_or_create_endpoint(vertex, name).name
    return Run(f"run-{archive.name}", endpoint, registered(vertex, archive, staging, image), str(archive))


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


def test_of_several_runs_that_make_an_endpoint_and_a_model_at_once_none_fails(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    trained = [variant(archives["pytorch"], tmp_path / f"at-once-{each}", name="at-once") for each in range(3)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find_or_create_endpoint(vertex, "at-once"), range(4)))
        models = list(pool.map(lambda each: upload_model(vertex, each, PYTORCH_IMAGE, staging).name, trained))
    assert {each.name for each in found} == {f"{vertex.parent}/endpoints/at-once"}
    assert sum(each.created for each in found) == 1
    assert {name.rsplit("@", 1)[0] for name in models} == {f"{vertex.parent}/models/at-once"}
    assert len(set(models)) == 3


def test_only_files_that_are_not_there_are_sent(staging: str, archives: Archives) -> None:
    uri = f"{staging}/twice"
    files = sum(path.is_file() for path in archives["tensorflow"].rglob("*"))
    assert storage.stage(archives["tensorflow"], uri).sent == files
    assert storage.stage(archives["tensorflow"], uri).sent == 0
    storage.write_text(f"{uri}/{FILE_NAME}", "changed")
    assert storage.stage(archives["tensorflow"], uri).sent == 1


def test_an_upload_that_was_broken_off_is_completed_and_only_then_registered(
    vertex: Vertex, staging: str, small: Path, tmp_path: Path
) -> None:
    archive = variant(small, tmp_path / "partial", name="partial")
    folder = artifact_folder(staging, "partial", version_digest((archive / DIGEST_NAME).read_text(), PYTORCH_IMAGE))
    partial = tmp_path / "killed"
    partial.mkdir()
    (partial / FILE_NAME).write_bytes((archive / FILE_NAME).read_bytes())
    (partial / ARCHIVE_NAME).write_bytes((archive / ARCHIVE_NAME).read_bytes()[:1000])
    storage.stage(partial, folder)
    version = upload_model(vertex, archive, PYTORCH_IMAGE, staging)
    assert version.created
    artifacts = storage.fetch(vertex.models.get_model(name=version.name).artifact_uri, tmp_path / "registered")
    for path in archive.iterdir():
        assert (artifacts / path.name).read_bytes() == path.read_bytes()


def test_a_folder_with_somebody_elses_file_is_not_registered(
    vertex: Vertex, staging: str, small: Path, tmp_path: Path
) -> None:
    archive = variant(small, tmp_path / "strange", name="strange")
    folder = artifact_folder(staging, "strange", version_digest((archive / DIGEST_NAME).read_text(), PYTORCH_IMAGE))
    storage.write_text(f"{folder}/extra/model.onnx", "of another export")
    with pytest.raises(StorageError, match=rf"{folder}/extra/model\.onnx was not staged with the others: .* remove it"):
        upload_model(vertex, archive, PYTORCH_IMAGE, staging)
    assert not [each for each in vertex.models.list_models(parent=vertex.parent) if each.display_name == "strange"]
    storage_client().bucket(folder.split("/")[2]).delete_blob(f"{folder.split('/', 3)[3]}/extra/model.onnx")
    assert upload_model(vertex, archive, PYTORCH_IMAGE, staging).created


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
    assert (made.name, made.created) == (f"{vertex.parent}/endpoints/fields", True)
    assert find_or_create_endpoint(vertex, "fields").name == made.name
    assert not find_or_create_endpoint(vertex, "fields").created
    assert find_or_create_endpoint(vertex, made.name).name == made.name
    by_hand = vertex.endpoints.create_endpoint(parent=vertex.parent, endpoint={"display_name": "By hand"}).result()
    named = f"{vertex.parent}/endpoints/{by_hand.name.rsplit('/', 1)[-1]}"  # answers have the project's number
    assert find_or_create_endpoint(vertex, "By hand").name == named
    assert find_or_create_endpoint(vertex, named.rsplit("/", 1)[-1]).name == named  # an id of Vertex AI's own making
    vertex.endpoints.create_endpoint(parent=vertex.parent, endpoint={"display_name": "By hand"}).result()
    with pytest.raises(VertexError, match="2 endpoints are named 'By hand'"):
        find_or_create_endpoint(vertex, "By hand")
    with pytest.raises(VertexError, match="'No such' does not exist and cannot be an endpoint's id; allowed"):
        find_or_create_endpoint(vertex, "No such")


def loaded(archive: str) -> tuple[ModelContract, Golden]:
    return ModelContract.read(Path(archive)), Golden.load(Path(archive))


def test_over_grpc_only_the_new_models_answers_count(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    train_land_cover(tmp_path / "model", "pytorch", seed=1)
    export_model(tmp_path / "model", tmp_path / "exported")
    archive_model(tmp_path / "exported", tmp_path / "archived")
    keys = {"name": "grpc", "payload_format": "GRPC_TF_TENSORS"}
    old = prepared(vertex, staging, variant(archives["pytorch"], tmp_path / "old", **keys), "grpc")
    new = prepared(vertex, staging, variant(tmp_path / "archived", tmp_path / "new", **keys), "grpc")
    assert old.walk().released
    newcomer = new.deploy().deployed_model
    (served,) = traffic(vertex, new.endpoint)
    change_traffic(vertex, new.endpoint, lambda _: {served: 70, newcomer: 30})
    for _ in range(3):  # an answer of the old model, of which most are, would be far off
        found, _ = verify_endpoint(vertex, new.endpoint, newcomer, 30, *loaded(new.archive), 20)
        assert found.fault == ""
        assert found.largest_difference <= 1e-5
    found, _ = verify_endpoint(vertex, new.endpoint, newcomer, 30, *loaded(old.archive), 20)
    assert "output landcover differs at" in found.fault


def test_a_deployment_that_outlives_its_step_is_taken_back(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    archive = variant(archives["tensorflow"], tmp_path / "outlives", name="outlives")
    run = prepared(vertex, staging, archive, "outlives", "images/serving-tensorflow:1")
    with run.start() as step:
        while not ((written := run.record.deployment()) and written.operations):
            assert step.poll() is None
            time.sleep(0.05)
        step.kill()
    assert deployed(vertex, run.endpoint) == set()  # TensorFlow takes seconds to start
    done = run.conclude("the step was killed")
    assert f"(deployed model {written.deployed_model}) was removed; traffic: none; the step was killed" in done.sentence
    assert deployed(vertex, run.endpoint) == set()
    assert trials(vertex, run.endpoint) == []


def test_two_runs_on_one_endpoint_leave_each_others_models_alone(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    names = ("shared-1", "shared-2", "shared-3")
    runs = [
        prepared(vertex, staging, variant(archives["pytorch"], tmp_path / name, name="shared"), "shared")
        for name in names
    ]
    one, two, three = (run.deploy().deployed_model for run in runs)
    endpoint = runs[0].endpoint
    assert traffic(vertex, endpoint) == {}
    change_traffic(vertex, endpoint, lambda _: {one: 64, two: 16, three: 20})
    done = runs[2].conclude("it answers wrongly")
    assert done.traffic == traffic(vertex, endpoint) == {one: 80, two: 20}
    assert deployed(vertex, endpoint) == {one, two}
    assert trials(vertex, endpoint) == [], "those of runs that have ended go at the next deployment"


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
    np.savez(folder / "sample.npz", B2=np.random.default_rng(0).random((300, 300), np.float32))
    export_model(folder, tmp_path / "exported")
    archive_model(tmp_path / "exported", tmp_path / "archived")
    run = prepared(vertex, staging, tmp_path / "archived", "many-outputs")
    run.deploy()
    found = run.verify()
    assert found.largest_answer <= 1_500_000
    assert found.largest_answer > 5 * found.largest_request
    assert found.output_multiplier == 12  # which the Earth Engine call is given


def test_answers_that_are_not_the_source_models_are_refused_with_the_place(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    archive = variant(archives["pytorch"], tmp_path / "wrong", name="wrong")
    golden = Golden.load(archive)
    swapped = golden.tiles[:, ::-1]  # as if the bands had been declared in another order
    Golden(np.ascontiguousarray(swapped), golden.outputs, golden.scene).save(archive)
    run = prepared(vertex, staging, archive, "wrong")
    run.deploy()
    with pytest.raises(
        VerificationError, match=r"output landcover differs at \d+ of \d+ values, first in tile 0 at row"
    ):
        run.verify()
    assert traffic(vertex, run.endpoint) == {}


@pytest.mark.parametrize("payload_format", ["ND_ARRAYS", "GRPC_TF_TENSORS"])
@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_other_formats_reach_the_model_too(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path, framework: Framework, payload_format: str
) -> None:
    name = f"{framework}-{payload_format.lower().replace('_', '-')}"
    archive = variant(archives[framework], tmp_path / name, name=name, payload_format=payload_format)
    run = prepared(vertex, staging, archive, name, f"images/serving-{framework}:1")
    run.deploy()
    assert run.verify().largest_difference <= 1e-5
    assert run.conclude("enough").traffic == {}
    assert deployed(vertex, run.endpoint) == set()


def test_a_model_whose_server_does_not_start_leaves_the_endpoint_as_it_was(
    vertex: Vertex, staging: str, archives: Archives, tmp_path: Path
) -> None:
    archive = variant(archives["pytorch"], tmp_path / "broken", name="broken")
    (archive / ARCHIVE_NAME).write_bytes(b"no archive")
    run = prepared(vertex, staging, archive, "broken")
    with pytest.raises(VertexError, match=rf"(?s)could not deploy {run.model} to .*model\.mar") as caught:
        run.deploy()
    assert "was removed" in run.conclude(str(caught.value)).sentence
    assert traffic(vertex, run.endpoint) == {}
    assert deployed(vertex, run.endpoint) == set()
    assert trials(vertex, run.endpoint) == []
