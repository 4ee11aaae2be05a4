"""Keras files from outside: what their config claims is held against what they hold, before a weight is made.

Keras makes each weight with random values before it reads what the file has for it, and reads whatever size a file
says. Its safe mode refuses what runs code; links to other files and bombs are refused here, whatever Keras does.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import keras
from keras.src.backend.common import global_state
from keras.src.legacy.saving import saving_options, saving_utils
from keras.src.saving.serialization_lib import SafeModeScope

from components.earthengine.untrusted import zips
from components.earthengine.untrusted.files import regular

# A config has some kilobytes a layer; this is the bound of what is parsed.
MAX_CONFIG_BYTES = 16 << 20
# Values that a model may have beyond the bytes of its file: states of random numbers, counters.
FREE_VALUES = 1 << 24
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
# Where Keras 3.15 keeps the variables that a scope has left without values, to give them some later.
_UNINITIALIZED = "uninitialized_variables"


def check(path: Path) -> None:
    """Refuse a .keras or .h5 file that claims more than it holds, or that leads to other files.

    Raises:
        ValueError: it does, or is no such file.
        OSError: it cannot be read.
        Exception: what Keras raises for a config that it cannot, or in safe mode will not, make a model of.
    """
    held = regular(path)
    if path.suffix == ".keras":
        with zips.opened(path) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
            config = _uncompiled(_parsed(_config(archive)))
            if _WEIGHTS in archive.namelist():
                # Keras reads it whole as well.
                _check_weights(io.BytesIO(zips.read(archive, _WEIGHTS)), held)
        with _without_values():
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    else:
        config = _parsed(_check_weights(path, held))
        with _without_values(), saving_options.keras_option_scope(use_legacy_config=True), SafeModeScope(True):
            model = saving_utils.model_from_config(config)
    claimed = sum(math.prod(variable.shape) for variable in model.variables)
    if claimed > held + FREE_VALUES:
        raise ValueError(f"its layers claim {claimed:,} weights, more than the {held:,} bytes that it holds")


def _config(archive: zipfile.ZipFile) -> bytes:
    if _CONFIG not in archive.namelist():
        raise ValueError(f"it has no {_CONFIG}")
    if (size := archive.getinfo(_CONFIG).file_size) > MAX_CONFIG_BYTES:
        raise ValueError(f"its {_CONFIG} has {size:,} bytes; at most {MAX_CONFIG_BYTES:,} are read")
    return zips.read(archive, _CONFIG)


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the lists and objects of its config lie too deep in one another") from None


def _uncompiled(config: Any) -> Any:
    """A config without what its models are compiled with: an optimizer has values of its own, and only trains."""
    if isinstance(config, dict):
        return {key: _uncompiled(value) for key, value in config.items() if key != "compile_config"}
    return [_uncompiled(each) for each in config] if isinstance(config, list) else config


def _check_weights(source: Path | IO[bytes], held: int) -> str:
    """The config of a legacy .h5 file; empty where it has none, as weights alone.

    Raises:
        ValueError: it leads to other files, or a dataset is larger than what such a file can hold.
    """
    with h5py.File(source) as file:
        for name, group in _groups(file):
            for key in group:
                if isinstance(group.get(key, getlink=True), h5py.ExternalLink):
                    raise ValueError(f"its {name}/{key} is a link to another file")
                dataset = group.get(key)
                if not isinstance(dataset, h5py.Dataset):
                    continue
                if dataset.external or dataset.is_virtual:
                    raise ValueError(f"the values of its {name}/{key} lie in another file")
                if dataset.nbytes > max(zips.FREE_BYTES, zips.MAX_RATIO * held):
                    raise ValueError(
                        f"its {name}/{key} claims {dataset.nbytes:,} bytes of shape {list(dataset.shape)}, the file "
                        f"has {held:,}"
                    )
        return str(file.attrs.get("model_config", ""))


def _groups(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """A file's groups, each once and none behind a link that leads elsewhere."""
    yield "", file
    found: list[tuple[str, h5py.Group]] = []
    file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Group) else None)
    yield from found


@contextmanager
def _without_values() -> Iterator[None]:
    """A block in which models are made with weights that have shapes alone."""
    waiting = global_state.get_global_attribute(_UNINITIALIZED)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(_UNINITIALIZED, waiting)
