from __future__ import annotations

import datetime
import gzip
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data import Labelled, read_data
from components.earthengine.errors import DataError
from tests.data.contracts import LABELS, of_a_number, of_classes

CSV = "system:index,green,cover,red\n0_0,2,Water,1\n0_1,4.5,Urban,-3e2\n"
ENDINGS = [".csv", ".csv.gz", ".parquet"]


def write(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


def csv(folder: Path, text: str) -> str:
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return str(folder / "a.csv")


def points(data: Labelled) -> list[list[float]]:
    assert data.tiles.shape[2:] == (1, 1)
    assert data.truth.shape == (len(data.tiles), 1, 1)
    assert data.tiles.dtype == np.float32
    rows: list[list[float]] = data.tiles[:, :, 0, 0].tolist()
    return rows


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("labels", [["Water", "Urban"], [2, 0], [2.0, 0.0], ["2", "0"]])
def test_points_of_classes(tmp_path: Path, ending: str, labels: list[Any]) -> None:
    table = pd.DataFrame({"id": ["x", "y"], "green": [2, 4.5], "cover": labels, "red": [1, -300]})
    data = read_data(of_classes(), str(write(tmp_path / f"a{ending}", table)))
    assert points(data) == [[1, 2], [-300, 4.5]]
    assert data.truth.dtype == np.int64
    assert data.truth.ravel().tolist() == [2, 0]
    assert data.origin == f"a{ending}, 2 rows"


@pytest.mark.parametrize("ending", ENDINGS)
def test_points_of_a_number(tmp_path: Path, ending: str) -> None:
    table = pd.DataFrame({"red": [1, 2], "biomass": [0.1, -7], "green": [3, 4]})
    data = read_data(of_a_number(), str(write(tmp_path / f"a{ending}", table)))
    assert points(data) == [[1, 3], [2, 4]]
    assert data.truth.dtype == np.float32
    assert data.truth.ravel().tolist() == np.array([0.1, -7], np.float32).tolist()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 2, st.sampled_from(LABELS)),
        min_size=1,
    ),
    st.sampled_from(ENDINGS),
)
def test_any_table(tmp_path: Path, rows: list[tuple[float, float, str]], ending: str) -> None:
    red, green, labels = zip(*rows, strict=True)
    table = pd.DataFrame({"cover": labels, "red": red, "green": green})
    data = read_data(of_classes(), str(write(tmp_path / f"a{ending}", table)))
    assert points(data) == [[a, b] for a, b, _ in rows]
    assert data.truth.ravel().tolist() == [LABELS.index(label) for label in labels]


def test_a_header_as_others_write_it(tmp_path: Path) -> None:
    data = read_data(
        of_classes(), csv(tmp_path, "\ufeff" + CSV.replace("\n", "\r\n").replace("system:index", "cover.1"))
    )
    assert points(data) == [[1, 2], [-300, 4.5]]
    assert data.truth.ravel().tolist() == [2, 0]


def test_a_class_called_none(tmp_path: Path) -> None:
    outputs = [{"name": "cover", "dimensions": 1, "labels": ["None", "NA"]}]
    data = read_data(of_classes(outputs=outputs), csv(tmp_path, "red,green,cover\n1,2,NA\n1,2,None\n"))
    assert data.truth.ravel().tolist() == [1, 0]


def test_classes_called_as_other_types_are_written(tmp_path: Path) -> None:
    outputs = [{"name": "cover", "dimensions": 1, "labels": ["02", "01", "true"]}]
    for texts, numbers in (("01", "02"), [1, 0]), (("true", "true"), [2, 2]):
        path = csv(tmp_path, f"red,green,cover\n1,2,{texts[0]}\n1,2,{texts[1]}\n")
        assert read_data(of_classes(outputs=outputs), path).truth.ravel().tolist() == numbers


