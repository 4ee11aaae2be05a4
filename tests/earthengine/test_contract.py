from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from components.earthengine import contract as contract_module
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ContractError
from tests.conftest import contract_of, document


def fault(**changes: Any) -> str:
    """What is said of the small contract with these changes."""
    with pytest.raises(ContractError) as caught:
        contract_of(**changes)
    return str(caught.value)


def test_small_contract_has_documented_defaults() -> None:
    contract = contract_of()
    assert contract.channels == 2
    assert contract.layout == "channels_first"
    assert contract.patch == (16, 16)
    assert contract.projection == "EPSG:4326"
    assert (contract.tolerance.absolute, contract.tolerance.relative) == (1e-5, 1e-5)
    assert contract_of(framework="tensorflow").layout == "channels_last"
    assert contract_of(model={"file": "net.pt", "layout": "channels_last"}).layout == "channels_last"


def test_channels_factors_and_patch_count_arrays_and_properties() -> None:
    contract = contract_of(
        bands=[{"name": "a", "factor": 2}, {"name": "b", "shape": [2, 2], "factor": 3, "offset": 1}],
        properties=[{"name": "year", "factor": 0.5, "offset": -7}],
        tile=[8, 4],
        overlap=[1, 3],
    )
    assert contract.channels == 6
    assert contract.factors == [2, 3, 3, 3, 3, 0.5]
    assert contract.offsets == [0, 1, 1, 1, 1, -7]
    assert contract.patch == (10, 10)
    assert [part.name for part in contract.sent] == ["a", "b", "year"]


def test_no_model_yaml(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"model\.yaml does not exist; write the model's contract there"):
        ModelContract.read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ContractError, match="does not exist"):
        ModelContract.read(tmp_path / "file")


def test_unreadable_model_yaml(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"name: \xff")
    with pytest.raises(ContractError, match="it must be a UTF-8 text file"):
        ModelContract.read(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILE_NAME).mkdir()
    with pytest.raises(ContractError, match="cannot be read"):
        ModelContract.read(tmp_path / "other")


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text("name: 3")
    with pytest.raises(ContractError) as caught:
        ModelContract.read(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) > 3
    assert all(line.startswith(f"{path}: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML: .*; mend the line it names"),
        ("a: 2020-99-99", "holds a value that YAML cannot give: month must be in 1..12; mend it"),
        ("a: !!int ''", "holds a value that YAML cannot give"),
        ("a: !!bool x", "holds a value that YAML cannot give"),
        ("a: !!timestamp x", "holds a value that YAML cannot give"),
        ("[" * 5000, "holds a value that YAML cannot give: maximum recursion depth"),
        ("", "holds None; it must hold keys such as name, bands and outputs"),
        ("- a", r"holds \['a'\]; it must hold keys"),
        ("just text", "holds 'just text'; it must hold keys"),
    ],
)
def test_text_that_is_no_mapping(text: str, said: str) -> None:
    with pytest.raises(ContractError, match=f"(?s)model.yaml {said}"):
        ModelContract.parse(text)


def test_yaml_tags_are_not_executed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(ContractError, match="is not YAML"):
        ModelContract.parse(
            f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{made}']]"
        )
    with pytest.raises(ContractError, match="is not YAML"):
        ModelContract.parse(f"name: !!python/object/apply:os.mkdir ['{made}']")
    assert not made.exists()


