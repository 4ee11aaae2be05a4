"""What the road needs of a project, and findings about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from components.built_images import Images
from components.check import Finding
from components.earthengine.contract import Framework
from components.earthengine.errors import ParameterError
from components.project import Project

_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z0-9-]+")
_REGION = re.compile(r"[a-z]+(-[a-z]+)+\d+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_REPOSITORY = re.compile(r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[a-z0-9-]+)/(?P<name>[a-z0-9-]+)")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ACCOUNT = re.compile(r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com")


@dataclass(frozen=True)
class Needs:
    """What a run is to use.

    Attributes:
        project: where it runs.
        location: its region, where bucket and images are to lie too; in whatever case it is given.
        bucket: the name of the bucket that models are submitted from and staged to.
        images: in a repository REGION-docker.pkg.dev/PROJECT/NAME.
        service_account: that steps run as; None for the project's default.
        machine_type: of each replica.
        replicas: at most.

    Raises:
        ParameterError: one is not of the form that Google Cloud gives such a name, or digests lack an image.
    """

    project: Project
    location: str
    bucket: str
    images: Images
    service_account: str | None
    machine_type: str
    replicas: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "location", self.location.lower())
        _matched("project", self.project.id, _PROJECT, "a project's id; `gcloud projects list` shows yours")
        _matched("location", self.location, _REGION, "a single region, such as us-central1")
        _matched("bucket", self.bucket, _BUCKET, "a bucket's name; `gcloud storage ls` shows yours")
        _matched("tag", self.images.tag, _TAG, "letters, digits, '_', '.' and '-', at most 128, such as latest")
        for framework in get_args(Framework):
            self.images.of_framework(framework)
        if self.service_account is not None:
            _matched("service-account", self.service_account, _ACCOUNT, "NAME@PROJECT.iam.gserviceaccount.com")
        _ = self.address

    @cached_property
    def address(self) -> dict[str, str]:
        """The `region`, the `project` and the `name` of the repository."""
        allowed = "REGION-docker.pkg.dev/PROJECT/NAME; `gcloud artifacts repositories list` shows yours"
        return _matched("repository", self.images.repository, _REPOSITORY, allowed).groupdict()

    @cached_property
    def account(self) -> str:
        """The e-mail address of the account that steps run as.

        Raises:
            GoogleAPICallError: it is the project's default, and the project's number cannot be read.
        """
        return self.service_account or f"{self.project.number}-compute@developer.gserviceaccount.com"

    def grant(self, member: str, role: str) -> str:
        """The command that grants a role on the project."""
        return (
            f"gcloud projects add-iam-policy-binding {self.project.id} --member={member} --role={role} --condition=None"
        )

    def grant_on_bucket(self, member: str, role: str) -> str:
        """The command that grants a role on the bucket."""
        return f"gcloud storage buckets add-iam-policy-binding gs://{self.bucket} --member={member} --role={role}"


def _matched(option: str, value: str, form: re.Pattern[str], allowed: str) -> re.Match[str]:
    if match := form.fullmatch(value):
        return match
    raise ParameterError(f"--{option} is {value!r}; allowed: {allowed}; correct it")


def failed(what: str, text: str, command: str) -> Finding:
    """What is lacking, and the command that mends it."""
    return Finding(what, "failed", f"{text}; run: {command}")
