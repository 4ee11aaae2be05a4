from __future__ import annotations

import ast
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ee
import pytest
from ee import apitestcase

from components.earthengine.contract import ModelContract
from components.earthengine.snippet import javascript_call, python_call
from tests.conftest import contract_of

ENDPOINT = "projects/my-project/locations/us-central1/endpoints/42"
TRICKY = """it's "true", \\n or not"""

CONTRACTS = {
    "scalar": contract_of(),
    "labelled": contract_of(
        outputs=[
            {"name": "cover", "dimensions": 1, "labels": ["bare", TRICKY], "colours": ["#aa0000", "#00bb00"]},
        ],
        overlap=[4, 8],
        tile=[16, 32],
    ),
    "several": contract_of(
        payload_format="GRPC_TF_TENSORS",
        outputs=[
            {"name": "height", "dimensions": 0, "type": "double", "range": [0, 40], "colours": ["#000000", "#ffffff"]},
            {"name": "embedding", "dimensions": 1},
            {"name": "covariance", "dimensions": 2},
            {"name": "crop", "dimensions": 0, "type": "uint8", "labels": ["no", "yes"]},
        ],
    ),
    "properties": contract_of(properties=[{"name": "year"}, {"name": "winter", "type": "boolean"}]),
    "arrays": contract_of(bands=[{"name": "red"}, {"name": "series", "shape": [12]}, {"name": "p", "shape": [2, 3]}]),
    "output_tile": contract_of(output_tile=[1, 2], projection='PROJCS["WGS 84"]', scale=12.3456789),
    # Names that are words of one of the languages, or variables of the call itself.
    "words": contract_of(
        bands=[{"name": "true"}, {"name": "True"}],
        outputs=[{"name": name, "dimensions": 0} for name in ("class", "var", "model", "image", "ee", "Map", "true")],
    ),
}

each_contract = pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS.keys())


@pytest.fixture
def earth_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Earth Engine's client with the algorithms that it carries for its own tests, without an account."""
    case = apitestcase.ApiTestCase()
    case.setUp()
    monkeypatch.setattr(ee, "Initialize", lambda **_: None)
    try:
        yield
    finally:
        case.tearDown()


def executed(contract: ModelContract) -> dict[str, Any]:
    """The variables after the Python call, up to where geemap draws."""
    head = python_call(contract, ENDPOINT).partition("import geemap")[0]
    variables: dict[str, Any] = {}
    exec(compile(head, "snippet", "exec"), variables)  # noqa: S102
    return variables


def invocation(value: Any, name: str) -> dict[str, Any]:
    """The arguments of the last call of an algorithm in what would be sent to Earth Engine."""
    graph = json.loads(ee.serializer.toJSON(value))
    values = graph["values"]

    def plain(node: Any) -> Any:
        if "valueReference" in node:
            return plain(values[node["valueReference"]])
        if "constantValue" in node:
            return node["constantValue"]
        if "arrayValue" in node:
            return [plain(item) for item in node["arrayValue"]["values"]]
        if "dictionaryValue" in node:
            return {key: plain(item) for key, item in node["dictionaryValue"]["values"].items()}
        call = node["functionInvocationValue"]
        return {"call": call["functionName"], **{key: plain(item) for key, item in call["arguments"].items()}}

    found = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("call") == name and node not in found:
                found.append(node)
            for item in node.values():
                walk(item)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(plain(values[graph["result"]]))
    return dict(found[0])


