# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api_core import exceptions
from google.cloud import aiplatform, aiplatform_v1
from kfp import compiler, dsl

from .conftest import NUMBERED, PARENT, Emulator, refused, result_of, until

State = aiplatform_v1.PipelineTaskDetail.State
IMAGE = "registry/local/images/steps:1"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def write(count: int, table: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    Path(table.path).write_text("x" * count)
    table.metadata["rows"] = count


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def measure(table: dsl.Input[dsl.Dataset]) -> int:
    import os
    from pathlib import Path

    print("emulator", os.environ["VERTEX_EMULATOR_HOST"], os.environ["GOOGLE_CLOUD_PROJECT"])  # noqa: T201
    return len(Path(table.path).read_text())


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def refuse(size: int) -> None:
    raise ValueError(f"a table of {size} rows is too small")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def clean_up(outcome: dsl.PipelineTaskFinalStatus) -> None:
    print("after", outcome.state)  # noqa: T201


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sleep() -> None:
    import time

    time.sleep(600)


@dsl.pipeline(name="good")
def good(count: int) -> None:
    measure(table=write(count=count).outputs["table"])


@dsl.pipeline(name="bad")
def bad(count: int = 3) -> None:
    size = measure(table=write(count=count).outputs["table"]).output
    refused = refuse(size=size)
    write(count=count).set_display_name("never").after(refused)


@dsl.pipeline(name="handled")
def handled(count: int = 3) -> None:
    with dsl.ExitHandler(clean_up()):
        refuse(size=count)


@dsl.pipeline(name="long")
def long() -> None:
    sleep()


Compiled = dict[str, str]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    directory = tmp_path_factory.mktemp("pipelines")
    paths = {pipeline.name: str(directory / f"{pipeline.name}.yaml") for pipeline in (good, bad, handled, long)}
    for pipeline in (good, bad, handled, long):
        compiler.Compiler().compile(pipeline, paths[pipeline.name])
    return paths


def submit(emulator: Emulator, path: str, job_id: str, **parameters: Any) -> aiplatform.PipelineJob:
    """Submits by the API's client; the SDK's own submit() asks Resource Manager first, whatever it was given."""
    job = {
        "display_name": job_id,
        "pipeline_spec": yaml.safe_load(Path(path).read_text()),
        "runtime_config": {"gcs_output_directory": "gs://staging/root", "parameter_values": parameters},
    }
    created = emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id=job_id)
    return aiplatform.PipelineJob.get(created.name)


@pytest.fixture(scope="module")
def jobs(emulator: Emulator, compiled: Compiled) -> dict[str, aiplatform.PipelineJob]:
    """One job of each pipeline, all running at the same time."""
    return {
        "good": submit(emulator, compiled["good"], "good-1", count=7),
        "bad": submit(emulator, compiled["bad"], "bad-1"),
        "handled": submit(emulator, compiled["handled"], "handled-1"),
    }


def states(job: aiplatform.PipelineJob) -> dict[str, str]:
    return {task.task_name: State(task.state).name for task in job.task_details}


def log(emulator: Emulator, job_id: str, task: str) -> str:
    [path] = directory(emulator, job_id).glob(f"{task}-*.log")
    return path.read_text()


def directory(emulator: Emulator, job_id: str) -> Path:
    _, project, _, location = NUMBERED.split("/")
    return emulator.state / "jobs" / project / location / job_id


def test_a_pipeline_passes_artifacts_from_step_to_step(
    emulator: Emulator, jobs: dict[str, aiplatform.PipelineJob]
) -> None:
    job = jobs["good"]
    job.wait()
    assert job.state == aiplatform_v1.PipelineState.PIPELINE_STATE_SUCCEEDED
    first, second = job.task_details
    [written] = first.outputs["table"].artifacts
    [read] = second.inputs["table"].artifacts
    assert (written.schema_title, dict(written.metadata)) == ("system.Dataset", {"rows": 7.0})
    assert Path(written.uri).read_text() == "x" * 7
    assert read.uri == written.uri
    assert second.execution.metadata["output:Output"] == 7
    assert first.start_time < first.end_time <= second.start_time < second.end_time <= job.gca_resource.end_time
    assert f"emulator 127.0.0.1:{emulator.port} local" in log(emulator, "good-1", "measure")


def test_a_failing_step_fails_the_job_and_says_why(jobs: dict[str, aiplatform.PipelineJob]) -> None:
    job = jobs["bad"]
    with pytest.raises(RuntimeError, match="a table of 3 rows is too small"):
        job.wait()
    assert states(job) == {
        "write": "SUCCEEDED",
        "measure": "SUCCEEDED",
        "refuse": "FAILED",
        "write-2": "NOT_TRIGGERED",
    }
    [failed] = [task for task in job.task_details if task.task_name == "refuse"]
    assert failed.error.message == "ValueError: a table of 3 rows is too small"
    assert job.gca_resource.error.message.endswith(f"[refuse]. refuse: {failed.error.message}")


