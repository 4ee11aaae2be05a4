"""Imports a package submodule by submodule."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any


def import_by_submodule(name: str) -> None:
    """Put a package in place that loads each of its submodules when it is asked for.

    For packages whose own code imports all of them. Whoever asks for anything but a submodule gets
    the whole package, as if it had been imported in the ordinary way.
    """
    spec = importlib.util.find_spec(name)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if importlib.util.find_spec(f"{name}.{attribute}"):
            return importlib.import_module(f"{name}.{attribute}")
        del module.__getattr__
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__getattr__ = load  # type: ignore[method-assign]  # PEP 562
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
