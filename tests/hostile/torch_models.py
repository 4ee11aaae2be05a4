"""Hostile directories of trained PyTorch models."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.hostile.contracts import write
from tests.hostile.corpus import hostile
from tests.hostile.zipped import ZEROS, bomb, rewrite, with_entry, with_link

NAME = "net.pt"
_PLACE = "/marker-file"


class Sum(nn.Module):
    """The model that the small contract is of."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class Weighted(nn.Module):
    """With seven weights, a number that stands nowhere else in its pickle."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) * self.w.sum()


class SavesWhenAsked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "/marker-file")
        return x.sum(1)


class SavesWhenLoaded(nn.Module):
    @torch.jit.export
    def __getstate__(self) -> int:
        return 3

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        torch.save(state, "/marker-file")
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_file("/marker-file", True, 4) + x.sum(1)


class Opens:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def script(model: nn.Module, path: Path) -> None:
    """Save a module as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(model.eval()), str(path))


def marked(model: nn.Module, path: Path, mark: Path) -> None:
    """Save a module as TorchScript whose code has the marker's own path."""
    script(model, path.with_suffix(".plain"))
    place = str(mark).encode()
    rewrite(path.with_suffix(".plain"), path, lambda name, c: c.replace(_PLACE.encode(), place) if ".py" in name else c)
    path.with_suffix(".plain").unlink()


def harmless(folder: Path) -> None:
    """What every file here is made of."""
    write(folder)
    script(Weighted(), folder / NAME)


def _coded(folder: Path, text: str, mark: Path) -> None:
    """A TorchScript whose forward is this text, before its return."""
    write(folder)
    script(Sum(), folder / "plain.pt")
    text = text.replace(_PLACE, str(mark))

    def changed(name: str, content: bytes) -> bytes:
        return content.replace(b"  return", text.encode() + b"\n  return") if name.endswith(".py") else content

    rewrite(folder / "plain.pt", folder / NAME, changed)
    (folder / "plain.pt").unlink()


@hostile("pytorch", "calls save, which reaches files")
def torchscript_that_writes_when_asked(folder: Path, mark: Path) -> None:
    write(folder)
    marked(SavesWhenAsked(), folder / NAME, mark)


@hostile("pytorch", "calls save, which reaches files")
def torchscript_that_writes_when_loaded(folder: Path, mark: Path) -> None:
    write(folder)
    marked(SavesWhenLoaded(), folder / NAME, mark)


@hostile("pytorch", "calls from_file, which reaches files")
def torchscript_that_maps_a_file(folder: Path, mark: Path) -> None:
    write(folder)
    marked(Maps(), folder / NAME, mark)


@hostile("pytorch", "calls save, which reaches files")
def torchscript_by_another_name(folder: Path, mark: Path) -> None:
    _coded(folder, '  t = torch\n  t.save(x, "/marker-file")', mark)


@hostile("pytorch", "calls save, which reaches files")
def torchscript_by_getattr_and_an_escape(folder: Path, mark: Path) -> None:
    _coded(folder, r'  getattr(torch, "s\x61ve")(x, "/marker-file")', mark)


@hostile("pytorch", "calls save, which reaches files")
def torchscript_of_ops_over_lines(folder: Path, mark: Path) -> None:
    _coded(folder, '  _0 = (ops.aten.  # on\n    save)(x, "/marker-file")', mark)


@hostile("pytorch", "calls save, which reaches files")
def torchscript_with_code_in_capitals(folder: Path, mark: Path) -> None:
    """PyTorch's reader finds names whatever their case."""
    write(folder)
    marked(SavesWhenLoaded(), folder / "plain.pt", mark)
    content = (folder / "plain.pt").read_bytes().replace(b"/code/__torch__.py", b"/code/__torch__.PY")
    (folder / NAME).write_bytes(content)


@hostile("pytorch", "twice|first entry")
def torchscript_with_two_directories(folder: Path, mark: Path) -> None:
    """A good zip behind a hostile one: which is read depends on how offsets are reckoned."""
    write(folder)
    marked(SavesWhenLoaded(), folder / "bad.pt", mark)
    script(Sum(), folder / "good.pt")
    (folder / NAME).write_bytes((folder / "bad.pt").read_bytes() + (folder / "good.pt").read_bytes())


@hostile("pytorch", "cannot be looked through")
def torchscript_that_nests(folder: Path, mark: Path) -> None:
    _coded(folder, f"  _0 = {'(' * 10_000}x{')' * 10_000}", mark)


@hostile("pytorch", "leads out of the archive")
def traversal(folder: Path, mark: Path) -> None:
    write(folder)
    script(Sum(), folder / "plain.pt")
    with_entry(folder / "plain.pt", folder / NAME, "../../marker-file")


@hostile("pytorch", "leads out of the archive")
def traversal_of_windows(folder: Path, mark: Path) -> None:
    write(folder)
    script(Sum(), folder / "plain.pt")
    with_entry(folder / "plain.pt", folder / NAME, "..\\..\\marker-file")


