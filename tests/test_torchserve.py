"""The archive's handler: by itself, and in a real TorchServe as Vertex AI's prebuilt PyTorch images run it."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from torch import Tensor, nn

from components.archive import archive_model
from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import codec, tensors
from components.earthengine.payloads.messages_pb2 import TensorProto
from components.export import export_model
from components.torchserve import HANDLER
from containers.ports import free_ports
from tests.conftest import contract_of

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", ResourceWarning
    )  # TorchServe does not close the file that it reads its version from
    from ts.utils.util import PredictionException  # type: ignore[import-untyped]

    from components.torchserve import earthengine_handler

RICH: dict[str, Any] = {
    "name": "rich",
    "bands": [{"name": "red"}, {"name": "quality", "type": "uint8"}, {"name": "series", "shape": [2, 2]}],
    "properties": [
        {"name": "year"},
        {"name": "winter", "type": "boolean"},
        {"name": "kind", "type": "string", "values": ["dry", "wet"]},
        {"name": "both", "shape": [2]},
    ],
    "outputs": [{"name": "total", "dimensions": 0}, {"name": "pair", "dimensions": 1}],
}
PLAIN: dict[str, Any] = {"name": "plain", "payload_format": "ND_ARRAYS"}
TABLE: dict[str, Any] = {
    "name": "table",
    "payload_format": "RAW_JSON",
    "bands": None,
    "tile": None,
    "scale": None,
    "properties": RICH["properties"],
}
BROKEN = 7777  # a first value that the models fail on


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 0] == 7777).any()):
            raise ValueError("such a tile breaks the model")
        return x.sum(1)


class Both(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"total": x.sum(1), "pair": x[:, :2] * 2}


def expected(contract: ModelContract, tiles: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    answers = {"total": tiles.sum(1), "pair": tiles[:, :2].transpose(0, 2, 3, 1) * 2}
    return {output.name: answers[output.name] for output in contract.outputs}


def tiles_of(contract: ModelContract, n: int = 3, height: int = 4, width: int = 4) -> NDArray[np.float32]:
    """Whole numbers, so that every type carries them and sums are exact; properties constant and in range."""
    random = np.random.default_rng(n)
    size = (1, 1) if contract.table else (height, width)
    tiles = random.integers(0, 50, (n, contract.channels, *size)).astype(np.float32)
    if contract.properties:
        constants = random.integers(0, [3000, 2, 2, 9, 9], (n, 5))
        tiles[:, -5:] = constants[:, :, None, None]
    return tiles


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `rich.mar`, `plain.mar` and `table.mar`, exported and archived as the pipeline does."""
    folder = tmp_path_factory.mktemp("archives")
    for keys, net in ((RICH, Both()), (PLAIN, Total()), (TABLE, Total())):
        name = keys["name"]
        source = folder / name
        source.mkdir()
        (source / "model.yaml").write_text(contract_of(**keys).dump())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(net).save(str(source / "net.pt"))
            export_model(source, folder / f"{name}-exported")
        archive_model(folder / f"{name}-exported", folder / f"{name}-archived")
        (folder / f"{name}-archived" / "model.mar").rename(folder / f"{name}.mar")
    return folder


Handlers = dict[str, Any]


