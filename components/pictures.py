"""Pictures of a scene: what the model was given, and what it answered in the contract's colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from components.earthengine.contract import ModelContract, Output
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.tiles import Grid

Picture = NDArray[np.uint8]
_Panel = tuple[str, Picture, tuple[tuple[str, str], ...]]
"""A title, a picture, and its legend: labels and colours."""

# Seven colours that stay apart for colour-blind eyes (Okabe and Ito), for labels without colours.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
_RAMP = ("#440154", "#21918c", "#fde725")
_MARGIN = 12
_LINE = 24  # pixels from one line of the legend to the next
_SMALLEST = 480  # pixels; smaller scenes are enlarged to about this


def save_pictures(
    contract: ModelContract, tiles: Tiles, answers: Outputs, scene: tuple[int, int], folder: Path
) -> Path:
    """Write `true_colour.png`, a PNG for each output, and `scene.png` that shows all side by side.

    Args:
        contract: the model's contract.
        tiles: the raw tiles of the scene, `[N, C, H, W]`.
        answers: the answers to them.
        scene: width and height.
        folder: where to.

    Returns:
        The path of scene.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid.over(contract, *scene)
    panels: list[_Panel] = [("input", true_colour(contract, grid.stitch(tiles.transpose(0, 2, 3, 1))), ())]
    Image.fromarray(panels[0][1]).save(folder / "true_colour.png")
    for output in contract.outputs:
        if answers[output.name].shape[1:3] != tiles.shape[2:]:
            continue  # of another size than the patch: no map in the scene's pixels
        drawn = draw(output, grid.stitch(answers[output.name]))
        Image.fromarray(drawn).save(folder / f"{output.name}.png")
        panels.append((output.name, drawn, tuple(zip(output.labels, _colours(output), strict=False))))
    path = folder / "scene.png"
    _side_by_side(panels).save(path)
    return path


def true_colour(contract: ModelContract, image: NDArray[np.generic]) -> Picture:
    """An RGB picture `[height, width, 3]` of raw bands `[height, width, C]`, stretched from 2 to 98 percent."""
    channels = np.cumsum([0, *(band.channels for band in contract.bands)])
    first = {band.name: int(channel) for band, channel in zip(contract.bands, channels, strict=False)}
    names = contract.true_colour or tuple(band.name for band in contract.bands[:3])
    chosen = [first[name] for name in names] if len(names) == 3 else [0, 0, 0]
    bands = image[..., chosen].astype(np.float64)
    low, high = np.percentile(bands, [2, 98], axis=(0, 1))
    stretched = (bands - low) / np.where(high > low, high - low, 1)
    picture: Picture = (stretched.clip(0, 1) * 255).astype(np.uint8)
    return picture


def draw(output: Output, image: NDArray[np.generic]) -> Picture:
    """An RGB picture of an output's map `[height, width, ...]`: classes by colour, numbers by a ramp."""
    values = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
    if output.labels:
        classes = values.argmax(-1) if output.dimensions else values
        palette = np.array([_rgb(colour) for colour in _colours(output)], np.uint8)
        picture: Picture = palette[classes.astype(int).clip(0, len(palette) - 1)]
        return picture
    values = values.reshape(*values.shape[:2], -1)[..., 0]
    low, high = output.range or (float(values.min()), float(values.max()))
    ramp = np.array([_rgb(colour) for colour in output.colours or _RAMP], np.float64)
    position = ((values - low) / ((high - low) or 1)).clip(0, 1) * (len(ramp) - 1)
    stops = np.arange(len(ramp))
    return np.stack([np.interp(position, stops, ramp[:, c]) for c in range(3)], -1).astype(np.uint8)


def _colours(output: Output) -> tuple[str, ...]:
    return output.colours or tuple(_COLOURS[i % len(_COLOURS)] for i in range(len(output.labels)))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _side_by_side(panels: list[_Panel]) -> Image.Image:
    """The panels in a row, each with its title above and its legend below, a line a label."""
    height, width = panels[0][1].shape[:2]
    scale = max(1, round(_SMALLEST / max(height, width)))
    font = ImageFont.load_default(size=16)
    # A panel is as wide as its picture, or as the widest text where that is more.
    texts = [title for title, *_ in panels] + [label for *_, legend in panels for label, _ in legend]
    across = max(width * scale, *(_LINE + _MARGIN + int(font.getlength(text)) for text in texts))
    lines = max(len(legend) for *_, legend in panels)
    below = 3 * _MARGIN + height * scale + _MARGIN
    page = Image.new("RGB", (_MARGIN + len(panels) * (across + _MARGIN), below + lines * _LINE + _MARGIN), "white")
    pen = ImageDraw.Draw(page)
    for index, (title, picture, legend) in enumerate(panels):
        left = _MARGIN + index * (across + _MARGIN)
        enlarged = Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        page.paste(enlarged, (left, 3 * _MARGIN))
        pen.text((left, _MARGIN // 2), title, "black", font)
        for line, (label, colour) in enumerate(legend):
            top = below + line * _LINE
            pen.rectangle((left, top, left + _LINE, top + 18), fill=colour, outline="black")
            pen.text((left + _LINE + 6, top), label, "black", font)
    return page
