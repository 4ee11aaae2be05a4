"""The serving images that there are: ours, and Google's prebuilt ones while they last."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from components.earthengine.contract import Framework, ModelContract, PayloadFormat
from components.earthengine.errors import ImageError

_HTTP: tuple[PayloadFormat, ...] = ("SERIALIZED_TF_TENSORS", "RAW_JSON", "ND_ARRAYS")
_GRPC: tuple[PayloadFormat, ...] = ("GRPC_TF_TENSORS", "GRPC_SERIALIZED_TF_TENSORS", "GRPC_TF_EXAMPLES")

# "Prebuilt containers for inference", read on 21 Nov 2026; no successor is listed there.
_PREBUILT_END = date(2027, 1, 14)
_PREBUILT_NEWEST = {"tf2": [(2, 15), (2, 14)], "pytorch": [(2, 4), (2, 3), (2, 2)]}
_PREBUILT = re.compile(r"(tf2|pytorch)-(?:cpu|gpu|tpu)\.(\d+)-(\d+)")
# How long before its end an image is warned of.
_NOTICE_DAYS = 90


@dataclass(frozen=True)
class ServingImage:
    """What is known of the image at a URI.

    Attributes:
        framework: what it serves.
        formats: the payload formats in which it answers models that this project exports.
        available_until: the day from which Vertex AI makes no endpoint on it, where one is known.
        health_route: the path of its health checks; empty for Vertex AI's own.
        predict_route: the path of its predictions; empty for Vertex AI's own.
        grpc_port: where it speaks tensorflow.serving; None where it does not.
        names_its_answers: whether its gRPC answers tell which deployed model gave them; of HTTP answers Vertex AI does.
    """

    framework: Framework
    formats: tuple[PayloadFormat, ...]
    available_until: date | None = None
    health_route: str = ""
    predict_route: str = ""
    http_port: int = 8080
    grpc_port: int | None = None
    names_its_answers: bool = False


def of(uri: str) -> ServingImage:
    """What is known of a serving image.

    Raises:
        ImageError: it is not known, or has been withdrawn.
    """
    name = uri.rsplit("/", 1)[-1].split("@", maxsplit=1)[0].split(":", maxsplit=1)[0]
    ours: dict[str, Framework] = {"serving-pytorch": "pytorch", "serving-tensorflow": "tensorflow"}
    if name in ours:
        return ServingImage(
            ours[name],
            (*_HTTP, *_GRPC),
            health_route="/health",
            predict_route="/predict",
            grpc_port=8500,
            names_its_answers=True,
        )
    if (found := _PREBUILT.fullmatch(name)) is None:
        raise ImageError(
            f"serving image {uri} is not known; allowed: REPOSITORY/{' or REPOSITORY/'.join(ours)} with any tag, "
            "or a prebuilt image of Vertex AI such as tf2-cpu.2-15"
        )
    family, version = found[1], (int(found[2]), int(found[3]))
    if version < min(_PREBUILT_NEWEST[family]):
        raise ImageError(
            f"serving image {uri} has been withdrawn: Vertex AI makes no endpoint on it; use REPOSITORY/"
            f"serving-{'pytorch' if family == 'pytorch' else 'tensorflow'}"
        )
    ends = _PREBUILT_END if version in _PREBUILT_NEWEST[family] else None
    if family == "pytorch":  # TorchServe with the handler in the archive: its gRPC is its own
        return ServingImage("pytorch", _HTTP, ends)
    # TensorFlow Serving with the exported signatures: it reads no numbers in strings, as RAW_JSON has them.
    answered = tuple(each for each in (*_HTTP, *_GRPC) if each != "RAW_JSON")
    return ServingImage("tensorflow", answered, ends, grpc_port=8500)


def check(contract: ModelContract, uri: str, today: date) -> list[str]:
    """Check that an image can serve a model.

    Returns:
        Warnings.

    Raises:
        ImageError: it cannot.
    """
    image = of(uri)
    ours = f"REPOSITORY/serving-{contract.framework}"
    if image.framework != contract.framework:
        raise ImageError(f"serving image {uri} serves {image.framework}, the model is {contract.framework}; use {ours}")
    if image.available_until and today >= image.available_until:
        raise ImageError(
            f"serving image {uri} ended on {image.available_until:%d %b %Y}: Vertex AI makes no endpoint on it; "
            f"use {ours}"
        )
    if contract.payload_format not in image.formats:
        raise ImageError(
            f"serving image {uri} cannot answer {contract.payload_format}; with what is exported it answers "
            f"{', '.join(image.formats)}; change payload_format in model.yaml or use {ours}"
        )
    warnings = []
    if image.available_until:
        framework = {"tensorflow": "TensorFlow", "pytorch": "PyTorch"}[image.framework]
        warnings.append(
            f"serving image {uri} has an older {framework} than the one that exports the model, "
            f"which may not load there; use {ours}"
        )
    if image.available_until and (image.available_until - today).days <= _NOTICE_DAYS:
        warnings.append(
            f"serving image {uri} ends on {image.available_until:%d %b %Y}, in {(image.available_until - today).days} "
            f"days: no endpoint can be made on it then, and existing ones may be deleted; use {ours}"
        )
    return warnings


def check_release(contract: ModelContract, uri: str, canary_percent: int) -> None:
    """Check that a model on an image can be verified at its canary share, where other models answer too.

    Raises:
        ImageError: nothing tells its answers from theirs.
    """
    if contract.payload_format in _GRPC and canary_percent < 100 and not of(uri).names_its_answers:
        raise ImageError(
            f"serving image {uri} does not say in {contract.payload_format} which model gave an answer, so none can be "
            f"verified with canary_percent {canary_percent}: submit with canary_percent 100, or use "
            f"REPOSITORY/serving-{contract.framework}"
        )
