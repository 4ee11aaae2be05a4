import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform, aiplatform_v1

from .conftest import ARTIFACTS, ECHO, NUMBERED, PARENT, Emulator, refused, result_of, start, stop, store_artifacts


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


def versions(emulator: Emulator, model_id: str, count: int) -> str:
    """Uploads that many versions of a model and gives its name."""
    name: str = emulator.upload(model_id).model
    for _ in range(count - 1):
        emulator.upload(parent_model=name)
    return name


def aliases(emulator: Emulator, name: str) -> dict[str, list[str]]:
    return {
        version.version_id: list(version.version_aliases)
        for version in emulator.models.list_model_versions(name=name)
        if version.version_aliases
    }


def test_a_number_is_never_given_twice(emulator: Emulator) -> None:
    name = versions(emulator, "counted", 3)
    result_of(emulator.models.delete_model_version(name=f"{name}@3"))
    assert emulator.upload(parent_model=name).model_version_id == "4"
    for version in ("2", "4"):
        result_of(emulator.models.delete_model_version(name=f"{name}@{version}"))
    assert emulator.upload(parent_model=f"{name}@1").model_version_id == "5"
    assert [version.version_id for version in emulator.models.list_model_versions(name=name)] == ["5", "1"]
    result_of(emulator.models.delete_model(name=name))
    assert emulator.upload("counted").model_version_id == "1"


def test_only_the_first_version_is_the_default_by_itself(emulator: Emulator) -> None:
    name = emulator.upload("defaults", version_aliases=["golden"]).model
    emulator.upload(parent_model=name, version_aliases=["candidate"])
    assert aliases(emulator, name) == {"1": ["default", "golden"], "2": ["candidate"]}
    emulator.upload(parent_model=name, version_aliases=["default", "golden"])
    assert aliases(emulator, name) == {"2": ["candidate"], "3": ["default", "golden"]}


@pytest.mark.parametrize(
    ("version", "merged", "left"),
    [
        ("1", ["golden"], {"1": ["default", "golden"], "2": ["candidate"]}),
        ("2", ["default"], {"2": ["candidate", "default"]}),
        ("1", ["candidate"], {"1": ["candidate", "default"]}),
        ("2", ["-candidate"], {"1": ["default"]}),
        ("1", ["-candidate"], {"1": ["default"], "2": ["candidate"]}),
        ("2", ["-default"], {"1": ["default"], "2": ["candidate"]}),
        ("2", ["old-", "-candidate"], {"1": ["default"], "2": ["old-"]}),
        # Of an alias that is both added and removed nothing changes.
        ("1", ["golden", "-golden"], {"1": ["default"], "2": ["candidate"]}),
        ("2", ["-candidate", "candidate"], {"1": ["default"], "2": ["candidate"]}),
        ("1", ["-default", "default"], {"1": ["default"], "2": ["candidate"]}),
    ],
)
def test_aliases_are_merged(emulator: Emulator, version: str, merged: list[str], left: dict[str, list[str]]) -> None:
    name = emulator.upload().model
    emulator.upload(parent_model=name, version_aliases=["candidate"])
    answer = emulator.models.merge_version_aliases(name=f"{name}@{version}", version_aliases=merged)
    assert aliases(emulator, name) == left
    assert (answer.name, list(answer.version_aliases)) == (f"{name}@{version}", left.get(version, []))


def test_aliases_that_cannot_be_merged_change_nothing(emulator: Emulator) -> None:
    name = versions(emulator, "merging", 2)
    merge = emulator.models.merge_version_aliases
    with refused("INVALID_ARGUMENT", "'default' cannot be taken from .*merging@1"):
        merge(name=f"{name}@1", version_aliases=["golden", "-default"])
    for alias in ("Golden", "3", "g", "--golden", "a" * 129, ""):
        with refused("INVALID_ARGUMENT", f"version alias '{alias.removeprefix('-')}'"):
            merge(name=f"{name}@1", version_aliases=["fine", alias])
    with refused("INVALID_ARGUMENT", "must say which version"):
        merge(name=name, version_aliases=["golden"])
    with refused("NOT_FOUND", "merging@3"):
        merge(name=f"{name}@3", version_aliases=["golden"])
    assert aliases(emulator, name) == {"1": ["default"]}
    merge(name=f"{name}@1", version_aliases=["a" * 128])


