from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data import Labelled
from components.earthengine.errors import DataError
from components.held_out import load_held_out, save_held_out
from tests.conftest import contract_of

CONTRACT = contract_of(tile=[8, 6])  # width, height


def patches(count: int, height: int, width: int, kind: type[np.generic] = np.int64) -> Labelled:
    shape = (count, height, width)
    truth = np.arange(count * height * width).reshape(shape)
    return Labelled(np.stack([truth, truth + 0.5], 1).astype(np.float32), truth.astype(kind), "made")


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_points_and_patches_no_larger_than_a_tile_stay_as_they_are(tmp_path: Path, kind: type[np.generic]) -> None:
    for data in (patches(3, 1, 1, kind), patches(2, 6, 8, kind), patches(2, 5, 8, kind)):
        save_held_out(CONTRACT, data, tmp_path)
        loaded = load_held_out(tmp_path)
        np.testing.assert_array_equal(loaded.tiles, data.tiles, strict=True)
        np.testing.assert_array_equal(loaded.truth, data.truth, strict=True)
        assert loaded.origin == "made"


sides = st.integers(2, 20)


@given(
    st.integers(1, 3), sides, sides, st.sampled_from([(0, 0), (1, 0), (2, 3)]), st.sampled_from([np.int64, np.float32])
)
def test_every_pixel_with_its_overlap_is_judged_once(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    height: int,
    width: int,
    overlap: tuple[int, int],
    kind: type[np.generic],
) -> None:
    folder = tmp_path_factory.mktemp("held-out")
    contract = contract_of(tile=[8, 6], overlap=list(overlap))
    beside, above = overlap
    data = patches(count, height, width, kind)
    if width <= 2 * beside or height <= 2 * above:
        with pytest.raises(DataError, match=r"made: patches of .* pixels hold none that has the overlap"):
            save_held_out(contract, data, folder)
        return
    save_held_out(contract, data, folder)
    loaded = load_held_out(folder)
    assert loaded.truth.dtype == kind
    known = loaded.truth >= 0  # NaN is not
    inner = data.truth[:, above : height - above, beside : width - beside]
    np.testing.assert_array_equal(np.sort(loaded.truth[known]), inner.ravel())
    # What is sent around each such pixel is what is around it in its patch.
    where = {int(value): place for place, value in np.ndenumerate(data.truth)}
    for tile, y, x in np.argwhere(known):
        patch, row, column = where[int(loaded.truth[tile, y, x])]
        np.testing.assert_array_equal(
            loaded.tiles[tile, :, y - above : y + above + 1, x - beside : x + beside + 1],
            data.tiles[patch, :, row - above : row + above + 1, column - beside : column + beside + 1],
        )


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"held-out.npz holds no held-out data .*; train the model again"):
        load_held_out(tmp_path)
    (tmp_path / "held-out.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="holds no held-out data"):
        load_held_out(tmp_path)