def test_an_exit_handler_runs_after_a_failure(emulator: Emulator, jobs: dict[str, aiplatform.PipelineJob]) -> None:
    job = jobs["handled"]
    with pytest.raises(RuntimeError, match=r"\[refuse\]"):
        job.wait()
    assert states(job) == {"refuse": "FAILED", "clean-up": "SUCCEEDED"}
    assert "after FAILED" in log(emulator, "handled-1", "clean-up")


def test_a_cancelled_job_ends_with_its_steps(emulator: Emulator, compiled: Compiled) -> None:
    job = submit(emulator, compiled["long"], "long-1")
    until(lambda: states(job) == {"sleep": "RUNNING"})
    with pytest.raises(exceptions.BadRequest, match="cancel it first"):
        emulator.jobs.delete_pipeline_job(name=job.resource_name)
    job.cancel()
    until(lambda: job.state == aiplatform_v1.PipelineState.PIPELINE_STATE_CANCELLED)
    assert states(job) == {"sleep": "CANCELLED"}
    until(lambda: not processes_of(directory(emulator, "long-1")))
    job.delete()
    with pytest.raises(exceptions.NotFound, match="long-1"):
        emulator.jobs.get_pipeline_job(name=job.resource_name)
    assert not (directory(emulator, "long-1")).exists()


