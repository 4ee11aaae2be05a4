from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data import read_data
from components.earthengine.errors import DataError
from tests.data.contracts import LABELS, of_a_number, of_classes
from tests.data.earth_engine import example, write_mixer, write_patches, write_records


def made(number: int, height: int, width: int, seed: int = 0) -> dict[str, Any]:
    """Features of patches `[N, H, W]`, with one that no contract asks for."""
    random = np.random.default_rng(seed)
    shape = (number, height, width)
    bands = {name: random.normal(size=shape).astype(np.float32) for name in ("green", "other", "red")}
    return bands | {"cover": random.integers(0, 3, shape), "biomass": random.normal(size=shape).astype(np.float32)}


def image(features: dict[str, Any]) -> Any:
    return np.stack([features["red"], features["green"]], axis=1)


def one(folder: Path, **features: Any) -> str:
    """The path of a file of two records, of which the second has other features; None for one left out."""
    plain: dict[str, Any] = {"red": [1, 2, 3, 4], "green": [5, 6, 7, 8], "cover": [0, 1, 2, 0]}
    changed = {name: values for name, values in (plain | features).items() if values is not None}
    write_records(folder / "a.tfrecord", [example(each).SerializeToString() for each in (plain, changed)])
    return str(folder / "a.tfrecord")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.integers(0, 100))
def test_patches(tmp_path: Path, number: int, height: int, width: int, packed: bool, seed: int) -> None:
    features = made(number, height, width, seed)
    write_patches(tmp_path / "a.tfrecord.gz", features, gzip=packed)
    write_mixer(tmp_path / "amixer.json", width, height)
    data = read_data(of_classes(), str(tmp_path / "a.tfrecord.gz"))
    np.testing.assert_array_equal(data.tiles, image(features), strict=True)
    np.testing.assert_array_equal(data.truth, features["cover"], strict=True)
    np.testing.assert_array_equal(
        read_data(of_a_number(), str(tmp_path / "a.tfrecord.gz")).truth, features["biomass"], strict=True
    )
    what = "points" if height * width == 1 else f"patches of {width} x {height} pixels"
    assert data.origin == f"{tmp_path}/a.tfrecord.gz, {number} {what}"


def test_what_tensorflow_writes(tmp_path: Path) -> None:
    import tensorflow as tf

    features = made(3, 2, 2)
    path = tmp_path / "a.tfrecord.gz"
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for n in range(3):
            lists = {
                name: tf.train.Feature(float_list=tf.train.FloatList(value=values[n].ravel()))
                for name, values in features.items()
            }
            lists["cover"] = tf.train.Feature(int64_list=tf.train.Int64List(value=features["cover"][n].ravel()))
            lists["id"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString())
    data = read_data(of_classes(), str(path))
    np.testing.assert_array_equal(data.tiles, image(features), strict=True)
    np.testing.assert_array_equal(data.truth, features["cover"], strict=True)


def test_points_of_a_table(tmp_path: Path) -> None:
    write_patches(
        tmp_path / "a.tfrecord.gz", {"red": [1, 2], "green": [3, 4], "cover": [2, 0], "id": ["x", "y"]}, gzip=True
    )
    data = read_data(of_classes(), str(tmp_path / "a.tfrecord.gz"))
    assert data.tiles.tolist() == [[[[1]], [[3]]], [[[2]], [[4]]]]
    assert data.truth.tolist() == [[[2]], [[0]]]
    assert data.origin.endswith("a.tfrecord.gz, 2 points")


def test_other_lists(tmp_path: Path) -> None:
    record = example({"green": [3], "cover": ["Water"]})
    record.features.feature["red"].int64_list.value.append(-(2**20))
    write_records(tmp_path / "a.tfrecord", [record.SerializeToString()])
    data = read_data(of_classes(), str(tmp_path / "a.tfrecord"))
    assert data.tiles.ravel().tolist() == [-(2**20), 3]
    assert data.truth.ravel().tolist() == [LABELS.index("Water")]


def test_a_square_where_no_mixer_says_otherwise(tmp_path: Path) -> None:
    write_patches(tmp_path / "a.tfrecord", made(2, 4, 9))
    assert read_data(of_classes(), str(tmp_path / "a.tfrecord")).tiles.shape == (2, 2, 6, 6)
    write_patches(tmp_path / "a.tfrecord", made(2, 4, 8))
    said = (
        "record 0 has 32 pixels a band, which is no square, and there is no mixer.json beside it; copy the export's "
        "mixer.json there (NAMEmixer.json for NAME-00000.tfrecord.gz), or export square patches"
    )
    with pytest.raises(DataError, match=re.escape(said)):
        read_data(of_classes(), str(tmp_path / "a.tfrecord"))