@each_contract
@pytest.mark.usefixtures("earth_engine")
def test_python_sends_what_the_contract_says(contract: ModelContract) -> None:
    variables = executed(contract)
    for output in contract.outputs:
        assert isinstance(variables[f"{output.name}_layer"], ee.Image)
    sent = invocation(variables["model"], "Model.fromVertexAi")
    proj = sent["proj"]
    assert sent["endpoint"] == ENDPOINT
    assert proj["call"] == "Projection.atScale"
    assert proj["meters"] == contract.scale
    assert proj["projection"]["crs"] == contract.projection
    assert sent["fixInputProj"] is True
    assert sent["inputTileSize"] == list(contract.tile)
    assert sent["inputOverlapSize"] == list(contract.overlap)
    assert sent.get("outputTileSize") == (list(contract.output_tile) if contract.output_tile else None)
    assert sent["payloadFormat"] == contract.payload_format
    assert sent.get("inputProperties") == ([p.name for p in contract.properties] or None)
    shapes = {band.name: list(band.shape) for band in contract.bands}
    assert sent.get("inputShapes") == (shapes if any(shapes.values()) else None)
    assert set(sent["outputBands"]) == {output.name for output in contract.outputs}
    for output in contract.outputs:
        declared = sent["outputBands"][output.name]
        assert declared["dimensions"] == output.dimensions
        assert declared["type"]["precision"]["call"] == f"PixelType.{output.type}"
    selected = invocation(variables["image"], "Image.select")["bandSelectors"]
    assert selected == [band.name for band in contract.bands]
    assert invocation(variables["image"], "Image.toFloat")


@pytest.mark.usefixtures("earth_engine")
def test_python_layers_of_each_rank() -> None:
    layers = executed(CONTRACTS["several"])
    zero = {"call": "Image.constant", "value": 0}
    assert invocation(layers["height_layer"], "Image.select")["bandSelectors"] == ["height"]
    assert invocation(layers["embedding_layer"], "Image.arrayGet")["position"] == zero
    assert invocation(layers["covariance_layer"], "Image.arrayGet")["position"] == {
        "call": "Image.addBands",
        "dstImg": zero,
        "srcImg": zero,
    }
    assert invocation(executed(CONTRACTS["labelled"])["cover_layer"], "Image.arrayArgmax")


@pytest.mark.usefixtures("earth_engine")
def test_python_sets_each_property() -> None:
    graph = ee.serializer.toJSON(executed(CONTRACTS["properties"])["image"])
    assert '"year"' in graph
    assert '"winter"' in graph


@each_contract
def test_python_compiles_and_draws_every_output(contract: ModelContract) -> None:
    calls = [node for node in ast.walk(ast.parse(python_call(contract, ENDPOINT))) if isinstance(node, ast.Call)]
    drawn = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "addLayer"]
    legends = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "add_legend"]
    assert [ast.literal_eval(call.args[2]) for call in drawn] == [output.name for output in contract.outputs]
    for call, output in zip(drawn, contract.outputs, strict=True):
        style = ast.literal_eval(call.args[1])
        assert style.get("palette", []) == list(output.colours)
        assert (style["min"], style["max"]) == (output.range or (0, max(len(output.labels) - 1, 1)))
    shown = [ast.literal_eval(call.keywords[1].value) for call in legends]
    assert shown == [
        dict(zip(output.labels, output.colours, strict=True))
        for output in contract.outputs
        if output.labels and output.colours
    ]


TABLE = contract_of(
    bands=None,
    tile=None,
    scale=None,
    payload_format="RAW_JSON",
    properties=[
        {"name": "area"},
        {"name": "monthly", "shape": [3]},
        {"name": "wet", "type": "boolean"},
        {"name": "soil", "type": "string", "values": [TRICKY, "loam"]},
    ],
    outputs=[{"name": "crop", "dimensions": 0}, {"name": "chances", "dimensions": 1}],
)


@pytest.mark.usefixtures("earth_engine")
def test_python_of_a_table_predicts_properties() -> None:
    variables: dict[str, Any] = {}
    call = python_call(TABLE, ENDPOINT)
    exec(compile(call.partition("print(")[0], "snippet", "exec"), variables)  # noqa: S102
    assert isinstance(variables["predictions"], ee.FeatureCollection)
    sent = invocation(variables["model"], "Model.fromVertexAi")
    assert sent["inputProperties"] == ["area", "monthly", "wet", "soil"]
    assert {name: each["dimensions"] for name, each in sent["outputProperties"].items()} == {"crop": 0, "chances": 1}
    assert not {"outputBands", "inputTileSize", "proj", "inputShapes"} & set(sent)
    feature = invocation(variables["features"], "Feature")
    assert feature["metadata"] == {"area": 0, "monthly": [0, 0, 0], "wet": True, "soil": TRICKY}