def test_a_band_called_na(tmp_path: Path) -> None:
    contract = of_classes(bands=[{"name": "NA"}, {"name": "green"}])
    assert points(read_data(contract, csv(tmp_path, "NA,green,cover\n1,2,0\n"))) == [[1, 2]]


def test_parquet_of_other_types(tmp_path: Path) -> None:
    red = pd.Series([1, 2], dtype="uint16")
    table = pd.DataFrame(
        {"red": red, "green": [Decimal("0.5"), Decimal(3)], "cover": pd.Categorical(["Water", "Urban"])}
    )
    table.set_index("red").to_parquet(tmp_path / "a.parquet")
    data = read_data(of_classes(), str(tmp_path / "a.parquet"))
    assert points(data) == [[1, 0.5], [2, 3]]
    assert data.truth.ravel().tolist() == [2, 0]


HEAD = "red,green,cover\n1,2,Water\n"
WRONG: dict[str, tuple[str, str]] = {
    "no label": (
        "red,green,class\n1,2,0\n",
        "has no column cover; it has red, green, class, and needs a column for each",
    ),
    "no band": (
        "red,cover\n1,0\n",
        "has no column green; it has red, cover, and needs a column for each band and one for",
    ),
    "neither": ("a,green\n1,0\n", "has no column red and has no column cover; it has a, green, and needs"),
    "twice": ("red,green,red,cover\n1,2,3,0\n", "has the column red 2 times; it has red, green, red, cover, and needs"),
    "no rows": ("red,green,cover\n", "has no rows; it must have one for each point"),
    "empty band": (HEAD + "1,,Urban\n", "row 2, column green is empty or no number (NaN); allowed: finite numbers"),
    "NaN": (HEAD + "NaN,1,Urban\n", "row 2, column red is empty or no number (NaN); allowed: finite numbers; correct"),
    "infinite": (HEAD + "1,-inf,Urban\n", "row 2, column green is -inf, which float32 cannot hold; allowed: finite"),
    "too large": (HEAD + "1,1e39,Urban\n", "row 2, column green is 1e+39, which float32 cannot hold; allowed: finite"),
    "text": (HEAD + "3,clouds,Urban\n", "row 2, column green is 'clouds'; allowed: a number; correct it or leave"),
    "truth value": (HEAD + "3,True,Urban\n", "row 2, column green is 'True'; allowed: a number; correct it or leave"),
    "truth values": (
        "red,green,cover\nTrue,1,0\n",
        "row 1, column red is True; allowed: a number; correct it or leave",
    ),
    "empty label": (
        HEAD + "3,4,\n",
        "row 2, column cover is empty; allowed: Urban, Vegetation, Water, or a number from 0",
    ),
    "short row": (HEAD + "3,4\n", "row 2, column cover is empty; allowed: Urban, Vegetation, Water"),
    "unknown label": (
        HEAD + "3,4,Ice\n",
        "row 2, column cover is 'Ice', which is no class of cover; allowed: Urban, Vegetation, Water, or a number "
        "from 0 to 2; correct it or leave it out",
    ),
    "unknown number": (
        HEAD + "3,4,3\n",
        "row 2, column cover is '3', which is no class of cover; allowed: Urban, Vege",
    ),
    "no whole number": (HEAD + "3,4,0.5\n", "row 2, column cover is '0.5', which is no class of cover; allowed: Urban"),
    "long row": (HEAD + "3,4,Urban,5\n", "cannot be read as CSV: "),
    "all rows long": ("red,green,cover\n7,1,2,Water\n8,3,4,Water\n", "cannot be read as CSV: "),
    "nothing": ("", "cannot be read as CSV: No columns to parse from file; write it again"),
    "a quote": (HEAD + '"3,4,Urban\n', "cannot be read as CSV: "),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG.keys())
