"""Following a run: each step as it ends, and then what came of it all."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from rich.markup import escape

from components import job, storage
from components.commands.options import console
from components.earthengine.errors import JobError, PipelineError
from components.vertex import Vertex
from components.whole import whole_folder, write_text


def follow(vertex: Vertex, name: str, output: Path) -> None:
    """Show each step of a job as it ends, and then what came of it all.

    Args:
        vertex: where it runs.
        name: the job's resource name.
        output: folder for pages and pictures.

    Raises:
        JobError: it failed or was cancelled.
        VertexError: Vertex AI does not answer.
    """
    ended: dict[str, job.Step] = {}
    try:
        with console.status("the pipeline begins") as status:
            for step in job.follow(vertex, name):
                ended[step.name] = step
                if step.state == "RUNNING":
                    status.update(step.name)
                if step.state in {"RUNNING", "NOT_TRIGGERED"}:
                    continue
                mark = "[green]✓[/]" if step.state == "SUCCEEDED" else f"[red]✗[/] {step.state.lower()}"
                console.print(f"{mark} {step.name:22}{step.seconds:6.1f} s")
    except JobError:
        with suppress(PipelineError):  # the job's error is the one to tell
            _show(ended, output)
        raise
    _show(ended, output)


def _show(ended: dict[str, job.Step], output: Path) -> None:
    """What came of a run: its report, and where it released a model the Earth Engine call and the picture."""
    gated, concluded = (ended.get(name) for name in ("gate", "conclude"))
    if gated and gated.state == "SUCCEEDED":
        page, told = gated.outputs["decision"]
        write_text(output / "decision.html", storage.read_text(page) or "")
        console.print(f"gate      {escape(told['reason'])}")
        console.print(f"decision  {output / 'decision.html'}")
    if concluded is None or concluded.state != "SUCCEEDED":
        return
    measured = concluded.outputs["metrics"][1]
    write_text(output / "report.html", storage.read_text(concluded.outputs["report"][0]) or "")
    if measured["released"]:
        call = storage.read_text(concluded.outputs["earth_engine_call"][0]) or ""
        write_text(output / "earth-engine-call.md", call)
        console.print(f"\n{escape(call)}")
        console.print(f"endpoint  {ended['create-endpoint'].outputs['found'][1]['resourceName']}")
        console.print(f"parity    {measured['largest_difference']:.2g} is the largest difference from the source model")
        pictures, shown = ended["verify"].outputs["pictures"]
        if shown.get("scene"):
            found = storage.fetch(pictures, output)
            if found != output:
                with whole_folder(output) as aside:
                    shutil.copytree(found, aside, dirs_exist_ok=True)
            console.print(f"picture   {output / 'scene.png'}")
    console.print(f"outcome   {escape(concluded.parameters['Output'])}")
    console.print(f"report    {output / 'report.html'}")
