"""Tables: CSV and Parquet, of which each row is a labelled point."""

from __future__ import annotations

import gzip
import warnings
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.data.labelled import Labelled
from components.data.packed import check_unpacked
from components.data.truth import Where, class_numbers, finite
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DataError
from components.earthengine.explain import shown

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".csv.gz", ".parquet")

# A class may be called None or NA, so that not all that pandas takes for empty is.
_EMPTY = ["", "nan", "NaN"]

# Ten thousand columns with names of a hundred letters.
_LONGEST_HEADER = 1 << 20
# 2 GiB as float64, before the network that is trained here sees any; a Parquet file says a number once for all rows
# that have it, so that some bytes may claim any number of rows.
_MOST_VALUES = 1 << 28


def read_table(contract: ModelContract, path: Path, name: str) -> Labelled:
    """The points of a table that has a column for each band and one for the output, by their names.

    Args:
        contract: of a model that can be trained (see `check_trainable`).
        path: the table; what ends in .parquet is Parquet, all else CSV with a header.
        name: what errors call it.

    Raises:
        DataError: the table is not there, is malformed, has no rows or lacks a column; or a value is no number, empty,
            or no class. Rows are counted from 1, without the header.
    """
    (output,) = contract.outputs
    bands = [band.name for band in contract.bands]
    table = _read(path, name, [*bands, output.name], output.name if output.labels else None)
    if not len(table):
        raise DataError(f"{name} has no rows; it must have one for each point")

    def in_column(column: str) -> Where:
        return lambda row: f"{name}: row {row + 1}, column {column}"

    points = [finite(_numbers(table[band], in_column(band)), in_column(band)) for band in bands]
    where = in_column(output.name)
    truth: NDArray[np.int64] | NDArray[np.float32]
    if output.labels:
        truth = class_numbers(output, table[output.name].to_numpy(object), where)
    else:
        truth = finite(_numbers(table[output.name], where), where)
    tiles = np.stack(points, axis=1)[:, :, np.newaxis, np.newaxis]
    return Labelled(tiles, truth[:, np.newaxis, np.newaxis], f"{Path(name).name}, {len(table)} rows")


def _read(path: Path, name: str, wanted: list[str], text: str | None) -> pd.DataFrame:
    """The wanted columns of a table, one of them as text."""
    if not path.is_file():
        raise DataError(f"{name} does not exist; correct the address")
    try:
        if path.name.endswith(".gz"):
            check_unpacked(path, name)
        columns = _columns(path)
    except DataError:
        raise
    except Exception as error:  # what pandas, pyarrow, gzip and zlib raise: ValueError, OSError, EOFError, ...
        raise _unreadable(name, error) from error
    wrong = [f"has no column {column}" for column in wanted if column not in columns]
    wrong += [
        f"has the column {column} {columns.count(column)} times" for column in wanted if columns.count(column) > 1
    ]
    if wrong:
        raise DataError(
            f"{name} {' and '.join(wrong)}; it has {_listed(columns)}, and needs a column for each band and one "
            f"for what is true there, once: {', '.join(wanted)}"
        )
    try:
        return _content(path, wanted, text)
    except Exception as error:  # as above
        raise _unreadable(name, error) from error


def _listed(columns: list[str]) -> str:
    """Names of columns as an error shows them, cut where they are many."""
    return ", ".join(columns[:30]) + (", ..." if len(columns) > 30 else "") or "none"


def _unreadable(name: str, error: Exception) -> DataError:
    said = str(error) or type(error).__name__
    return DataError(f"{name} cannot be read as {'Parquet' if _is_parquet(name) else 'CSV'}: {said}; write it again")


def _is_parquet(path: Path | str) -> bool:
    return str(path).endswith(".parquet")


def _columns(path: Path) -> list[str]:
    if _is_parquet(path):
        from pyarrow import parquet

        return list(parquet.read_schema(path).names)
    import pandas as pd

    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        if len(file.readline(_LONGEST_HEADER)) == _LONGEST_HEADER:
            raise ValueError(f"its first line, which names the columns, has {_LONGEST_HEADER:,} bytes or more")
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
    return [str(column) for column in header.iloc[0]]


def _content(path: Path, wanted: list[str], text: str | None) -> pd.DataFrame:
    if _is_parquet(path):
        import pyarrow as pa
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            if (values := file.metadata.num_rows * len(wanted)) > _MOST_VALUES:
                raise ValueError(
                    f"it claims {values:,} values in {len(wanted)} columns; at most {_MOST_VALUES:,} are read"
                )
            columns = file.read(columns=wanted)
        if lists := [field for field in columns.schema if pa.types.is_nested(field.type)]:
            raise ValueError(f"column {lists[0].name} holds {lists[0].type}, not one value a row")
        # Without the metadata, in which pandas says what is to be the index, and so no column.
        table: pd.DataFrame = columns.to_pandas(ignore_metadata=True)
        return table
    import pandas as pd

    with warnings.catch_warnings():
        # Rows with more values than the header names: pandas would leave some out, as it does with usecols unasked, or
        # take the first for an index.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            path,
            index_col=False,
            dtype={text: str} if text else None,
            keep_default_na=False,
            na_values=_EMPTY,
            low_memory=False,
        )


def _numbers(column: pd.Series[Any], where: Where) -> NDArray[Any]:
    """The numbers in a column; where it is empty NaN."""
    import pandas as pd

    values = column.to_numpy()
    if values.dtype.kind in "iuf":
        return values
    cells = column.to_numpy(object)
    # Only of these, as to_numeric makes numbers of truth values and moments too.
    texts = pd.Series([cell if isinstance(cell, str | Decimal) else None for cell in cells], dtype=object)
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    wrong = np.isnan(numbers) & ~pd.isna(cells)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{where(row)} is {shown(cells[row])}; allowed: a number; correct it or leave the row out")
    return numbers
