"""Submission: what a job is submitted or scheduled with, checked before anything is made."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.markup import escape

from components import job, storage
from components.built_images import Images
from components.check import check_platform
from components.commands.options import console, errors
from components.dags import compile_deploy, retrain_pipeline
from components.data import SAMPLES, check_share, check_trainable
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.earthengine.errors import ContractError, ParameterError, PipelineError
from components.earthengine.redaction import redact
from components.gate import check_margin
from components.images import check_release
from components.land_cover import land_cover_contract
from components.parameters import CANARY_PERCENT, check_numbers
from components.vertex import Vertex


def contract_at(model: str) -> ModelContract:
    """The contract beside a trained model, in a folder or in Cloud Storage."""
    text = storage.read_text(f"{model.rstrip('/')}/{FILE_NAME}")
    if text is None:
        raise ContractError(f"{model} holds no {FILE_NAME}; write the model's contract there")
    return ModelContract.parse(text, f"{model}/{FILE_NAME}")


def warn_of_platform(contract: ModelContract, parameters: dict[str, Any], images: Images) -> None:
    """Stop where the platform cannot carry what the contract declares, before anything is made."""
    image = parameters.get("serving_image") or images.uri(f"serving-{contract.framework}")
    check_release(contract, image, parameters.get("canary_percent", CANARY_PERCENT))
    for warning in check_platform(contract, image, date.today()):
        errors.print(f"[yellow]warning[/] {escape(warning)}")


def submit_deploy(
    vertex: Vertex,
    contract: ModelContract,
    parameters: dict[str, Any],
    images: Images,
    service_account: str | None = None,
) -> str:
    """Compile the contract's template and submit it; returns the job's resource name."""
    with tempfile.TemporaryDirectory() as folder, console.status("submitting"):
        template = compile_deploy(contract.framework, images, Path(folder) / "deploy.yaml")
        staging = storage.staging_folder(parameters.get("staging", ""), parameters["model_uri"])
        return job.submit(vertex, template, parameters, f"{staging}/pipeline-root", contract.name, service_account)


@dataclass(frozen=True)
class Retraining:
    """What a retrain job is submitted or scheduled with."""

    name: str
    framework: Framework
    parameters: dict[str, Any]

    @property
    def pipeline_root(self) -> str:
        return f"{self.parameters['staging']}/pipeline-root"


def retraining_of(
    contract_uri: str, framework: Framework, staging: str, given: list[str] | None, images: Images
) -> Retraining:
    """What is asked of a retraining, checked before anything is made.

    Args:
        contract_uri: folder with the contract; empty for the packaged land cover.
        framework: of the packaged land cover.
        staging: folder for what runs make; empty for one in the contract's bucket.
        given: NAME=VALUE pairs.
        images: that steps run in and that serves.

    Raises:
        ContractError, ImageError: the contract is of no model that can be trained, or that the platform can carry.
        ParameterError: a value is out of its range, there is nowhere to keep models, or digests lack an image.
        StorageError: the contract cannot be read.
    """
    contract = contract_at(contract_uri) if contract_uri else land_cover_contract(framework)
    check_trainable(contract)
    if not staging and not contract_uri:
        raise ParameterError("without a contract in a bucket nobody knows where to keep models; give --staging")
    pipeline = retrain_pipeline(contract.framework, images)
    apart = {"staging": storage.staging_folder(staging, contract_uri).rstrip("/"), "contract_uri": contract_uri}
    parameters = apart | read_parameters(pipeline, given, apart)
    _check_in_cloud(parameters)
    warn_of_platform(contract, parameters, images)
    return Retraining(contract.name, contract.framework, parameters)


def _check_in_cloud(parameters: dict[str, Any]) -> None:
    """See that what steps are to read and write lies where they can."""
    for name in ("staging", "contract_uri", "data", "held_out"):
        uri = parameters.get(name, "")
        if uri and uri != SAMPLES and not uri.startswith("gs://"):
            raise ParameterError(
                f"{name} is {uri}, which the steps of a pipeline cannot reach; copy it to a bucket and give its gs:// "
                "address"
            )


def defaults(pipeline: Any) -> dict[str, Any]:
    """The parameters of a pipeline that have a default, with it."""
    inputs = pipeline.component_spec.inputs
    return {name: each.default for name, each in inputs.items() if each.optional}


def read_parameters(pipeline: Any, given: list[str] | None, apart: Container[str] = ("model_uri",)) -> dict[str, Any]:
    """NAME=VALUE pairs as parameters of a pipeline, each of the type that it has there, but for those given apart."""
    inputs = pipeline.component_spec.inputs
    names = [name for name in inputs if name not in apart]
    readers: dict[str, Callable[[str], Any]] = {
        "String": str,
        "Integer": int,
        "Float": float,
        "List[Integer]": lambda text: [int(each) for each in text.split(",")],
        "Boolean": lambda text: {"true": True, "false": False}[text.lower()],
    }
    parameters = {}
    for pair in given or []:
        name, is_pair, text = pair.partition("=")
        if not is_pair or name not in names:
            raise PipelineError(f"--parameter {pair} is not NAME=VALUE with NAME one of {', '.join(names)}; correct it")
        if text != redact(text):
            raise ParameterError(
                f"--parameter {pair} holds a credential, which a pipeline job would keep and show; give a gs:// "
                "address, and the account that the steps run as the role it needs"
            )
        try:
            parameters[name] = readers[inputs[name].type](text)
        except (ValueError, KeyError):
            raise PipelineError(
                f"--parameter {pair}: {name} takes a value of type {inputs[name].type}; correct it"
            ) from None
    if "held_out_share" in parameters:
        check_share(parameters["held_out_share"])
    if "margin" in parameters:
        check_margin(parameters["margin"])
    limits = inspect.signature(check_numbers).parameters
    check_numbers(**{name: value for name, value in parameters.items() if name in limits})
    return parameters