@pytest.mark.parametrize("margin", [2, 6])
def test_a_kernel_around_the_patch(tmp_path: Path, margin: int) -> None:
    write_mixer(tmp_path / "mixer.json", 8, 4)
    features = made(2, 4 + margin, 8 + margin)
    write_patches(tmp_path / "a.tfrecord", features)
    np.testing.assert_array_equal(read_data(of_classes(), str(tmp_path / "a.tfrecord")).tiles, image(features))


@pytest.mark.parametrize(("height", "width"), [(1, 8), (5, 8), (1, 5)])
def test_pixels_that_are_not_what_the_mixer_says(tmp_path: Path, height: int, width: int) -> None:
    write_mixer(tmp_path / "amixer.json", 8, 4)
    write_patches(tmp_path / "a.tfrecord", made(2, height, width))
    with pytest.raises(DataError, match=rf"has {height * width} pixels a band, .* and its mixer\.json says 8 x 4"):
        read_data(of_classes(), str(tmp_path / "a.tfrecord"))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", "{}", "[" * 100000, '"\ud800"']
    + [f'{{"patchDimensions": {value}}}' for value in ("8", "[8]", "[8, 0]", "[8.0, 8.0]", "[true, true]", '"88"')],
    ids=lambda content: content[:40].encode("ascii", "replace").decode(),
)
def test_a_malformed_mixer(tmp_path: Path, content: str) -> None:
    write_patches(tmp_path / "a.tfrecord", made(2, 8, 8))
    (tmp_path / "amixer.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(
        DataError, match=r"amixer\.json does not say a patch's size \(\w+: .*\); it must hold patchDimens"
    ):
        read_data(of_classes(), str(tmp_path / "a.tfrecord"))


def test_the_mixer_of_the_same_export(tmp_path: Path) -> None:
    for name, width, height in (("a", 2, 8), ("ab", 4, 4), ("abc", 8, 2)):
        write_mixer(tmp_path / f"{name}mixer.json", width, height)
        write_patches(tmp_path / name / f"{name}-00000.tfrecord.gz", made(1, height, width), gzip=True)
        (tmp_path / name / f"{name}-00000.tfrecord.gz").rename(tmp_path / f"{name}-00000.tfrecord.gz")
    (tmp_path / "bmixer.json").write_text("damaged, but of no file")
    for name, height, width in (("a", 8, 2), ("ab", 4, 4), ("abc", 2, 8)):
        assert read_data(of_classes(), str(tmp_path / f"{name}-00000.tfrecord.gz")).tiles.shape == (1, 2, height, width)
    said = r"ab-00000\.tfrecord\.gz: record 0 is of 4 x 4 pixels, .*/a-00000\.tfrecord\.gz: record 0 of 2 x 8; pa"
    with pytest.raises(DataError, match=said):
        read_data(of_classes(), str(tmp_path))


def test_a_file_in_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_patches(Path("a-00000.tfrecord"), made(1, 2, 8))
    write_mixer(Path("amixer.json"), 8, 2)
    for uri in ("a-00000.tfrecord", "./a-00000.tfrecord", ".", "a-"):
        assert read_data(of_classes(), uri).tiles.shape == (1, 2, 2, 8)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no band": (
        {"red": None},
        " has no feature red; it has cover, green, and needs one for each band and one for what",
    ),
    "no truth": (
        {"cover": None},
        " has no feature cover; it has green, red, and needs one for each band and one for what",
    ),
    "lengths": (
        {"green": [1, 2, 3]},
        ": green has 3 values, red has 4; each must have one a pixel: export the bands and",
    ),
    "short truth": ({"cover": [1]}, ": cover has 1 values, red has 4; each must have one a pixel"),
    "empty lists": (
        {"red": [], "green": [], "cover": []},
        ": red is an empty float_list; it must have a value for each pixel",
    ),
    "sizes": (
        {"red": [1], "green": [2], "cover": [0]},
        r" is of 1 x 1 pixels, .*a\.tfrecord: record 0 of 2 x 2; patches must be of one size: export them with",
    ),
    "text in a band": ({"red": ["a"] * 4}, ": red is bytes_list; allowed: float_list, int64_list"),
    "NaN": ({"green": [5, 6, np.nan, 8]}, r": green, row 1, column 0 is empty or no number \(NaN\); allowed: finite"),
    "infinite": (
        {"red": [5, np.inf, 7, 8]},
        ": red, row 0, column 1 is inf, which float32 cannot hold; allowed: finite",
    ),
    "no class": (
        {"cover": [0, 1, 2, 3]},
        ": cover, row 1, column 1 is 3.0, which is no class of cover; allowed: Urban",
    ),
    "no whole number": (
        {"cover": [0, 1, 0.5, 0]},
        ": cover, row 1, column 0 is 0.5, which is no class of cover; allow",
    ),
    "no label": (
        {"cover": ["Ice"] * 4},
        ": cover, row 0, column 0 is 'Ice', which is no class of cover; allowed: Urban",
    ),
    "NaN label": ({"cover": [0, np.nan, 2, 3]}, ": cover, row 0, column 1 is empty; allowed: Urban, Vegetation, Water"),
}


