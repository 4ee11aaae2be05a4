"""What the function is set to, by environment variables."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import SettingsError
from .redaction import redact

# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET = r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_FOLDER = rf"gs://{_BUCKET}(/[^\s/]+)*/?"
_ACCOUNT = r"[^@\s]+@[^@\s]+"
# What the function itself gives the pipeline.
_OWN = ("model_uri", "staging")


@dataclass(frozen=True)
class Settings:
    """The function's settings.

    Attributes:
        project: in which pipelines run, and training jobs are looked up.
        location: the region of both.
        bucket: that is watched for models.
        prefix: folder in it that is watched, ending in a slash; empty for the whole bucket.
        templates: gs:// folder with the compiled deploy-pytorch.yaml and deploy-tensorflow.yaml.
        staging: gs:// folder that the pipeline stages models to; empty for the one in the model's own bucket.
        service_account: that the pipeline's steps run as; empty for the project's default.
        parameters: further parameters of the pipeline.
        callers: how who sends events is known: `signed`, by their tokens, which the function verifies; `private`, by
            Cloud Run, which asks IAM before it lets a request through; `public`, not at all.
        invoker: the service account that events are sent as; empty where callers are public.
        audience: the URL that events are sent to; empty unless callers are signed.
    """

    project: str
    location: str
    bucket: str
    prefix: str
    templates: str
    staging: str
    service_account: str
    parameters: Mapping[str, Any]
    callers: str
    invoker: str
    audience: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """The settings in an environment.

        Raises:
            SettingsError: one is missing or wrong.
        """

        def text(name: str, pattern: str, allowed: str, *, required: bool = True) -> str:
            value = environment.get(name, "").strip()
            if not value and required:
                raise SettingsError(f"{name} is not set; give {allowed}")
            if value and not re.fullmatch(pattern, value):
                raise SettingsError(f"{name} is {value!r}; give {allowed}")
            return value

        watched = "the folder of MODEL_BUCKET that is watched, such as models/, or / for all"
        folder = "a folder in Cloud Storage, gs://BUCKET/FOLDER"
        known = "signed, private or public (containers/trigger/README.md)"
        callers = text("CALLERS", "signed|private|public", known, required=False) or "signed"
        prefix = text("MODEL_PREFIX", r"/|(?!.*://)[^/\s][^\r\n]*", watched)
        settings = cls(
            project=text("GOOGLE_CLOUD_PROJECT", r"[a-z0-9][a-z0-9.:-]*", "the project's id"),
            location=text("GOOGLE_CLOUD_LOCATION", r"[a-z]+(-[a-z0-9]+)*", "a region, such as us-central1"),
            bucket=text("MODEL_BUCKET", _BUCKET, "the name of the bucket that is watched, without gs://"),
            prefix=f"{prefix.rstrip('/')}/".removeprefix("/"),
            templates=text("TEMPLATES", _FOLDER, f"{folder}, that holds the compiled templates").rstrip("/"),
            staging=text("STAGING", _FOLDER, folder, required=False).rstrip("/"),
            service_account=text("SERVICE_ACCOUNT", _ACCOUNT, "a service account's address", required=False),
            parameters=_parameters(environment.get("PARAMETERS", "")),
            callers=callers,
            invoker=text(
                "INVOKER",
                _ACCOUNT,
                "the address of the service account that events are sent as",
                required=callers != "public",
            ),
            audience=text(
                "AUDIENCE",
                r"https://[^\s?#]+",
                "the service's URL, or CALLERS=private where Cloud Run asks IAM who calls",
                required=callers == "signed",
            ),
        )
        settings._check_what_is_watched()
        return settings

    def staging_folder(self, bucket: str) -> str:
        """Where the pipeline stages a model of a bucket, by the pipeline's own rule."""
        return self.staging or _default_staging(bucket)

    def staging_folders(self, bucket: str) -> set[str]:
        """Wherever pipelines stage models of a bucket; those of other people need not have the function's STAGING."""
        return {self.staging_folder(bucket), _default_staging(bucket)}

    def _check_what_is_watched(self) -> None:
        watched = f"gs://{self.bucket}/{self.prefix}"
        for staging in self.staging_folders(self.bucket):
            if watched.startswith(f"{staging}/"):
                name, value = ("STAGING", self.staging) if staging == self.staging else ("MODEL_PREFIX", self.prefix)
                raise SettingsError(
                    f"{name} is {value!r}; nothing is deployed of what lies in {staging}, where pipelines stage "
                    f"models, and {watched}, which is watched, lies there; give another folder"
                )


def _default_staging(bucket: str) -> str:
    return f"gs://{bucket}/earth-engine-models"


def _parameters(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    way_out = 'give a JSON object such as {"canary_percent": 20}'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"PARAMETERS is no JSON ({error}); {way_out}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"PARAMETERS is {text[:100]!r}; {way_out}")
    told = json.dumps(found, ensure_ascii=False)
    if told != redact(told):
        raise SettingsError(
            "PARAMETERS holds a credential, which every pipeline job would keep and show; give a gs:// address, and "
            "the account that the steps run as the role it needs"
        )
    for name in _OWN:
        if name in found:
            raise SettingsError(f"PARAMETERS has {name!r}, which the function gives itself; remove it, or set STAGING")
    return found
