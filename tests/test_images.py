from __future__ import annotations

from datetime import date
from typing import get_args

import pytest

from components import images
from components.earthengine.contract import PayloadFormat
from components.earthengine.errors import ImageError
from tests.conftest import contract_of

PREBUILT = "registry/vertex-ai/prediction"
TODAY = date(2026, 11, 21)
END = date(2027, 1, 14)
TENSORFLOW = contract_of(framework="tensorflow", payload_format="GRPC_TF_TENSORS")


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
@pytest.mark.parametrize("tail", ["", ":1.2", "@sha256:abc", ":1.2@sha256:abc"])
def test_our_images(framework: str, tail: str) -> None:
    uri = f"registry:443/project/repository/serving-{framework}{tail}"
    image = images.of(uri)
    assert (image.framework, image.grpc_port) == (framework, 8500)
    assert (image.health_route, image.predict_route, image.http_port) == ("/health", "/predict", 8080)
    assert image.available_until is None
    for payload_format in get_args(PayloadFormat):
        assert images.check(contract_of(framework=framework, payload_format=payload_format), uri, TODAY) == []


def test_prebuilt_images() -> None:
    tensorflow = images.of(f"{PREBUILT}/tf2-gpu.2-15:latest")
    assert (tensorflow.framework, tensorflow.available_until, tensorflow.grpc_port) == ("tensorflow", END, 8500)
    pytorch = images.of(f"{PREBUILT}/pytorch-cpu.2-2:latest")
    assert (pytorch.framework, pytorch.available_until, pytorch.grpc_port) == ("pytorch", END, None)
    assert images.of(f"{PREBUILT}/tf2-cpu.2-16").available_until is None


@pytest.mark.parametrize("uri", ["nginx", "serving-jax:1", "tf2-cpu.2-15/other", "", "xserving-pytorch"])
def test_unknown_image(uri: str) -> None:
    with pytest.raises(
        ImageError, match="is not known; allowed: REPOSITORY/serving-pytorch or REPOSITORY/serving-tens"
    ):
        images.of(uri)


@pytest.mark.parametrize("name", ["tf2-cpu.2-13", "tf2-cpu.1-15", "pytorch-gpu.2-1"])
def test_withdrawn_image(name: str) -> None:
    with pytest.raises(ImageError, match=r"has been withdrawn: .*; use REPOSITORY/serving-(pytorch|tensorflow)"):
        images.of(f"{PREBUILT}/{name}:latest")


def test_image_of_the_other_framework() -> None:
    with pytest.raises(ImageError, match="serves pytorch, the model is tensorflow; use REPOSITORY/serving-tensorflow"):
        images.check(TENSORFLOW, "r/serving-pytorch", TODAY)


@pytest.mark.parametrize(("today", "days"), [(date(2026, 10, 16), 90), (TODAY, 54), (date(2027, 1, 13), 1)])
def test_image_near_its_end(today: date, days: int) -> None:
    _, warning = images.check(TENSORFLOW, f"{PREBUILT}/tf2-cpu.2-15", today)
    assert f"ends on 14 Jan 2027, in {days} days" in warning
    assert warning.endswith("use REPOSITORY/serving-tensorflow")


def test_image_far_from_its_end() -> None:
    warnings = images.check(TENSORFLOW, f"{PREBUILT}/tf2-cpu.2-15", date(2026, 10, 15))
    assert not [warning for warning in warnings if "ends on" in warning]


@pytest.mark.parametrize("today", [END, date(2028, 1, 1)])
def test_image_past_its_end(today: date) -> None:
    with pytest.raises(ImageError, match=r"ended on 14 Jan 2027: .*; use REPOSITORY/serving-tensorflow"):
        images.check(TENSORFLOW, f"{PREBUILT}/tf2-cpu.2-15", today)


def test_format_that_the_image_cannot_answer() -> None:
    of_tensorflow = contract_of(framework="tensorflow", payload_format="RAW_JSON")
    with pytest.raises(ImageError, match=r"cannot answer RAW_JSON; .* answers SERIALIZED_TF_TENSORS, .*; change"):
        images.check(of_tensorflow, f"{PREBUILT}/tf2-cpu.2-15", TODAY)
    of_pytorch = contract_of(payload_format="GRPC_TF_TENSORS")
    with pytest.raises(
        ImageError, match=r"SERIALIZED_TF_TENSORS, RAW_JSON, ND_ARRAYS; .* or use REPOSITORY/serving-py"
    ):
        images.check(of_pytorch, f"{PREBUILT}/pytorch-cpu.2-4", TODAY)


@pytest.mark.parametrize(
    ("framework", "image", "refused"),
    [
        ("tensorflow", "tf2-cpu.2-15", {"RAW_JSON"}),
        ("pytorch", "pytorch-cpu.2-4", {"GRPC_TF_TENSORS", "GRPC_SERIALIZED_TF_TENSORS", "GRPC_TF_EXAMPLES"}),
    ],
)
def test_formats_that_prebuilt_images_answer(framework: str, image: str, refused: set[str]) -> None:
    assert set(get_args(PayloadFormat)) - set(images.of(f"{PREBUILT}/{image}").formats) == refused
    contract = contract_of(framework=framework)
    older = f"has an older {'TensorFlow' if framework == 'tensorflow' else 'PyTorch'} than the one that exports"
    assert older in images.check(contract, f"{PREBUILT}/{image}", TODAY)[0]


@pytest.mark.parametrize("payload_format", get_args(PayloadFormat))
def test_a_canary_needs_answers_that_say_whose_they_are(payload_format: PayloadFormat) -> None:
    contract = contract_of(framework="tensorflow", payload_format=payload_format)
    images.check_release(contract, "r/serving-tensorflow:1", 10)
    images.check_release(contract, f"{PREBUILT}/tf2-cpu.2-15", 100)
    if not payload_format.startswith("GRPC"):
        images.check_release(contract, f"{PREBUILT}/tf2-cpu.2-15", 99)
        return
    with pytest.raises(
        ImageError,
        match=rf"does not say in {payload_format} .* with canary_percent 99: submit with canary_percent 100, or use "
        "REPOSITORY/serving-tensorflow",
    ):
        images.check_release(contract, f"{PREBUILT}/tf2-cpu.2-15", 99)