def test_the_sdk_s_registry_of_versions(emulator: Emulator) -> None:
    name = versions(emulator, "registered", 2)
    registry = aiplatform.Model(name).versioning_registry
    registry.add_version_aliases(["golden", "default"], "2")
    assert aliases(emulator, name) == {"2": ["default", "golden"]}
    registry.remove_version_aliases(["golden"], "2")
    registry.update_version("1", version_description="the first one", labels={"stage": "old"})
    info = registry.get_version_info("1")
    assert (info.version_id, info.version_aliases, info.version_description) == ("1", [], "the first one")
    assert info.model_resource_name == name
    [found] = registry.list_versions(filter="labels.stage=old")
    assert (found.version_id, found.model_resource_name) == ("1", name)
    assert registry.get_model("1").labels == {"stage": "old"}
    registry.delete_version("1")
    assert [version.version_id for version in registry.list_versions()] == ["2"]
    with refused("NOT_FOUND", "registered@1"):
        registry.get_version_info("1")


def test_the_sdk_changes_a_model_from_any_of_its_versions(emulator: Emulator) -> None:
    name = versions(emulator, "renamed", 2)
    emulator.models.update_model(
        model={"name": f"{name}@2", "labels": {"digest": "2"}}, update_mask={"paths": ["labels"]}
    )
    aiplatform.Model(f"{name}@2").update(display_name="wheat", description="by the SDK", labels={"stage": "new"})
    seen = [
        (version.display_name, version.description, dict(version.labels))
        for version in emulator.models.list_model_versions(name=name)
    ]
    assert seen == [("wheat", "by the SDK", {"digest": "2"}), ("wheat", "by the SDK", {"stage": "new"})]
    assert [found.resource_name for found in aiplatform.Model.list(filter='display_name="wheat"')] == [name]


def test_names_say_the_version_where_the_question_did(emulator: Emulator) -> None:
    name = versions(emulator, "named", 2)
    assert emulator.models.get_model(name=name).name == name
    assert emulator.models.get_model(name=f"{name}@2").name == f"{name}@2"
    assert emulator.models.get_model(name=f"{name}@default").name == f"{name}@1"
    listed = [version.name for version in emulator.models.list_model_versions(name=name)]
    assert listed == [f"{name}@2", f"{name}@1"]
    [model] = emulator.models.list_models({"parent": PARENT, "filter": "model=named"})
    assert model.name == name


def test_fields_of_the_model_and_of_a_version_are_changed_apart(emulator: Emulator) -> None:
    name = versions(emulator, "apart", 2)

    def update(version: str, *paths: str, **fields: Any) -> Any:
        return emulator.models.update_model(model={"name": name + version, **fields}, update_mask={"paths": paths})

    changed = update("@-", "display_name", "labels", display_name="apart", labels={"of": "model"})
    assert (changed.name, changed.display_name, changed.labels) == (name, "apart", {"of": "model"})
    changed = update("@2", "version_description", "labels", version_description="second", labels={"of": "two"})
    assert (changed.name, changed.version_id, changed.version_description) == (f"{name}@2", "2", "second")
    assert emulator.models.get_model(name=name).labels == {"of": "model"}
    changed = update("", "labels")
    assert (changed.labels, changed.display_name) == ({}, "apart")
    before = list(emulator.models.list_model_versions(name=name))
    with refused("FAILED_PRECONDITION", "version_description is a field of a version: .*apart@VERSION"):
        update("", "display_name", "version_description", display_name="b", version_description="c")
    with refused("FAILED_PRECONDITION", "display_name is a field of the model: .*'projects/.*/apart'"):
        update("@2", "version_description", "display_name", display_name="b", version_description="c")
    with refused("INVALID_ARGUMENT", "'artifact_uri': only display_name, description, labels"):
        update("", "artifact_uri", artifact_uri="gs://models/other")
    with refused("INVALID_ARGUMENT", "updateMask is required"):
        update("")
    with refused("INVALID_ARGUMENT", "displayName is required"):
        update("", "display_name")
    with refused("NOT_FOUND", "apart@3"):
        update("@3", "version_description")
    assert list(emulator.models.list_model_versions(name=name)) == before


