"""A bill of materials for each image, made from the image itself: ``python -m containers.sbom FOLDER IMAGE...``.

Listed are the Python distributions and Debian packages that the image's file system holds, those of its base too, as
CycloneDX 1.6. The same image gives the same file. Wheels' hashes stand in the lock files, where a package has those of
all its wheels: which of them was installed an image does not tell.
"""

from __future__ import annotations

import argparse
import io
import signal
import sys
import tarfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import datetime
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any, cast

import docker
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from docker.errors import DockerException, ImageNotFound
from packageurl import PackageURL
from packaging.metadata import RawMetadata, parse_email
from packaging.utils import canonicalize_name
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from components.earthengine.errors import DiskError
from components.whole import whole_folder

# Docker may take minutes for the first bytes of an image of gigabytes.
_ANSWER_S = 600
_DPKG = "var/lib/dpkg/status"
_RELEASE = "usr/lib/os-release"
_DISTRIBUTIONS = (".dist-info/METADATA", ".egg-info/PKG-INFO")
# Where a METADATA's `License` is longer it is the licence's text, not its name.
_LICENCE_LETTERS = 60
# Of serial numbers, which are made of images' ids.
_NAMESPACE = uuid.UUID("8a1e29b6-8c6f-4f0c-9a76-0d5a1f3c1e52")


def main() -> int:
    """Writes FOLDER/NAME.cdx.json for each image; 1 where one is missing, and then none is written."""
    parser = argparse.ArgumentParser(prog="python -m containers.sbom", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for the bills, NAME.cdx.json each")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="such as local/steps-vertex:rehearsal")
    arguments = parser.parse_args()
    # As Ctrl-C does: remove the container before ending.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with closing(docker.from_env(timeout=_ANSWER_S)) as client:
            bills = {_name_of(image): bill_of(client, image) for image in arguments.images}
    except ImageNotFound as error:
        return _refused(f"{error.explanation}; allowed: images on this machine; build them with `make images`")
    except (DockerException, RequestException, HTTPError) as error:
        return _refused(f"Docker does not answer: {error}; start it, or set DOCKER_HOST")
    try:
        with whole_folder(arguments.folder) as aside:
            for name, bill in bills.items():
                (aside / f"{name}.cdx.json").write_text(bill + "\n", encoding="utf-8")
    except DiskError as error:
        return _refused(str(error))
    for name in bills:
        print(arguments.folder / f"{name}.cdx.json")  # noqa: T201
    return 0


def bill_of(client: docker.DockerClient, image: str) -> str:
    """The bill of materials of an image, in JSON.

    Args:
        client: of the Docker daemon that has the image.
        image: its name, with a tag or a digest, or its id.

    Raises:
        DockerException: there is no such image, or the daemon does not answer.
    """
    found = client.images.get(image)
    container = client.containers.create(found, ["none"])  # never started
    try:
        components = _components(cast(Iterable[bytes], container.export()))  # its stubs say str
    finally:
        container.remove(v=True)
    bom = Bom(
        components=[*components, *_interpreter(found.attrs["Config"].get("Env") or [])],
        serial_number=uuid.uuid5(_NAMESPACE, found.attrs["Id"]),
    )
    bom.metadata.timestamp = datetime.fromisoformat(found.attrs["Created"])
    bom.metadata.component = _image(image, found)
    bom.register_dependency(bom.metadata.component, bom.components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def _image(image: str, found: Any) -> Component:
    """The image itself, by its digest once it has been pushed, else by its id."""
    repository = image.partition("@")[0]
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    pushed = [each for each in found.attrs.get("RepoDigests") or [] if each.startswith(f"{repository}@")]
    version = pushed[0].partition("@")[2] if pushed else found.id
    name = _name_of(image)
    purl = PackageURL("oci", None, name, version, {"repository_url": repository}) if pushed else None
    return Component(type=ComponentType.CONTAINER, name=name, version=version, purl=purl, bom_ref=found.id)


def _name_of(image: str) -> str:
    return image.rpartition("/")[2].partition("@")[0].partition(":")[0]


def _components(exported: Iterable[bytes]) -> list[Component]:
    """What a file system holds, from the tar archive that Docker exports."""
    found: list[Component] = []
    status, release = b"", b""
    stream = io.BufferedReader(_Chunks(exported))
    with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content and member.name == _DPKG:
                status = content.read()
            elif content and member.name == _RELEASE:
                release = content.read()
            elif content and member.name.endswith(_DISTRIBUTIONS):
                found.append(_distribution(parse_email(content.read())[0]))
    # A distribution may be there twice, in two folders.
    return [*{str(each.purl): each for each in found}.values(), *_debian(status, release)]


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file to read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._left or memoryview(next(self._chunks, b""))
        count = min(len(buffer), len(chunk))
        buffer[:count] = chunk[:count]
        self._left = chunk[count:]
        return count


def _distribution(metadata: RawMetadata) -> Component:
    licence = _licence(metadata)
    purl = PackageURL("pypi", None, canonicalize_name(metadata["name"]), metadata["version"])
    return Component(
        type=ComponentType.LIBRARY,
        name=metadata["name"],
        version=metadata["version"],
        description=metadata.get("summary"),
        licenses=[licence] if licence else [],
        purl=purl,
        bom_ref=str(purl),
    )


def _licence(metadata: RawMetadata) -> License | None:
    """What a distribution says of its licence: an expression, a name, or else the first of its classifiers."""
    named = metadata.get("license_expression") or metadata.get("license", "").strip()
    if not named or "\n" in named or len(named) > _LICENCE_LETTERS:
        classifiers = (each for each in metadata.get("classifiers", []) if each.startswith("License :: "))
        named = next(classifiers, "").rpartition(" :: ")[2]
    return LicenseFactory().make_from_string(named) if named and named != "UNKNOWN" else None


def _debian(status: bytes, release: bytes) -> Iterator[Component]:
    system = dict(line.split("=", 1) for line in release.decode().splitlines() if "=" in line)
    vendor, number = (system.get(key, "").strip('"') for key in ("ID", "VERSION_ID"))
    for stanza in status.split(b"\n\n"):
        package = BytesHeaderParser().parsebytes(stanza)
        if package.get("Status", "").split()[-1:] != ["installed"]:
            continue
        qualifiers = {"arch": package["Architecture"], "distro": f"{vendor}-{number}"}
        purl = PackageURL("deb", vendor, package["Package"], package["Version"], qualifiers)
        yield Component(
            type=ComponentType.LIBRARY,
            name=package["Package"],
            version=package["Version"],
            purl=purl,
            bom_ref=str(purl),
        )


def _interpreter(environment: Iterable[str]) -> Iterator[Component]:
    """Python, where no package tells of it: python:3.11-slim compiles its own, and names the version in a variable."""
    for variable in environment:
        name, _, version = variable.partition("=")
        if name == "PYTHON_VERSION":
            cpe = f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*"
            purl = PackageURL("generic", None, "python", version)
            yield Component(
                type=ComponentType.PLATFORM, name="python", version=version, purl=purl, cpe=cpe, bom_ref=str(purl)
            )


def _refused(why: str) -> int:
    print(f"sbom: {why}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
