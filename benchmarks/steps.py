"""What it costs to run the nine steps as a pipeline rather than as functions one after another.

    python -m benchmarks.steps [--framework tensorflow]

Both run against a local Vertex AI of their own, alternately, so that the machine's mood is the same
for both; the functions run in one fresh process each time, which pays every import once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from benchmarks.results import Figure, report
from components import job, local, storage
from components.built_images import Images
from components.dags import compile_deploy
from components.earthengine.contract import Framework
from components.land_cover import train_land_cover
from components.parameters import CANARY_PERCENT, MAX_LATENCY_SECONDS, PROMOTION_STEPS
from components.vertex import Vertex

_ROUNDS = 3
_MODEL_URI = f"gs://{local.BUCKET}/models/benchmark"
_STEPS = (
    "export",
    "archive",
    "preflight",
    "upload",
    "create-endpoint",
    "deploy",
    "verify",
    "release",
    "conclude",
)


def functions(framework: str, folder: Path) -> dict[str, float]:
    """Call the functions of the nine steps on the model in the bucket; returns the seconds of each."""
    begin = time.perf_counter()
    seconds: dict[str, float] = {}

    def done(step: str) -> None:
        seconds[step] = time.perf_counter() - begin - sum(seconds.values())

    from components.export import export_model
    from components.storage import fetch

    vertex = Vertex(local.PROJECT, local.LOCATION)
    staging = f"gs://{local.BUCKET}/staging"
    export_model(fetch(_MODEL_URI, folder / "model"), folder / "exported")
    done("export")
    from components.archive import archive_model

    archive_model(folder / "exported", folder / "archived")
    done("archive")
    from components.preflight import check_archive

    archived = folder / "archived"
    check_archive(archived)
    done("preflight")
    from components.upload import upload_model

    registered = upload_model(vertex, archived, f"images/serving-{framework}:1", staging)
    done("upload")
    from components.endpoint import find_or_create_endpoint

    endpoint = find_or_create_endpoint(vertex, "benchmark")
    done("create-endpoint")
    from components.deploy import deploy_model
    from components.record import Record

    record = Record.of(staging, "benchmark")
    deploy_model(
        vertex,
        endpoint.name,
        registered.name,
        record,
        run="benchmark",
        machine_type="n1-standard-2",
        min_replicas=1,
        max_replicas=1,
    )
    done("deploy")
    from components.verify import verify_run

    verify_run(vertex, record, archived, folder / "pictures", max_latency_seconds=MAX_LATENCY_SECONDS)
    done("verify")
    from components.release import release_deployment

    release_deployment(
        vertex,
        record,
        archived,
        canary_percent=CANARY_PERCENT,
        promotion_steps=PROMOTION_STEPS,
        max_latency_seconds=MAX_LATENCY_SECONDS,
    )
    done("release")
    from components.conclude import conclude_run
    from components.report import declared, write_call, write_report

    conclusion = conclude_run(vertex, record, fault="", keep_previous=1, keep_versions=10)
    contract = declared(record, _MODEL_URI)
    write_report(vertex, contract, conclusion, folder / "report.html")
    write_call(contract, conclusion, folder / "call.md")
    done("conclude")
    return seconds


def pipeline_steps(framework: Framework, folder: Path) -> dict[str, float]:
    """Run the same as a pipeline job; returns the seconds of each step, and of the whole as `all`."""
    vertex = Vertex(local.PROJECT, local.LOCATION)
    template = compile_deploy(framework, Images("images", "1"), folder / "deploy.yaml")
    vertex.pipelines  # noqa: B018 -- imported before the clock starts
    begin = time.perf_counter()
    name = job.submit(vertex, template, {"model_uri": _MODEL_URI}, f"gs://{local.BUCKET}/root", "benchmark")
    seconds = {step.name: step.seconds for step in job.follow(vertex, name)}
    return {**seconds, "all": time.perf_counter() - begin}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--framework", choices=get_args(Framework), default="pytorch")
    parser.add_argument("--functions", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.functions:
        print(json.dumps(functions(arguments.framework, arguments.functions)))
        return
    as_functions, as_pipeline = [], []
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary, "model")
        train_land_cover(model, arguments.framework)
        for number in range(_ROUNDS):
            folder = Path(temporary, str(number))
            with local.local_vertex(folder / "vertex-functions"):
                command = [sys.executable, "-m", "benchmarks.steps", "--framework", arguments.framework]
                command += ["--functions", str(folder)]
                storage.stage(model, _MODEL_URI)
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                as_functions.append(json.loads(printed.splitlines()[-1]))
            with local.local_vertex(folder / "vertex-pipeline"):
                storage.stage(model, _MODEL_URI)
                as_pipeline.append(pipeline_steps(arguments.framework, folder))
    ratios = [run["all"] / sum(calls.values()) for run, calls in zip(as_pipeline, as_functions, strict=True)]
    figures = [Figure("nine steps as a pipeline, times the functions", statistics.median(ratios), "x", "at most 2.5")]
    figures.append(Figure("the pipeline", statistics.median(run["all"] for run in as_pipeline), "s"))
    figures.append(Figure("the functions", statistics.median(sum(calls.values()) for calls in as_functions), "s"))
    for step in _STEPS:
        alone = statistics.median(calls[step] for calls in as_functions)
        within = statistics.median(run[step] for run in as_pipeline)
        figures.append(Figure(f"{step}: its own start-up in the pipeline", within - alone, "s"))
    report(f"steps {arguments.framework}", figures)


if __name__ == "__main__":
    main()