def test_an_update_of_a_stale_model_is_aborted(emulator: Emulator) -> None:
    name = emulator.upload("stale").model
    read = emulator.models.get_model(name=name)
    model = {"name": name, "etag": read.etag, "description": "mine"}
    changed = emulator.models.update_model(model=model, update_mask={"paths": ["description"]})
    assert changed.etag != read.etag
    with refused("ABORTED", "models/stale' has changed since etag"):
        emulator.models.update_model(model=model, update_mask={"paths": ["description"]})


def test_a_version_that_is_needed_is_not_deleted(emulator: Emulator) -> None:
    name = emulator.upload("needed").model
    with refused("FAILED_PRECONDITION", "needed@1' is the only one"):
        emulator.models.delete_model_version(name=f"{name}@1")
    emulator.upload(parent_model=name)
    with refused("FAILED_PRECONDITION", "needed@1' is the default one"):
        emulator.models.delete_model_version(name=f"{name}@1")
    with refused("INVALID_ARGUMENT", "must say which version, as in .*needed@1"):
        emulator.models.delete_model_version(name=name)
    with refused("NOT_FOUND", "needed@9"):
        emulator.models.delete_model_version(name=f"{name}@9")
    endpoint = emulator.endpoint()
    deployed = emulator.deploy(endpoint, f"{name}@2", {"0": 100})
    still_deployed = f"needed@2' is deployed at '{endpoint}' as '{deployed.id}'"
    with refused("FAILED_PRECONDITION", still_deployed):
        emulator.models.delete_model_version(name=f"{name}@2")
    with refused("FAILED_PRECONDITION", still_deployed):
        emulator.models.delete_model(name=name)
    with refused("INVALID_ARGUMENT", "needed@1' must be a model's"):
        emulator.models.delete_model(name=f"{name}@1")
    [seen] = emulator.models.get_model(name=f"{name}@2").deployed_models
    assert (seen.endpoint, seen.deployed_model_id) == (endpoint, deployed.id)
    assert not emulator.models.get_model(name=name).deployed_models
    result_of(emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=deployed.id))
    result_of(emulator.models.delete_model_version(name=f"{name}@2"))
    with refused("NOT_FOUND", "models/absent"):
        emulator.models.delete_model(name=f"{PARENT}/models/absent")


def test_a_version_of_a_model_that_is_deleted_meanwhile_is_not_made(emulator: Emulator) -> None:
    name = emulator.upload("fleeting").model
    deletion = emulator.models.delete_model(name=name)
    container = {"image_uri": ECHO}
    request = {"parent": PARENT, "parent_model": name, "model": {"display_name": "a", "container_spec": container}}
    upload = emulator.models.upload_model(request)
    result_of(deletion)
    with refused("NOT_FOUND", "models/fleeting"):
        result_of(upload)


