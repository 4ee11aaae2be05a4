"""The Earth Engine call that reaches a deployed model, ready to paste, in Python and JavaScript.

Argument names and order are those of `ee.Model.fromVertexAi` (earthengine-api, python/ee/model.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from components.earthengine.contract import ModelContract, Output, Property


@dataclass(frozen=True)
class _Language:
    comment: str
    declare: str
    end: str
    opened: str
    closed: str
    argument: str
    true: str
    null: str
    pixel_type: str

    def let(self, name: str, expression: str) -> str:
        return f"{self.declare}{name} = {expression}{self.end}"


_PYTHON = _Language("# ", "", "", "(", ")", "{}={}", "True", "None", '{{"type": ee.PixelType.{}(), "dimensions": {}}}')
_JAVASCRIPT = _Language(
    "// ", "var ", ";", "({", "})", "{}: {}", "true", "null", "{{type: ee.PixelType.{}(), dimensions: {}}}"
)


def python_call(contract: ModelContract, endpoint: str, output_multiplier: float = 1) -> str:
    """Python that sends an image to the model behind an endpoint and shows the answer on geemap's map.

    For a table: a collection of features, whose first answer is printed.

    Args:
        contract: the model's contract.
        endpoint: the full resource name, `projects/P/locations/R/endpoints/E`.
        output_multiplier: how many times the bytes of a request its answer takes; matters above 1.
    """
    lines = [
        "import ee",
        "",
        f"ee.Initialize(project={_literal(endpoint.split('/')[1])})",
        *_prediction(contract, endpoint, output_multiplier, _PYTHON),
    ]
    if contract.table:
        return "\n".join([*lines, "print(predictions.first().getInfo())"]) + "\n"
    lines += ["", "import geemap", "", "Map = geemap.Map()", "Map.centerObject(image.geometry(), 12)"]
    for output in contract.outputs:
        lines.append(f"Map.addLayer({_variable(output)}, {_literal(_style(output))}, {_literal(output.name)})")
        if legend := dict(zip(output.labels, output.colours, strict=False)):
            lines.append(f"Map.add_legend(title={_literal(output.name)}, legend_dict={_literal(legend)})")
    return "\n".join([*lines, "Map"]) + "\n"


def javascript_call(contract: ModelContract, endpoint: str, output_multiplier: float = 1) -> str:
    """The same as `python_call`, for the code editor of Earth Engine."""
    lines = [*_prediction(contract, endpoint, output_multiplier, _JAVASCRIPT)]
    if contract.table:
        return "\n".join([*lines, "print(predictions.first());"]) + "\n"
    lines.append("Map.centerObject(image, 12);")
    for output in contract.outputs:
        style, title = json.dumps(_style(output)), json.dumps(output.name)
        lines.append(f"Map.addLayer({_variable(output)}, {style}, {title});")
        if legend := list(zip(output.labels, output.colours, strict=False)):
            lines += [
                f"Map.add(ui.Panel({json.dumps(legend, ensure_ascii=False)}.map(function(entry) {{",
                "  return ui.Label(entry[0], {backgroundColor: entry[1], padding: '4px', margin: '0 0 2px'});",
                "}), null, {position: 'bottom-left'}));",
            ]
    return "\n".join(lines) + "\n"


def _prediction(contract: ModelContract, endpoint: str, multiplier: float, language: _Language) -> Iterator[str]:
    """The part that both languages share: the image or the features, the model, its answer, the layers."""
    yield from _features(contract, language) if contract.table else _image(contract, language)
    yield language.declare + "model = ee.Model.fromVertexAi" + language.opened
    for name, value in _arguments(contract, endpoint, multiplier, language):
        yield f"    {language.argument.format(name, value)},"
    yield language.closed + language.end
    if contract.table:
        yield language.let("predictions", "model.predictProperties(features)")
        return
    yield language.let("predictions", "model.predictImage(image)")
    for output in contract.outputs:
        yield language.let(_variable(output), _layer(output))


def _features(contract: ModelContract, language: _Language) -> Iterator[str]:
    yield f"{language.comment}Put your features here: each needs these properties."
    feature = f"ee.Feature({language.null}, {{{_values(contract, language)}}})"
    yield language.let("features", f"ee.FeatureCollection([{feature}])")


def _image(contract: ModelContract, language: _Language) -> Iterator[str]:
    bands = _literal([band.name for band in contract.bands])
    yield f"{language.comment}Put your image here: it needs these bands, unscaled, as the contract counts on."
    yield language.let("scene", 'ee.Image(ee.ImageCollection("COPERNICUS/S2_SR_HARMONIZED").first())')
    yield language.let("image", f"scene.select({bands}).{_cast(contract)}")
    if contract.properties:
        values = _values(contract, language)
        yield language.let("image", f"image.set({{{values}}})") + f"  {language.comment}your values"


def _values(contract: ModelContract, language: _Language) -> str:
    """The properties with values to be replaced, inside the braces of a dictionary."""
    return ", ".join(f"{_literal(prop.name)}: {_value(prop, language)}" for prop in contract.properties)


def _value(prop: Property, language: _Language) -> str:
    if prop.type == "boolean":
        return language.true
    return _literal(prop.values[0] if prop.values else np.zeros(prop.shape, int).tolist())


def _arguments(
    contract: ModelContract, endpoint: str, multiplier: float, language: _Language
) -> Iterator[tuple[str, str]]:
    outputs = ", ".join(
        f"{_literal(o.name)}: {language.pixel_type.format(o.type, o.dimensions)}" for o in contract.outputs
    )
    yield "endpoint", _literal(endpoint)
    if contract.properties:
        yield "inputProperties", _literal([p.name for p in contract.properties])
    if any(band.shape for band in contract.bands):
        yield "inputShapes", _literal({band.name: list(band.shape) for band in contract.bands})
    if contract.table:
        yield "outputProperties", f"{{{outputs}}}"
    else:
        yield from _tiling(contract, language)
        yield "outputBands", f"{{{outputs}}}"
    if multiplier > 1:
        yield "outputMultiplier", _literal(multiplier)
    yield "payloadFormat", _literal(contract.payload_format)


def _tiling(contract: ModelContract, language: _Language) -> Iterator[tuple[str, str]]:
    yield "proj", f"ee.Projection({_literal(contract.projection)}).atScale({_literal(contract.scale)})"
    yield "fixInputProj", language.true
    yield "inputTileSize", _literal(contract.tile)
    yield "inputOverlapSize", _literal(contract.overlap)
    if contract.output_tile:
        yield "outputTileSize", _literal(contract.output_tile)


def _literal(value: object) -> str:
    """Names, numbers, lists and dictionaries of them, written as both languages write them."""
    return json.dumps(value, ensure_ascii=False)


def _variable(output: Output) -> str:
    """The layer's variable; the output's own name may be a word of the language, or `image`."""
    return f"{output.name}_layer"


def _cast(contract: ModelContract) -> str:
    """The cast to the types that the contract declares; Earth Engine sends what it is given."""
    types = {band.name: band.type for band in contract.bands}
    return "toFloat()" if set(types.values()) == {"float"} else f"cast({_literal(types)})"


def _layer(output: Output) -> str:
    """The image to show: the class of a labelled vector, the first element of any other array."""
    band = f"predictions.select({json.dumps(output.name)})"
    match output.dimensions:
        case 0:
            return band
        case 1:
            return f"{band}.arrayArgmax().arrayGet([0])" if output.labels else f"{band}.arrayGet([0])"
        case 2:
            return f"{band}.arrayGet([0, 0])"


def _style(output: Output) -> dict[str, object]:
    """How to draw the layer: the contract's range, or the numbers of its labels, in its colours."""
    smallest, largest = output.range or (0, max(len(output.labels) - 1, 1))
    palette = {"palette": list(output.colours)} if output.colours else {}
    return {"min": smallest, "max": largest, **palette}