def test_yaml_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ContractError) as caught:
        ModelContract.parse("\n".join([*lines, "name: *a11", "bands: *a11"]))
    assert len(str(caught.value)) < 10_000
    with pytest.raises(ContractError):
        ModelContract.parse("- &a [*a]")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"naem": "x"}, "naem is not a key of the contract; allowed here: bands, contract, .*; did you mean name?"),
        ({"zzz": 1}, "zzz is not a key of the contract; .*; remove it"),
        ({"name": None}, "name is missing; add it (name of the model and the endpoint: lower case, digits and dashes)"),
        ({"name": "Big Model"}, "name is 'Big Model'; string should match pattern .*; correct it"),
        ({"name": True}, "name is True; input should be a valid string; put it in quotes"),
        ({"contract": 2}, "contract is 2; allowed: 1; write"),
        ({"framework": "pytorhc"}, "framework is 'pytorhc'; allowed: pytorch, tensorflow; did you mean pytorch?"),
        ({"framework": "jax"}, "framework is 'jax'; allowed: pytorch, tensorflow; write one of these"),
        ({"payload_format": "ND_ARRAY"}, "payload_format is 'ND_ARRAY'; allowed: .*; did you mean ND_ARRAYS?"),
        ({"model": {}}, "model.file is missing; add it (the model's file or folder beside model.yaml)"),
        ({"model": {"file": "../net.pt"}}, "model.file is '../net.pt'; it must lie beside model.yaml; copy it there"),
        ({"model": {"file": "/net.pt"}}, "model.file is '/net.pt'; it must lie beside model.yaml; copy it there"),
        ({"model": {"file": ""}}, "model.file is ''; string should have at least 1 character"),
        ({"model": {"file": "a", "code": "../a.py:f"}}, "model.code is '../a.py:f'; it must lie beside model.yaml"),
        ({"model": {"file": "a", "code": "a.py"}}, "model.code is 'a.py'; string should match pattern"),
        ({"model": {"file": "a", "type": "float23"}}, "model.type is 'float23'; .*; did you mean float32?"),
        ({"model": {"file": "a", "layout": "nhwc"}}, "model.layout is 'nhwc'; allowed: channels_first, channels_last"),
        ({"model": {"file": "a", "multiple": 0}}, "model.multiple is 0; input should be greater than or equal to 1"),
        ({"bands": []}, "bands and properties are both empty; declare what Earth Engine sends"),
        ({"properties": [{"name": "p", "type": "string"}]}, "properties[0] has no values; list the strings"),
        ({"properties": [{"name": "p", "values": ["a"]}]}, "properties[0] has values, which only a string can have"),
        (
            {"properties": [{"name": "p", "type": "string", "values": ["a", "a"]}]},
            "properties[0] has a value twice; list each string once",
        ),
        ({"properties": [{"name": "p", "type": "boolean", "shape": [2]}]}, "properties[0] has a shape, which only a"),
        (
            {"bands": [], "properties": [{"name": "p"}]},
            "says nothing of a table, which has no bands; remove it or add bands",
        ),
        ({"bands": [{"name": "red", "type": "flaot"}]}, "bands[0].type is 'flaot'; .*; did you mean float?"),
        ({"bands": [{"name": "red", "typ": "float"}]}, "bands[0].typ is not a key .*; did you mean type?"),
        (
            {"bands": [{"name": "red"}, {}]},
            "bands[1].name is missing; add it (the band's name in the Earth Engine image)",
        ),
        ({"bands": [{"name": 'a"b'}]}, "bands[0].name is 'a\"b'; string should match pattern"),
        ({"bands": [{"name": "a", "shape": [1, 2, 3]}]}, "bands[0].shape is [1, 2, 3]; tuple should have at most 2"),
        ({"bands": [{"name": "a", "factor": float("nan")}]}, "bands[0].factor is nan; input should be a finite number"),
        ({"bands": [{"name": "a"}, {"name": "a"}]}, "bands and properties must have different names; a stands twice"),
        ({"properties": [{"name": "red"}]}, "bands and properties must have different names; red stands twice: rename"),
        ({"properties": [{"name": "p", "type": "text"}]}, "properties[0].type is 'text'; allowed: number, boolean"),
        ({"true_colour": ["red", "green", "blue"]}, "true_colour names blue; allowed: the scalar bands red, green"),
        ({"true_colour": ["red"]}, "true_colour[1] is missing"),
        ({"tile": [0, 4097]}, "tile[0] is 0; input should be greater than or equal to 1"),
        ({"tile": [0, 4097]}, "tile[1] is 4097; input should be less than or equal to 4096"),
        ({"tile": 64}, "tile is 64; input should be a valid tuple"),
        ({"overlap": [-1, 0]}, "overlap[0] is -1; input should be greater than or equal to 0"),
        ({"output_tile": [0, 1]}, "output_tile[0] is 0"),
        ({"scale": 0}, "scale is 0; input should be greater than 0"),
        ({"scale": float("inf")}, "scale is inf; input should be a finite number"),
        ({"projection": ""}, "projection is ''; string should have at least 1 character"),
        ({"tolerance": {"absolute": -1}}, "tolerance.absolute is -1; input should be greater than or equal to 0"),
        ({"outputs": []}, "outputs is []"),
        ({"outputs": [{"name": "a"}]}, "outputs[0].dimensions is missing; add it (rank of the value of one pixel"),
        ({"outputs": [{"name": "a", "dimensions": 512}]}, "outputs[0].dimensions is 512; allowed: 0, 1, 2; write one"),
        (
            {"outputs": [{"name": "a_bytes", "dimensions": 0}]},
            "outputs[0].name is 'a_bytes'; it must not end in _bytes",
        ),
        (
            {"outputs": [{"name": "a", "dimensions": 0}] * 2},
            "outputs must have different names; a stands twice: rename",
        ),
        (
            {"outputs": [{"name": "a", "dimensions": 1, "labels": ["x", "y"], "colours": ["#000000"]}]},
            "outputs[0] has 2 labels but 1 colours; give one colour a label",
        ),
        (
            {"outputs": [{"name": "a", "dimensions": 2, "labels": ["x"]}]},
            "outputs[0] has labels, which only dimensions 0 and 1 can carry; remove them",
        ),
        (
            {"outputs": [{"name": "a", "dimensions": 1, "labels": [False]}]},
            "outputs[0].labels[0] is False; input should be a valid string; put it in quotes",
        ),
        (
            {"outputs": [{"name": "a", "dimensions": 1, "colours": ["red"]}]},
            "outputs[0].colours[0] is 'red'; string should match pattern",
        ),
        (
            {"outputs": [{"name": "a", "dimensions": 0, "range": [2, 2]}]},
            "outputs[0] has the range [2.0, 2.0]; its first number must be the smaller",
        ),
        (
            {"outputs": [{"name": "a", "dimensions": 0, "range": [0, float("inf")]}]},
            "outputs[0].range[1] is inf; input should be a finite number",
        ),
        (
            {"payload_format": "ND_ARRAYS", "outputs": [{"name": n, "dimensions": 0} for n in "ab"]},
            "ND_ARRAYS has no names on the wire and carries 1 output, not 2; use SERIALIZED_TF_TENSORS or GRPC",
        ),
        (
            {"payload_format": "ND_ARRAYS", "properties": [{"name": "p"}]},
            "ND_ARRAYS carries scalar bands only, or of a table numbers and booleans, not properties beside bands",
        ),
        (
            {"payload_format": "ND_ARRAYS", "bands": [{"name": "a", "shape": [2]}]},
            "ND_ARRAYS carries scalar bands only",
        ),
    ],
)
def test_every_fault_is_a_sentence_with_the_way_out(changes: dict[str, Any], said: str) -> None:
    text = fault(**changes)
    parts = said.split(".*")
    assert parts[0] in text
    rest = text[text.index(parts[0]) :]
    for part in parts[1:]:
        assert part in rest
        rest = rest[rest.index(part) :]
    assert all(line.startswith("model.yaml: ") for line in text.splitlines())


