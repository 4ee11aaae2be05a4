"""The trained model that an event announces: its folder in Cloud Storage, and what its model.yaml says."""

import posixpath
import re
from dataclasses import dataclass
from typing import Any, Self

import yaml
from google.api_core.exceptions import NotFound
from google.cloud import storage

from .cloud import AGAIN, REQUEST_SECONDS, Cloud, asked
from .errors import MalformedError, NotYetError, SkippedError
from .events import Finalized
from .settings import Settings

CONTRACT = "model.yaml"
FRAMEWORKS = ("pytorch", "tensorflow")
# Where this project's commands have pipelines write, whatever the staging folder.
_PIPELINE_ROOT = "pipeline-root"
# By which TensorFlow knows the folder of a SavedModel.
_SAVED_MODEL = "saved_model.pb"
# Of a contract, as the pipeline itself takes it; what is larger is something else, and is not to fill the memory.
LARGEST = 256 << 10
_URI = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]+)/(?P<path>.+)")


@dataclass(frozen=True)
class Folder:
    """A folder in Cloud Storage.

    Attributes:
        bucket: its bucket's name.
        path: without slashes at either end; empty for the bucket itself.
    """

    bucket: str
    path: str

    @classmethod
    def at(cls, uri: str) -> Self | None:
        """The folder at a URI; None where that is none in Cloud Storage."""
        found = _URI.fullmatch(uri)
        return cls(found["bucket"], found["path"].strip("/")) if found else None

    @property
    def uri(self) -> str:
        """Its gs:// address."""
        return f"gs://{self.bucket}/{self.path}" if self.path else f"gs://{self.bucket}"

    def object(self, name: str) -> str:
        """The name in the bucket of an object in the folder."""
        return f"{self.path}/{name}" if self.path else name


@dataclass(frozen=True)
class Contract:
    """What a model.yaml says.

    Attributes:
        name: of the model; empty where it has none.
        framework: pytorch or tensorflow.
        file: the trained model beside it, a file or the folder of a SavedModel; `.` for the model.yaml's own.
    """

    name: str
    framework: str
    file: str


@dataclass(frozen=True)
class Model:
    """A trained model as one generation of its model.yaml describes it."""

    folder: Folder
    generation: int
    contract: Contract


def announced_folder(settings: Settings, event: Finalized) -> Folder:
    """The model directory whose model.yaml was written.

    Raises:
        SkippedError: another object was, or not where models are watched for.
    """
    path, _, name = event.name.rpartition("/")
    if event.bucket != settings.bucket or not event.name.startswith(settings.prefix) or name != CONTRACT:
        raise SkippedError(
            f"gs://{event.bucket}/{event.name} is no {CONTRACT} under gs://{settings.bucket}/{settings.prefix}"
        )
    return Folder(event.bucket, path)


def read_model(cloud: Cloud, settings: Settings, folder: Folder, generation: int | None = None) -> Model:
    """The model in a folder.

    Args:
        cloud: where to look.
        settings: the function's.
        folder: the model directory.
        generation: of the model.yaml that was announced; None for the one that is there.

    Raises:
        SkippedError: there is no model.yaml, not this one any more, or a pipeline itself has written it.
        MalformedError: it is none.
        NotYetError: the model that it names is not there yet.
        UnavailableError: Cloud Storage does not answer.
    """
    # The pipeline's own archives hold a model.yaml as well; each would start the next pipeline.
    for staging in settings.staging_folders(folder.bucket):
        if f"{folder.uri}/".startswith(f"{staging}/"):
            raise SkippedError(f"{folder.uri} is below {staging}, where pipelines stage models")
    # What a retraining has trained goes through its own gate.
    if _PIPELINE_ROOT in folder.path.split("/"):
        raise SkippedError(f"{folder.uri} is what a pipeline's step has written, below its {_PIPELINE_ROOT}")
    generation, content = _content(cloud, folder, generation)
    contract = parse(content, f"{folder.uri}/{CONTRACT}")
    if not _is_there(cloud, folder, contract.file):
        raise NotYetError(f"{folder.uri} holds {CONTRACT} but not {contract.file}, which it names; upload it")
    return Model(folder, generation, contract)


def parse(content: bytes, where: str) -> Contract:
    """What a model.yaml says, as far as it matters here; the pipeline checks all of it.

    Args:
        content: of the file.
        where: its address, for errors.

    Raises:
        MalformedError: it is no YAML, or lacks the framework or the model's file.
    """
    try:
        # BaseLoader makes texts, lists and dicts alone; SafeLoader's other types fail in ways of their own.
        fields = yaml.load(content, Loader=yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MalformedError(f"{where} is no YAML: {error}") from error
    if not isinstance(fields, dict):
        raise MalformedError(f"{where} is no mapping of keys to values")
    framework, name, source = fields.get("framework"), fields.get("name"), fields.get("model")
    if framework not in FRAMEWORKS:
        raise MalformedError(f"{where}: framework is {_shown(framework)}; {' and '.join(FRAMEWORKS)} are known")
    file = source.get("file") if isinstance(source, dict) else None
    if not isinstance(file, str) or not file.strip("/"):
        raise MalformedError(f"{where}: model.file is {_shown(file)}; give the file of the trained model")
    return Contract(name if isinstance(name, str) else "", framework, posixpath.normpath(file.strip("/")))


def _shown(value: Any) -> str:
    """A value for an error: of a list or a dict its type alone, because aliases let a few bytes print for ever."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.100}"


def holds_model(cloud: Cloud, folder: Folder) -> bool:
    """Whether there is a model.yaml in a folder."""
    return _current(cloud, folder) is not None


def _content(cloud: Cloud, folder: Folder, generation: int | None) -> tuple[int, bytes]:
    """Generation and content of the model.yaml."""
    where = f"{folder.uri}/{CONTRACT}"
    blob = _current(cloud, folder)
    if blob is None:
        raise SkippedError(f"there is no {where}")
    if generation not in {None, blob.generation}:
        raise SkippedError(f"generation {generation} of {where} is superseded by {blob.generation}")
    if blob.size > LARGEST:
        raise MalformedError(f"{where} has {blob.size} bytes; {LARGEST} are allowed")
    with asked(f"read {where}"):
        try:
            seen = blob.bucket.blob(blob.name, generation=blob.generation)
            content = seen.download_as_bytes(retry=AGAIN, timeout=REQUEST_SECONDS)
        except NotFound as error:
            raise SkippedError(f"generation {blob.generation} of {where} is superseded") from error
    return blob.generation, content


def _current(cloud: Cloud, folder: Folder) -> storage.Blob | None:
    with asked(f"look at {folder.uri}/{CONTRACT}"):
        bucket = cloud.storage.bucket(folder.bucket)
        return bucket.get_blob(folder.object(CONTRACT), retry=AGAIN, timeout=REQUEST_SECONDS)


def _is_there(cloud: Cloud, folder: Folder, file: str) -> bool:
    """Whether there is an object of that name, or a SavedModel's folder."""
    with asked(f"look for {folder.uri}/{file}"):
        bucket = cloud.storage.bucket(folder.bucket)
        names = (folder.object(posixpath.normpath(each)) for each in (file, f"{file}/{_SAVED_MODEL}"))
        return any(bucket.get_blob(name, retry=AGAIN, timeout=REQUEST_SECONDS) for name in names)
