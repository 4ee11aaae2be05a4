"""The function of containers/trigger before the whole road: a trained model is uploaded, and ends up deployed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components import job, local, storage
from components.built_images import Images
from components.dags import compile_deploy
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.vertex import Vertex, storage_client
from tests.road.conftest import upload_folder
from tests.trigger.function import environment, running


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_that_is_uploaded_is_deployed(vertex: Vertex, trained: dict[Framework, Path], tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    for framework in trained:
        compile_deploy(framework, Images(local.REPOSITORY, local.TAG), templates / f"deploy-{framework}.yaml")
    storage.stage(templates, f"gs://{local.BUCKET}/templates")
    settings = {
        "MODEL_BUCKET": local.BUCKET,
        "MODEL_PREFIX": "models/",
        "TEMPLATES": f"gs://{local.BUCKET}/templates",
        **{name: os.environ[name] for name in ("VERTEX_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")},
    }
    uri = upload_folder(trained["pytorch"], "triggered")
    blob = storage_client().bucket(local.BUCKET).get_blob(f"models/triggered/{FILE_NAME}")
    assert blob
    with running(tmp_path / "log", environment(**settings)) as function:
        status, line = function.finalize(local.BUCKET, blob.name, blob.generation)
    assert (status, line["model"]) == (200, uri)
    steps = {step.name: step for step in job.follow(vertex, f"{vertex.parent}/pipelineJobs/{line['job']}")}
    assert steps["conclude"].outputs["metrics"][1]["released"]
    name = ModelContract.read(trained["pytorch"]).name
    [endpoint] = vertex.endpoints.list_endpoints(parent=vertex.parent)
    assert endpoint.display_name == name
    [deployed] = endpoint.deployed_models
    assert dict(endpoint.traffic_split) == {deployed.id: 100}
    assert deployed.model.rpartition("/")[2] == name
