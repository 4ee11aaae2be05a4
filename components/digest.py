"""The digest of a trained model: what tells whether its export would be the same again.

Of the source, not of what is exported from it: TensorFlow writes other bytes at every save.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from components import __version__
from components.earthengine.contract import ModelContract
from components.sample import sample_files

FILE_NAME = "source.sha256"


def source_digest(directory: Path, contract: ModelContract) -> str:
    """SHA-256 of the contract, of all files that export reads, and of this project's version, in hex."""
    total = hashlib.sha256(f"{__version__}\n{contract.dump()}".encode())
    model = directory / contract.model.file
    files = {model, *model.rglob("*"), *directory.rglob("*.py"), *sample_files(directory)}
    for path in sorted(path for path in files if path.is_file()):
        total.update(path.relative_to(directory).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
