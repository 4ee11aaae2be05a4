"""Train: a small network that judges each pixel by its bands, on labelled data.

It is there so that a retraining can be rehearsed and scheduled at once; a network of one's own is trained by one's
own code and deployed when that has ended (containers/trigger).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data import Labelled
from components.earthengine.contract import ModelContract, Source

_STEPS = 400
_RATE = 0.01
_HIDDEN = 16
# Pixels that a step learns from: all of a small table, of many patches some.
_AT_ONCE = 4096

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From normalised bands `[height, width, bands]` to the output's values, `[height, width, classes or 1]`."""


@dataclass(frozen=True)
class Trained:
    """A trained network: what model.yaml says of it, and the network as a function."""

    source: Source
    predict: Predict


def train_model(contract: ModelContract, data: Labelled, folder: Path, *, seed: int = 0) -> Trained:
    """Train the network for a contract, and save it in a folder.

    The same data and seed give the same network on the same machine.

    Args:
        contract: names the bands, and the one output: classes, or a number.
        data: what to train on.
        folder: where the network's file is written.
        seed: of the first weights, and of which pixels a step learns from.
    """
    pixels = _Pixels.of(contract, data)
    train = _train_pytorch if contract.framework == "pytorch" else _train_keras
    return train(pixels, folder, seed)


@dataclass(frozen=True)
class _Pixels:
    """Normalised bands `[n, bands]` and what is true `[n]`.

    Attributes:
        classes: how many there are; 0 where the truth is a number.
    """

    bands: NDArray[np.float32]
    truth: NDArray[np.int64] | NDArray[np.float32]
    classes: int

    @classmethod
    def of(cls, contract: ModelContract, data: Labelled) -> _Pixels:
        raw = np.moveaxis(data.tiles, 1, -1).reshape(-1, contract.channels)
        bands = raw * np.array(contract.factors, np.float32) + np.array(contract.offsets, np.float32)
        return cls(bands, data.truth.reshape(-1), len(contract.outputs[0].labels))

    @property
    def mean(self) -> NDArray[Any]:
        """Of each band."""
        return np.asarray(self.bands.mean(0, np.float64))

    @property
    def spread(self) -> NDArray[Any]:
        """The standard deviation of each band."""
        return _spread(self.bands)

    @property
    def truth_mean(self) -> float:
        return float(self.truth.mean(dtype=np.float64))

    @property
    def truth_spread(self) -> float:
        return float(_spread(self.truth))

    def batches(self, seed: int) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        """What each step learns from."""
        random = np.random.default_rng(seed)
        for _ in range(_STEPS):
            if len(self.bands) <= _AT_ONCE:
                yield self.bands, self.truth
            else:
                chosen = random.integers(len(self.bands), size=_AT_ONCE)
                yield self.bands[chosen], self.truth[chosen]


def _spread(values: NDArray[Any]) -> NDArray[Any]:
    """The standard deviation; 1 of what does not vary but by rounding, which then tells nothing."""
    spread = values.std(0, np.float64)
    varies = spread > 1e-6 * np.abs(values.mean(0, np.float64))
    return np.where(varies, spread, 1.0)


def _train_pytorch(pixels: _Pixels, folder: Path, seed: int) -> Trained:
    """Train, and save as TorchScript."""
    import torch
    from torch import nn

    from components.frameworks.torchscript import save_torchscript

    torch.manual_seed(seed)
    count = pixels.bands.shape[1]
    standardise = _affine(1 / pixels.spread, -pixels.mean / pixels.spread)
    layers = nn.Sequential(
        standardise, nn.Conv2d(count, _HIDDEN, 1), nn.ReLU(), nn.Conv2d(_HIDDEN, pixels.classes or 1, 1)
    )
    if pixels.classes:
        ending: nn.Module = nn.Softmax(dim=1)
        loss: Callable[..., torch.Tensor] = nn.functional.cross_entropy
    else:
        ending = _affine(np.array([pixels.truth_spread]), np.array([pixels.truth_mean]))
        loss = nn.functional.mse_loss
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers.to(device)
    optimiser = torch.optim.Adam([weight for weight in layers.parameters() if weight.requires_grad], _RATE)
    with _one_thread():
        for bands, truth in pixels.batches(seed):
            # One image of a column of pixels: six times as fast as an image for each.
            answer = layers(torch.from_numpy(bands.T).to(device)[None, :, :, None])
            wanted = torch.from_numpy(truth).to(device)[None, :, None]
            if not pixels.classes:
                wanted = ((wanted - pixels.truth_mean) / pixels.truth_spread)[:, None]
            optimiser.zero_grad()
            loss(answer, wanted).backward()
            optimiser.step()
    model = nn.Sequential(layers.cpu(), ending).eval()
    save_torchscript(torch.jit.script(model), folder / "model.pt")

    def predict(bands: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            answer: torch.Tensor = model(torch.from_numpy(bands).permute(2, 0, 1)[None])[0]
        return answer.permute(1, 2, 0).contiguous().numpy()

    return Trained(Source(file="model.pt"), predict)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine; threads that wait for each other cost such small steps more, too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _affine(scale: NDArray[Any], offset: NDArray[Any]) -> Any:
    """A layer `[N, C, H, W]` that scales and moves each channel, and does not learn."""
    import torch
    from torch import nn

    layer = nn.Conv2d(len(scale), len(scale), 1).requires_grad_(False)
    weight, bias = (torch.from_numpy(values.astype(np.float32)) for values in (scale, offset))
    layer.load_state_dict({"weight": torch.diag(weight)[:, :, None, None], "bias": bias})
    return layer


def _train_keras(pixels: _Pixels, folder: Path, seed: int) -> Trained:
    """Train, and save as `.keras`."""
    from components.frameworks.quiet import quiet_import

    with quiet_import():
        import keras

    keras.utils.set_random_seed(seed)
    network = [
        keras.Input((None, None, pixels.bands.shape[1])),
        keras.layers.Normalization(mean=pixels.mean, variance=pixels.spread**2),
        keras.layers.Conv2D(_HIDDEN, 1, activation="relu"),
    ]
    if pixels.classes:
        model = keras.Sequential([*network, keras.layers.Conv2D(pixels.classes, 1, activation="softmax")])
        whole = model
    else:
        model = keras.Sequential([*network, keras.layers.Conv2D(1, 1)])
        whole = keras.Sequential([model, keras.layers.Rescaling(pixels.truth_spread, pixels.truth_mean)])
    model.compile(keras.optimizers.Adam(_RATE), "sparse_categorical_crossentropy" if pixels.classes else "mse")
    for bands, truth in pixels.batches(seed):
        wanted = truth if pixels.classes else (truth - pixels.truth_mean) / pixels.truth_spread
        model.train_on_batch(bands[:, None, None], wanted[:, None, None])
    whole.save(folder / "model.keras")

    def predict(bands: NDArray[np.float32]) -> NDArray[Any]:
        answer: NDArray[Any] = whole.predict_on_batch(bands[None])[0]
        return answer

    return Trained(Source(file="model.keras"), predict)
