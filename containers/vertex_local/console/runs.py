"""A pipeline job as its page shows it: the steps, what each took and gave, and when it ran."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from . import text
from .artifacts import Content, Shelf
from .dag import Drawing, lay_out

# What a task with several runs is, the first of these that any of them is.
_GRAVEST_FIRST = ("failed", "running", "cancelled", "waiting", "succeeded", "idle")
_LINKED = ("/models/", "/endpoints/", "/pipelineJobs/", "/schedules/")


@dataclass(frozen=True)
class Parameter:
    """A parameter of the run, as given or as the pipeline has it by default."""

    name: str
    value: str
    description: str
    is_default: bool


@dataclass(frozen=True)
class Artifact:
    """An input or output, with its files where they are on this machine."""

    key: str
    kind: str
    uri: str
    metadata: Mapping[str, Any]
    content: Content | None
    path: str
    resource: str
    origin: str = ""

    @property
    def is_seen(self) -> bool:
        """Whether there is a picture or a report to look at."""
        return any(file.is_picture or file.is_report for file in (self.content.files if self.content else ()))


@dataclass(frozen=True)
class TaskRun:
    """One run of a task."""

    id: int
    state: text.State
    begin_s: float
    end_s: float
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    input_artifacts: tuple[Artifact, ...]
    output_artifacts: tuple[Artifact, ...]
    error: str
    log: Path | None
    began: Any

    @property
    def elapsed_s(self) -> float | None:
        """Until now, where it has not ended."""
        return (self.end_s or time.time()) - self.begin_s if self.begin_s else None


@dataclass(frozen=True)
class Step:
    """A task of the pipeline with all its runs; a loop has several."""

    name: str
    title: str
    runs: tuple[TaskRun, ...]

    @property
    def state(self) -> text.State:
        for look in _GRAVEST_FIRST:
            for run in self.runs:
                if run.state.look == look:
                    return run.state
        return text.NOT_RUN

    @property
    def elapsed_s(self) -> float | None:
        """From the begin of its first run to the end of its last."""
        begun = [run for run in self.runs if run.begin_s]
        if not begun:
            return None
        return max(run.end_s or time.time() for run in begun) - min(run.begin_s for run in begun)

    @property
    def latest(self) -> TaskRun:
        """The run to look at first: one that failed, else the last that began."""
        failed = [run for run in self.runs if run.state.look == "failed"]
        return failed[0] if failed else max(self.runs, key=lambda run: run.begin_s)


class Run:
    """A pipeline job, its message read for the page."""

    def __init__(self, job: Any, directory: Path, shelf: Shelf) -> None:
        self.job = job
        self.state = text.job_state(job.state)
        self._directory = directory
        self._shelf = shelf

    @cached_property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = json_format.MessageToDict(self.job.pipeline_spec)
        return spec

    @property
    def pipeline(self) -> str:
        name: str = self.job.pipeline_spec["pipelineInfo"]["name"]
        return name

    @property
    def begin_s(self) -> float:
        return text.seconds(self.job.start_time)

    @property
    def elapsed_s(self) -> float | None:
        return (text.seconds(self.job.end_time) or time.time()) - self.begin_s if self.begin_s else None

    @property
    def parameters(self) -> list[Parameter]:
        """The pipeline's parameters, those that were given first."""
        given = {name: text.value(value) for name, value in self.job.runtime_config.parameter_values.items()}
        declared = self.spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
        parameters = [
            Parameter(
                name,
                given.get(name, text.value(definition.get("defaultValue", ""))),
                definition.get("description", ""),
                name not in given,
            )
            for name, definition in declared.items()
        ]
        return sorted(parameters, key=lambda parameter: (parameter.is_default, parameter.name))

    @cached_property
    def drawing(self) -> Drawing:
        return lay_out(self.spec)

    @cached_property
    def steps(self) -> dict[str, Step]:
        """By the task's name, in the pipeline's order; a task not begun yet has no run."""
        origins = self._origins()
        runs: dict[str, list[TaskRun]] = {}
        for detail in self.job.job_detail.task_details:
            runs.setdefault(detail.task_name, []).append(self._task_run(detail, origins))
        titles = {box.task: box.title for box in self.drawing.boxes}
        return {name: Step(name, titles.get(name, name), tuple(runs.get(name, ()))) for name in {**runs, **titles}}

    @property
    def summary(self) -> str:
        """How many runs of tasks are in which state: ``5 succeeded · 1 failed · 2 not run``."""
        words = Counter(state.word.lower() for _, state in self.states)
        return " · ".join(f"{count} {word}" for word, count in words.items())

    @property
    def why(self) -> str:
        """What failed, in a line: the first task that did with its error, or the run's own error."""
        for task in self.job.job_detail.task_details:
            if text.task_state(task.state).look == "failed":
                return f"{task.task_name}: {task.error.message}".partition("\n")[0]
        message: str = self.job.error.message
        return message.partition("\n")[0]

    @property
    def states(self) -> list[tuple[str, text.State]]:
        """Name and state of each task's run, without reading anything else."""
        return [(task.task_name, text.task_state(task.state)) for task in self.job.job_detail.task_details]

    @property
    def default_step(self) -> str:
        """The step to look at when none is chosen: what failed, else what runs, else the last result."""
        begun = [step for step in self.steps.values() if step.elapsed_s is not None]
        for look in ("failed", "running"):
            for step in begun:
                if step.state.look == look:
                    return step.name
        telling = [step for step in begun if step.latest.output_artifacts] or begun
        last = max(telling, key=lambda step: step.latest.begin_s, default=None)
        return last.name if last else next(iter(self.steps), "")

    def spans(self, step: Step) -> Iterator[tuple[float, float]]:
        """When a step's runs began and how long they took, as shares of the whole run."""
        whole = self.elapsed_s
        for run in step.runs:
            if whole and run.elapsed_s is not None:
                yield max(0.0, min(1.0, (run.begin_s - self.begin_s) / whole)), min(1.0, run.elapsed_s / whole)

    def task_run(self, id_: int) -> TaskRun | None:
        return next((run for step in self.steps.values() for run in step.runs if run.id == id_), None)

    def _origins(self) -> dict[str, str]:
        """Which task wrote what lies under a URI."""
        return {
            artifact.uri: detail.task_name
            for detail in self.job.job_detail.task_details
            for listed in detail.outputs.values()
            for artifact in listed.artifacts
            if artifact.uri
        }

    def _task_run(self, detail: Any, origins: Mapping[str, str]) -> TaskRun:
        # As worker.TaskLogs names it.
        log = self._directory / f"{detail.task_unique_name}.log" if detail.task_unique_name else None
        parameters: dict[str, dict[str, Any]] = {"input": {}, "output": {}}
        for key, value in json_format.MessageToDict(detail.execution.metadata).items():
            direction, _, name = key.partition(":")
            parameters.get(direction, {})[name] = value
        return TaskRun(
            id=detail.task_id,
            state=text.task_state(detail.state),
            begin_s=text.seconds(detail.start_time),
            end_s=text.seconds(detail.end_time),
            inputs=parameters["input"],
            outputs=parameters["output"],
            input_artifacts=tuple(self._artifacts(detail, "inputs", origins)),
            # What there is to see comes first.
            output_artifacts=tuple(
                sorted(self._artifacts(detail, "outputs", {}), key=lambda artifact: not artifact.is_seen)
            ),
            error=detail.error.message,
            log=log,
            began=detail.start_time,
        )

    def _artifacts(self, detail: Any, direction: str, origins: Mapping[str, str]) -> Iterator[Artifact]:
        listed = [(key, one) for key, found in sorted(getattr(detail, direction).items()) for one in found.artifacts]
        for number, (key, artifact) in enumerate(listed):
            metadata = json_format.MessageToDict(artifact.metadata)
            resource = str(metadata.get("resourceName", ""))
            yield Artifact(
                key=key,
                kind=artifact.schema_title.removeprefix("system.").removeprefix("google."),
                uri=artifact.uri,
                metadata=metadata,
                content=self._shelf.find(artifact),
                path=f"{text.page_of(self.job.name)}/artifacts/{detail.task_id}/{direction}/{number}",
                resource=resource if any(collection in resource for collection in _LINKED) else "",
                origin=origins.get(artifact.uri, ""),
            )
