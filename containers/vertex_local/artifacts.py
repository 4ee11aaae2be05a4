"""A model's artifacts: looked at where the user has them, and copied at upload, as Vertex AI does.

A deployed model gets the copy. What its user changes or deletes later does not reach it.
"""

import os
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp

from .errors import InvalidArgumentError

_BUCKET = "vertex-managed-artifacts"
_GS_URI = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]+)(?:/(?P<folder>.*))?")


def managed_uri(model: Any) -> str:
    """Where the copy of a version's artifacts lies; "" for a model that has none."""
    return f"gs://{_BUCKET}/{_folder_of(model)}" if model.artifact_uri else ""


class Artifacts:
    """Objects in Cloud Storage, through its JSON API."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client
        self._url = f"{os.environ['STORAGE_EMULATOR_HOST'].rstrip('/')}/storage/v1/b"

    async def check(self, artifact_uri: str) -> None:
        """Makes sure that an artifact URI names a bucket and a folder with something in it.

        Raises:
            InvalidArgumentError: it does not.
        """
        bucket, folder = _split(artifact_uri)
        async for _ in self._names(bucket, folder, artifact_uri):
            return
        raise InvalidArgumentError(f"artifactUri {artifact_uri!r}: there is no object under it")

    async def copy(self, model: Any) -> None:
        """Copies the artifacts of a version to where ``managed_uri`` says."""
        if not model.artifact_uri:
            return
        async with self._client.post(self._url, json={"name": _BUCKET}) as answer:
            if answer.status != 409:  # it is there
                answer.raise_for_status()
        bucket, folder = _split(model.artifact_uri)
        async for name in self._names(bucket, folder, model.artifact_uri):
            target = f"{_folder_of(model)}/{name.removeprefix(folder).lstrip('/')}"
            path = f"{bucket}/o/{_quoted(name)}/rewriteTo/b/{_BUCKET}/o/{_quoted(target)}"
            async with self._client.post(f"{self._url}/{path}", json={}) as answer:
                answer.raise_for_status()

    async def delete(self, model: Any) -> None:
        """Deletes the copy of a version's artifacts."""
        if not model.artifact_uri:
            return
        names = [name async for name in self._names(_BUCKET, _folder_of(model), managed_uri(model))]
        for name in names:
            async with self._client.delete(f"{self._url}/{_BUCKET}/o/{_quoted(name)}") as answer:
                answer.raise_for_status()

    async def _names(self, bucket: str, folder: str, uri: str) -> AsyncIterator[str]:
        parameters = {"prefix": folder and f"{folder}/"}
        while True:
            async with self._client.get(f"{self._url}/{bucket}/o", params=parameters) as answer:
                if answer.status == 404:
                    raise InvalidArgumentError(f"artifactUri {uri!r}: the bucket {bucket!r} does not exist")
                answer.raise_for_status()
                page = await answer.json()
            for item in page.get("items", []):
                yield item["name"]
            if not page.get("nextPageToken"):
                return
            parameters["pageToken"] = page["nextPageToken"]


def _split(uri: str) -> tuple[str, str]:
    parts = _GS_URI.fullmatch(uri)
    if not parts:
        raise InvalidArgumentError(f"artifactUri {uri!r} is not of the form gs://BUCKET/DIRECTORY")
    return parts["bucket"], (parts["folder"] or "").rstrip("/")


def _folder_of(model: Any) -> str:
    return f"{model.name}/{model.version_id}"


def _quoted(name: str) -> str:
    return quote(name, safe="")
