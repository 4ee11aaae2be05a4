from __future__ import annotations

import base64
import html
import io
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from components.conclude import Conclusion
from components.earthengine.contract import ModelContract
from components.earthengine.payloads import Outputs
from components.record import Deployment, Record
from components.replay import Exchange, Replay, percentile_ms
from components.report import Histogram, declared, write_call, write_report
from components.verification import (
    Check,
    OutputFigures,
    Verification,
    checks_of,
    figures_of,
    latency_check,
    pictures_of,
)
from components.vertex import EMULATOR, Vertex
from tests.conftest import contract_of, document

if TYPE_CHECKING:
    from selenium import webdriver

VERTEX = Vertex("fields", "europe-west4")
MODEL = f"{VERTEX.parent}/models/crops@7"
ENDPOINT, TRIAL = f"{VERTEX.parent}/endpoints/crops", f"{VERTEX.parent}/endpoints/trial-1"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
CROPS = {"name": "crop", "dimensions": 1, "labels": ["Maize", "Wheat"], "colours": ["#e69f00", "#009e73"]}
HEIGHT = {"name": "height", "dimensions": 0, "range": [0, 3], "colours": ["#000000", "#00ff00"]}
Change = Callable[[Outputs], Outputs]


class Elements(HTMLParser):
    """The elements of a page, each with its attributes, and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def unchanged(answers: Outputs) -> Outputs:
    return answers


def halved(answers: Outputs) -> Outputs:
    return {name: np.divide(array, 2, dtype=array.dtype) for name, array in answers.items()}


def verified(contract: ModelContract, change: Change = unchanged, **fields: Any) -> Verification:
    """What a verification finds where the endpoint's answers are the source model's, changed."""
    random = np.random.default_rng(0)
    width, height = contract.patch
    tiles = random.random((4, contract.channels, height, width), np.float32)
    expected = {
        output.name: random.random(
            (4, height, width, *((max(len(output.labels), 2),) if output.dimensions else ())), np.float32
        ).astype(output.number)
        for output in contract.outputs
    }
    answers = change(expected)
    exchanges = [Exchange(answers, 0.123, 40_000, 20_000, 3), Exchange(answers, 0.456, 50_000, 30_000, 0)]
    replayed = Replay(tiles, expected, [answers], exchanges)
    found: dict[str, Any] = {
        "endpoint": TRIAL,
        "deployed_model": "42",
        "share": 100,
        "checks": (*checks_of(contract, replayed), latency_check(replayed, 20)),
        "tiles": 4,
        "requests": 2,
        "elsewhere": 3,
        "p50_ms": percentile_ms(replayed, 50),
        "p99_ms": percentile_ms(replayed, 99),
        "largest_request": 50_000,
        "largest_answer": 30_000,
        "outputs": figures_of(contract, replayed),
        "pictures": pictures_of(contract, replayed, None),
    }
    return Verification(**found | fields)


def canary(contract: ModelContract, share: int, change: Change = unchanged) -> Verification:
    return verified(contract, change, endpoint=ENDPOINT, share=share, pictures={})


DEPLOYMENT = Deployment(
    run="deploy-1", model=MODEL, endpoint=ENDPOINT, deployed_model="42", traffic_before={"17": 100}, created=True
)


def released(*verifications: Verification) -> Conclusion:
    return Conclusion(True, True, "", DEPLOYMENT, verifications, {"42": 100}, ("9", "crops@1"))


def refused(*verifications: Verification, reason: str = "verify: it differs") -> Conclusion:
    return Conclusion(False, True, reason, DEPLOYMENT, verifications, {"17": 100}, ())


@pytest.fixture
def contract() -> ModelContract:
    return contract_of(outputs=[CROPS, HEIGHT])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """A function that writes the page of a conclusion and reads it."""

    def written(contract: ModelContract | None, conclusion: Conclusion) -> str:
        write_report(VERTEX, contract, conclusion, tmp_path / "report.html")
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return written


Write = Callable[[ModelContract | None, Conclusion], str]


def section(page: str, name: str) -> str:
    """The part of a page under the heading of an id."""
    return next(part for part in page.split("<section")[1:] if f'<h2 id="{name}">' in part).partition("</section>")[0]


def has(page: str, name: str) -> bool:
    return f'<h2 id="{name}">' in page


def test_the_verdict_comes_first_in_words(contract: ModelContract, write: Write) -> None:
    good = released(verified(contract))
    for conclusion, look, verdict in (
        (good, "released", "Released"),
        (replace(good, changed=False), "unchanged", "Nothing to change"),
        (refused(verified(contract, halved)), "refused", "Not released"),
    ):
        page = write(contract, conclusion)
        assert f"<title>{verdict}: crops@7</title>" in page
        banner = page.partition("<main>")[2].lstrip()
        assert banner.startswith(f'<header class="verdict {look}">')
        assert f"<h1>{verdict}</h1>\n<p>{conclusion.outcome}</p>" in banner
        assert has(page, "why") == (verdict == "Not released")


def test_where_the_traffic_goes_is_told(contract: ModelContract) -> None:
    conclusion = replace(refused(verified(contract, halved)), traffic={"17": 70, "9": 30, "42": 0})
    assert conclusion.outcome == "crops@7 (deployed model 42) was removed; traffic: 70 % to 17, 30 % to 9"
    assert conclusion.sentence == f"{conclusion.outcome}; verify: it differs"
    nothing = Conclusion(False, False, "preflight: the model fails", None, (), {}, ())
    assert nothing.sentence == "nothing was deployed: preflight: the model fails"


def test_the_reason_is_told_in_full_and_nothing_that_users_name_is_markup(write: Write) -> None:
    contract = contract_of(outputs=[CROPS | {"labels": [HOSTILE, "Wheat"]}])
    reason = f"{HOSTILE} {'long ' * 2000}the end"
    found = verified(contract, checks=(Check(HOSTILE, False, HOSTILE),))
    deployment = replace(DEPLOYMENT, run="'\"><img src=x onerror=alert(1)>", traffic_before={HOSTILE: 100})
    conclusion = replace(refused(found, reason=reason), deployment=deployment, retired=(HOSTILE,), traffic={"42": 1})
    page = write(contract, conclusion)
    elements = Elements(page)
    assert reason in elements.text
    # The reason, the legends of endpoint and source model, the check and its text, the traffic, and what is retired.
    assert elements.text.count(HOSTILE) == 7
    assert elements.text.count(deployment.run) == 2  # the job and its name
    assert len(elements.of("script")) == 1
    assert len(elements.of("img")) == 4
    assert not [attributes for _, attributes in elements.found if any(key.startswith("on") for key in attributes)]


def test_the_pictures_have_titles_legends_and_words_for_those_who_cannot_see_them(
    contract: ModelContract, write: Write
) -> None:
    found = verified(contract)
    part = section(write(contract, released(found)), "pictures")
    elements = Elements(part)
    assert re.findall("<figcaption>(.*)</figcaption>", part) == [
        "Input",
        *["Endpoint", "Source model", "Difference"] * 2,
    ]
    shown = [str(image["src"]).removeprefix("data:image/png;base64,") for image in elements.of("img")]
    titles = ["input", *(f"{o} {what}" for o in ("crop", "height") for what in ("endpoint", "source", "difference"))]
    assert shown == [found.pictures[title] for title in titles]
    assert "crop as the endpoint answers it" in [image["alt"] for image in elements.of("img")]
    assert part.count('style="background: #009e73"></span> Wheat') == 2
    assert part.count("<span>0</span>") == part.count("<span>3</span>") == 2
    assert "linear-gradient(to right, #000000, #00ff00)" in part
    for label in ("equal", "at the tolerance", "beyond it", "no number"):
        assert f"</span> {label}</li>" in part
    assert "The largest is 0; the tolerance is 1e-05 + 1e-05 × |value|." in elements.text


def test_without_a_range_both_answers_are_drawn_over_the_one_that_the_legend_tells(write: Write) -> None:
    contract = contract_of(outputs=[{"name": "height", "dimensions": 0, "colours": ["#000000", "#ffffff"]}])
    found = verified(contract, lambda answers: {"height": np.full_like(answers["height"], 9.0)})
    figures = found.outputs[0]
    assert "first element" not in write(contract, refused(found))
    vectors = contract_of(outputs=[{"name": "height", "dimensions": 1}])
    assert "Of each pixel the first element." in write(vectors, released(verified(vectors)))
    part = section(write(contract, refused(found)), "pictures")
    assert part.count(f"<span>{figures.edges[0]:.3g}</span>") == part.count("<span>9</span>") == 2
    drawn = {title: np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for title, png in found.pictures.items()}
    assert (drawn["height endpoint"] == 255).all()
    assert drawn["height source"].max() < 40  # at most 1 of 9


def test_the_failing_verification_is_shown_where_it_has_something_to_show(
    contract: ModelContract, write: Write
) -> None:
    first = verified(contract)
    failing = verified(contract, halved, endpoint=ENDPOINT, share=10)
    bare = canary(contract, 10, halved)
    none = Verification(ENDPOINT, "42", 10, (Check("answers", False, "nobody answers"),))
    assert failing.pictures["crop endpoint"] in write(contract, refused(first, failing))
    for later in (bare, none):
        assert first.pictures["crop endpoint"] in write(contract, refused(first, later))
    values = section(write(contract, refused(first, bare)), "values")
    assert "Endpoint, 10 % of the traffic" in values
    assert f"Largest difference {bare.outputs[0].largest:.3g}." in values
    assert "Trial endpoint" in section(write(contract, refused(first, none)), "values")


def test_an_answer_of_another_shape_has_no_picture_but_the_source_model_has(
    contract: ModelContract, write: Write
) -> None:
    found = verified(contract, lambda answers: {**answers, "height": answers["height"][:, 1:]})
    part = section(write(contract, refused(found)), "pictures")
    assert "The answer has another shape than the source model&#39;s." in part
    assert found.pictures["height source"] in part
    assert len(Elements(part).of("img")) == 5


def test_each_verification_has_its_checks(contract: ModelContract, write: Write) -> None:
    steps = [verified(contract), canary(contract, 10), canary(contract, 50, halved)]
    part = section(write(contract, refused(*steps)), "checks")
    tables = part.split("<table")[1:]
    titles = [re.findall("<caption>(.*?) <span", table)[0] for table in tables]
    assert titles == ["Trial endpoint", "Endpoint, 10 % of the traffic", "Endpoint, 50 % of the traffic"]
    assert [table.count("✗ failed") for table in tables] == [0, 0, 1]
    assert [table.count("✓ passed") for table in tables] == [5, 5, 4]
    for check in steps[2].checks:
        assert check.text in Elements(tables[2]).text


def test_the_histograms_are_drawn_and_told(contract: ModelContract, write: Write) -> None:
    found = verified(contract, halved)
    part = section(write(contract, refused(found)), "values")
    assert len(Elements(part).of("svg")) == 2
    for figures, table in zip(found.outputs, part.split("<tbody>")[1:], strict=True):
        numbers = re.findall(r'<td class="number">([\d,]+)</td><td class="number">([\d,]+)</td></tr>', table)
        assert [tuple(int(number.replace(",", "")) for number in row) for row in numbers] == list(
            zip(figures.expected, figures.answered, strict=True)
        )


def heights(path: str) -> list[float]:
    return [float(step) for step in re.findall(r"V([\d.]+)H", path)]


def test_a_histogram_is_as_high_as_the_logarithm_of_its_counts() -> None:
    edges = tuple(i / 4 + 3e-20 for i in range(5))
    drawn = Histogram.of(OutputFigures("o", 0.0, edges, (0, 9, 99, 999), (999, 0, 0, 0)))
    assert heights(drawn.source) == [150, 100, 50, 0]
    assert heights(drawn.endpoint) == [0, 150, 150, 150]
    assert [round(y) for y, _ in drawn.up] == [150, 98, 50, 0]
    assert [count for _, count in drawn.up] == [0, 10, 100, 1000]
    assert drawn.across == ((0, 0), (120, 0.25), (240, 0.5), (360, 0.75), (480, 1))


def test_values_that_do_not_vary_and_huge_ones_are_drawn() -> None:
    contract = contract_of(outputs=[{"name": "o", "type": "double", "dimensions": 0}])
    for value in (0.0, 5.0, -1e300, np.nan):
        found = verified(contract, lambda answers: {"o": np.full_like(answers["o"], value)})  # noqa: B023
        assert Histogram.of(found.outputs[0]).endpoint.startswith("M0 150V")
    constant = OutputFigures("o", 0.0, (5.0, 10.0, 15.0, 20.0, 25.0), (0, 0, 0, 0), (0, 0, 0, 0))
    assert set(heights(Histogram.of(constant).source)) == {150}


def test_latency_requests_and_answers_of_others_are_told(contract: ModelContract, write: Write) -> None:
    silent = Verification(ENDPOINT, "42", 50, (Check("answers", False, "nobody answers"),))
    part = section(write(contract, refused(verified(contract), silent)), "latency")
    rows = re.findall(r'data-label="(.*?)">(.*?)</td>', part)
    assert rows == [
        ("Tiles", "4"),
        ("Requests", "2"),
        ("Answered by other models", "3"),
        ("Median", "290 ms"),
        ("99th percentile", "453 ms"),
    ]


def widths(part: str, what: str) -> list[float]:
    return [float(number) for number in re.findall(rf'class="{what}" style="(?:width|left): ([\d.]+)%"', part)]


def test_payloads_are_held_against_the_limit(contract: ModelContract, write: Write) -> None:
    found = verified(contract, largest_request=750_000, largest_answer=100_000)
    part = section(write(contract, released(found, canary(contract, 100))), "payloads")
    (limit, same), (request, answer) = widths(part, "limit"), widths(part, "fill")
    assert limit == same < 100
    assert request == pytest.approx(limit / 2, abs=0.01)
    assert answer == pytest.approx(limit / 15, abs=0.01)
    assert "750,000 bytes" in part
    assert "too large" not in part
    part = section(write(contract, refused(replace(found, largest_answer=3_000_000))), "payloads")
    assert "3,000,000 bytes ✗ too large" in part
    assert 2 * widths(part, "limit")[0] == pytest.approx(widths(part, "fill over")[0], abs=0.01)


def test_traffic_before_and_now(contract: ModelContract, write: Write) -> None:
    deployment = replace(DEPLOYMENT, traffic_before={"17": 70, "9": 30})
    conclusion = replace(released(verified(contract)), deployment=deployment, traffic={"42": 100})
    part = section(write(contract, conclusion), "traffic")
    assert re.findall(r"<span>(\d+ % before, \d+ % now)</span>", part) == [
        "70 % before, 0 % now",
        "30 % before, 0 % now",
        "0 % before, 100 % now",
    ]
    assert widths(part, "fill before") == [70, 30, 0]
    assert widths(part, "fill") == [0, 0, 100]
    assert "Retired: 9, crops@1" in part
    assert "Retired: none" in write(contract, refused(verified(contract)))


def test_resources_are_linked_where_the_console_is(
    contract: ModelContract, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [MODEL, ENDPOINT, f"{VERTEX.parent}/pipelineJobs/deploy-1"]
    cloud = "https://console.cloud.google.com/vertex-ai"
    monkeypatch.delenv(EMULATOR, raising=False)
    pages = [
        f"{cloud}/models/locations/europe-west4/models/crops/versions/7?project=fields",
        f"{cloud}/locations/europe-west4/endpoints/crops?project=fields",
        f"{cloud}/locations/europe-west4/pipelines/runs/deploy-1?project=fields",
    ]
    assert [VERTEX.page(name) for name in names] == pages
    assert VERTEX.page(MODEL.removesuffix("@7")) == f"{cloud}/models/locations/europe-west4/models/crops?project=fields"
    links = Elements(section(write(contract, released(verified(contract))), "resources")).of("a")
    assert [link["href"] for link in links] == [pages[0], pages[1], pages[1], pages[2]]
    assert {link["target"] for link in links} == {"_blank"}
    monkeypatch.setenv(EMULATOR, "127.0.0.1:8080")
    assert [VERTEX.page(name) for name in names] == [f"http://127.0.0.1:8080/console/{name}" for name in names]


def test_the_call_is_shown_where_the_model_serves(contract: ModelContract, write: Write, tmp_path: Path) -> None:
    good = released(verified(contract, output_multiplier=2.5))
    for conclusion, serves in (
        (good, True),
        (replace(good, changed=False), True),
        (refused(verified(contract, halved)), False),
        (replace(refused(verified(contract, halved)), traffic={"42": 30, "17": 70}), True),
    ):
        page = write(contract, conclusion)
        write_call(contract, conclusion, tmp_path / "call.md")
        markdown = (tmp_path / "call.md").read_text(encoding="utf-8")
        assert has(page, "call") == serves
        for text in (Elements(page).text, markdown):
            assert (f'ee.Model.fromVertexAi(\n    endpoint="{ENDPOINT}"' in text) == serves
            assert (f'var model = ee.Model.fromVertexAi({{\n    endpoint: "{ENDPOINT}"' in text) == serves
        assert ("```python\n" in markdown) == ("```javascript\n" in markdown) == serves
    assert "outputMultiplier=2.5" in Elements(write(contract, good)).text


def test_where_nothing_is_released_the_markdown_says_so_and_why(contract: ModelContract, tmp_path: Path) -> None:
    conclusion = refused(verified(contract, halved), reason=f"first line\n{HOSTILE}")
    for each in (contract, None):
        write_call(each, conclusion, tmp_path / "call.md")
        markdown = (tmp_path / "call.md").read_text(encoding="utf-8")
        assert markdown.startswith("# Nothing new was released\n")
        assert f"first line\n    {HOSTILE}\n" in markdown  # indented, so shown as it stands


def test_a_run_that_came_to_nothing_has_a_page(contract: ModelContract, write: Write) -> None:
    nothing = Conclusion(False, False, "preflight: the model fails", None, (), {}, ())
    failed = refused(reason="deploy: the server does not start")
    for conclusion, there in ((nothing, []), (failed, ["traffic", "resources"])):
        for each in (contract, None):
            page = write(each, conclusion)
            assert conclusion.reason in page
            assert re.findall('<h2 id="(.*?)">', page) == ["why", *there]
    assert "no reason" in write(None, replace(nothing, reason=""))


def test_without_the_contract_what_was_found_is_told(contract: ModelContract, write: Write) -> None:
    page = write(None, released(verified(contract)))
    headings = re.findall('<h2 id="(.*?)">', page)
    assert headings == ["checks", "values", "latency", "payloads", "traffic", "resources"]


def test_a_table_has_no_pictures(write: Write) -> None:
    table = contract_of(
        bands=None, tile=None, scale=None, properties=[{"name": "rain"}], outputs=[{"name": "crop", "dimensions": 0}]
    )
    page = write(table, released(verified(table)))
    assert not has(page, "pictures")
    assert "predictProperties" in page


def test_an_infinite_difference_is_told(contract: ModelContract, write: Write) -> None:
    def lost(answers: Outputs) -> Outputs:
        return {name: np.where(np.greater(array, 0.5), np.nan, array) for name, array in answers.items()}

    found = Verification.parse(verified(contract, lost).dump())
    assert found.largest_difference == math.inf
    page = write(contract, refused(found))
    assert "The largest is infinite;" in section(page, "pictures")
    assert "Largest difference infinite." in section(page, "values")


def test_the_contract_is_read_where_it_can_be(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "run"))
    assert declared(record, str(tmp_path)) is None
    for unreadable in (b"name: [", b"\xff"):
        (tmp_path / "model.yaml").write_bytes(unreadable)
        assert declared(record, str(tmp_path)) is None
    (tmp_path / "model.yaml").write_text(contract_of().dump(), encoding="utf-8")
    assert declared(record, f"{tmp_path}/") == contract_of(**document())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.yaml").write_text(contract_of(name="verified").dump(), encoding="utf-8")
    assert declared(record, str(tmp_path)) == contract_of(name="verified")


def test_what_was_not_tidied_up_is_told(contract: ModelContract, write: Write) -> None:
    left = f"could not undeploy 42: {HOSTILE}"
    conclusion = replace(refused(verified(contract, halved)), untidy=(left,), stays=True)
    assert left in conclusion.sentence
    assert "crops@7 (deployed model 42) stays deployed" in conclusion.outcome
    page = write(contract, conclusion)
    assert html.escape(left).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in section(page, "untidy")
    assert "removed again" not in section(page, "resources")
    removed = write(contract, refused(verified(contract, halved)))
    assert not has(removed, "untidy")
    assert "created by this run, and removed again" in section(removed, "resources")


def test_nothing_is_asked_of_anyone_else(contract: ModelContract, write: Write) -> None:
    page = write(contract, released(verified(contract)))
    elements = Elements(page)
    for tag, attributes in elements.found:
        assert tag not in {"iframe", "object", "embed", "form", "base"}
        for key in ("src", "href", "srcset", "action", "poster"):
            assert tag == "a" or (attributes.get(key) or "data:").startswith("data:")
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"@import|url\(|https?:", style)


@pytest.mark.slow
def test_what_gets_into_the_page_against_all_escaping_does_not_run(
    contract: ModelContract, write: Write, chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    page = write(contract, released(verified(contract)))
    smuggled = f"{HOSTILE}<p onclick='document.title=1' id='clicked'>here</p><style>body {{ display: none }}</style>"
    (tmp_path / "smuggled.html").write_text(page.replace("<main>", f"<main>{smuggled}"))
    complaints(chromium)
    chromium.get((tmp_path / "smuggled.html").as_uri())
    chromium.find_element("id", "clicked").click()
    assert "Released" in chromium.title
    assert chromium.find_element("tag name", "h1").is_displayed()
    # Three scripts, a picture from elsewhere and a style.
    assert len(complaints(chromium)) >= 5


@contextmanager
def served(page: bytes, headers: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A server of the page, alone and in a sandboxed frame as the local console shows it; the paths it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            shown = self.path == "/report"
            body = page if shown else b'<iframe src="/report" sandbox="allow-scripts" width=900 height=800></iframe>'
            body = body if shown else body + b"<textarea></textarea>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            for key, value in headers.items() if shown else ():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the browser's console has said since it was last asked."""
    return [entry["message"] for entry in driver.get_log("browser")]  # type: ignore[no-untyped-call]


