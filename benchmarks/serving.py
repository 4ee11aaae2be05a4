"""What the prediction server costs, beside TorchServe, an in-graph wrapper and the bare model.

    python -m benchmarks.serving [--only PART ...]

All on two cores, clients included. What is compared works in turns within one run, and a figure is the
median of the ratios of the rounds. Requests hold reflectances with four decimals, encoded beforehand.
"Bare" is the trained model in a process of its own, called on the same batch with no transport.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import memory, models, startup, torchserve
from benchmarks.bodies import encoded, raw_json, raw_json_of_strings
from benchmarks.match import Match, of_clients
from benchmarks.results import Figure, report
from benchmarks.server import Server
from benchmarks.torchserve import TorchServe
from components.earthengine.contract import PayloadFormat

_CORES = 2
_MANY = 16
_SIZES = ((1, 64), (8, 64), (4, 128))
_UNET_TURN_S = 2  # thirty calls or so


@dataclass
class Measured:
    """Figures that are held against a bound, and the throughput of everything beside."""

    figures: list[Figure] = field(default_factory=list)
    throughput: list[Figure] = field(default_factory=list)

    def ratio(self, match: Match, name: str, other: str, bound: float | None) -> None:
        """Add how many times as fast as another a contestant was, where a bound is set."""
        if bound is not None:
            value = match.ratio(name, other)
            self.figures.append(Figure(f"{match.title}: {name}, times {other}", value, "x", f"at least {bound}"))

    def many_clients(self, match: Match, names: Sequence[str]) -> None:
        """Add what 16 clients get of what one gets."""
        for name in names:
            many = of_clients(name, _MANY)
            self.ratio(match, many, name, 0.95)
            self.figures.append(Figure(f"{match.title}: {many}: failed", match.errors(many), "requests", "none"))


def beside_torchserve(folder: Path) -> Measured:
    """ND_ARRAYS and RAW_JSON beside a real TorchServe; both answer the class of each pixel."""
    measured = Measured()
    model, theirs = models.classes(folder / "classes"), models.probabilities(folder / "probabilities")
    bounds = {
        ("ND_ARRAYS", 8): 12,
        ("ND_ARRAYS", 4): 8,
        ("RAW_JSON of numbers", 8): 6,
        ("RAW_JSON of strings", 8): 3,
    }
    first = encoded("ND_ARRAYS", model.contract, models.tiles(model.contract, 1, 64))
    with (
        TorchServe(theirs, folder / "torchserve", first.body) as other,
        Server(model.served, folder / "server.log") as server,
    ):
        for count, size in _SIZES:
            with Match(model, count, size, folder) as match:
                nd_arrays = encoded("ND_ARRAYS", match.contract, match.tiles)
                raw = [build(match.contract, match.tiles) for build in (raw_json, raw_json_of_strings)]
                requests = [nd_arrays, *raw]
                match.add_server(other, nd_arrays, name="TorchServe", path=torchserve.PATH)
                for request in requests:
                    for clients in (1, _MANY):
                        match.add_server(server, request, clients=clients)
                measured.throughput += match.play()
                for request in requests:
                    measured.ratio(match, request.name, "TorchServe", bounds.get((request.name, count)))
                if count == 8:
                    measured.many_clients(match, ["ND_ARRAYS"])
    return measured


def beside_bare(folder: Path) -> Measured:
    """The binary formats beside the bare model, the small network in PyTorch."""
    measured = Measured()
    model = models.probabilities(folder / "probabilities")
    bounds = {
        ("SERIALIZED_TF_TENSORS", 8): 0.7,
        ("SERIALIZED_TF_TENSORS", 4): 0.6,
        ("GRPC_TF_TENSORS", 8): 1.0,
        ("GRPC_TF_TENSORS", 4): 0.8,
    }
    formats: list[PayloadFormat] = ["SERIALIZED_TF_TENSORS", "GRPC_TF_TENSORS"]
    others: list[PayloadFormat] = ["GRPC_SERIALIZED_TF_TENSORS", "GRPC_TF_EXAMPLES"]
    with Server(model.served, folder / "server.log") as server:
        for count, size in _SIZES:
            with Match(model, count, size, folder) as match:
                match.add_bare(model.source)
                for payload_format in formats + others if count == 8 else formats:
                    request = encoded(payload_format, match.contract, match.tiles)
                    for clients in (1, _MANY):
                        match.add_server(server, request, clients=clients)
                measured.throughput += match.play()
                for name in formats:
                    measured.ratio(match, name, "bare", bounds.get((name, count)))
                if count == 8:
                    measured.many_clients(match, formats)
    return measured


def unet_beside_bare(folder: Path) -> Measured:
    """GRPC_TF_TENSORS beside the bare model, the U-Net."""
    measured = Measured()
    model = models.unet(folder / "unet")
    with Server(model.served, folder / "server.log") as server, Match(model, 1, 256, folder, _UNET_TURN_S) as match:
        match.add_bare(model.source)
        request = encoded("GRPC_TF_TENSORS", match.contract, match.tiles)
        for clients in (1, _MANY):
            match.add_server(server, request, clients=clients)
        measured.throughput += match.play()
        measured.ratio(match, request.name, "bare", 1.3)
    return measured


def beside_wrapper(folder: Path) -> Measured:
    """A SavedModel beside the same with its decoding in the graph, the small network in Keras."""
    measured = Measured()
    model = models.keras_probabilities(folder / "keras")
    with Server(model.served, folder / "server.log") as server:
        for count, size in _SIZES[1:]:
            with Match(model, count, size, folder) as match:
                serialized = encoded("SERIALIZED_TF_TENSORS", match.contract, match.tiles)
                match.add_bare(model.exported)
                match.add_wrapper(model.source, serialized)
                match.add_server(server, serialized)
                match.add_server(server, encoded("GRPC_TF_TENSORS", match.contract, match.tiles))
                measured.throughput += match.play()
                measured.ratio(match, serialized.name, "wrapper", 1.0)
    return measured


def memory_growth(folder: Path) -> Measured:
    """The server's memory, the small network in PyTorch."""
    model = models.probabilities(folder / "probabilities")
    with Server(model.served, folder / "server.log") as server:
        value = memory.growth(server, model)
    what = f"memory after {memory.ALL} requests / after {memory.FIRST}"
    return Measured([Figure(what, value, "x", "at most 1.05")])


def start(folder: Path) -> Measured:
    """The server's start, for each framework and a larger model."""
    measured = Measured()
    for build in (models.probabilities, models.unet, models.keras_probabilities):
        model = build(folder / build.__name__)
        above, alone = startup.start_seconds(model, folder / "log")
        what = f"{model.contract.name}: start to healthy, above the framework's import and load"
        measured.figures.append(Figure(what, above, "s", "at most 1.5"))
        measured.figures.append(Figure(f"{model.contract.name}: the framework's import and load", alone, "s"))
    return measured


_PARTS = {
    "torchserve": beside_torchserve,
    "bare": beside_bare,
    "unet": unet_beside_bare,
    "wrapper": beside_wrapper,
    "memory": memory_growth,
    "start": start,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--only", nargs="+", choices=_PARTS, default=list(_PARTS), metavar="PART", help=", ".join(_PARTS)
    )
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])  # inherited by all that is started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or what was started would outlive this process
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only:
            measured = _PARTS[name](Path(temporary, name))
            report(f"serving {name}", measured.figures + measured.throughput)


if __name__ == "__main__":
    main()