@hostile("pytorch", "is a link")
def link_in_the_zip(folder: Path, mark: Path) -> None:
    write(folder)
    script(Sum(), folder / "plain.pt")
    with_link(folder / "plain.pt", folder / NAME, "plain/data.link", "/etc/passwd")


@hostile("pytorch", "times the archive's")
def zip_bomb(folder: Path, mark: Path) -> None:
    write(folder)
    bomb(folder / NAME, "net/data/0", 256, {"net/code/__torch__.py": b"", "net/data.pkl": b""})


@hostile("pytorch", "lie over one another|BadZipFile|twice|Overlapped|cannot be loaded")
def zip_bomb_of_entries_over_one_another(folder: Path, mark: Path) -> None:
    """All entries of the directory are the same bytes, each of which unpacks to 16 MiB."""
    write(folder)
    with zipfile.ZipFile(folder / NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("n/code/__torch__.py", "")
        archive.writestr("n/0", ZEROS * 16)
        entry = archive.getinfo("n/0")
        for n in range(1, 5000):
            again = zipfile.ZipInfo(f"n/{n}")
            for key in ("compress_type", "CRC", "compress_size", "file_size", "header_offset", "external_attr"):
                setattr(again, key, getattr(entry, key))
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again


@hostile("pytorch", "more than the file holds|cannot be loaded")
def tensor_of_a_terabyte_by_strides(folder: Path, mark: Path) -> None:
    write(folder)
    model = Weighted()
    model.w = nn.Parameter(torch.ones(1).expand(10**12), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(model.eval()), str(folder / NAME))


def _claim(source: Path, target: Path) -> None:
    """Have the pickle of a torch zip say a million million where it says 7."""
    many = pickle.dumps(10**12, 2)[2:-1]
    rewrite(source, target, lambda name, c: c.replace(b"K\x07", many) if name.endswith("data.pkl") else c)


@hostile("pytorch", "cannot be loaded")
def storage_of_terabytes(folder: Path, mark: Path) -> None:
    write(folder)
    script(Weighted(), folder / "plain.pt")
    _claim(folder / "plain.pt", folder / NAME)


@hostile("pytorch", "any code inside it")
def pickle_of_torch(folder: Path, mark: Path) -> None:
    write(folder)
    torch.save(Opens(mark), folder / NAME)


@hostile("pytorch", "any code inside it")
def pickle_alone(folder: Path, mark: Path) -> None:
    write(folder)
    (folder / NAME).write_bytes(pickle.dumps(Opens(mark)))


@hostile("pytorch", "any code inside it")
def pickle_in_a_tar(folder: Path, mark: Path) -> None:
    """PyTorch's oldest format, which is unpacked to a folder."""
    write(folder)
    with tarfile.open(folder / NAME, "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors", "../../marker-file"):
            content = pickle.dumps(Opens(mark))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@hostile("pytorch", "may do anything when it is run")
def code_beside_a_state_dict(folder: Path, mark: Path) -> None:
    write(folder, model={"file": NAME, "code": "net.py:build"})
    (folder / "net.py").write_text(f"open({str(mark)!r}, 'w')\ndef build():\n    pass\n")
    torch.save({}, folder / NAME)


@hostile("pytorch", "may do anything when it is run")
def code_beside_a_pickle(folder: Path, mark: Path) -> None:
    write(folder, model={"file": NAME, "code": "net.py:build"})
    (folder / "net.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(1, 1)\n")
    torch.save(Opens(mark), folder / NAME)


@hostile("pytorch", "PytorchStreamReader|cannot be loaded|not a zip")
def cut(folder: Path, mark: Path) -> None:
    write(folder)
    script(Weighted(), folder / "plain.pt")
    content = (folder / "plain.pt").read_bytes()
    (folder / NAME).write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 100 :])


@hostile("pytorch", "leads out of the directory by a link")
def link_to_a_file_outside(folder: Path, mark: Path) -> None:
    write(folder)
    script(Sum(), folder.parent / f"{folder.name}-outside.pt")
    (folder / NAME).symlink_to(folder.parent / f"{folder.name}-outside.pt")


@hostile("pytorch", "leads out of the directory by a link")
def folder_that_is_a_link(folder: Path, mark: Path) -> None:
    write(folder, model={"file": f"weights/{NAME}"})
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    script(Sum(), outside / NAME)
    (folder / "weights").symlink_to(outside)


@hostile("pytorch", "which does not exist")
def link_that_dangles(folder: Path, mark: Path) -> None:
    write(folder)
    (folder / NAME).symlink_to("nowhere")


@hostile("pytorch", "cannot be followed")
def links_in_a_circle(folder: Path, mark: Path) -> None:
    write(folder)
    (folder / NAME).symlink_to("other")
    (folder / "other").symlink_to(NAME)


@hostile("pytorch", "is a pipe")
def pipe_for_a_model(folder: Path, mark: Path) -> None:
    write(folder)
    os.mkfifo(folder / NAME)


@hostile("pytorch", "leads out of the directory by a link")
def device_for_a_model(folder: Path, mark: Path) -> None:
    write(folder)
    (folder / NAME).symlink_to("/dev/zero")