def test_models_are_listed_in_the_order_asked_for(emulator: Emulator) -> None:
    for model_id, display_name in (("order-1", "b"), ("order-2", "a"), ("order-3", "b")):
        emulator.upload(model_id, display_name=display_name, labels={"ordered": "yes"})

    def listed(**fields: Any) -> list[str]:
        request = {"parent": PARENT, "filter": "labels.ordered:*", **fields}
        return [model.name[-1:] for model in emulator.models.list_models(request)]

    assert listed() == ["3", "2", "1"]
    assert listed(order_by="create_time") == ["1", "2", "3"]
    assert listed(order_by="display_name, create_time desc") == ["2", "3", "1"]
    assert listed(order_by="displayName desc,createTime", page_size=2) == ["1", "3", "2"]
    assert listed(filter="labels.ordered=yes AND NOT display_name=b") == ["2"]
    assert listed(filter="model=order-1 OR model=order-3", order_by="create_time asc") == ["1", "3"]
    by_sdk = aiplatform.Model.list(filter="labels.ordered:*", order_by="display_name, create_time desc")
    assert [model.name for model in by_sdk] == ["order-2", "order-3", "order-1"]
    emulator.models.update_model(
        model={"name": f"{PARENT}/models/order-1", "description": "new"}, update_mask={"paths": ["description"]}
    )
    assert listed(order_by="update_time desc")[0] == "1"


def test_a_list_gives_the_fields_that_are_asked_for(emulator: Emulator) -> None:
    emulator.upload("masked", description="much text")
    request = {"parent": PARENT, "filter": "model=masked", "read_mask": {"paths": ["display_name", "version_id"]}}
    [seen] = emulator.models.list_models(request)
    assert seen == aiplatform_v1.Model(display_name="ndvi", version_id="1")
    with refused("INVALID_ARGUMENT", "'colour' names no fields of Model"):
        emulator.models.list_models({**request, "read_mask": {"paths": ["colour"]}})


def test_versions_are_listed_newest_first_or_as_asked(emulator: Emulator) -> None:
    name = versions(emulator, "aged", 3)
    emulator.models.update_model(
        model={"name": f"{name}@1", "version_description": "touched"}, update_mask={"paths": ["version_description"]}
    )

    def listed(**fields: Any) -> list[str]:
        return [version.version_id for version in emulator.models.list_model_versions({"name": name, **fields})]

    assert listed() == ["3", "2", "1"]
    assert listed(order_by="create_time", page_size=2) == ["1", "2", "3"]
    assert listed(order_by="update_time desc") == ["1", "3", "2"]
    with refused("INVALID_ARGUMENT", "orderBy 'display_name': create_time, update_time"):
        listed(order_by="display_name")
    with refused("NOT_FOUND", "models/absent"):
        emulator.models.list_model_versions(name=f"{PARENT}/models/absent")


def test_a_model_id_is_checked(emulator: Emulator) -> None:
    for model_id in ("1crop", "123", "-crop", "Crop", "a" * 64, "a.b"):
        with refused("INVALID_ARGUMENT", f"modelId '{model_id}'"):
            emulator.upload(model_id)
    with refused("ALREADY_EXISTS", "models/checked' already exists"):
        emulator.upload("checked")
        emulator.upload("checked")
    elsewhere = "projects/local/locations/europe-west1/models/checked"
    with refused("INVALID_ARGUMENT", "parentModel .*europe-west1"):
        emulator.upload(parent_model=elsewhere)


def test_an_alias_moves_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    emulator = start(tmp_path / "state")
    try:
        store_artifacts(emulator)
        name = versions(emulator, "moved", 2)
        with contextlib.closing(sqlite3.connect(tmp_path / "state" / "resources.sqlite")) as database:
            # The second of two writes fails, as if the emulator had been killed between them.
            database.execute(
                "CREATE TRIGGER fault BEFORE UPDATE ON resources WHEN NEW.name LIKE '%@2'"
                " BEGIN SELECT RAISE(ABORT, 'fault'); END"
            )
        with pytest.raises(exceptions.InternalServerError, match="fault"):
            emulator.models.merge_version_aliases(name=f"{name}@2", version_aliases=["default"])
    finally:
        stop(emulator)
    emulator = start(tmp_path / "state")
    try:
        assert aliases(emulator, name) == {"1": ["default"]}
    finally:
        stop(emulator)
