"""What a run writes down in Cloud Storage, so that its last step knows of it however the others ended.

`STAGING/runs/RUN/deployment.json` before anything is deployed, `verifications/N.json` after each of these,
`model.yaml` of what is verified, `fault.txt` where a step is refused, `gate.json` of a retrained model, `retired.json`
before anything is retired. A step that is killed and run again writes the same once more, and nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from components import storage
from components.earthengine.errors import PipelineError
from components.traffic import Split

if TYPE_CHECKING:
    from components.earthengine.contract import ModelContract
    from components.gate import Decision
    from components.verification import Verification

_CONTRACT_NAME = "model.yaml"


@dataclass(frozen=True)
class Deployment:
    """One run's deployment, as written down before it begins.

    Attributes:
        run: id of the pipeline job.
        model: resource name with version, `.../models/M@V`.
        endpoint: resource name.
        deployed_model: the id on the endpoint, chosen before the deployment.
        traffic_before: the endpoint's split before the deployment, or what others have made of it by the time that the
            model gets a share.
        created: False where the version was deployed already.
        trial: resource name of the endpoint that it is verified at first; empty where it has traffic already.
        given: whether the run has begun to give the model traffic that it had not before.
        leftovers: resource names of trial endpoints of ended runs that this one removed.
        made: resource names of the version and the endpoint, as far as the run made them.
        operations: of Vertex AI that deploy it; they go on if the step is killed.
    """

    run: str
    model: str
    endpoint: str
    deployed_model: str
    traffic_before: Split
    created: bool
    trial: str = ""
    given: bool = False
    leftovers: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()

    @property
    def share_before(self) -> int:
        """Percent of the traffic that the model had before the run."""
        return self.traffic_before.get(self.deployed_model, 0)


@dataclass(frozen=True)
class Record:
    """Where a run writes: a folder in Cloud Storage."""

    folder: str

    @classmethod
    def of(cls, staging: str, run: str) -> Record:
        """The record of a run, under the staging folder."""
        return cls(f"{staging.rstrip('/')}/runs/{run}")

    def write(self, deployment: Deployment) -> None:
        """Write the deployment down, in place of what was written before."""
        storage.write_text(f"{self.folder}/deployment.json", json.dumps(asdict(deployment)))

    def deployment(self) -> Deployment | None:
        """The deployment that was written down; None if it came to none."""
        text = storage.read_text(f"{self.folder}/deployment.json")
        if not text:
            return None
        fields = json.loads(text)
        return Deployment(**fields | {name: tuple(fields[name]) for name in ("leftovers", "made", "operations")})

    @contextmanager
    def telling(self, step: str) -> Iterator[None]:
        """Write down what a step is refused with in the block; Vertex AI tells other steps its exit status alone."""
        try:
            yield
        except PipelineError as error:
            with suppress(PipelineError):  # the step's own error is the one to raise
                storage.write_text(f"{self.folder}/fault.txt", f"{step}: {error}")
            raise

    def fault(self) -> str:
        """What the last step that was refused said; empty where none was."""
        return storage.read_text(f"{self.folder}/fault.txt") or ""

    def keep_contract(self, contract: ModelContract) -> None:
        """Write down the contract of what is deployed; the one beside the trained model may change meanwhile."""
        storage.write_text(f"{self.folder}/{_CONTRACT_NAME}", contract.dump())

    def contract(self) -> ModelContract | None:
        """The contract that was written down, if any."""
        from components.earthengine.contract import ModelContract

        text = storage.read_text(f"{self.folder}/{_CONTRACT_NAME}")
        return ModelContract.parse(text) if text else None

    def keep_decision(self, decision: Decision) -> None:
        """Write down what the gate decided."""
        storage.write_text(f"{self.folder}/gate.json", decision.dump())

    def decision(self) -> Decision | None:
        """What the gate decided; None of a model that went through none."""
        from components.gate import Decision

        text = storage.read_text(f"{self.folder}/gate.json")
        return Decision.parse(text) if text else None

    def add(self, verification: Verification, number: int) -> None:
        """Write a verification down: the first is number 0."""
        storage.write_text(f"{self.folder}/verifications/{number}.json", verification.dump())

    def verifications(self) -> list[Verification]:
        """The verifications so far, the first first."""
        from components.verification import Verification

        numbers = range(storage.count_files(f"{self.folder}/verifications"))
        texts = (storage.read_text(f"{self.folder}/verifications/{number}.json") for number in numbers)
        return [Verification.parse(text) for text in texts if text]

    def retire(self, kind: Literal["deployments", "versions"], names: Sequence[str]) -> list[str]:
        """Write down what is about to be retired; that, with what a killed attempt of the step was about to retire."""
        uri = f"{self.folder}/retired.json"
        before: dict[str, list[str]] = json.loads(storage.read_text(uri) or "{}")
        now = before | {kind: [*dict.fromkeys([*before.get(kind, []), *names])]}
        if names:
            storage.write_text(uri, json.dumps(now))
        return now[kind]
