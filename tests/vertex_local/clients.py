"""Clients of the emulator that change what is theirs at random, by the real SDK, whatever becomes of the emulator."""

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from google.api_core import exceptions
from google.cloud import aiplatform_v1

from .conftest import BUCKET, ECHO, NUMBERED, PARENT, Emulator
from .ledger import CUT, Ledger

PARTS = {f"part-{number}": bytes([number]) * 1000 for number in range(5)}
"""The objects of a model, in the bucket's folder ``parts``."""
_RESOURCES = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
_JOB = {
    "pipeline_spec": {"pipelineInfo": {"name": "never"}, "root": {"dag": {"tasks": {}}}},
    "runtime_config": {"gcs_output_directory": "gs://models/root"},
}
_FEW = 4
_SERVING_S = 180.0


def store_parts(emulator: Emulator) -> None:
    emulator.storage.create_bucket(BUCKET)
    for name, content in PARTS.items():
        emulator.storage.bucket(BUCKET).blob(f"parts/{name}").upload_from_string(content)


def check_artifacts(emulator: Emulator) -> None:
    """Every version that is listed has all its artifacts, and there are no others."""
    versions = [
        version.name.replace("@", "/")
        for model in emulator.models.list_models(parent=PARENT)
        for version in emulator.models.list_model_versions(name=model.name)
    ]
    found: dict[str, dict[str, bytes]] = {version: {} for version in versions}
    for blob in emulator.storage.list_blobs("vertex-managed-artifacts"):
        folder, _, name = blob.name.rpartition("/")
        assert folder in found, f"{blob.name} is of no version"
        found[folder][name] = blob.download_as_bytes()
    assert [folder for folder, objects in found.items() if objects != PARTS] == []


