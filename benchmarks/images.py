"""What the images weigh beyond their base, and how long a serving container takes from `docker run` to healthy.

    python -m benchmarks.images [--repository local] [--tag rehearsal]

`make images` builds what is measured. Sizes are those that `docker images` shows, in decimal megabytes. Starts are of
the land-cover model with its archive mounted, on two cores, alternately; answered: the health route gives 200; healthy:
Docker says so, which asks every two seconds. Each framework runs the model itself, too, as it does what does not
convert to ONNX.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import get_args

from docker import DockerClient
from docker.errors import ImageNotFound
from docker.models.containers import Container
from docker.models.images import Image

from benchmarks.results import Figure, report
from components import local
from components.archive import archive_model
from components.earthengine.contract import Framework
from components.export import export_model
from components.land_cover import train_land_cover
from containers.serving.model import ONNX

_BASE = "python:3.11-slim"
_IMAGES = Path("containers/images.txt").read_text(encoding="utf-8").split()
_MEGABYTES = {"serving-pytorch": 1100, "serving-tensorflow": 1900, "steps-vertex": 350, "trigger": 300}
_SECONDS: dict[Framework, float] = {"pytorch": 8, "tensorflow": 12}
_ROUNDS = 5
_CORES = 2


def sizes(client: DockerClient, repository: str, tag: str) -> list[Figure]:
    """Megabytes of every image beyond its base."""
    base = find(client, _BASE).attrs["Size"]
    figures = []
    for name in _IMAGES:
        size = (find(client, f"{repository}/{name}:{tag}").attrs["Size"] - base) / 1e6
        bound = f"at most {_MEGABYTES[name]} MB" if name in _MEGABYTES else ""
        figures.append(Figure(f"{name} beyond {_BASE}", size, "MB", bound))
    return figures


def find(client: DockerClient, image: str) -> Image:
    """An image on this machine."""
    try:
        return client.images.get(image)
    except ImageNotFound as error:
        made = f"docker pull {image}" if image == _BASE else "make images"
        raise SystemExit(f"{image} is not on this machine: {made}") from error


def start(client: DockerClient, image: str, archive: Path) -> tuple[float, float]:
    """Seconds from `docker run` until the health route answers, and until Docker finds the container healthy."""
    begin = time.perf_counter()
    container = client.containers.run(
        image,
        detach=True,
        read_only=True,
        tmpfs={"/tmp": ""},  # noqa: S108
        nano_cpus=_CORES * 1_000_000_000,
        environment={"AIP_STORAGE_URI": "/model"},
        volumes={str(archive): {"bind": "/model", "mode": "ro"}},
        ports={"8080/tcp": ("127.0.0.1", 0)},
    )
    try:
        container.reload()
        port = (container.ports["8080/tcp"] or [{}])[0]["HostPort"]
        while not _answers(f"http://127.0.0.1:{port}/health"):
            _see_that_it_runs(container)
        answered = time.perf_counter() - begin
        while container.attrs["State"]["Health"]["Status"] != "healthy":
            _see_that_it_runs(container)
        return answered, time.perf_counter() - begin
    finally:
        container.remove(force=True, v=True)


def _archives(framework: Framework, folder: Path) -> dict[str, Path]:
    """The land-cover model's archives by what runs them."""
    train_land_cover(folder / "trained", framework)
    export_model(folder / "trained", folder / "exported")
    archive_model(folder / "exported", folder / "with-onnx")
    (folder / "exported" / ONNX).unlink()
    archive_model(folder / "exported", folder / "without-onnx")
    return {"ONNX Runtime": folder / "with-onnx", framework: folder / "without-onnx"}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  http, this machine
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _see_that_it_runs(container: Container) -> None:
    time.sleep(0.05)
    container.reload()
    if not container.attrs["State"]["Running"]:
        raise SystemExit(f"{container.image} ended: {container.logs().decode()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", default=local.REPOSITORY)
    parser.add_argument("--tag", default=local.TAG)
    options = parser.parse_args()
    with closing(DockerClient.from_env()) as client, tempfile.TemporaryDirectory() as folder:
        figures = sizes(client, options.repository, options.tag)
        Path(folder).chmod(0o755)  # the image's user reads it
        archives = {
            (framework, runtime): archive
            for framework in get_args(Framework)
            for runtime, archive in _archives(framework, Path(folder) / framework).items()
        }
        seconds: dict[tuple[Framework, str], list[tuple[float, float]]] = {key: [] for key in archives}
        for _ in range(_ROUNDS):
            for (framework, runtime), archive in archives.items():
                image = f"{options.repository}/serving-{framework}:{options.tag}"
                seconds[framework, runtime].append(start(client, image, archive))
    for (framework, runtime), starts in seconds.items():
        answered, healthy = zip(*starts, strict=True)
        what = f"serving-{framework} with {runtime}:"
        figures.append(Figure(f"{what} answered, median", statistics.median(answered), "s"))
        figures.append(Figure(f"{what} healthy, median", statistics.median(healthy), "s"))
        figures.append(Figure(f"{what} healthy, slowest", max(healthy), "s", f"at most {_SECONDS[framework]:g} s"))
    report("images", figures)


if __name__ == "__main__":
    main()