def test_each_fault_has_its_line_and_no_second_one() -> None:
    text = fault(bands=[{"nme": "red"}], scale=-1)
    assert len(text.splitlines()) == 3  # unknown key, missing name, scale
    assert "at least 1 item" not in text
    text = fault(tile=["a", 4], naem="x")
    assert len(text.splitlines()) == 2
    assert "tile[0] is 'a'; input should be a valid integer" in text


def test_nd_arrays_carries_what_it_can() -> None:
    assert contract_of(payload_format="ND_ARRAYS").payload_format == "ND_ARRAYS"


def test_keys_that_are_no_text() -> None:
    with pytest.raises(ContractError, match=r"model.yaml: .*1"):
        ModelContract.parse(yaml.safe_dump(document()) + "1: 2\n")


names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
pixels = st.integers(1, 64)


def choice(of: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(of))


@st.composite
def outputs(draw: st.DrawFn, name: str) -> dict[str, Any]:
    dimensions = draw(st.integers(0, 2))
    labels = draw(st.lists(texts, max_size=3)) if dimensions < 2 else []
    colour = st.from_regex("#[0-9a-f]{6}", fullmatch=True)
    many = st.just(len(labels)) if labels else st.integers(0, 2)
    low, high = sorted((draw(numbers), draw(numbers)))
    return {
        "name": name,
        "type": draw(choice(contract_module.PixelType)),
        "dimensions": dimensions,
        "labels": labels,
        "colours": [draw(colour) for _ in range(draw(many))],
        "range": draw(st.sampled_from([None, [low, high]])) if low < high else None,
    }


