"""Pictures of a scene: what the model was given, and what it answered in the contract's colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from components import parity
from components.earthengine.contract import ModelContract, Output
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.tiles import Grid

Picture = NDArray[np.uint8]
_Panel = tuple[str, Picture, tuple[tuple[str, str], ...]]
"""A title, a picture, and its legend: labels and colours."""

# Seven colours that stay apart for colour-blind eyes (Okabe and Ito), for labels without colours.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
_RAMP = ("#440154", "#21918c", "#fde725")
DIFFERENCE = {"equal": "#ffffff", "at the tolerance": "#ffb4b4", "beyond it": "#ff2828", "no number": "#000000"}
"""What the colours of a difference mean; from the first to the second it fades."""
_MARGIN = 12
_LINE = 24  # pixels from one line of the legend to the next
_IN_A_ROW = 4  # tiles, where there is no scene
_SMALLEST = 480  # pixels; smaller scenes are enlarged to about this
# Numbers further from 0 are drawn as this one, so that any two have a finite difference.
_FARTHEST = float(np.finfo(np.float64).max) / 4


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
        panels.append((output.name, drawn, tuple(zip(output.labels, colours(output), strict=False))))
    path = folder / "scene.png"
    _side_by_side(panels).save(path)
    return path


def compared(
    contract: ModelContract, tiles: Tiles, expected: Outputs, answers: Outputs, scene: tuple[int, int] | None
) -> dict[str, Picture]:
    """What was sent, and of each output what was answered, what was expected, and how far these lie apart.

    Args:
        contract: the model's contract.
        tiles: the raw tiles that were sent, `[N, C, H, W]`.
        expected: the source model's answers to them.
        answers: the answers to them.
        scene: width and height of the scene that they cover; a few of them side by side where they cover none.

    Returns:
        Pictures by title: `input`, and of each output `NAME endpoint`, `NAME source` and `NAME difference`; of an
        answer in another shape than expected none.
    """
    drawn = {"input": true_colour(contract, _laid_out(contract, tiles.transpose(0, 2, 3, 1), scene))}
    for output in contract.outputs:
        wanted, got = expected[output.name], answers.get(output.name)
        if wanted.shape[1:3] != tiles.shape[2:]:
            continue
        source = _laid_out(contract, wanted, scene)
        if got is not None and got.shape == wanted.shape:
            answered = _laid_out(contract, got, scene)
            # Both over one range, so that one colour is one value.
            alike = output if output.range else output.model_copy(update={"range": span(wanted, got)})
            drawn[f"{output.name} endpoint"] = draw(alike, answered)
            drawn[f"{output.name} source"] = draw(alike, source)
            drawn[f"{output.name} difference"] = _difference(contract, source, answered)
        else:
            drawn[f"{output.name} source"] = draw(output, source)
    return drawn


def png(picture: Picture) -> bytes:
    """A picture as the bytes of a PNG file."""
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "PNG")
    return written.getvalue()


def _laid_out(
    contract: ModelContract, tiles: NDArray[np.generic], scene: tuple[int, int] | None
) -> NDArray[np.generic]:
    """One image of tiles `[N, H, W, ...]`: the scene, or the first few in a row."""
    if scene:
        return Grid.over(contract, *scene).stitch(tiles)
    return np.concatenate(tiles[:_IN_A_ROW], axis=1)


def _difference(contract: ModelContract, source: NDArray[np.generic], answered: NDArray[np.generic]) -> Picture:
    """The colours of DIFFERENCE: by the element of each pixel that lies farthest from the source model's."""
    apart, allowed = parity.apart(contract, source.astype(np.float64), answered.astype(np.float64))
    with np.errstate(over="ignore"):
        ratio = np.divide(apart, allowed, out=np.where(apart > 0, np.inf, 0.0), where=allowed > 0)
    worst = ratio.reshape(*ratio.shape[:2], -1).max(-1)
    same, allowed_at_most, beyond, lost = (np.array(_rgb(colour), np.float64) for colour in DIFFERENCE.values())
    faded = same + worst.clip(0, 1)[..., np.newaxis] * (allowed_at_most - same)
    faded[worst > 1] = beyond
    faded[np.isinf(apart).reshape(*ratio.shape[:2], -1).any(-1)] = lost
    picture: Picture = faded.astype(np.uint8)
    return picture


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
        palette = np.array([_rgb(colour) for colour in colours(output)], np.uint8)
        picture: Picture = palette[classes.astype(int).clip(0, len(palette) - 1)]
        return picture
    values = values.reshape(*values.shape[:2], -1)[..., 0].clip(-_FARTHEST, _FARTHEST)
    low, high = np.clip(output.range or (values.min(), values.max()), -_FARTHEST, _FARTHEST)
    ramp = np.array([_rgb(colour) for colour in colours(output)], np.float64)
    position = ((values - low) / ((high - low) or 1)).clip(0, 1) * (len(ramp) - 1)
    stops = np.arange(len(ramp))
    return np.stack([np.interp(position, stops, ramp[:, c]) for c in range(3)], -1).astype(np.uint8)


def colours(output: Output) -> tuple[str, ...]:
    """One colour a label; without labels those that the ramp runs through."""
    if output.colours:
        return output.colours
    return tuple(_COLOURS[i % len(_COLOURS)] for i in range(len(output.labels))) or _RAMP


def span(*arrays: NDArray[np.generic]) -> tuple[float, float]:
    """The smallest and the largest number in arrays, the second the larger; 0 and 1 where there is none.

    Numbers whose difference would be beyond all numbers count as nearer to 0.
    """
    numbers = np.concatenate([array[np.isfinite(array)].astype(np.float64).ravel() for array in arrays])
    numbers = numbers.clip(-_FARTHEST, _FARTHEST)
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 1.0)
    return low, high if high > low else low + max(1.0, abs(low))


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
