"""The networks that the server is measured with.

This file is copied beside each model as its code (`model.code`), so it imports PyTorch only.
"""

# No `from __future__ import annotations`: TorchScript reads the annotations themselves.

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALL_BANDS = 6
UNET_BANDS = 4
CLASSES = 3

# Expansion, channels, blocks, stride of the first and kernel of EfficientNet-B0's stages (arXiv:1905.11946, table 1),
# grouped by the size that they end in: a quarter, an eighth, a sixteenth and a thirty-second of the tile's.
_LEVELS = (
    ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3)),
    ((6, 40, 2, 2, 5),),
    ((6, 80, 3, 2, 3), (6, 112, 3, 1, 5)),
    ((6, 192, 4, 2, 5), (6, 320, 1, 1, 3)),
)
_STEM = 32
_DECODER = (256, 128, 64, 32, 16)


class Probabilities(nn.Module):
    """The network of Earth Engine's PyTorch notebook: two convolutions over single pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(SMALL_BANDS, 15, 1)
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Conv2d(15, CLASSES, 1)

    def forward(self, given: Tensor) -> Tensor:
        return functional.softmax(self.last(self.dropout(functional.relu(self.hidden(given)))), dim=1)


class Classes(Probabilities):
    """The same, answering the most probable class as the notebook's TorchServe handler does."""

    def forward(self, given: Tensor) -> Tensor:
        probabilities = functional.softmax(self.last(self.dropout(functional.relu(self.hidden(given)))), dim=1)
        return probabilities.argmax(1).float()


class UNet(nn.Module):
    """A U-Net of 5.8 million parameters: EfficientNet-B0's encoder, a decoder of plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(UNET_BANDS, _STEM, 3, 2, nn.SiLU())
        self.levels = nn.ModuleList()
        channels, skips = _STEM, [0]
        for stages in _LEVELS:
            skips.append(channels)
            level = nn.Sequential()
            for expansion, width, blocks, stride, kernel in stages:
                for block in range(blocks):
                    level.append(_Inverted(channels, width, expansion, kernel, stride if block == 0 else 1))
                    channels = width
            self.levels.append(level)
        self.decoder = nn.ModuleList()
        for width, skip in zip(_DECODER, reversed(skips), strict=True):
            merge = _convolution(channels + skip, width, 3, 1, nn.ReLU())
            self.decoder.append(nn.Sequential(merge, _convolution(width, width, 3, 1, nn.ReLU())))
            channels = width
        self.head = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, given: Tensor) -> Tensor:
        features = [self.stem(given)]
        for level in self.levels:
            features.append(level(features[-1]))
        answer = features.pop()
        for merge in self.decoder:
            answer = functional.interpolate(answer, scale_factor=2.0, mode="nearest")
            if len(features) > 0:
                answer = torch.cat([answer, features.pop()], 1)
            answer = merge(answer)
        return functional.softmax(self.head(answer), dim=1)


class _Inverted(nn.Module):
    """An inverted residual block with a depthwise convolution, squeeze and excitation."""

    def __init__(self, given: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = given * expansion
        self.residual = stride == 1 and given == width
        self.expand = _convolution(given, inner, 1, 1, nn.SiLU()) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(inner, inner, kernel, stride, nn.SiLU(), groups=inner)
        squeezed = given // 4
        self.excitation = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inner, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, inner, 1),
            nn.Sigmoid(),
        )
        self.project = _convolution(inner, width, 1, 1, nn.Identity())

    def forward(self, given: Tensor) -> Tensor:
        inner = self.depthwise(self.expand(given))
        answer: Tensor = self.project(inner * self.excitation(inner))
        return given + answer if self.residual else answer


def _convolution(given: int, width: int, kernel: int, stride: int, act: nn.Module, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(given, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), act)