def test_wrong_csv(tmp_path: Path, text: str, said: str) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(DataError, match=rf"^{re.escape(path)}:? {re.escape(said)}"):
        read_data(of_classes(), path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "row 2, column biomass is empty or no number (NaN)"),
        ("much", "row 2, column biomass is 'much'; allowed: a number"),
        ("inf", "row 2, column biomass is inf, which float32 cannot hold"),
    ],
)
def test_wrong_number(tmp_path: Path, text: str, said: str) -> None:
    path = csv(tmp_path, f"red,green,biomass\n1,2,3\n4,5,{text}\n")
    with pytest.raises(DataError, match=re.escape(said)):
        read_data(of_a_number(), path)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({"cover": ["Water", None]}, "row 2, column cover is empty; allowed"),
        ({"cover": [[0], [1]]}, "cannot be read as Parquet: column cover holds list<"),
        ({"cover": [2, 3]}, "row 2, column cover is 3, which is no class of cover; allowed"),
        ({"cover": [False, True]}, "row 1, column cover is False, which is no class of cover; allowed"),
        ({"red": [None, None]}, "row 1, column red is empty or no number"),
        ({"red": [1, None]}, "row 2, column red is empty or no number"),
        ({"red": ["1", "x"]}, "row 2, column red is 'x'; allowed: a number"),
        (
            {"red": [datetime.datetime(2026, 1, 1)] * 2},
            "row 1, column red is Timestamp('2026-01-01 00:00:00'); allowed",
        ),
        ({"red": [b"1", b"2"]}, "row 1, column red is b'1'; allowed: a number"),
        ({"red": [True, False]}, "row 1, column red is True; allowed: a number"),
    ],
)
def test_wrong_parquet(tmp_path: Path, column: dict[str, list[Any]], said: str) -> None:
    table = pd.DataFrame({"red": [1, 2], "green": [3, 4], "cover": [0, 1]} | column)
    path = write(tmp_path / "a.parquet", table)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}:? {re.escape(said)}"):
        read_data(of_classes(), str(path))


def test_parquet_without_a_column_or_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pd.DataFrame({"red": [1], "cover": [0]}))
    with pytest.raises(DataError, match=r"has no column green; it has red, cover, and needs"):
        read_data(of_classes(), str(path))
    path = write(tmp_path / "a.parquet", pd.DataFrame({"red": [], "green": [], "cover": []}))
    with pytest.raises(DataError, match=r"a\.parquet has no rows"):
        read_data(of_classes(), str(path))


@pytest.mark.parametrize("ending", [".csv.gz", ".parquet"])
def test_a_table_that_is_cut_off(tmp_path: Path, ending: str) -> None:
    table = pd.DataFrame({"red": range(500), "green": range(500), "cover": 0})
    whole = write(tmp_path / f"a{ending}", table).read_bytes()
    for end in (0, 1, 5, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"a{ending}").write_bytes(whole[:end])
        with pytest.raises(DataError, match=rf"a{ending} cannot be read as (CSV|Parquet): .+; write it again$"):
            read_data(of_classes(), str(tmp_path / f"a{ending}"))


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"red,green,cover\n1,2,Stra\xdfe\n")
    with pytest.raises(DataError, match=r"a\.csv cannot be read as CSV: .*utf-8"):
        read_data(of_classes(), str(tmp_path / "a.csv"))
    (tmp_path / "b.csv.gz").write_text(CSV)
    with pytest.raises(DataError, match=r"b\.csv\.gz cannot be read as CSV: Not a gzipped file"):
        read_data(of_classes(), str(tmp_path / "b.csv.gz"))
    (tmp_path / "c.csv").mkdir()
    for name in ("c.csv", "none.parquet"):
        with pytest.raises(DataError, match=rf"{name} does not exist; correct the address"):
            read_data(of_classes(), str(tmp_path / name))
    damaged = bytearray(gzip.compress(CSV.encode() * 50))
    damaged[40] ^= 255
    (tmp_path / "d.csv.gz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"d\.csv\.gz cannot be read as CSV: "):
        read_data(of_classes(), str(tmp_path / "d.csv.gz"))
