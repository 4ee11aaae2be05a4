"""What each part of the road calls in Google Cloud, as permissions, and the roles that hold no more than these.

``python -m components.permissions`` writes the tables of docs/cloud.md. tests/road/test_permissions.py holds what each
part really calls against them. Which permission a method asks for is as Vertex AI's page of IAM permissions and Cloud
Storage's have it; that polling an operation asks for `aiplatform.operations.list`, and what concerns versions of models
for the permissions of models, is INFERRED.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "cloud.md"
_TABLES = re.compile(r"(?<=<!-- permissions: begin -->\n).*(?=<!-- permissions: end -->)", re.DOTALL)

_READ = ("storage.objects.get", "storage.objects.list")
# To write what is there already, Cloud Storage asks for delete as well.
_WRITE = (*_READ, "storage.objects.create", "storage.objects.delete")
_WATCHED = (
    "aiplatform.endpoints.get",
    "aiplatform.endpoints.predict",
    "aiplatform.models.get",
    "aiplatform.models.update",
)

STEPS: Mapping[str, tuple[str, ...]] = {
    "train": _READ,
    "evaluate": (
        "storage.objects.get",
        "aiplatform.endpoints.get",
        "aiplatform.endpoints.list",
        "aiplatform.endpoints.predict",
        "aiplatform.models.get",
    ),
    "gate": ("storage.objects.create", "storage.objects.get"),
    "export": _READ,
    "archive": (),
    "preflight": (),
    "upload": (
        "storage.objects.list",
        "storage.objects.create",
        "aiplatform.models.list",
        "aiplatform.models.upload",
        "aiplatform.operations.list",
    ),
    "create-endpoint": (
        "aiplatform.endpoints.create",
        "aiplatform.endpoints.get",
        "aiplatform.endpoints.list",
        "aiplatform.operations.list",
    ),
    "deploy": (
        *_WRITE,
        "aiplatform.endpoints.create",
        "aiplatform.endpoints.deploy",
        "aiplatform.endpoints.get",
        "aiplatform.endpoints.list",
        "aiplatform.operations.list",
    ),
    "verify": ("storage.objects.create", "storage.objects.get", *_WATCHED[1:]),
    "release": (*_WRITE, *_WATCHED, "aiplatform.endpoints.update"),
    "conclude": (
        *_WRITE,
        "aiplatform.endpoints.delete",
        "aiplatform.endpoints.get",
        "aiplatform.endpoints.undeploy",
        "aiplatform.endpoints.update",
        "aiplatform.models.delete",
        "aiplatform.models.get",
        "aiplatform.models.list",
        "aiplatform.models.update",
        "aiplatform.operations.list",
        "aiplatform.pipelineJobs.get",
    ),
}
"""What a step of the pipelines calls; its inputs and outputs under /gcs Vertex AI brings and takes itself."""

SUBMITTER_VERTEX = (
    "aiplatform.pipelineJobs.create",
    "aiplatform.pipelineJobs.get",
    "aiplatform.endpoints.get",
    "aiplatform.endpoints.list",
    "aiplatform.endpoints.update",
    "aiplatform.models.get",
    "aiplatform.models.list",
    "aiplatform.models.update",
    "aiplatform.operations.list",
    "aiplatform.schedules.create",
    "aiplatform.schedules.delete",
    "aiplatform.schedules.get",
    "aiplatform.schedules.list",
    "aiplatform.schedules.update",
)
"""Of what submit, plan, status, rollback and schedule call."""

SUBMITTER_STORAGE = (
    "storage.objects.create",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.list",
)
"""A model is uploaded, and uploaded again, before it is submitted."""

ACT_AS = "iam.serviceAccounts.actAs"

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "pipeline.py, of who submits": (*SUBMITTER_VERTEX, *SUBMITTER_STORAGE, ACT_AS),
    "the trigger": (
        "aiplatform.customJobs.get",
        "aiplatform.pipelineJobs.create",
        "aiplatform.pipelineJobs.get",
        "storage.objects.get",
        ACT_AS,
    ),
    "the serving container": _READ,
    "Earth Engine, for who calls the model": ("aiplatform.endpoints.predict",),
}
"""What runs outside of the pipelines."""


@dataclass(frozen=True)
class Grant:
    """A role that an account gets, and on what.

    Attributes:
        account: who gets it.
        role: the smallest predefined one that holds what it needs.
        on: the resource; never more than one bucket, account or service where the role can be had there.
    """

    account: str
    role: str
    on: str


GRANTS = (
    Grant("steps", "roles/aiplatform.user", "the project"),
    Grant("steps", "roles/storage.objectUser", "the bucket"),
    Grant("who submits, the scheduler", "roles/aiplatform.user", "the project"),
    Grant("who submits, the scheduler", "roles/storage.objectUser", "the bucket"),
    Grant("who submits, the scheduler", "roles/iam.serviceAccountUser", "the account `steps`"),
    Grant("trigger", "roles/aiplatform.user", "the project"),
    Grant("trigger", "roles/storage.objectViewer", "the bucket"),
    Grant("trigger", "roles/iam.serviceAccountUser", "the account `steps`"),
    Grant("trigger", "roles/eventarc.eventReceiver", "the project"),
    Grant("trigger", "roles/run.invoker", "the service `trigger`"),
    Grant(
        "Vertex AI's service agent", "roles/artifactregistry.reader", "the repository, where that is another project's"
    ),
    Grant("who calls the model", "roles/aiplatform.user", "the project, or a role of one's own on the endpoint"),
)


def union() -> tuple[str, ...]:
    """What the account of the steps needs: all that any of them calls."""
    return tuple(sorted({each for permissions in STEPS.values() for each in permissions}))


def tables() -> str:
    """Markdown: what each part calls, and what each account gets."""
    rows = [f"| {name} | {_grouped(permissions)} |" for name, permissions in {**STEPS, **PROGRAMS}.items()]
    grants = [f"| {grant.account} | `{grant.role}` | {grant.on} |" for grant in GRANTS]
    return "\n".join(
        [
            *("| part | calls what needs |", "|---|---|", *rows, f"| *all steps together* | {_grouped(union())} |", ""),
            *("| account | role | on |", "|---|---|---|", *grants),
        ]
    )


def with_tables(document: str) -> str:
    """The text of docs/cloud.md with the tables as they are now."""
    return _TABLES.sub(lambda _: f"\n{tables()}\n\n", document)


def _grouped(permissions: Iterable[str]) -> str:
    """`storage.objects.get, list` for each kind of resource."""
    verbs: dict[str, list[str]] = defaultdict(list)
    for permission in sorted(permissions):
        kind, _, verb = permission.rpartition(".")
        verbs[kind].append(verb)
    return "; ".join(f"`{kind}.` {', '.join(each)}" for kind, each in verbs.items()) or "nothing"


def main() -> int:
    """Write the tables."""
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
