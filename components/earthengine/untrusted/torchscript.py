"""TorchScript: what its code calls, looked at before it is loaded.

`torch.jit.load` runs a class's `__setstate__`, and a graph may then save to, or map, any file that the process may, or
call other machines. None of that is a model's business.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from components.earthengine.untrusted import zips

if TYPE_CHECKING:
    import torch

# Operators that reach files or other machines (torch 2.13, `torch._C._jit_get_all_schemas()`), and the namespaces whose
# operators and classes do. `tests/hostile` holds the list against the version that is installed.
EFFECTS = frozenset(
    {"save", "from_file", "load_tensor", "rpc_async", "rpc_sync", "rpc_remote", "dist_rpc", "symm_mem", "debugprims"}
    | {"c10d", "dist_c10d", "c10d_functional", "_c10d_functional", "_c10d_functional_autograd"}
)
# Of one file of code; that of a large model has a tenth, and Python's syntax tree takes a hundred times the memory.
MAX_CODE_BYTES = 4 << 20
# Values of a tensor that no bytes of the file stand for, as those of torch.zeros(1).expand(n): 64 MiB as float32.
FREE_VALUES = 1 << 24


def load(source: Path | IO[bytes], device: Any) -> torch.jit.ScriptModule:
    """The module in a TorchScript file whose zip, code, parameters and buffers are within the bounds.

    Tensors in its other attributes may claim any shape, as those may that its code makes when it is asked.

    Raises:
        ValueError: they are not.
        RuntimeError: PyTorch cannot load it.
        OSError: it cannot be read.
    """
    import torch

    with zips.opened(source) as archive:
        held = sum(entry.file_size for entry in archive.infolist())
    if not isinstance(source, Path):
        source.seek(0)
    # PyTorch's own reader: another might be shown other code.
    reader = torch._C.PyTorchFileReader(str(source) if isinstance(source, Path) else source)
    # Without regard to case, as it finds them.
    check({name: reader.get_record(name) for name in reader.get_all_records() if name.lower().endswith(".py")})
    if not isinstance(source, Path):
        source.seek(0)
    module: torch.jit.ScriptModule = torch.jit.load(source, map_location=device)
    for name, tensor in module.state_dict().items():
        if tensor.numel() > held + FREE_VALUES:
            raise ValueError(f"its {name[:200]} claims the shape {list(tensor.shape)}, more than the file holds")
    return module


def check(code: Mapping[str, bytes]) -> None:
    """Refuse code that calls what reaches beyond the model.

    A word of `EFFECTS` as an attribute or as a text, which getattr could take, is refused wherever it stands.

    Args:
        code: each file of the archive's code by its name.

    Raises:
        ValueError: there is such a word, or code that cannot be looked through.
    """
    for name, text in code.items():
        if len(text) > MAX_CODE_BYTES:
            raise ValueError(f"its code {name} has {len(text):,} bytes; at most {MAX_CODE_BYTES:,} are looked through")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"its code {name} cannot be looked through ({type(error).__name__})") from None
        for node in ast.walk(tree):
            word = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(word, str) and word in EFFECTS:
                raise ValueError(
                    f"its code {name}, line {getattr(node, 'lineno', 0)}, calls {word}, which reaches files or other "
                    "machines; a model that only computes is loaded"
                )