@pytest.fixture(scope="session")
def handlers(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Handlers:
    """The handler with each model, from its archive unpacked as TorchServe does."""
    found: Handlers = {}
    for name in ("rich", "plain", "table"):
        folder = tmp_path_factory.mktemp(name)
        with zipfile.ZipFile(archives / f"{name}.mar") as archive:
            archive.extractall(folder)
        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        assert (folder / manifest["model"]["handler"]).read_bytes() == HANDLER.read_bytes()
        properties = {"model_dir": str(folder), "gpu_id": None}
        found[name] = earthengine_handler.EarthEngineHandler()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found[name].initialize(SimpleNamespace(system_properties=properties, manifest=manifest))
    return found


KEYS = {"rich": RICH, "plain": PLAIN, "table": TABLE}
ANSWERED: list[tuple[str, PayloadFormat]] = [
    ("rich", "SERIALIZED_TF_TENSORS"),
    ("rich", "RAW_JSON"),
    ("plain", "SERIALIZED_TF_TENSORS"),
    ("plain", "RAW_JSON"),
    ("plain", "ND_ARRAYS"),
    ("table", "SERIALIZED_TF_TENSORS"),
    ("table", "RAW_JSON"),
]


def body_of(name: str, payload_format: PayloadFormat = "SERIALIZED_TF_TENSORS", **size: int) -> dict[str, Any]:
    contract = contract_of(**KEYS[name])
    body: dict[str, Any] = json.loads(codec(payload_format).encode_request(contract, tiles_of(contract, **size)))
    return body


@pytest.mark.parametrize(("name", "payload_format"), ANSWERED)
@pytest.mark.parametrize("size", [{"n": 1, "height": 1, "width": 1}, {"n": 3, "height": 5, "width": 7}])
def test_answers_as_our_codecs_read_them(
    handlers: Handlers, name: str, payload_format: PayloadFormat, size: dict[str, int]
) -> None:
    contract = contract_of(**KEYS[name])
    instances = body_of(name, payload_format, **size)["instances"]
    answers = handlers[name].handle(instances, None)
    outputs = codec(payload_format).decode_response(contract, json.dumps({"predictions": answers}).encode())
    for output, array in expected(contract, tiles_of(contract, **size)).items():
        np.testing.assert_array_equal(outputs[output], array, strict=True)


def test_a_table_as_lists(handlers: Handlers) -> None:
    assert handlers["table"].handle([[2000, 1, 0, 3, 4]], None) == [2008.0]
    with pytest.raises(PredictionException, match=r"instance 0 has shape \[4\]; expected \[5\]: property year"):
        handlers["table"].handle([[2000, 1, 0, 3]], None)


def test_without_an_envelope(handlers: Handlers) -> None:
    body = body_of("plain", "ND_ARRAYS")
    one, two = handlers["plain"].handle([{"body": body}, {"body": body}], None)
    assert one == two
    assert json.loads(one)["predictions"] == tiles_of(contract_of(**PLAIN)).sum(1).tolist()
    with pytest.raises(PredictionException, match='"instances" must be a list with one item a tile, at least one'):
        handlers["plain"].handle([{"body": {"instances": []}}], None)


def test_bytes_that_the_envelope_decoded(handlers: Handlers) -> None:
    array = np.ones((2, 2, 1), np.float32)
    instance = {name: tensors.encode(array).SerializeToString() for name in ("red", "green")}
    (answer,) = handlers["plain"].handle([instance], None)
    answered = codec("SERIALIZED_TF_TENSORS").decode_response(
        contract_of(), json.dumps({"predictions": [answer]}).encode()
    )
    assert answered["total"].tolist() == [[[2, 2], [2, 2]]]


@pytest.mark.parametrize("red", ["1.5", 1.5, [[1.5]], [["1.5"]], [[["1.5"]]], ["1.5"]])
def test_numbers_of_raw_json(handlers: Handlers, red: Any) -> None:
    assert handlers["plain"].handle([{"red": red, "green": 1}], None) == [{"total": [[2.5]]}]


def test_a_band_as_a_plain_list(handlers: Handlers) -> None:
    (answer,) = handlers["plain"].handle([{"red": list(range(256)), "green": [0] * 256}], None)
    assert answer["total"] == np.arange(256.0).reshape(16, 16).tolist()
    with pytest.raises(PredictionException, match=r"instance 0, band red: 3 values without rows are neither a patch"):
        handlers["plain"].handle([{"red": [1, 2, 3], "green": [1, 2, 3]}], None)


def proto(array: Any, **changes: Any) -> str:
    message = tensors.encode(np.asarray(array, np.float32))
    for key, value in changes.items():
        setattr(message, key, value)
    return text_of(message.SerializeToString())


def text_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


GOOD = proto(np.ones((2, 2, 1)))
TILE = [[[1, 2], [3, 4]]] * 2
LYING = proto(np.ones((2, 2, 1)), tensor_content=b"\0" * 12)
BAD: list[tuple[Any, str]] = [
    ([TILE, [[[1, 2], [3]]] * 2], "instance 1: rows of different lengths"),
    ([[[[1, 2], [3, 4]]]], r"instance 0 has shape \[1, 2, 2\]; expected \[2, height, width\]: band red, band green"),
    ([TILE, [[[1]]] * 2], r"instance 1 has shape \[2, 1, 1\]"),
    ([TILE, [[[1, 2], [3, 4]], [[1, 2], [3, float("nan")]]]], "instance 1, band green: nan at .1, 1, 1."),
    ([[[["a"]], [["b"]]]], "instance 0: rows of different lengths, or something that is no number"),
    ([[]], r"instance 0 has shape \[0\]"),
    ([{"red": GOOD, "green": GOOD}, {"red": GOOD}], "instance 1: green is missing; expected red, green"),
    ([{"red": GOOD, "green": GOOD, "blue": GOOD}], "instance 0: 'blue' is unknown"),
    ([{"red": GOOD, "green": "CAE$"}], "instance 0, band green: 'CAE.', 4 characters, is not base64"),
    ([{"red": GOOD, "green": GOOD[:12]}], "instance 0, band green: 9 bytes of a TensorProto that goes on"),
    ([{"red": GOOD, "green": LYING}], "instance 0, band green: tensor_content has 12 bytes"),
    ([{"red": GOOD, "green": proto(np.ones((3, 2, 1)))}], r"band green: shape \(3, 2, 1\); expected \(2, 2, 1\)"),
    ([{"red": GOOD, "green": proto(np.full((2, 2, 1), np.nan))}], "band green: nan at .0, 0, 0."),
    ([{"red": GOOD, "green": 3}], "instance 0, band green: no string; expected a TensorProto in base64"),
    ([{"red": [[1]], "green": [["x"]]}], "instance 0, band green: rows of different lengths, or something that is no"),
    ([{"red": [[1]], "green": None}], "instance 0, band green: rows of different"),
    ([{"red": "1", "green": "nan"}], "instance 0, band green: nan at"),
    ([5], "instance 0 is no object"),
]


@pytest.mark.parametrize(("instances", "said"), BAD)
def test_bad_instances(handlers: Handlers, instances: Any, said: str) -> None:
    with pytest.raises(PredictionException, match=said) as raised:
        handlers["plain"].handle(instances, None)
    assert raised.value.error_code == 400


def test_instances_of_two_kinds(handlers: Handlers) -> None:
    with pytest.raises(PredictionException, match="instance 1 is no object; expected one of red, green"):
        handlers["plain"].handle([{"red": 1, "green": 1}, 5], None)


def test_unknown_string(handlers: Handlers) -> None:
    instances = body_of("table", "RAW_JSON")["instances"]
    instances[1]["kind"] = "damp"
    with pytest.raises(PredictionException, match="instance 1, property kind: 'damp'; expected one of dry, wet"):
        handlers["table"].handle(instances, None)


def test_model_that_fails(handlers: Handlers) -> None:
    with pytest.raises(PredictionException, match=r"the model failed on tiles of shape .*such a tile breaks") as raised:
        handlers["plain"].handle([[[[BROKEN]], [[1]]]], None)
    assert raised.value.error_code == 500


def test_nd_arrays_carry_one_output(handlers: Handlers) -> None:
    with pytest.raises(PredictionException, match="ND_ARRAYS carries one output, not total, pair"):
        handlers["rich"].handle([np.ones((11, 1, 1)).tolist()], None)


def test_runs_on_the_python_of_the_images() -> None:
    ast.parse(HANDLER.read_text(), feature_version=(3, 9))


TYPES = [np.dtype(name) for name in ("f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?")]
ARRAYS = st.sampled_from(TYPES).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(ARRAYS)
def test_tensors_go_both_ways(array: NDArray[Any]) -> None:
    np.testing.assert_array_equal(tensors.parse(earthengine_handler.write_tensor(array), "it"), array, strict=True)
    data = tensors.encode(array).SerializeToString()
    np.testing.assert_array_equal(earthengine_handler.read_tensor(data), array, strict=True)


INT32 = st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 300), max_size=5)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float_val": st.lists(st.floats(width=32), max_size=5),
    "double_val": st.lists(st.floats(), max_size=5),
    "int_val": INT32,
    "half_val": INT32,
    "int64_val": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    "uint32_val": st.lists(st.integers(0, 2**32 - 1), max_size=5),
    "uint64_val": st.lists(st.integers(0, 2**64 - 1), max_size=5),
    "bool_val": st.lists(st.booleans(), max_size=5),
    "string_val": st.lists(st.binary(max_size=5), max_size=3),
}


