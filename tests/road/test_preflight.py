"""The preflight of good archives and of every kind of bad one, with real servers; none of them outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from components import preflight
from components.archive import ARCHIVE_NAME
from components.earthengine.contract import FILE_NAME, Framework, ModelContract, PayloadFormat
from components.earthengine.errors import ContractError, ModelError, VerificationError
from components.earthengine.payloads import Outputs
from components.golden import Golden
from components.preflight import check_archive
from tests.road.conftest import ROOT
from tests.serving.conftest import write_archive
from tests.vertex_local.listening import listening
from tests.vertex_local.test_command import descendants_of

pytestmark = pytest.mark.slow

Archives = dict[Framework, Path]
FORMATS: tuple[PayloadFormat, ...] = get_args(PayloadFormat)

TOTAL = "{name: total, dimensions: 0}"
PAIR = "{name: pair, dimensions: 1}"
ANSWERS_TOTAL = """
    def forward(self, tiles: torch.Tensor) -> Dict[str, torch.Tensor]:
        return {"total": tiles.sum(1)}
"""
# Until it is ended; a tile of 0s is answered at once.
NEVER_ANSWERS = """
    def forward(self, tiles: torch.Tensor) -> Dict[str, torch.Tensor]:
        total = tiles.sum(1)
        while bool(tiles.any()):
            total = total + 1
        return {"total": total}
"""


@pytest.fixture(autouse=True)
def _no_process_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    # What was killed together with the process that is waited for may end a moment after it.
    deadline = time.monotonic() + 5
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path) == {}


def processes_of(folder: Path) -> dict[int, str]:
    """The command lines of the processes that name a folder, by process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command:
                found[int(process.name)] = command
    return found


