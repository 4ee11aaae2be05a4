"""What a run has left, as values that compare with what another run has left on a site of its own."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable
from difflib import unified_diff
from pathlib import Path
from typing import Any

from components import storage
from components.deploy import run_of
from components.digest import FILE_NAME as DIGEST_NAME
from components.releases import released
from components.trial import trial_name
from components.upload import version_digest
from components.versions import list_versions
from components.whole import is_aside
from tests.faults import steps
from tests.faults.killing import STAGING, Site
from tests.road.runs import PYTORCH_IMAGE, traffic

# What healthy runs differ in as well, in the order in which it is replaced.
_DIFFERS = (
    # When something was done, as ISO 8601 or as a label has it.
    (re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d[:-]\d\d[:-]\d\d((\+00:00|-00-00)|\.\d+| UTC)?"), "MOMENT"),
    # The same in the manifest of an archive.
    (re.compile(r'(?<="createdOn": ")[^"]*'), "MOMENT"),
    # How long a request took, in texts, pages and figures.
    (re.compile(r"[\d,.]+(?= ms\b)"), "TIME"),
    (re.compile(r'(?<=_ms": )[\d.]+|(?<=_milliseconds": )[\d.]+'), "TIME"),
    # How many requests there was time for, and how many of them another model answered: traffic is split by chance.
    (re.compile(r'(?<="requests": )\d+|(?<="Requests">)[\d,]+'), "COUNT"),
    (re.compile(r'(?<="elsewhere": )\d+|(?<="Answered by other models">)[\d,]+'), "COUNT"),
    # Names of the operations that the last attempt of a step began: those that wait for them need them, nobody later.
    (re.compile(r'(?<="operations": )\[[^]]*\]'), "[]"),
    # Where the local Vertex AI listens, or the proxy before it.
    (re.compile(r"127\.0\.0\.1:\d+"), "HOST"),
)
State = dict[str, Any]


def state(site: Site) -> State:
    """Everything that a run on a site can change, with the site's own names replaced.

    Versions and their labels, endpoints, what is deployed and its traffic, the run's record, staged files, what the
    steps gave to Kubeflow, and what they left aside.
    """
    names = _Names(site)
    vertex = site.vertex
    outputs = steps.outputs(site.folder)
    endpoints = [each for each in vertex.endpoints.list_endpoints(parent=vertex.parent) if _is_of(each, site)]
    return {
        "versions": [
            (each.version_id, names.replaced(json.dumps(dict(each.labels), sort_keys=True)), [*each.version_aliases])
            for each in list_versions(vertex, site.name)
        ],
        "endpoints": sorted(
            (
                names.replaced(each.display_name),
                # The label's ids of what is deployed no more say nothing to anyone (components/releases.py).
                names.replaced(json.dumps(dict(each.labels) | {"releases": released(each)}, sort_keys=True)),
                names.replaced(
                    json.dumps(sorted([it.id, it.model_version_id, run_of(it)] for it in each.deployed_models))
                ),
                names.replaced(json.dumps(traffic(vertex, each.name))),
            )
            for each in endpoints
        ),
        "record": names.of_objects(f"{STAGING}/runs/{site.run}"),
        "staged": names.of_objects(f"{STAGING}/{site.name}"),
        "outputs": {step: names.replaced(json.dumps(output)) for step, output in outputs.items()},
        "aside": [str(path.relative_to(site.folder)) for path in site.folder.rglob("*") if is_aside(Path(path.name))],
        "files": {
            f"{name}/{path.relative_to(uri)}": names.of_file(path.name, path.read_bytes())
            for output in outputs.values()
            for name, uri in steps.uris(output)
            for path in (uri, *sorted(uri.rglob("*")))
            if path.is_file()
        },
    }


def differences(one: State, other: State) -> str:
    """What is not the same in two states, for people."""
    return "\n".join(
        line
        for key in one
        for part, left, right in _parts(one[key], other[key])
        for line in unified_diff(_lines(left), _lines(right), f"{key} {part}", lineterm="", n=0)
    )


def _lines(value: Any) -> list[str]:
    return str(value).replace(", ", ",\n").splitlines()


def _parts(one: Any, other: Any) -> Iterable[tuple[str, Any, Any]]:
    if not isinstance(one, dict):
        return [("", one, other)]
    return [(each, one.get(each), other.get(each)) for each in sorted({*one, *other})]


def _is_of(endpoint: Any, site: Site) -> bool:
    return site.name in {endpoint.name.rsplit("/", 1)[-1], endpoint.labels.get("trial_of")}


class _Names:
    """The names of a site, and what stands for them."""

    def __init__(self, site: Site) -> None:
        self._names: list[tuple[str, str]] = []
        for path in site.folder.glob(f"**/{DIGEST_NAME}"):
            source, what = path.read_text(encoding="ascii"), path.parent.name.upper()
            self._names += [(version_digest(source, PYTORCH_IMAGE), f"{what} IN IMAGE"), (source, what)]
        trial = trial_name(site.vertex, site.run).rsplit("/", 1)[-1]
        self._names += [
            (str(site.folder), "FOLDER"),
            (site.deployed_model, "NEW"),
            (trial, "TRIAL"),
            (site.name, "NAME"),
        ]

    def replaced(self, text: str) -> str:
        for name, what in self._names:
            text = text.replace(name, what)
        for pattern, what in _DIFFERS:
            text = pattern.sub(what, text)
        return text

    def of_objects(self, uri: str) -> dict[str, str]:
        """What the objects in a folder hold, by their names."""
        bucket, prefix = storage.split(uri)
        return {
            self.replaced(blob.name.removeprefix(prefix)): self.of_file(blob.name, blob.download_as_bytes())
            for blob in bucket.list_blobs(prefix=prefix)
        }

    def of_file(self, name: str, content: bytes) -> str:
        """What a file holds: a text as it is, of a zip its members, of anything else its digest."""
        path = Path(name)
        if path.suffix in {".mar", ".pt", ".npz"}:
            return self._of_zip(content)
        try:
            return self.replaced(content.decode())
        except UnicodeDecodeError:
            return hashlib.sha256(content).hexdigest()

    def _of_zip(self, content: bytes) -> str:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return "\n".join(f"{name}: {self.of_file(name, archive.read(name))}" for name in sorted(archive.namelist()))