@pytest.mark.parametrize(("features", "said"), WRONG.values(), ids=WRONG.keys())
def test_wrong_records(tmp_path: Path, features: dict[str, Any], said: str) -> None:
    path = one(tmp_path, **features)
    assert len(read_data(of_classes(), one(tmp_path)).tiles) == 2
    one(tmp_path, **features)
    with pytest.raises(DataError, match=rf"^{re.escape(path)}: record 1{said}"):
        read_data(of_classes(), path)


@pytest.mark.parametrize(
    ("biomass", "said"),
    [
        ([1, 2, np.inf, 4], r": biomass, row 1, column 0 is inf, which float32 cannot hold"),
        (["much"] * 4, ": biomass is bytes_list; allowed: float_list, int64_list$"),
    ],
)
def test_wrong_numbers(tmp_path: Path, biomass: list[Any], said: str) -> None:
    path = tmp_path / "a.tfrecord"
    write_records(path, [example({"red": [1] * 4, "green": [2] * 4, "biomass": biomass}).SerializeToString()])
    with pytest.raises(DataError, match=rf"a\.tfrecord: record 0{said}"):
        read_data(of_a_number(), str(path))


@pytest.mark.parametrize("record", [b"no message", b"\x0a\xff", b"\x0a\x05abc"])
def test_what_is_no_example(tmp_path: Path, record: bytes) -> None:
    write_records(tmp_path / "a.tfrecord", [record])
    with pytest.raises(DataError, match=r"a\.tfrecord: record 0 is no tf\.Example; export it from Earth Engine"):
        read_data(of_classes(), str(tmp_path / "a.tfrecord"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_change_of_an_example_is_read_or_refused(tmp_path: Path, data: Any) -> None:
    record = bytearray(example({"red": [1.0], "green": [2.0], "cover": [1.0]}).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    write_records(tmp_path / "a.tfrecord", [bytes(record)])
    try:
        read = read_data(of_classes(), str(tmp_path / "a.tfrecord"))
    except DataError as error:
        assert str(error).startswith(f"{tmp_path}/a.tfrecord: record 0")  # noqa: PT017
    else:
        assert np.isfinite(read.tiles).all()
        assert set(read.truth.ravel().tolist()) <= {0, 1, 2}


def test_a_feature_of_no_kind(tmp_path: Path) -> None:
    record = example({"green": [3], "cover": [1]})
    record.features.feature["red"].SetInParent()
    write_records(tmp_path / "a.tfrecord", [record.SerializeToString()])
    with pytest.raises(DataError, match=r"record 0: red is an empty feature; allowed: float_list, int64_list"):
        read_data(of_classes(), str(tmp_path / "a.tfrecord"))


def test_a_label_that_is_no_text(tmp_path: Path) -> None:
    record = example({"red": [2], "green": [3]})
    record.features.feature["cover"].bytes_list.value.append(b"\xff")
    write_records(tmp_path / "a.tfrecord", [record.SerializeToString()])
    with pytest.raises(DataError, match=r"record 0: cover is '\\\\xff', which is no class of cover"):
        read_data(of_classes(), str(tmp_path / "a.tfrecord"))


def test_nothing_in_the_files(tmp_path: Path) -> None:
    write_records(tmp_path / "a.tfrecord.gz", [], gzip=True)
    with pytest.raises(DataError, match=r"a\.tfrecord\.gz holds no records; export patches"):
        read_data(of_classes(), str(tmp_path / "a.tfrecord.gz"))
    write_records(tmp_path / "a.tfrecord.gz", [b""], gzip=True)
    with pytest.raises(DataError, match=r"record 0 has no feature red; it has none, and needs"):
        read_data(of_classes(), str(tmp_path / "a.tfrecord.gz"))