def check_page(driver: webdriver.Chrome) -> None:
    """Pictures are shown, nothing was fetched, tabs turn, for who has the page in front of them."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    assert driver.execute_script("return [...document.images].map((one) => one.naturalWidth > 0)") == [True] * 7
    fetched = "return performance.getEntriesByType('resource').map((one) => one.name)"
    assert [name for name in driver.execute_script(fetched) if not name.startswith("data:")] == []
    panels = [driver.find_element(By.CSS_SELECTOR, f".call.{each}") for each in ("python", "javascript")]
    assert [panel.is_displayed() for panel in panels] == [True, False]
    driver.find_element(By.CSS_SELECTOR, "label[for=call-javascript]").click()
    assert [panel.is_displayed() for panel in panels] == [False, True]
    driver.find_element(By.ID, "call-javascript").send_keys(Keys.LEFT)
    assert [panel.is_displayed() for panel in panels] == [True, False]


def copied(driver: webdriver.Chrome) -> str:
    """What the copy button of the call that is shown says then, after it was pressed."""
    from selenium.webdriver.common.by import By

    button = driver.find_element(By.CSS_SELECTOR, ".call.python button")
    button.click()
    assert driver.find_element(By.ID, "copied").get_property("textContent") == button.text
    return button.text


@pytest.mark.slow
def test_the_page_works_from_a_file(
    contract: ModelContract, write: Write, chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By

    write(contract, released(verified(contract)))
    complaints(chromium)
    chromium.set_window_size(1280, 900)
    chromium.get((tmp_path / "report.html").as_uri())
    check_page(chromium)
    assert copied(chromium) == "Copied"
    for width in (1280, 400):
        chromium.set_window_size(max(width, 500), 900)
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        assert chromium.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    chromium.refresh()
    assert not chromium.find_element(By.CSS_SELECTOR, ".call.python button").is_displayed()
    chromium.find_element(By.CSS_SELECTOR, "label[for=call-javascript]").click()
    assert chromium.find_element(By.CSS_SELECTOR, ".call.javascript").is_displayed()
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert complaints(chromium) == []


@pytest.mark.slow
def test_the_page_works_in_the_frame_of_the_console(
    contract: ModelContract, write: Write, chromium: webdriver.Chrome
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    from containers.vertex_local.console.pages import _WRITTEN_BY_A_STEP

    page = write(contract, released(verified(contract)))
    complaints(chromium)
    with served(page.encode(), _WRITTEN_BY_A_STEP) as (url, asked):
        chromium.get(url)
        chromium.switch_to.frame(0)
        check_page(chromium)
        call = chromium.find_element(By.CSS_SELECTOR, ".call.python pre").get_property("textContent")
        assert copied(chromium) == "Copied"
        chromium.switch_to.default_content()
        paper = chromium.find_element(By.TAG_NAME, "textarea")
        paper.send_keys(Keys.CONTROL, "v")
        assert str(paper.get_property("value")).strip() == str(call).strip()
        assert set(asked) <= {"/", "/report", "/favicon.ico"}
    assert complaints(chromium) == []
