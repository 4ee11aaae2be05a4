"""The images that this project builds: where they lie, and by what they are named there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.earthengine.contract import Framework
from components.earthengine.errors import ParameterError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Images:
    """The images in a repository, by one tag or, where digests are given, by the digest of each.

    Attributes:
        repository: as HOST/PROJECT/NAME.
        tag: of every image.
        digests: of each image by its name, as sha256 and 64 hex digits; they stand in place of the tag.
    """

    repository: str
    tag: str = "latest"
    digests: Mapping[str, str] | None = None

    @classmethod
    def named(cls, repository: str, tag: str, digests: Path | None) -> Images:
        """The images as a command's options name them, with a file of digests or none.

        Raises:
            ParameterError: the file is none of digests.
        """
        return cls(repository, tag, read_digests(digests) if digests else None)

    def uri(self, name: str) -> str:
        """REPOSITORY/NAME:TAG, or REPOSITORY/NAME@DIGEST.

        Raises:
            ParameterError: digests are given, but not of this image.
        """
        if self.digests is None:
            return f"{self.repository}/{name}:{self.tag}"
        if name not in self.digests:
            raise ParameterError(
                f"--digests names no image {name}, only {', '.join(sorted(self.digests)) or 'none at all'}; give the "
                "file that `make push` has written, or leave --digests out and name the images by --tag"
            )
        return f"{self.repository}/{name}@{self.digests[name]}"

    def of_framework(self, framework: Framework) -> dict[str, str]:
        """The URI of each image that a framework's templates name, by the image's name.

        Raises:
            ParameterError: digests are given, but not of all of these.
        """
        return {name: self.uri(name) for name in ("steps-vertex", f"steps-{framework}", f"serving-{framework}")}


def read_digests(path: Path) -> dict[str, str]:
    """The digest of each image by its name, as `make push` writes them to a file of JSON.

    Raises:
        ParameterError: the file cannot be read, or holds anything else.
    """
    way_out = "give the file that `make push` has written"
    try:
        digests = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ParameterError(f"--digests {path} cannot be read as JSON: {error}; {way_out}") from error
    if not isinstance(digests, dict):
        raise ParameterError(f"--digests {path} holds a {type(digests).__name__}, not a mapping of images; {way_out}")
    for image, digest in digests.items():
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
            raise ParameterError(
                f"--digests {path}: {image!r:.60} is {digest!r:.100}; allowed: sha256: and 64 digits of 0-9 and a-f; "
                f"{way_out}"
            )
    return digests