def answering_server(folder: Path) -> int:
    """Wait until the server of an archive is ready; its process id. What it is sent next comes at once."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid, command in processes_of(folder).items():
            with suppress(OSError):
                served = " -m containers.serving " in command and "guard" not in command
                if served and "ready: " in Path(f"/proc/{pid}/fd/2").read_text():
                    time.sleep(0.5)
                    return pid
        time.sleep(0.05)
    raise AssertionError("no server is ready")


def scripted(
    folder: Path,
    code: str,
    *outputs: str,
    declared: str = "",
    payload_format: PayloadFormat = "SERIALIZED_TF_TENSORS",
    also: Outputs | None = None,
) -> Path:
    """An archive of TorchScript that should add up two bands.

    Args:
        folder: to make.
        code: the module's `forward`.
        outputs: those that model.yaml declares.
        declared: those that the model.yaml in model.mar declares, if others.
        payload_format: that model.yaml declares.
        also: golden answers besides the total.
    """
    folder.mkdir()
    contract = (
        f"name: scripted\nframework: pytorch\npayload_format: {payload_format}\nmodel: {{file: source}}\n"
        "bands: [{name: red}, {name: green}]\ntile: [4, 4]\nscale: 10\noutputs: "
    )
    write_archive(folder / ARCHIVE_NAME, code, f"{contract}[{declared or ', '.join(outputs)}]")
    (folder / FILE_NAME).write_text(f"{contract}[{', '.join(outputs)}]")
    tiles = np.random.default_rng(0).random((1, 2, 4, 4), np.float32) + 1
    Golden(tiles, {"total": tiles.sum(1), **(also or {})}, None).save(folder)
    return folder


def with_format(archive: Path, folder: Path, payload_format: PayloadFormat) -> Path:
    """A copy of an archive that declares another format, in model.mar too."""
    shutil.copytree(archive, folder)
    contract = ModelContract.read(archive).model_copy(update={"payload_format": payload_format}).dump()
    (folder / FILE_NAME).write_text(contract)
    if (archive / ARCHIVE_NAME).exists():
        with zipfile.ZipFile(archive / ARCHIVE_NAME) as old, zipfile.ZipFile(folder / ARCHIVE_NAME, "w") as new:
            for name in old.namelist():
                new.writestr(name, contract if name == FILE_NAME else old.read(name))
    return folder


@pytest.mark.parametrize("payload_format", FORMATS)
@pytest.mark.parametrize("framework", get_args(Framework))
def test_what_the_archive_step_makes_passes(
    archives: Archives, tmp_path: Path, framework: Framework, payload_format: PayloadFormat
) -> None:
    said = check_archive(with_format(archives[framework], tmp_path / "good", payload_format))
    assert said.startswith("ONNX Runtime ")
    assert f"requests in {payload_format} with {len(Golden.load(archives[framework]).tiles)} golden tiles" in said
    assert "the largest difference from the source model is " in said
    assert said.endswith(" ms at the median")


def test_torchscript_passes_too(tmp_path: Path) -> None:
    assert check_archive(scripted(tmp_path / "good", ANSWERS_TOTAL, TOTAL)).startswith("PyTorch ")


@pytest.mark.parametrize("framework", get_args(Framework))
def test_bands_in_another_order_are_refused_with_the_place(
    archives: Archives, tmp_path: Path, framework: Framework
) -> None:
    archive = tmp_path / "swapped"
    shutil.copytree(archives[framework], archive)
    golden = Golden.load(archive)
    Golden(np.ascontiguousarray(golden.tiles[:, ::-1]), golden.outputs, golden.scene).save(archive)
    with pytest.raises(
        VerificationError,
        match=r"^the archive is not uploaded: its server does not answer the golden tiles as it must: "
        r"output landcover differs at \d+ of \d+ values, first in tile 0 at row",
    ):
        check_archive(archive)


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "RAW_JSON", "GRPC_TF_TENSORS"])
def test_an_output_that_is_not_answered_is_refused(tmp_path: Path, payload_format: PayloadFormat) -> None:
    pair = np.ones((1, 4, 4, 2), np.float32)
    archive = scripted(
        tmp_path / "one",
        ANSWERS_TOTAL,
        TOTAL,
        PAIR,
        declared=TOTAL,
        also={"pair": pair},
        payload_format=payload_format,
    )
    with pytest.raises(
        VerificationError, match=rf"not uploaded: its server does not answer in {payload_format} as model.yaml says: "
    ) as caught:
        check_archive(archive)
    assert "pair" in str(caught.value)


def test_an_output_that_the_model_lacks_stops_the_server_with_its_reason(tmp_path: Path) -> None:
    pair = np.ones((1, 4, 4, 2), np.float32)
    archive = scripted(tmp_path / "one", ANSWERS_TOTAL, TOTAL, PAIR, also={"pair": pair})
    with pytest.raises(
        VerificationError,
        match=r"its server does not start: the model does not answer as model.yaml says: the answer: pair is missing",
    ):
        check_archive(archive)


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "RAW_JSON", "GRPC_TF_TENSORS"])
def test_not_a_number_is_refused(tmp_path: Path, payload_format: PayloadFormat) -> None:
    code = ANSWERS_TOTAL.replace("tiles.sum(1)", 'torch.where(tiles[:, 0] > 1.5, float("nan"), tiles.sum(1))')
    archive = scripted(tmp_path / "nan", code, TOTAL, payload_format=payload_format)
    with pytest.raises(VerificationError, match=r"(?i)the archive is not uploaded: its server .*(not a number|nan)"):
        check_archive(archive)


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "GRPC_TF_TENSORS"])
def test_a_type_that_is_not_declared_is_refused(tmp_path: Path, payload_format: PayloadFormat) -> None:
    integer = "{name: total, dimensions: 0, type: int32}"
    archive = scripted(tmp_path / "type", ANSWERS_TOTAL, integer, payload_format=payload_format)
    with pytest.raises(VerificationError, match=r"output total is float32, declared is int32"):
        check_archive(archive)


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "GRPC_TF_TENSORS"])
@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (70_000, r"one tile takes \d,\d{3},\d{3} bytes, a request at most 1,500,000; declare a smaller tile"),
        (2, r"output pair has shape .*; the largest answer takes \d+,\d{3},\d{3} bytes .* allowed: 1,500,000"),
    ],
)
def test_an_answer_too_large_for_a_shared_endpoint_is_refused(
    tmp_path: Path, payload_format: PayloadFormat, expected: int, message: str
) -> None:
    # 4.5 MB a tile, where a gRPC client takes 4 MiB unless it is told otherwise.
    code = ANSWERS_TOTAL.replace("}", ', "pair": tiles[:, :1].permute(0, 2, 3, 1).repeat(1, 1, 1, 70000)}')
    pair = np.ones((1, 4, 4, expected), np.float32)
    archive = scripted(tmp_path / "large", code, TOTAL, PAIR, payload_format=payload_format, also={"pair": pair})
    with pytest.raises(VerificationError, match=rf"the archive is not uploaded: its server .*{message}"):
        check_archive(archive)


def test_an_archive_that_is_none_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    archive = scripted(tmp_path / "broken", ANSWERS_TOTAL, TOTAL)
    (archive / ARCHIVE_NAME).write_bytes(b"no archive")
    with pytest.raises(VerificationError, match=r"its server does not start: .*model\.mar cannot be read as a \.mar"):
        check_archive(archive)
    assert "serving: error: " in capfd.readouterr().err


def test_a_machine_without_the_servers_packages_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        VerificationError, match=r"its server does not start: exit status 1: ModuleNotFoundError: No module named 'uvic"
    ):
        check_archive(scripted(tmp_path / "good", ANSWERS_TOTAL, TOTAL))


def test_an_archive_without_a_contract_or_golden_tiles_is_named(tmp_path: Path) -> None:
    archive = scripted(tmp_path / "lacks", ANSWERS_TOTAL, TOTAL)
    (archive / "golden.npz").unlink()
    with pytest.raises(ModelError, match=r"golden\.npz holds no golden tiles"):
        check_archive(archive)
    (archive / FILE_NAME).unlink()
    with pytest.raises(ContractError, match=r"model\.yaml does not exist"):
        check_archive(archive)


def test_a_model_that_refuses_a_tile_of_0s_does_not_start(tmp_path: Path) -> None:
    code = ANSWERS_TOTAL.replace("return", 'assert bool(tiles.any()), "there is no data"\n        return')
    with pytest.raises(VerificationError, match=r"(?s)its server does not start: .*there is no data"):
        check_archive(scripted(tmp_path / "no-data", code, TOTAL))


@pytest.mark.parametrize(
    ("payload_format", "answered"),
    [("SERIALIZED_TF_TENSORS", "500 to POST /predict"), ("GRPC_TF_TENSORS", "INTERNAL to /tensorflow.serving")],
)
def test_a_model_that_fails_on_a_golden_tile_is_refused_with_its_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], payload_format: PayloadFormat, answered: str
) -> None:
    code = ANSWERS_TOTAL.replace("return", 'assert not bool(tiles.any()), "there is data"\n        return')
    archive = scripted(tmp_path / "data", code, TOTAL, payload_format=payload_format)
    with pytest.raises(VerificationError, match=rf"its server answers {answered}.*the model failed .*there is data"):
        check_archive(archive)
    assert "Traceback" in capfd.readouterr().err  # of the server's log


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "GRPC_TF_TENSORS"])
def test_a_server_that_dies_while_it_answers_is_told_from_one_that_refuses(
    tmp_path: Path, payload_format: PayloadFormat
) -> None:
    archive = scripted(tmp_path / "dies", NEVER_ANSWERS, TOTAL, payload_format=payload_format)
    killing = threading.Thread(target=lambda: os.kill(answering_server(archive), signal.SIGKILL))
    killing.start()
    with pytest.raises(VerificationError, match="its server ended before it had answered the golden tiles: SIGKILL"):
        check_archive(archive)
    killing.join()


@pytest.mark.parametrize(
    ("payload_format", "answered"),
    [("SERIALIZED_TF_TENSORS", "500 to POST /predict"), ("GRPC_TF_TENSORS", "INTERNAL to /tensorflow.serving")],
)
def test_a_model_that_ends_its_process_is_refused_with_the_signal(
    tmp_path: Path, payload_format: PayloadFormat, answered: str
) -> None:
    archive = scripted(tmp_path / "crashes", NEVER_ANSWERS, TOTAL, payload_format=payload_format)

    def crash() -> None:
        answering_server(archive)
        (worker,) = [
            pid for pid, command in processes_of(archive).items() if " -m containers.serving.worker" in command
        ]
        os.kill(worker, signal.SIGFPE)

    crashing = threading.Thread(target=crash)
    crashing.start()
    with pytest.raises(
        VerificationError, match=rf"its server answers {answered}.*the model's process was ended by SIGFPE"
    ):
        check_archive(archive)
    crashing.join()


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "GRPC_TF_TENSORS"])
def test_an_answer_that_takes_too_long_is_refused(
    tmp_path: Path, payload_format: PayloadFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_REQUEST_SECONDS", 1)
    archive = scripted(tmp_path / "late", NEVER_ANSWERS, TOTAL, payload_format=payload_format)
    with pytest.raises(VerificationError, match=r"its server has not answered within .*shared endpoint's limit"):
        check_archive(archive)


def test_a_start_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_START_SECONDS", 4)
    archive = scripted(tmp_path / "late", NEVER_ANSWERS.replace("tiles.any()", "True"), TOTAL)
    with pytest.raises(VerificationError, match="has not loaded the model and answered a tile of 0s within 4 s"):
        check_archive(archive)


@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "GRPC_TF_TENSORS"])
def test_neither_what_vertex_ai_tells_a_server_nor_a_proxy_matters(
    tmp_path: Path, payload_format: PayloadFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_START_SECONDS", 20)
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/health")  # which then would answer no GET
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    check_archive(scripted(tmp_path / "good", ANSWERS_TOTAL, TOTAL, payload_format=payload_format))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_that_is_killed_leaves_no_server(tmp_path: Path, how: signal.Signals) -> None:
    archive = scripted(tmp_path / "killed", NEVER_ANSWERS, TOTAL)
    call = (
        "from pathlib import Path; from components.preflight import check_archive; "
        f"check_archive(Path({str(archive)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", call], cwd=ROOT) as step:
        answering_server(archive)
        step.send_signal(how)
    assert step.returncode == -how
    deadline = time.monotonic() + 20
    while processes_of(tmp_path):
        assert time.monotonic() < deadline, processes_of(tmp_path)
        time.sleep(0.1)


def test_the_server_that_preflight_starts_listens_on_loopback_alone(small: Path) -> None:
    with preflight._serving(small) as server:
        found = listening({server.process.pid, *descendants_of(server.process.pid)})
    assert len(found) == 2
    assert all(address.is_loopback for address, _ in found), found