@st.composite
def contracts(draw: st.DrawFn) -> ModelContract:
    unique = draw(st.lists(names.filter(lambda name: not name.endswith("_bytes")), min_size=3, max_size=6, unique=True))
    bands, properties, answers = unique[:1] + unique[3:], unique[1:2], unique[2:]
    scalar_only = draw(st.booleans())
    shapes = st.just([]) if scalar_only else st.lists(st.integers(1, 9), max_size=2)
    return ModelContract.model_validate(
        {
            "name": draw(st.from_regex(r"[a-z][a-z0-9-]{0,9}[a-z0-9]", fullmatch=True)),
            "framework": draw(choice(contract_module.Framework)),
            "payload_format": draw(st.sampled_from(["SERIALIZED_TF_TENSORS", "GRPC_TF_TENSORS", "RAW_JSON"])),
            "model": {
                "file": draw(texts.filter(lambda t: t and not Path(t).is_absolute() and ".." not in Path(t).parts)),
                "code": draw(st.sampled_from([None, "net.py:build"])),
                "layout": draw(st.sampled_from([None, "channels_first", "channels_last"])),
                "type": draw(choice(contract_module.ModelType)),
                "multiple": draw(pixels),
            },
            "bands": [
                {
                    "name": name,
                    "type": draw(choice(contract_module.PixelType)),
                    "shape": draw(shapes),
                    "factor": draw(numbers),
                    "offset": draw(numbers),
                }
                for name in bands
            ],
            "true_colour": [bands[0]] * 3 if scalar_only else None,
            "properties": [
                {"name": name, "type": draw(st.sampled_from(["number", "boolean"])), "offset": draw(numbers)}
                for name in properties
            ],
            "tile": [draw(pixels), draw(pixels)],
            "overlap": [draw(st.integers(0, 16)), draw(st.integers(0, 16))],
            "output_tile": draw(st.sampled_from([None, [1, 1]])),
            "projection": draw(texts.filter(bool)),
            "scale": draw(st.floats(0, exclude_min=True, allow_infinity=False)),
            "outputs": [draw(outputs(name)) for name in answers],
            "tolerance": {"absolute": abs(draw(numbers)), "relative": abs(draw(numbers))},
        }
    )


@pytest.mark.parametrize("text", ["\x85", "\u2028", "\ufeff", "é 🌲", "a: b # c", "yes", "1e3", " x\n\ny ", "\x7f\x01"])
def test_awkward_text_is_dumped_whole(text: str) -> None:
    contract = contract_of(projection=text, outputs=[{"name": "a", "dimensions": 0, "labels": [text, ""]}])
    assert ModelContract.parse(contract.dump()) == contract


@settings(max_examples=60, deadline=None)
@given(contracts())
def test_what_is_dumped_parses_to_the_same(contract: ModelContract) -> None:
    assert ModelContract.parse(contract.dump()) == contract


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("[]{}:,-&*!|>?#'\"%@`<=0123456789abinftrue \n\t", max_size=60))
def test_random_text_raises_contract_errors_only(text: str) -> None:
    with pytest.raises(ContractError):
        ModelContract.parse(text)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ModelContract.model_fields)), anything)
def test_random_values_raise_contract_errors_only(key: str, value: Any) -> None:
    try:
        ModelContract.parse(yaml.safe_dump({**document(), key: value}))
    except ContractError as error:
        assert str(error).startswith("model.yaml: ")  # noqa: PT017


def test_metrics_are_of_the_output_s_kind() -> None:
    classes = {"name": "kind", "dimensions": 1, "labels": ["wet", "dry"]}
    assert contract_of(outputs=[classes]).outputs[0].judged_by == ("accuracy",)
    named = contract_of(outputs=[classes | {"metrics": ["iou", "f1"]}])
    assert named.outputs[0].judged_by == ("iou", "f1")
    assert ModelContract.parse(named.dump()) == named
    assert contract_of().outputs[0].judged_by == ("rmse",)
    for output, told in (
        (
            classes | {"metrics": ["rmse"]},
            "the metric rmse, but is of classes, as it has labels; allowed: accuracy, f1, iou",
        ),
        ({"name": "total", "dimensions": 0, "metrics": ["f1"]}, "of numbers, as it has no labels; allowed: rmse"),
        (classes | {"metrics": ["f1", "f1"]}, "has a metric twice"),
        (classes | {"metrics": ["kappa"]}, "kappa"),
    ):
        with pytest.raises(ContractError, match=told):
            contract_of(outputs=[output])
