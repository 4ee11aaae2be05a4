"""What the project lacks, as a file describes it: all that is not named there is in order."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import FailedPreconditionError


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Account(_Described):
    """A service account, with its roles on the project and on every bucket, all under a condition if there is one."""

    disabled: bool = False
    roles: list[str] = ["roles/aiplatform.user"]
    bucket_roles: list[str] = ["roles/storage.objectUser"]
    condition: str = ""


class Repository(_Described):
    """An Artifact Registry repository."""

    format: str = "DOCKER"


class Bucket(_Described):
    """Where a bucket lies."""

    location: str = "US-CENTRAL1"
    type: Literal["region", "dual-region", "multi-region"] = "region"


class Description(_Described):
    """The project; None stands for what does not exist.

    Attributes:
        state: of the project's life.
        services_disabled: APIs, such as `cloudquotas.googleapis.com`.
        permissions_denied: of who asks, such as `aiplatform.pipelineJobs.create`.
        service_accounts: by their e-mail address.
        repositories: by their id, in any region.
        images_missing: by their name, all of them or, as NAME:TAG or NAME@DIGEST, that one.
        buckets: by their name; Cloud Storage's emulator knows which there are, but of one region only.
        quotas: limits that a region has of its own, by the quota's id and the region.
    """

    state: Literal["ACTIVE", "DELETE_REQUESTED"] | None = "ACTIVE"
    services_disabled: list[str] = []
    permissions_denied: list[str] = []
    service_accounts: dict[str, Account | None] = {}
    repositories: dict[str, Repository | None] = {}
    images_missing: list[str] = []
    buckets: dict[str, Bucket] = {}
    quotas: dict[str, dict[str, int]] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """The description in a file, of a project in order where there is none.

        Raises:
            FailedPreconditionError: it is no such description.
        """
        try:
            return cls.model_validate(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return cls()
        except ValidationError as fault:
            first = fault.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the whole"
            raise FailedPreconditionError(f"{path}: {place}: {first['msg']}; correct or remove the file") from fault
        except (OSError, ValueError, RecursionError) as fault:
            raise FailedPreconditionError(f"{path} cannot be read as JSON: {fault}; correct or remove it") from fault

    def accounts(self, project: str, number: str) -> dict[str, Account]:
        """The accounts that there are: Compute Engine's default one, `steps`, and those described."""
        usual = (f"{number}-compute@developer.gserviceaccount.com", f"steps@{project}.iam.gserviceaccount.com")
        described = dict.fromkeys(usual, Account()) | self.service_accounts
        return {email: account for email, account in described.items() if account}
