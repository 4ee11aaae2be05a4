import pytest
from google.api_core import exceptions
from google.cloud import aiplatform

from .conftest import ARTIFACTS, ECHO, NUMBERED, PARENT, Emulator


def test_upload_by_the_sdk_makes_a_model_and_then_its_next_version(emulator: Emulator) -> None:
    first = aiplatform.Model.upload(
        model_id="crops", display_name="crops", artifact_uri=ARTIFACTS, serving_container_image_uri=ECHO
    )
    second = aiplatform.Model.upload(
        parent_model=first.resource_name,
        display_name="crops",
        artifact_uri=ARTIFACTS,
        serving_container_image_uri=ECHO,
        version_aliases=["candidate"],
        is_default_version=False,
    )
    assert (first.resource_name, first.version_id) == (f"{NUMBERED}/models/crops", "1")
    assert (second.version_id, second.version_aliases) == ("2", ["candidate"])
    assert aiplatform.Model("crops").version_id == "1"
    assert aiplatform.Model("crops@candidate").version_id == "2"
    assert [version.version_id for version in first.versioning_registry.list_versions()] == ["2", "1"]


def test_a_default_alias_moves_to_the_newest_version(emulator: Emulator) -> None:
    name = emulator.upload("moved").model
    emulator.upload(parent_model=name, version_aliases=["default"])
    assert emulator.models.get_model(name=name).version_id == "2"
    assert emulator.models.get_model(name=f"{name}@default").version_id == "2"
    assert list(emulator.models.get_model(name=f"{name}@1").version_aliases) == []


def test_a_list_is_filtered_and_paged(emulator: Emulator) -> None:
    for number in range(3):
        emulator.upload(f"listed-{number}", display_name="listed", labels={"number": str(number)})
    pages = emulator.models.list_models({"parent": PARENT, "filter": 'display_name="listed"', "page_size": 2}).pages
    assert [[model.name[-8:] for model in page.models] for page in pages] == [
        ["listed-2", "listed-1"],
        ["listed-0"],
    ]
    [model] = emulator.models.list_models({"parent": PARENT, "filter": "labels.number=1"})
    assert model.name.endswith("listed-1")
    with pytest.raises(exceptions.BadRequest, match="display_name"):
        emulator.models.list_models({"parent": PARENT, "filter": "create_time>3"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"container_spec": {"image_uri": "gcr.io/other/image:1"}}, "gcr.io/other/image:1"),
        ({"artifact_uri": "gs://nowhere/ndvi"}, "'nowhere' does not exist"),
        ({"artifact_uri": "gs://models/ndv"}, "no object"),
        ({"artifact_uri": "/home/model"}, "gs://"),
        ({"display_name": ""}, "displayName"),
        ({"version_aliases": ["1st"]}, "1st"),
    ],
)
def test_an_upload_that_cannot_be_served_is_refused(
    emulator: Emulator, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(exceptions.BadRequest, match=message):
        emulator.upload("refused", **fields)
    with pytest.raises(exceptions.NotFound, match="models/refused"):
        emulator.models.get_model(name=f"{PARENT}/models/refused")


def test_an_id_is_taken_once(emulator: Emulator) -> None:
    emulator.upload("taken")
    with pytest.raises(exceptions.Conflict, match="models/taken"):
        emulator.upload("taken")


def test_a_missing_parent_or_version_is_not_found(emulator: Emulator) -> None:
    with pytest.raises(exceptions.NotFound, match="models/absent"):
        emulator.upload(parent_model=f"{PARENT}/models/absent")
    name = emulator.upload("versioned").model
    with pytest.raises(exceptions.NotFound, match="versioned@7"):
        emulator.models.get_model(name=f"{name}@7")


def test_a_deleted_model_is_gone(emulator: Emulator) -> None:
    name = emulator.upload("brief").model
    emulator.models.delete_model(name=name).result(timeout=20)
    with pytest.raises(exceptions.NotFound, match="brief"):
        emulator.models.get_model(name=name)


def test_a_version_has_a_copy_of_its_artifacts_until_it_is_deleted(emulator: Emulator) -> None:
    uploaded = emulator.storage.bucket("models").blob("copied/code/net of 100 %.py")
    uploaded.upload_from_string(b"as uploaded")
    emulator.storage.bucket("models").blob("copied-not/model.mar").upload_from_string(b"another")
    name = emulator.upload("copied", artifact_uri="gs://models/copied/").model
    uploaded.upload_from_string(b"changed later")
    [copy] = emulator.storage.list_blobs("vertex-managed-artifacts", prefix=f"{name}/")
    assert copy.name == f"{name}/1/code/net of 100 %.py"
    assert copy.download_as_bytes() == b"as uploaded"
    assert emulator.models.get_model(name=name).artifact_uri == "gs://models/copied/"
    emulator.models.delete_model(name=name).result(timeout=20)
    assert not list(emulator.storage.list_blobs("vertex-managed-artifacts", prefix=f"{name}/"))
    assert uploaded.download_as_bytes() == b"changed later"