@st.composite
def protos(draw: st.DrawFn) -> TensorProto:
    message = TensorProto(
        dtype=draw(st.sampled_from([*range(1, 11), 17, 19, 22, 23])), **draw(st.fixed_dictionaries({}, optional=VALUES))
    )
    for size in draw(st.lists(st.integers(-1, 5), max_size=3)):
        message.tensor_shape.dim.add(size=size, name=draw(st.sampled_from(["", "x"])))
    message.tensor_shape.unknown_rank = draw(st.sampled_from([False, False, False, True]))
    message.tensor_content = draw(st.sampled_from([b"", b"", bytes(8), bytes(range(12))]))
    return message


def read(reader: Callable[[bytes], NDArray[Any]], data: bytes) -> NDArray[Any] | None:
    try:
        return reader(data)
    except (PayloadError, ValueError):
        return None


@example(TensorProto(dtype="DT_STRING", string_val=[b""], tensor_content=bytes(8)), 0)
@given(protos(), st.integers(0, 4))
def test_tensors_are_read_as_by_our_codecs(message: TensorProto, cut: int) -> None:
    data = message.SerializeToString()
    data = data[: len(data) - cut]
    theirs = read(lambda data: tensors.parse(data, "it"), data)
    ours = read(earthengine_handler.read_tensor, data)
    assert (ours is None) == (theirs is None)
    if ours is not None:
        np.testing.assert_array_equal(ours, theirs, strict=True)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read(earthengine_handler.read_tensor, data)


