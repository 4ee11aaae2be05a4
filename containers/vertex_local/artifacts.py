"""A model's artifacts: looked at where the user has them, and copied at upload, as Vertex AI does.

A deployed model gets the copy. What its user changes or deletes later does not reach it.

A copy belongs to a version or is disowned, from before its first object is there until after its last one is gone.
What the emulator leaves disowned when it ends is deleted when it starts again.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp

from .errors import InvalidArgumentError
from .store import Store

_log = logging.getLogger(__name__)

_BUCKET = "vertex-managed-artifacts"
_DISOWNED = "DisownedArtifacts"
_GS_URI = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]+)(?:/(?P<folder>.*))?")


def managed_uri(model: Any) -> str:
    """Where the copy of a version's artifacts lies; "" for a model that has none."""
    return f"gs://{_BUCKET}/{_folder_of(model)}" if model.artifact_uri else ""


class Artifacts:
    """Objects in Cloud Storage, through its JSON API."""

    def __init__(self, store: Store, client: aiohttp.ClientSession) -> None:
        self._store = store
        self._client = client
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
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

    async def delete_disowned(self) -> None:
        """Deletes all copies that belong to no version; none is to be under way."""
        for folder in self._disowned():
            try:
                await self._delete(folder)
            except (aiohttp.ClientError, TimeoutError):
                _log.exception("artifacts in %s", folder)

    @asynccontextmanager
    async def copied(self, model: Any) -> AsyncIterator[None]:
        """Copies the artifacts of a version to where ``managed_uri`` says, and deletes the copy after a fault within.

        The version is to ``own`` them within.
        """
        if not model.artifact_uri:
            yield
            return
        folder = _folder_of(model)
        async with self._lock(folder):
            if folder in self._disowned():
                await self._delete(folder)
            self.disown(model)
            try:
                await self._copy(model.artifact_uri, folder)
                yield
            except BaseException:
                await self._delete(folder)
                raise

    def own(self, model: Any) -> None:
        """Has the copy of a version's artifacts kept."""
        self._store.delete(_DISOWNED, _folder_of(model))

    def disown(self, model: Any) -> None:
        """Has it deleted at the next start, unless it is gone by then."""
        if model.artifact_uri:
            self._store.write(_DISOWNED, _folder_of(model), "")

    async def delete(self, model: Any) -> None:
        """Deletes the copy of a version's artifacts, which is disowned."""
        if model.artifact_uri:
            async with self._lock(_folder_of(model)):
                await self._delete(_folder_of(model))

    def _disowned(self) -> list[str]:
        return [folder for folder, _ in self._store.rows(_DISOWNED)]

    def _lock(self, folder: str) -> asyncio.Lock:
        """Keeps a version from copying to where the one that had its name before is being deleted."""
        return self._locks.setdefault(folder, asyncio.Lock())

    async def _copy(self, uri: str, target: str) -> None:
        async with self._client.post(self._url, json={"name": _BUCKET}) as answer:
            if answer.status != 409:  # it is there
                answer.raise_for_status()
        bucket, folder = _split(uri)
        async for name in self._names(bucket, folder, uri):
            copy = f"{target}/{name.removeprefix(folder).lstrip('/')}"
            path = f"{bucket}/o/{_quoted(name)}/rewriteTo/b/{_BUCKET}/o/{_quoted(copy)}"
            async with self._client.post(f"{self._url}/{path}", json={}) as answer:
                answer.raise_for_status()

    async def _delete(self, folder: str) -> None:
        names = [name async for name in self._names(_BUCKET, folder, f"gs://{_BUCKET}/{folder}")]
        for name in names:
            async with self._client.delete(f"{self._url}/{_BUCKET}/o/{_quoted(name)}") as answer:
                answer.raise_for_status()
        self._store.delete(_DISOWNED, folder)

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