class Client:
    """One client, with a ledger of its own; a client that ``serves`` has models deployed as well."""

    def __init__(self, emulator: Emulator, number: int, seed: int, *, serves: bool) -> None:
        self.ledger = Ledger(emulator)
        self.predicted = 0
        self._emulator = emulator
        self._number = number
        self._random = random.Random(f"{seed} {number}")  # noqa: S311
        self._tokens = 0
        self._serves = serves
        self._endpoint = f"{NUMBERED}/endpoints/serving-{number}"

    def run(self, ended: Callable[[], bool]) -> None:
        """Changes and asks until it is ended."""
        actions = [self._change_model, self._change_endpoint, self._change_object, self._change_schedule]
        if self._serves:
            self._begin_to_serve()
            actions += [self._change_deployments, self._change_traffic, self._predict, self._predict]
        while not ended():
            self._random.choice(actions)()

    def _change_model(self) -> None:
        model_id = self._one("model")
        name = f"{NUMBERED}/models/{model_id}"
        known, token = self.ledger.values.get(name), self._token()
        change = partial(self.ledger.change, name, partial(read_model, self._emulator, name))
        models = self._emulator.models
        if known is None:
            change(
                (token, (token,)),
                lambda: models.upload_model(upload_request(token, token, model_id=model_id), retry=None),
            )
            return
        title, versions = known
        match self._random.choice(["version", "version", "title", "delete"]):
            case "version" if len(versions) < _FEW:
                request = upload_request(title, token, parent_model=name)
                change((title, (*versions, token)), lambda: models.upload_model(request, retry=None))
            case "title":
                mask, model = {"paths": ["display_name"]}, {"name": name, "display_name": token}
                change((token, versions), lambda: models.update_model(model=model, update_mask=mask, retry=None))
            case _:
                change(None, lambda: models.delete_model(name=name, retry=None))

    def _change_endpoint(self) -> None:
        endpoint_id = self._one("endpoint")
        name = f"{NUMBERED}/endpoints/{endpoint_id}"
        known, token = self.ledger.values.get(name), self._token()
        change = partial(self.ledger.change, name, lambda: self._emulator.endpoints.get_endpoint(name=name).labels["n"])
        endpoints = self._emulator.endpoints
        endpoint = {"name": name, "display_name": "labelled", "labels": {"n": token}}
        if known is None:
            request = {"parent": PARENT, "endpoint": endpoint, "endpoint_id": endpoint_id}
            change(token, lambda: endpoints.create_endpoint(request, retry=None))
        elif self._random.random() < 0.7:
            mask = {"paths": ["labels"]}
            change(token, lambda: endpoints.update_endpoint(endpoint=endpoint, update_mask=mask, retry=None))
        else:
            change(None, lambda: endpoints.delete_endpoint(name=name, retry=None))

    def _change_object(self) -> None:
        bucket, name = self._emulator.storage.bucket(BUCKET), self._one("objects/object")
        key, content, blob = f"gs://{BUCKET}/{name}", self._token().encode() * 1000, bucket.blob(name)
        # Another Blob each time: one that was read asks for the same generation from then on.
        change = partial(self.ledger.change, key, lambda: bucket.blob(name).download_as_bytes(retry=None))
        if self.ledger.values.get(key) is None or self._random.random() < 0.7:
            change(content, lambda: blob.upload_from_string(content, retry=None))
        else:
            change(None, lambda: blob.delete(retry=None))

    def _change_schedule(self) -> None:
        title = self._one("schedule")
        schedules = self._emulator.schedules
        found = partial(_schedule, self._emulator, title)
        change = partial(self.ledger.change, title, lambda: found().state.name)
        known = self.ledger.values.get(title)
        if known is None:
            schedule = {"display_name": title, "cron": "0 0 29 2 *", "max_concurrent_run_count": 1}
            schedule |= {"create_pipeline_job_request": {"parent": PARENT, "pipeline_job": _JOB}}
            change("ACTIVE", lambda: schedules.create_schedule(parent=PARENT, schedule=schedule, retry=None))
        elif self._random.random() < 0.2:
            change(None, lambda: schedules.delete_schedule(name=found().name, retry=None))
        elif known == "ACTIVE":
            change("PAUSED", lambda: schedules.pause_schedule(name=found().name, retry=None))
        else:
            change("ACTIVE", lambda: schedules.resume_schedule(name=found().name, retry=None))

    def _begin_to_serve(self) -> None:
        model_id = f"served-{self._number}"
        name, models = f"{NUMBERED}/models/{model_id}", self._emulator.models
        read, request = partial(read_model, self._emulator, name), upload_request("served", "1", model_id=model_id)
        while not self.ledger.values.get(name):
            self.ledger.change(name, read, ("served", ("1",)), lambda: models.upload_model(request, retry=None))
        made = {"parent": PARENT, "endpoint": {"display_name": "serving"}}
        made["endpoint_id"] = self._endpoint.rpartition("/")[2]
        while self.ledger.values.get(self._endpoint) is None:
            self._change_serving({}, lambda: self._emulator.endpoints.create_endpoint(made, retry=None))

    def _change_deployments(self) -> None:
        """One more while there is one at most, one less then; the new one, or the one that stays, has all traffic."""
        deployed, endpoints = self._deployed(), self._emulator.endpoints
        if len(deployed) < 2:
            new = str(self._random.randrange(1, 10**9))
            model = {"id": new, "model": f"{NUMBERED}/models/served-{self._number}", "dedicated_resources": _RESOURCES}
            request = {"endpoint": self._endpoint, "deployed_model": model, "traffic_split": {"0": 100}}
            wanted = dict.fromkeys(deployed, 0) | {new: 100}
            self._change_serving(wanted, lambda: endpoints.deploy_model(request, retry=None))
        else:
            stays, leaves = self._random.sample(sorted(deployed), 2)
            undeploy = {"endpoint": self._endpoint, "deployed_model_id": leaves, "traffic_split": {stays: 100}}
            self._change_serving({stays: 100}, lambda: endpoints.undeploy_model(undeploy, retry=None))

    def _change_traffic(self) -> None:
        deployed = sorted(self._deployed())
        if len(deployed) == 2:
            share = self._random.randrange(1, 100)
            traffic = dict(zip(deployed, (share, 100 - share), strict=True))
            endpoint, mask = {"name": self._endpoint, "traffic_split": traffic}, {"paths": ["traffic_split"]}
            update = partial(self._emulator.endpoints.update_endpoint, endpoint=endpoint, update_mask=mask, retry=None)
            self._change_serving(traffic, update)

    def _predict(self) -> None:
        """Asks until there is an answer, which is to be right, and of a model that has traffic."""
        serving = {deployed_id for deployed_id, share in self._deployed().items() if share}
        deadline = time.monotonic() + _SERVING_S
        token = self._token()
        while serving:
            try:
                answer = self._emulator.predictions.predict(endpoint=self._endpoint, instances=[token], retry=None)
            except CUT:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            assert list(answer.predictions) == [token]
            assert answer.deployed_model_id in serving
            self.predicted += 1
            return

    def _change_serving(self, traffic: dict[str, int], call: Callable[[], Any]) -> None:
        self.ledger.change(self._endpoint, partial(read_traffic, self._emulator, self._endpoint), traffic, call)

    def _deployed(self) -> dict[str, int]:
        """The models that were deployed, each with its traffic."""
        known: dict[str, int] = self.ledger.values.get(self._endpoint) or {}
        return known

    def _one(self, kind: str) -> str:
        return f"{kind}-{self._number}-{self._random.randrange(_FEW)}"

    def _token(self) -> str:
        self._tokens += 1
        return f"t{self._number}-{self._tokens}"


def upload_request(title: str, token: str, **place: str) -> dict[str, Any]:
    """Of a version whose artifacts are the parts and whose description is ``token``."""
    model = {"display_name": title, "version_description": token, "artifact_uri": f"gs://{BUCKET}/parts"}
    return {"parent": PARENT, "model": {**model, "container_spec": {"image_uri": ECHO}}, **place}


def read_model(emulator: Emulator, name: str) -> tuple[str, tuple[str, ...]]:
    """Its title, and what its versions say of themselves, oldest first."""
    versions = list(emulator.models.list_model_versions(name=name, retry=None))
    title = emulator.models.get_model(name=name, retry=None).display_name
    return title, tuple(version.version_description for version in reversed(versions))


def _schedule(emulator: Emulator, title: str) -> aiplatform_v1.Schedule:
    request = {"parent": PARENT, "filter": f'display_name="{title}"'}
    found = list(emulator.schedules.list_schedules(request, retry=None))
    if not found:
        raise exceptions.NotFound(title)
    [schedule] = found
    return schedule


def read_traffic(emulator: Emulator, name: str) -> dict[str, int]:
    """The models that are deployed, each with its share."""
    endpoint = emulator.endpoints.get_endpoint(name=name, retry=None)
    return {model.id: endpoint.traffic_split.get(model.id, 0) for model in endpoint.deployed_models}