CONFIG = """\
inference_address=http://127.0.0.1:{0}
management_address=http://127.0.0.1:{1}
metrics_address=http://127.0.0.1:{2}
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
grpc_inference_port={3}
grpc_management_port={4}
initial_worker_port={5}
default_workers_per_model=1
service_envelope=json
disable_system_metrics=true
"""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, which share its group: Java, and Java's Python workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(20)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


@pytest.fixture(scope="session")
def url(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where TorchServe answers, with the three models."""
    if shutil.which("java") is None:
        pytest.skip("TorchServe needs a Java runtime, and there is no java on PATH")
    folder = tmp_path_factory.mktemp("torchserve")
    ports = free_ports(6)
    (folder / "config.properties").write_text(CONFIG.format(*ports))
    command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground", "--ncs"]
    command += ["--disable-token-auth", "--ts-config", "config.properties", "--model-store", str(archives)]
    command += ["--models", *(f"{name}={name}.mar" for name in KEYS)]
    # TorchServe notes its process in TMPDIR and its sockets in TEMP, one a machine otherwise.
    own = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder)}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=own, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        where = f"http://127.0.0.1:{ports[0]}"
        wait_until_ready(where, process, folder / "output")
        yield where
    finally:
        end(process)


def wait_until_ready(where: str, process: subprocess.Popen[bytes], output: Path) -> None:
    for _ in range(600):
        try:
            if all(post(where, name, body_of(name)).status_code == 200 for name in KEYS):
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise AssertionError(f"TorchServe does not answer: {output.read_text()[-5000:]}")


def post(where: str, name: str, body: Any) -> httpx.Response:
    content = json.dumps(body).encode()
    return httpx.post(
        f"{where}/predictions/{name}", content=content, headers={"Content-Type": "application/json"}, timeout=60
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "payload_format"), ANSWERED)
def test_torchserve_answers(url: str, name: str, payload_format: PayloadFormat) -> None:
    contract = contract_of(**KEYS[name])
    response = post(url, name, body_of(name, payload_format))
    assert response.status_code == 200, response.text
    outputs = codec(payload_format).decode_response(contract, response.content)
    for output, array in expected(contract, tiles_of(contract)).items():
        np.testing.assert_array_equal(outputs[output], array, strict=True)


@pytest.mark.slow
def test_torchserve_refuses_bad_instances_and_goes_on(url: str) -> None:
    for instances, said in BAD:
        response = post(url, "plain", {"instances": instances})
        assert response.status_code == 400, (said, response.text)
        assert re.search(said, response.json()["message"])
        assert post(url, "plain", {"instances": [TILE]}).status_code == 200
    response = post(url, "plain", {"instances": [[[[BROKEN]], [[1]]]]})
    assert response.status_code == 500
    assert "such a tile breaks the model" in response.text


@pytest.mark.slow
@pytest.mark.parametrize("body", [{"instances": []}, {"instances": [{"red": 1, "green": 1}, 5]}, {}, []])
def test_torchserve_survives_what_its_own_envelope_does_not(url: str, body: Any) -> None:
    """The envelope raises before the handler is asked, so the text is TorchServe's."""
    assert post(url, "plain", body).status_code == 503
    assert post(url, "plain", {"instances": [TILE]}).status_code == 200