def processes_of(directory: Path) -> list[str]:
    """Commands that have the directory in their environment: a worker and its steps have it in TMPDIR."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return found


def test_jobs_are_listed_newest_first_and_by_name(emulator: Emulator, jobs: dict[str, aiplatform.PipelineJob]) -> None:
    ids = [job.name.rpartition("/")[2] for job in emulator.jobs.list_pipeline_jobs(parent=PARENT)]
    assert ids == ["handled-1", "bad-1", "good-1"]
    [job] = emulator.jobs.list_pipeline_jobs({"parent": PARENT, "filter": 'display_name="bad-1"'})
    assert job.name.endswith("bad-1")


def test_a_job_id_is_taken_once(
    emulator: Emulator, compiled: Compiled, jobs: dict[str, aiplatform.PipelineJob]
) -> None:
    with pytest.raises(exceptions.Conflict, match="good-1"):
        submit(emulator, compiled["good"], "good-1", count=1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"count": 3, "colour": "red"}, "no parameter 'colour'"),
        ({}, "'count' .* is required"),
        ({"count": "three"}, "NUMBER_INTEGER"),
        ({"count": 2.5}, "NUMBER_INTEGER"),
    ],
)
def test_wrong_parameters_are_refused(
    emulator: Emulator, compiled: Compiled, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(exceptions.BadRequest, match=message):
        submit(emulator, compiled["good"], "refused", **parameters)
    with pytest.raises(exceptions.NotFound, match="refused"):
        emulator.jobs.get_pipeline_job(name=f"{PARENT}/pipelineJobs/refused")


def listed(emulator: Emulator, **fields: Any) -> list[str]:
    """The ids of the jobs that were made for lists, in the order in which they are listed."""
    condition = " AND ".join(["labels.listed:*", *filter(None, [fields.pop("filter", "")])])
    request = {"parent": PARENT, "filter": condition, **fields}
    return [job.name.rpartition("/")[2] for job in emulator.jobs.list_pipeline_jobs(request)]


def _has_ended(emulator: Emulator, name: str) -> bool:
    return bool(emulator.jobs.get_pipeline_job(name=name).end_time)


@pytest.fixture(scope="module")
def ended(emulator: Emulator, compiled: Compiled) -> dict[str, Any]:
    """Three jobs that have ended, one after the other: list-1 and list-3 cancelled, list-2 failed."""
    for number, (pipeline, label) in enumerate((("long", "a"), ("bad", "a"), ("long", "b")), 1):
        job = {
            "display_name": f"nightly run {number}",
            "pipeline_spec": yaml.safe_load(Path(compiled[pipeline]).read_text()),
            "runtime_config": {"gcs_output_directory": "gs://staging/root"},
            "labels": {"listed": label},
        }
        emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id=f"list-{number}")
        name = f"{PARENT}/pipelineJobs/list-{number}"
        if pipeline == "long":
            emulator.jobs.cancel_pipeline_job(name=name)
        until(partial(_has_ended, emulator, name))
    return {job.name.rpartition("/")[2]: job for job in emulator.jobs.list_pipeline_jobs(parent=PARENT)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ("", ["list-3", "list-2", "list-1"]),
        ('state="PIPELINE_STATE_CANCELLED"', ["list-3", "list-1"]),
        ("state!=PIPELINE_STATE_CANCELLED", ["list-2"]),
        ("labels.listed=a", ["list-2", "list-1"]),
        ("labels.listed:b", ["list-3"]),
        ("labels:listed", ["list-3", "list-2", "list-1"]),
        ('display_name="nightly run 2"', ["list-2"]),
        ('display_name:"nightly*"', ["list-3", "list-2", "list-1"]),
        ('displayName:"*run 1"', ["list-1"]),
        ("display_name:nightly AND display_name:3", ["list-3"]),
        ('display_name:"*weekly*"', []),
        ("pipeline_name=long", ["list-3", "list-1"]),
        ("pipeline_name!=long", ["list-2"]),
        ('pipeline_job_user_id:"list-*" AND NOT pipeline_job_user_id="list-2"', ["list-3", "list-1"]),
        ("pipeline_name=bad OR labels.listed=b", ["list-3", "list-2"]),
        ("template_uri:* AND template_metadata.version:v2", []),
        ("create_time>2020-05-18T13:30:00Z", ["list-3", "list-2", "list-1"]),
        ('end_time<"2020-05-18T13:30:00Z"', []),
    ],
)
def test_jobs_are_listed_by_filter(emulator: Emulator, ended: dict[str, Any], condition: str, ids: list[str]) -> None:
    assert listed(emulator, filter=condition) == ids


@pytest.mark.slow
def test_jobs_are_listed_by_time(emulator: Emulator, ended: dict[str, Any]) -> None:
    def moment(job_id: str, field: str) -> str:
        return str(getattr(ended[job_id], field).rfc3339())

    second = moment("list-2", "create_time")
    assert listed(emulator, filter=f'create_time="{second}"') == ["list-2"]
    assert listed(emulator, filter=f'create_time!="{second}"') == ["list-3", "list-1"]
    assert listed(emulator, filter=f'create_time<"{second}"') == ["list-1"]
    assert listed(emulator, filter=f'create_time<="{second}"') == ["list-2", "list-1"]
    assert listed(emulator, filter=f"create_time>{second}") == ["list-3"]
    assert listed(emulator, filter=f"create_time>={second}") == ["list-3", "list-2"]
    assert listed(emulator, filter=f'end_time>"{moment("list-1", "end_time")}" AND create_time<={second}') == ["list-2"]
    assert listed(emulator, filter=f"update_time>={moment('list-3', 'update_time')}") == ["list-3"]
    with refused("INVALID_ARGUMENT", "'last week' is no time such as"):
        listed(emulator, filter='create_time>"last week"')


@pytest.mark.slow
def test_jobs_are_listed_in_order_and_by_pages(emulator: Emulator, ended: dict[str, Any]) -> None:
    for order in ("create_time", "createTime asc", "update_time", "end_time", "end_time asc, create_time desc"):
        assert listed(emulator, order_by=order, page_size=2) == ["list-1", "list-2", "list-3"]
    assert listed(emulator, order_by="create_time desc") == ["list-3", "list-2", "list-1"]
    with refused("INVALID_ARGUMENT", "orderBy 'state': create_time, update_time, end_time, start_time"):
        listed(emulator, order_by="state")
    with refused("INVALID_ARGUMENT", "'colour' is no field .* pipeline_job_user_id, pipeline_name"):
        listed(emulator, filter="colour=red")
    mask = {"paths": ["name", "state"]}
    [seen] = emulator.jobs.list_pipeline_jobs({"parent": PARENT, "filter": "labels.listed=b", "read_mask": mask})
    assert (seen.name, seen.state) == (ended["list-3"].name, ended["list-3"].state)
    assert not seen.pipeline_spec
    assert not seen.display_name


@pytest.mark.slow
def test_what_has_ended_is_not_cancelled_and_what_is_not_there_not_found(
    emulator: Emulator, ended: dict[str, Any]
) -> None:
    with refused("FAILED_PRECONDITION", "list-1' has ended: PIPELINE_STATE_CANCELLED"):
        emulator.jobs.cancel_pipeline_job(name=ended["list-1"].name)
    absent = f"{PARENT}/pipelineJobs/absent"
    for call in (
        emulator.jobs.cancel_pipeline_job,
        emulator.jobs.delete_pipeline_job,
        emulator.jobs.get_pipeline_job,
    ):
        with refused("NOT_FOUND", "pipelineJobs/absent"):
            call(name=absent)


@pytest.mark.slow
def test_the_sdk_submits_waits_lists_and_deletes(emulator: Emulator, compiled: Compiled) -> None:
    job = aiplatform.PipelineJob(
        display_name="by the sdk",
        template_path=compiled["good"],
        job_id="sdk-1",
        # A bucket that does not exist yet: of one that does the SDK asks Resource Manager for the owner.
        pipeline_root="gs://sdk-jobs-1/root",
        parameter_values={"count": 4},
        enable_caching=False,
        labels={"by": "sdk"},
    )
    job.submit(service_account="steps@local.iam.gserviceaccount.com")
    assert job.resource_name == f"{NUMBERED}/pipelineJobs/sdk-1"
    assert emulator.storage.bucket("sdk-jobs-1").exists()
    job.wait()
    assert job.done()
    assert job.state == aiplatform_v1.PipelineState.PIPELINE_STATE_SUCCEEDED
    seen = emulator.jobs.get_pipeline_job(name=job.resource_name)
    assert seen.service_account == "steps@local.iam.gserviceaccount.com"
    assert (seen.display_name, seen.labels["by"]) == ("by the sdk", "sdk")
    assert aiplatform.PipelineJob.get(job.resource_name).task_details[1].execution.metadata["output:Output"] == 4
    [found] = aiplatform.PipelineJob.list(
        filter='display_name="by the sdk" AND state=PIPELINE_STATE_SUCCEEDED', order_by="create_time desc"
    )
    assert found.resource_name == job.resource_name
    job.delete()
    with refused("NOT_FOUND", "sdk-1"):
        aiplatform.PipelineJob.get(job.resource_name)
    assert aiplatform.PipelineJob.list(filter='display_name="by the sdk"') == []


@pytest.mark.slow
def test_the_sdk_cancels_what_it_submitted(emulator: Emulator, compiled: Compiled) -> None:
    job = aiplatform.PipelineJob(
        display_name="cancelled", template_path=compiled["long"], job_id="sdk-2", pipeline_root="gs://sdk-jobs-2/root"
    )
    job.submit(service_account="steps@local.iam.gserviceaccount.com")
    job.cancel()
    job.wait()  # which takes a cancelled job for one that has succeeded
    assert job.state == aiplatform_v1.PipelineState.PIPELINE_STATE_CANCELLED
    assert job.has_failed is False
    assert job.gca_resource.error.message == "The PipelineJob was cancelled."


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def diverge() -> float:
    return float("nan")


@dsl.pipeline(name="diverging")
def diverging() -> None:
    diverge()


def test_a_result_that_is_no_number_is_kept_as_text(emulator: Emulator, tmp_path: Path) -> None:
    compiler.Compiler().compile(diverging, str(tmp_path / "diverging.yaml"))
    job = submit(emulator, str(tmp_path / "diverging.yaml"), "diverging-1")
    job.wait()
    [task] = job.task_details
    assert dict(task.execution.metadata) == {"output:Output": "nan"}


def test_a_job_is_made_again_as_soon_as_it_is_deleted(emulator: Emulator, compiled: Compiled) -> None:
    for _ in range(4):
        job = submit(emulator, compiled["good"], "again-1", count=2)
        until(lambda: emulator.jobs.get_pipeline_job(name=f"{PARENT}/pipelineJobs/again-1").end_time, timeout_s=30)
        assert job.state == aiplatform_v1.PipelineState.PIPELINE_STATE_SUCCEEDED
        result_of(emulator.jobs.delete_pipeline_job(name=f"{PARENT}/pipelineJobs/again-1"))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def listen_to_nobody() -> None:
    import signal
    import time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf")  # noqa: T201
    time.sleep(600)


@dsl.pipeline(name="deaf")
def deaf() -> None:
    listen_to_nobody()


@pytest.mark.slow
def test_cancelling_twice_is_cancelling_once(emulator: Emulator, tmp_path: Path) -> None:
    compiler.Compiler().compile(deaf, str(tmp_path / "deaf.yaml"))
    job = submit(emulator, str(tmp_path / "deaf.yaml"), "twice-1")
    logs = directory(emulator, "twice-1")
    until(lambda: any("deaf\n" in path.read_text() for path in logs.glob("listen-to-nobody-*.log")))
    for _ in range(2):
        emulator.jobs.cancel_pipeline_job(name=job.resource_name)
    until(lambda: job.state == aiplatform_v1.PipelineState.PIPELINE_STATE_CANCELLED)
    assert not processes_of(directory(emulator, "twice-1"))
    result_of(emulator.jobs.delete_pipeline_job(name=job.resource_name))


def test_what_the_service_says_of_a_job_is_not_taken_from_the_request(emulator: Emulator, compiled: Compiled) -> None:
    job = {
        "pipeline_spec": yaml.safe_load(Path(compiled["long"]).read_text()),
        "runtime_config": {"gcs_output_directory": "gs://staging/root"},
        "end_time": "2020-01-01T00:00:00Z",
        "schedule_name": "mine",
    }
    made = emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id="honest-1")
    assert (made.end_time, made.schedule_name) == (None, "")
    emulator.jobs.cancel_pipeline_job(name=made.name)
    until(lambda: emulator.jobs.get_pipeline_job(name=made.name).end_time)
    result_of(emulator.jobs.delete_pipeline_job(name=made.name))
