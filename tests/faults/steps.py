"""Steps as Kubeflow runs them: the components' own bodies, by kfp's executor, in processes that can be killed.

Each process is forked from one that has imported everything already and has neither threads nor clients yet
(multiprocessing's forkserver), so that a step costs no second of imports.
"""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from kfp.dsl.executor import Executor
from kfp.dsl.types import type_annotations

from components import steps, training_steps

STEPS = {
    component.python_func.__name__: component
    for component in (
        *(training_steps.train, training_steps.evaluate, training_steps.gate, steps.export, steps.archive),
        *(steps.preflight, steps.upload, steps.create_endpoint, steps.deploy, steps.verify, steps.release),
        steps.conclude,
    )
}
IMPORTED = "imported.json"  # what there is before the first step
OUTPUT = "executor_output.json"  # of a step that succeeded: its artifacts' metadata, and what it returned
# What a parameter is fed with where that has another name (components/dags.py).
_FED_WITH = {"endpoint": "found"}
_PRELOADED = [
    __name__,
    "torch",
    "pandas",
    "torch._dynamo",
    "google.cloud.storage",
    "google.cloud.aiplatform_v1.services.endpoint_service",
    "google.cloud.aiplatform_v1.services.model_service",
    "google.cloud.aiplatform_v1.services.pipeline_service",
    "components.conclude",
    "components.contest",
    "components.challenger",
    "components.export",
    "components.preflight",
    "components.report",
    "components.upload",
    "components.verify",
]
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(_PRELOADED)


def start(
    folder: Path, names: Sequence[str], parameters: Mapping[str, Any], variables: Mapping[str, str]
) -> ForkServerProcess:
    """Start a process that runs steps, one after the other, until one fails.

    Args:
        folder: of the run; each step has a folder there, and they share a log.
        names: of the steps.
        parameters: of the pipeline.
        variables: of the environment.
    """
    process = _FORKING.Process(target=_run, args=(folder, tuple(names), dict(parameters), dict(variables)))
    process.start()
    return process


def _run(folder: Path, names: Sequence[str], parameters: dict[str, Any], variables: dict[str, str]) -> None:
    with (folder / "log").open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.update(variables)
    for name in names:
        sys.stderr.write(f"-- {name}\n")
        (folder / name).mkdir(exist_ok=True)
        (folder / name / OUTPUT).unlink(missing_ok=True)  # of an attempt that was killed
        Executor(_input(folder, name, parameters), STEPS[name]).execute()
        sys.stderr.flush()


def _input(folder: Path, name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What Kubeflow hands to a step (kfp.pipeline_spec, ExecutorInput)."""
    made = artifacts(folder)
    given: dict[str, Any] = {"artifacts": {}, "parameterValues": {}}
    outputs: dict[str, Any] = {}
    for each, annotation in inspect.signature(STEPS[name].python_func).parameters.items():
        kind = annotation.annotation
        if not type_annotations.is_Input_Output_artifact_annotation(kind):
            given["parameterValues"][each] = parameters[each]
        elif type_annotations.is_artifact_wrapped_in_Input(kind):
            given["artifacts"][each] = {"artifacts": [made[_FED_WITH.get(each, each)]]}
        else:
            outputs[each] = {"artifacts": [{"name": each, "uri": str(folder / name / each), "metadata": {}}]}
    return {"inputs": given, "outputs": {"artifacts": outputs, "outputFile": str(folder / name / OUTPUT)}}


def artifacts(folder: Path) -> dict[str, Any]:
    """The artifacts that the steps of a run have been given and have made, by their names."""
    imported = json.loads((folder / IMPORTED).read_text())
    return {
        name: artifact for output in (imported, *outputs(folder).values()) for name, artifact in _artifacts_of(output)
    }


def outputs(folder: Path) -> dict[str, Any]:
    """What each step of a run that succeeded has given to Kubeflow."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{OUTPUT}"))}


def uris(output: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Where the artifacts are that a step has written."""
    return ((name, Path(artifact["uri"])) for name, artifact in _artifacts_of(output))


def _artifacts_of(output: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, listed["artifacts"][0]) for name, listed in output.get("artifacts", {}).items())
