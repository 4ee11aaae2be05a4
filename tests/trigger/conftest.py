# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
"""A local Vertex AI, with a pipeline of one step where the deploy pipeline would be, and the function before it."""

from collections.abc import Iterator

import pytest
from kfp import compiler, dsl

from containers.trigger.deployment import job_id
from containers.trigger.model import Contract, Folder, Model
from tests.vertex_local.conftest import PARENT, Emulator, start, stop

from .function import Function, environment, running

IMAGE = "registry/local/images/steps:1"
CONTRACT = "name: land-cover\nframework: pytorch\nmodel: {file: model.pt}\n"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def note(model_uri: str, staging: str, canary_percent: int) -> str:
    return f"{model_uri} {staging} {canary_percent}"


@dsl.pipeline(name="deploy-pytorch-to-earth-engine")
def deploy_pytorch(model_uri: str, staging: str = "", canary_percent: int = 10) -> None:
    note(model_uri=model_uri, staging=staging, canary_percent=canary_percent)


@pytest.fixture(scope="package")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A compiled pipeline with the deploy pipeline's name and parameters, that only notes what it is given."""
    path = tmp_path_factory.mktemp("template") / "deploy-pytorch.yaml"
    compiler.Compiler().compile(deploy_pytorch, str(path))
    return path.read_text()


@pytest.fixture(scope="package")
def emulator(tmp_path_factory: pytest.TempPathFactory, template: str) -> Iterator[Emulator]:
    """A local Vertex AI with the function's buckets, which the environment points at."""
    local = start(tmp_path_factory.mktemp("state"))
    for bucket in ("models", "templates", "elsewhere"):
        local.storage.create_bucket(bucket)
    local.storage.bucket("templates").blob("deploy/deploy-pytorch.yaml").upload_from_string(template)
    yield local
    stop(local)


def pointed_at(local: Emulator) -> dict[str, str]:
    """The two variables that point clients at a local Vertex AI."""
    return {
        "VERTEX_EMULATOR_HOST": f"127.0.0.1:{local.port}",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{local.port + 1}",
    }


@pytest.fixture(scope="package")
def function(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """The function, with further parameters for the pipeline."""
    log = tmp_path_factory.mktemp("function") / "log"
    settings = environment(
        PARAMETERS='{"canary_percent": 25}', SERVICE_ACCOUNT="steps@local.iam", **pointed_at(emulator)
    )
    with running(log, settings) as started:
        yield started


def upload(emulator: Emulator, folder: str, contract: str = CONTRACT, file: str = "model.pt") -> int:
    """Upload a model directory, its model.yaml last; gives the generation of that."""
    bucket = emulator.storage.bucket("models")
    bucket.blob(f"{folder}/{file}").upload_from_string(b"weights")
    blob = bucket.blob(f"{folder}/model.yaml")
    blob.upload_from_string(contract)
    return int(blob.generation)


def uploaded_by(folder: str) -> str:
    """A training program that uploads a model directory to a folder's URI, an expression of Python."""
    return (
        "import os\nfrom google.cloud import storage\nclient = storage.Client()\n"
        f"folder = {folder}.rstrip('/')\n"
        "storage.Blob.from_uri(folder + '/model.pt', client).upload_from_string(b'weights')\n"
        f"storage.Blob.from_uri(folder + '/model.yaml', client).upload_from_string({CONTRACT!r})\n"
    )


def id_of(folder: str, generation: int) -> str:
    """Of the job that deploys a model in the bucket."""
    return job_id(Model(Folder("models", folder), generation, Contract("", "", "")))


def deployments(emulator: Emulator) -> dict[str, str]:
    """The jobs that the function has started, with the folder that each deploys."""
    jobs = emulator.jobs.list_pipeline_jobs({"parent": PARENT, "filter": 'pipeline_job_user_id:"deploy-*"'})
    return {
        job.name.rpartition("/")[2]: str(job.runtime_config.parameter_values["model_uri"]).removeprefix("gs://models/")
        for job in jobs
    }


def of(emulator: Emulator, folder: str) -> list[str]:
    """Those that deploy one folder."""
    return [job for job, deployed in deployments(emulator).items() if deployed == folder]
