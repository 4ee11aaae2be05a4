import posixpath
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.earthengine.contract import ModelContract
from components.earthengine.untrusted import documents
from containers.trigger.deployment import job_id
from containers.trigger.errors import MalformedError, SkippedError
from containers.trigger.events import Finalized
from containers.trigger.model import LARGEST, Contract, Folder, Model, announced_folder, parse
from containers.trigger.settings import Settings
from tests.conftest import document

from .function import environment

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\r\n"), min_size=1, max_size=20)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
# Each list holds the one before it twice: 2^26 texts to print.
_LISTS = [f"- &{chr(97 + level)} [*{chr(96 + level)}, *{chr(96 + level)}]\n" for level in range(1, 26)]
BOMB = ("lists:\n- &a [x, x]\n" + "".join(_LISTS)).encode()


def test_a_contract_may_be_as_large_as_the_pipeline_reads_it() -> None:
    assert LARGEST == documents.MAX_BYTES


def test_a_contract_is_read_as_the_pipeline_reads_it() -> None:
    text = yaml.safe_dump(document(name="land-cover", framework="tensorflow", model={"file": "saved_model/"}))
    assert parse(text.encode(), "here") == Contract("land-cover", "tensorflow", "saved_model")


@pytest.mark.parametrize(
    ("file", "found"),
    [("./model.pt", "model.pt"), (".", "."), ("./", "."), ("./a//b/./c/", "a/b/c"), (".hidden", ".hidden")],
)
def test_a_file_is_found_however_its_path_is_written(file: str, found: str) -> None:
    text = yaml.safe_dump(document(framework="tensorflow", model={"file": file}))
    assert ModelContract.model_validate(yaml.safe_load(text)).model.file == file
    assert parse(text.encode(), "here").file == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"framework: [", "here is no YAML"),
        (b"\xff\xfe\xff", "here is no YAML"),
        (b"[" * 100_000, "here is no YAML"),
        (b"? [a]\n: b", "here is no YAML|framework is None"),
        (b"", "here is no mapping"),
        (b"- a", "here is no mapping"),
        (b"name: x", "framework is None; pytorch and tensorflow are known"),
        (b"framework: jax", "framework is 'jax'; pytorch and tensorflow are known"),
        (b"framework: [pytorch]", "framework is a list; pytorch and tensorflow are known"),
        (b"framework: pytorch", r"model\.file is None; give"),
        (b"framework: pytorch\nmodel: model.pt", r"model\.file is None"),
        (b"framework: pytorch\nmodel: {file: [a]}", r"model\.file is a list; give"),
        (BOMB + b"framework: *z", "framework is a list; pytorch"),
        (BOMB + b"framework: pytorch\nmodel: {file: *z}", r"model\.file is a list; give"),
        (b"framework: pytorch\nmodel: {file: /}", r"model\.file is '/'"),
        (b"!!int '': !!timestamp x", "framework is None"),
    ],
)
def test_what_is_no_contract_is_malformed(content: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse(content, "here")


@given(content=st.binary() | st.text(st.characters(codec="utf-8")).map(str.encode))
def test_any_content_is_malformed_or_read(content: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(content, "here")


@given(name=st.text(), framework=st.sampled_from(["pytorch", "tensorflow"]), file=PATHS)
def test_what_is_dumped_is_read_again(name: str, framework: str, file: str) -> None:
    text = yaml.safe_dump({"name": name, "framework": framework, "model": {"file": file}})
    assert parse(text.encode(), "here") == Contract(name, framework, posixpath.normpath(file))


@given(bucket=st.from_regex(r"[a-z0-9][a-z0-9._-]{1,20}", fullmatch=True), path=PATHS)
def test_a_folder_is_found_at_its_uri(bucket: str, path: str) -> None:
    folder = Folder(bucket, path)
    assert Folder.at(folder.uri) == Folder.at(f"{folder.uri}/") == folder
    assert folder.object("model.yaml") == f"{path}/model.yaml"


@pytest.mark.parametrize("uri", ["", "/model", "models/a", "gs://", "gs://models", "gs:///a", "https://models/a"])
def test_what_is_no_uri_of_a_folder_is_none(uri: str) -> None:
    assert Folder.at(uri) is None


def announced(prefix: str, bucket: str, name: str) -> Folder:
    return announced_folder(Settings.read(environment(MODEL_PREFIX=prefix)), Finalized(bucket, name, 1))


def test_a_model_is_announced_by_its_model_yaml_below_the_prefix() -> None:
    assert announced("trained", "models", "trained/a/b/model.yaml") == Folder("models", "trained/a/b")
    assert announced("trained/", "models", "trained/model.yaml") == Folder("models", "trained")
    assert announced("/", "models", "model.yaml") == Folder("models", "")
    assert Folder("models", "").object("model.yaml") == "model.yaml"
    assert Folder("models", "").uri == "gs://models"


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        ("others", "trained/a/model.yaml"),
        ("models", "other/a/model.yaml"),
        ("models", "trained-not/a/model.yaml"),
        ("models", "trained/a/model.pt"),
        ("models", "trained/a/my-model.yaml"),
        ("models", "trained/a/model.yaml.bak"),
        ("models", "trained/a/model.yaml/"),
    ],
)
def test_other_objects_are_skipped(bucket: str, name: str) -> None:
    with pytest.raises(SkippedError, match=r"is no model\.yaml under gs://models/trained/"):
        announced("trained", bucket, name)


MODELS = st.builds(
    Model,
    st.builds(Folder, NAMES, PATHS),
    st.integers(min_value=1, max_value=2**63 - 1),
    st.just(Contract("n", "pytorch", "f")),
)


@given(model=MODELS, other=MODELS)
def test_a_job_has_one_id_for_one_model(model: Model, other: Model) -> None:
    assert re.fullmatch(r"[a-z][-a-z0-9]{0,127}", job_id(model))
    same = (model.folder, model.generation) == (other.folder, other.generation)
    assert (job_id(model) == job_id(other)) == same


def test_a_job_id_is_the_same_in_every_process_and_release() -> None:
    # What changed it would deploy again what is redelivered while the function is updated.
    model = Model(Folder("models", "trained/a"), 7, Contract("n", "pytorch", "f"))
    # The beginning of what sha256sum says of "gs://models/trained/a/model.yaml#7".
    assert job_id(model) == "deploy-d67f60f1b954f916699404f3"
