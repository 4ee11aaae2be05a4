"""Report: what came of a run, as one HTML page that needs nothing besides, and the Earth Engine call as Markdown.

The template lies beside this module; here is what it shows that has to be worked out first.
"""

from __future__ import annotations

import logging
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components import pictures, storage
from components.conclude import Conclusion
from components.earthengine.contract import FILE_NAME, ModelContract, Output
from components.earthengine.errors import PipelineError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES
from components.earthengine.snippet import javascript_call, python_call
from components.gate import Decision
from components.pages import templates
from components.record import Record
from components.verification import OutputFigures, Verification
from components.vertex import Vertex
from components.whole import write_text

log = logging.getLogger(__name__)

# Of a histogram's plot, in the units of its drawing.
_WIDTH, _HEIGHT = 480, 150


@dataclass(frozen=True)
class Histogram:
    """An output's two histograms as a drawing whose heights are logarithms, since most values often lie in a few bins.

    Attributes:
        figures: what is drawn.
        source: an SVG path around the source model's bars.
        endpoint: an SVG path along the tops of the endpoint's.
        across: places and values along the horizontal axis.
        up: places and counts along the vertical one.
    """

    figures: OutputFigures
    source: str
    endpoint: str
    across: tuple[tuple[float, float], ...]
    up: tuple[tuple[float, int], ...]

    @classmethod
    def of(cls, figures: OutputFigures) -> Histogram:
        """Draw an output's figures."""
        digits = len(str(max(*figures.expected, *figures.answered)))
        bins = len(figures.expected)
        # So that the smallest of many chances is 0 and not 3.53e-20.
        places = 3 - math.floor(math.log10(figures.edges[-1] - figures.edges[0]))

        def height(count: int) -> float:
            return round(_HEIGHT * (1 - math.log10(1 + count) / math.log10(1 + 10**digits)), 1)

        def tops(counts: tuple[int, ...]) -> str:
            steps = (f"V{height(count)}H{round(_WIDTH * (i + 1) / bins, 1)}" for i, count in enumerate(counts))
            return f"M0 {_HEIGHT}{''.join(steps)}V{_HEIGHT}"

        return cls(
            figures,
            f"{tops(figures.expected)}Z",
            tops(figures.answered),
            tuple((_WIDTH * i / bins, round(figures.edges[i], places)) for i in range(0, bins + 1, bins // 4)),
            tuple((height(count), count) for count in (0, *(10**power for power in range(1, digits + 1)))),
        )


@dataclass(frozen=True)
class Map:
    """The pictures of an output and what their colours mean.

    Attributes:
        output: of the contract.
        answered: by the endpoint, a PNG in base64; empty where it has another shape than expected.
        source: the source model's answer.
        difference: of the two; empty where there is none.
        colours: of each label, or along the ramp.
        range: the values at the two ends of the ramp.
        largest: the largest absolute difference, over all tiles.
    """

    output: Output
    answered: str
    source: str
    difference: str
    colours: tuple[str, ...]
    range: tuple[float, float] | None
    largest: float

    @classmethod
    def all_of(cls, contract: ModelContract, verification: Verification) -> list[Map]:
        """The maps of a verification, in the order of the contract's outputs."""
        drawn = verification.pictures
        figures = {each.name: each for each in verification.outputs}
        found = []
        for output in contract.outputs:
            if f"{output.name} source" not in drawn:
                continue
            compared = figures.get(output.name)
            found.append(
                cls(
                    output,
                    drawn.get(f"{output.name} endpoint", ""),
                    drawn[f"{output.name} source"],
                    drawn.get(f"{output.name} difference", ""),
                    pictures.colours(output),
                    output.range or ((compared.edges[0], compared.edges[-1]) if compared else None),
                    compared.largest if compared else math.inf,
                )
            )
        return found


def declared(record: Record, model_uri: str) -> ModelContract | None:
    """The contract of what a run verified, else that in the model's folder; None where neither can be read."""
    where = f"{model_uri.rstrip('/')}/{FILE_NAME}"
    try:
        if kept := record.contract():
            return kept
        text = storage.read_text(where)
        return ModelContract.parse(text, where) if text is not None else None
    except (PipelineError, UnicodeDecodeError) as error:
        log.warning("the report is without the model's contract: %s", error)
        return None


def write_report(
    vertex: Vertex, contract: ModelContract | None, conclusion: Conclusion, path: Path, decision: Decision | None = None
) -> None:
    """Write the page.

    Args:
        vertex: whose console is linked.
        contract: the model's contract; without it the page has no pictures and no call.
        conclusion: what came of the run.
        path: the file to write.
        decision: of the gate, where the model is a retrained one.
    """
    verifications = conclusion.verifications
    pictured = _most_telling(verifications, lambda each: bool(each.pictures))
    measured = _most_telling(verifications, lambda each: bool(each.outputs))
    page = (
        templates()
        .get_template("report.html")
        .render(
            verdict=_verdict(conclusion),
            conclusion=conclusion,
            decision=decision,
            deployment=conclusion.deployment,
            contract=contract,
            pictured=pictured,
            maps=Map.all_of(contract, pictured) if contract and pictured else [],
            difference=pictures.DIFFERENCE,
            measured=measured,
            histograms=[Histogram.of(figures) for figures in measured.outputs] if measured else [],
            plot=(_WIDTH, _HEIGHT),
            limit=MAX_PAYLOAD_BYTES,
            calls=_calls(contract, conclusion),
            parent=vertex.parent,
            page=vertex.page,
        )
    )
    write_text(path, page)


def write_call(contract: ModelContract | None, conclusion: Conclusion, path: Path) -> None:
    """Write the Earth Engine call as Markdown, in Python and JavaScript; where nothing was released, why not."""
    parts = []
    if not conclusion.released:
        # Indented it is shown as it stands, whatever it holds.
        parts.append(f"# Nothing new was released\n\n{textwrap.indent(conclusion.sentence, '    ')}\n")
    if contract and (calls := _calls(contract, conclusion)):
        blocks = (f"```{language.lower()}\n{call}```\n" for language, call in calls.items())
        parts += [f"# Call {contract.name} from Earth Engine\n", *blocks]
    write_text(path, "\n".join(parts))


def _verdict(conclusion: Conclusion) -> str:
    if not conclusion.released:
        return "Not released"
    return "Released" if conclusion.changed else "Nothing to change"


def _most_telling(
    verifications: tuple[Verification, ...], shows: Callable[[Verification], bool]
) -> Verification | None:
    """Of the verifications that show something the one that failed, else the first, which is of all tiles."""
    showing = [each for each in verifications if shows(each)]
    return next((each for each in showing if each.fault), showing[0] if showing else None)


def _calls(contract: ModelContract | None, conclusion: Conclusion) -> dict[str, str]:
    """The Earth Engine call by language, where the model that it is of serves."""
    deployment = conclusion.deployment
    if not (contract and deployment and conclusion.verifications):
        return {}
    if not conclusion.traffic.get(deployment.deployed_model):
        return {}
    multiplier = max(each.output_multiplier for each in conclusion.verifications)
    return {
        "Python": python_call(contract, deployment.endpoint, multiplier),
        "JavaScript": javascript_call(contract, deployment.endpoint, multiplier),
    }