def test_javascript_of_a_table_predicts_properties() -> None:
    calls = run_javascript(TABLE)
    (sent,) = next(given for path, given in calls if path == "ee.Model.fromVertexAi")
    assert sent["inputProperties"] == ["area", "monthly", "wet", "soil"]
    assert sent["outputProperties"].keys() == {"crop", "chances"}
    assert [None, {"area": 0, "monthly": [0, 0, 0], "wet": True, "soil": TRICKY}] in [given for _, given in calls]
    assert any(path.endswith(".predictProperties") for path, _ in calls)


# What stands for Earth Engine when the JavaScript runs: every call is written down, none does anything.
_STAGE = r"""
var calls = [];
function stub(path) {
  return new Proxy(function() {}, {
    get: function(_, name) {
      return name === 'toJSON' ? function() { return path; } : stub(path + '.' + String(name));
    },
    apply: function(_, self, given) { calls.push([path, given]); return stub(path + '()'); }
  });
}
var ee = stub('ee'), ui = stub('ui'), Map = stub('Map'), print = stub('print');
new Function('ee', 'ui', 'Map', 'print', require('fs').readFileSync(0, 'utf8'))(ee, ui, Map, print);
console.log(JSON.stringify(calls));
"""


def run_javascript(contract: ModelContract) -> list[tuple[str, list[Any]]]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, so the JavaScript is not run")
    script = javascript_call(contract, ENDPOINT)
    done = subprocess.run([node, "-e", _STAGE], input=script, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return [(path, arguments) for path, arguments in json.loads(done.stdout)]


@each_contract
def test_javascript_sends_the_same(contract: ModelContract) -> None:
    calls = run_javascript(contract)
    (model,) = [given for path, given in calls if path == "ee.Model.fromVertexAi"]
    (sent,) = model
    expected: dict[str, Any] = {
        "endpoint": ENDPOINT,
        "proj": "ee.Projection().atScale()",
        "fixInputProj": True,
        "inputTileSize": list(contract.tile),
        "inputOverlapSize": list(contract.overlap),
        "outputBands": {
            output.name: {"type": f"ee.PixelType.{output.type}()", "dimensions": output.dimensions}
            for output in contract.outputs
        },
        "payloadFormat": contract.payload_format,
    }
    if contract.properties:
        expected["inputProperties"] = [prop.name for prop in contract.properties]
    if any(band.shape for band in contract.bands):
        expected["inputShapes"] = {band.name: list(band.shape) for band in contract.bands}
    if contract.output_tile:
        expected["outputTileSize"] = list(contract.output_tile)
    assert sent == expected
    assert ["ee.Projection", [contract.projection]] in [list(call) for call in calls]
    assert ["ee.Projection().atScale", [contract.scale]] in [list(call) for call in calls]
    selected = [given for path, given in calls if path.endswith("first().select") or path == "ee.Image().select"]
    assert [[band.name for band in contract.bands]] in selected
    layers = [given for path, given in calls if path == "Map.addLayer"]
    assert [given[2] for given in layers] == [output.name for output in contract.outputs]
    assert [given[1].get("palette", []) for given in layers] == [list(output.colours) for output in contract.outputs]


def test_javascript_shows_labels_in_their_colours() -> None:
    labels = [given for path, given in run_javascript(CONTRACTS["labelled"]) if path == "ui.Label"]
    assert [(text, style["backgroundColor"]) for text, style in labels] == [("bare", "#aa0000"), (TRICKY, "#00bb00")]


@each_contract
def test_javascript_is_valid(contract: ModelContract, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed, so the JavaScript is not parsed")
    script = tmp_path / "call.js"
    script.write_text(javascript_call(contract, ENDPOINT), encoding="utf-8")
    subprocess.run([node, "--check", str(script)], check=True, timeout=30)


@pytest.mark.parametrize("call", [python_call, javascript_call])
def test_labels_and_colours_are_in_both(call: Any) -> None:
    text = call(CONTRACTS["labelled"], ENDPOINT)
    assert all(part in text for part in ("bare", json.dumps(TRICKY), "#aa0000", "#00bb00"))
