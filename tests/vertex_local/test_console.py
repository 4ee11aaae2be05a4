# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
import http.client
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from .conftest import ARTIFACTS, NUMBERED, PARENT, Emulator, free_ports, start, stop, store_artifacts, until

IMAGE = "registry/local/images/steps:1"
HOSTILE = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
LONG = "a-name-without-a-place-to-break-" * 4

pytestmark = pytest.mark.slow


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def show(
    text: str,
    picture: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    link: dsl.Output[dsl.Artifact],
) -> str:
    from pathlib import Path

    from PIL import Image

    print("showing", text)  # noqa: T201
    Path(picture.path).mkdir()
    Image.new("RGB", (32, 24), "green").save(Path(picture.path) / "map of 100% & more.png")
    Path(picture.path, "numbers.bin").write_bytes(b"12345")
    Path(report.path).write_text(
        """<h1>Accuracy</h1><p id="script">off</p><p id="service"></p><p id="page"></p>
        <a id="endpoints" target="_blank">endpoints</a><script>
        endpoints.href = new URL("/console", location.href);
        script.textContent = "on";
        fetch("/").then(() => "reached", () => "refused").then((what) => service.textContent = what);
        try { page.textContent = parent.document.title } catch { page.textContent = "refused" }
        </script>"""
    )
    metrics.log_metric("accuracy", 0.75)
    Path(link.path).mkdir()
    Path(link.path, "hostname").symlink_to("/etc/hostname")
    return text


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def wait_for(path: str) -> None:
    import time
    from pathlib import Path

    print("waiting")  # noqa: T201
    while not Path(path).exists():
        time.sleep(0.05)
    print("waited")  # noqa: T201


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def refuse(score: float) -> None:
    print("line of the log")  # noqa: T201
    raise ValueError(f"{score} is below 0.9: train longer")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def note(text: str) -> str:
    print("noted", text)  # noqa: T201
    return text


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def clean_up(outcome: dsl.PipelineTaskFinalStatus) -> None:
    print("after", outcome.state)  # noqa: T201


@dsl.pipeline(name="shown")
def shown(text: str = "ndvi") -> None:
    first = show(text=text).set_display_name(HOSTILE)
    with dsl.If(first.outputs["Output"] == "never"):
        note(text="never")
    with dsl.ParallelFor(["north", "south"]) as region:
        note(text=region).after(first)


@dsl.pipeline(name="smuggled")
def smuggled(text: str) -> None:
    dsl.importer(artifact_uri="javascript:document.title='broken'", artifact_class=dsl.Artifact)
    note(text=text)


@dsl.pipeline(name="refused")
def refused() -> None:
    with dsl.ExitHandler(clean_up()):
        note(text="after").after(refuse(score=0.5))


@dsl.pipeline(name="named")
def named() -> None:
    refuse(score=0.5)


@dsl.pipeline(name="waiting")
def waiting(path: str) -> None:
    note(text="then").after(wait_for(path=path))


@dsl.pipeline(name="imported")
def imported() -> None:
    dsl.importer(artifact_uri="/etc/hostname", artifact_class=dsl.Artifact)
    dsl.importer(artifact_uri=ARTIFACTS, artifact_class=dsl.Model)


def submit(emulator: Emulator, pipeline: Any, job_id: str, folder: Path, **fields: Any) -> str:
    path = folder / f"{job_id}.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    spec = yaml.safe_load(path.read_text())
    tasks = spec["root"]["dag"]["tasks"]
    for old, new in fields.pop("renamed", {}).items():
        tasks[new] = tasks.pop(old)
    job = {
        "display_name": job_id,
        "pipeline_spec": spec,
        "runtime_config": {
            "gcs_output_directory": "gs://staging/root",
            "parameter_values": fields.pop("parameters", {}),
        },
        **fields,
    }
    name: str = emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id=job_id).name
    return name


def finished(emulator: Emulator, name: str) -> Any:
    return until(lambda: (job := emulator.jobs.get_pipeline_job(name=name)).end_time and job)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of these tests' own: others count the jobs of theirs."""
    running = start(tmp_path_factory.mktemp("state"))
    store_artifacts(running)
    yield running
    stop(running)


@pytest.fixture(scope="module")
def runs(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of finished jobs."""
    folder = tmp_path_factory.mktemp("pipelines")
    names = {
        "shown": submit(emulator, shown, "console-shown", folder, display_name=HOSTILE, labels={"team": "maps"}),
        "refused": submit(emulator, refused, "console-refused", folder, display_name=LONG),
        "imported": submit(emulator, imported, "console-imported", folder),
    }
    for name in names.values():
        finished(emulator, name)
    return names


@pytest.fixture(scope="module")
def endpoint(emulator: Emulator) -> str:
    """An endpoint with two versions of a model, one with all the traffic."""
    model = emulator.upload("console-model", display_name=HOSTILE, version_aliases=["tried"]).model
    emulator.upload(parent_model=model, display_name=LONG)
    name = emulator.endpoint(display_name=HOSTILE)
    emulator.deploy(name, f"{model}@1", {"0": 100}, id="71")
    emulator.deploy(name, f"{model}@2", {"71": 60, "0": 40}, id="72")
    return name


class Browser:
    """The page that is open, and what the console of the browser says of it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str) -> None:
        # A page that differs by its fragment alone would not be loaded again.
        self.driver.get("about:blank")
        self.driver.get(self.url + path)

    def find(self, selector: str) -> WebElement:
        found: WebElement = until(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector))[0]
        return found

    def text(self, selector: str = "main") -> str:
        # Anew each time: the page replaces its elements.
        return str(self.run(f"return document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def press(self, key: str) -> None:
        self.driver.switch_to.active_element.send_keys(key)

    def complaints(self, *, of_reports: bool = False) -> list[str]:
        """What the browser's console says: of the pages, or of what steps have written into them."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        messages: list[str] = [entry["message"] for entry in entries]
        return [message for message in messages if ("/artifacts/" in message.split()[0]) == of_reports]


@pytest.fixture
def browser(chromium: webdriver.Chrome, emulator: Emulator) -> Iterator[Browser]:
    """A browser; errors of the pages and violations of their policy fail the test."""
    browser = Browser(chromium, emulator.url)
    browser.complaints()
    yield browser
    assert browser.complaints() == []


def page(name: str) -> str:
    return f"/console/{name}"


def test_the_overview_lists_what_there_is(browser: Browser, runs: dict[str, str], endpoint: str) -> None:
    browser.open("/")
    for run, state in (("shown", "Succeeded"), ("refused", "Failed")):
        row = browser.find(f"#runs tr:has(a[href='{page(runs[run])}'])").text
        assert state in row
        assert run in row
    assert "3 succeeded · 1 not run" in browser.text("#runs")
    assert "console-model" in browser.text("#models")
    traffic = browser.find(f"#endpoints tr:has(a[href='{page(endpoint)}'])").text
    assert [line for line in traffic.splitlines() if "%" in line or "@" in line] == [
        "60 %",
        "console-model@1",
        "40 %",
        "console-model@2",
    ]


def test_the_page_of_a_run_follows_it_without_being_loaded_again(
    emulator: Emulator, browser: Browser, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    name = submit(emulator, waiting, "console-waiting", tmp_path, parameters={"path": str(gate)})
    until(lambda: emulator.jobs.get_pipeline_job(name=name).job_detail.task_details)
    browser.open(page(name))
    browser.run("window.loadedOnce = true")
    until(lambda: "waiting" in browser.text("#task-wait-for pre[data-tail]"))
    assert "Running" in browser.text("#node-wait-for")
    assert "Waiting" in browser.text("#node-note")
    browser.find("#node-wait-for").click()
    browser.find("#run-parameters summary").click()
    browser.run("document.getElementById('node-note').focus()")
    gate.touch()
    until(lambda: "Succeeded" in browser.text("h1"))
    assert "Succeeded" in browser.text("#node-wait-for")
    assert "waited" in browser.text("#task-wait-for pre[data-tail]")
    assert browser.run("return window.loadedOnce")
    # What was open, chosen and focused still is.
    assert browser.run("return document.getElementById('run-parameters').open")
    assert browser.find(".step.chosen").get_attribute("id") == "task-wait-for"
    assert browser.run("return document.activeElement.id") == "node-note"


def test_a_failed_run_opens_at_the_failed_step_with_its_error_and_log(browser: Browser, runs: dict[str, str]) -> None:
    browser.open(page(runs["refused"]))
    chosen = browser.text(".step.chosen")
    assert "ValueError: 0.5 is below 0.9: train longer" in browser.text(".step.chosen .error")
    assert "line of the log" in chosen
    assert "Traceback" in chosen
    assert "Not run" in browser.text("[id='node-exit-handler-1/note']")
    assert "Succeeded" in browser.text("#node-clean-up")
    assert "[refuse]" in browser.text("#live-head .error")
    browser.find(".step.chosen .log a").click()
    assert "line of the log" in browser.text("body")


def test_pictures_reports_and_numbers_open_in_the_page(browser: Browser, runs: dict[str, str]) -> None:
    browser.open(page(runs["shown"]) + "#task-show")
    picture = browser.find("#task-show img")
    until(lambda: browser.run("return document.querySelector('#task-show img').complete"))
    assert picture.get_property("naturalWidth") == 32
    assert "0.75" in browser.text("#task-show")
    assert "numbers.bin" in str(browser.find("#task-show .files").get_property("textContent"))
    frame = browser.find("#task-show iframe")
    assert frame.get_attribute("sandbox") == "allow-scripts allow-popups allow-popups-to-escape-sandbox"
    browser.driver.switch_to.frame(frame)
    assert browser.find("h1").text == "Accuracy"
    assert browser.find("#script").text == "on"
    assert until(lambda: browser.find("#service").text) == "refused"
    assert browser.find("#page").text == "refused"
    here = browser.driver.current_window_handle
    browser.find("#endpoints").click()
    until(lambda: len(browser.driver.window_handles) == 2)
    [opened] = set(browser.driver.window_handles) - {here}
    browser.driver.switch_to.window(opened)
    assert until(lambda: browser.run("return self.origin")) == browser.url
    assert "Vertex AI" in browser.driver.title
    browser.driver.close()
    browser.driver.switch_to.window(here)


def test_a_report_that_is_open_by_itself_cannot_reach_the_service(browser: Browser, runs: dict[str, str]) -> None:
    browser.open(page(runs["shown"]) + "#task-show")
    browser.open(str(browser.find("#task-show iframe").get_attribute("src")).removeprefix(browser.url))
    assert until(lambda: browser.find("#service").text) == "refused"
    assert browser.run("return self.origin") == "null"
    assert "connect-src" in browser.complaints(of_reports=True)[0]


def test_each_run_of_a_task_in_a_loop_is_shown(browser: Browser, runs: dict[str, str]) -> None:
    browser.open(page(runs["shown"]) + "#task-note-2")
    assert "2 runs" in browser.text("#node-for-loop-3\\/note-2")
    summaries = [one.text for one in browser.driver.find_elements(By.CSS_SELECTOR, "#task-note-2 .one-run > summary")]
    assert [text.rpartition("text = ")[2] for text in summaries] == ["north", "south"]
    logs = browser.driver.find_elements(By.CSS_SELECTOR, "#task-note-2 pre[data-tail]")
    assert ["noted north" in str(log.get_property("textContent")) for log in logs] == [True, False]


def test_a_step_and_its_log_are_reached_by_keyboard(browser: Browser, runs: dict[str, str]) -> None:
    browser.open(page(runs["shown"]))
    browser.press(Keys.TAB)
    assert browser.driver.switch_to.active_element.text == "Skip to the content"
    browser.press(Keys.ENTER)

    def tab_to(is_there: Callable[[WebElement], bool]) -> None:
        for _ in range(40):
            browser.press(Keys.TAB)
            if is_there(browser.driver.switch_to.active_element):
                return
        raise AssertionError("40 tabs do not lead there")

    tab_to(lambda element: element.get_attribute("id") == "node-show")
    browser.press(Keys.ENTER)
    assert browser.find(".step.chosen").get_attribute("id") == "task-show"
    tab_to(lambda element: element.tag_name == "summary" and element.text == "Log")
    assert not browser.run("return document.activeElement.parentElement.open")
    browser.press(Keys.ENTER)
    assert "showing ndvi" in browser.text(".step.chosen pre[data-tail]")


def test_without_scripts_all_steps_are_listed(browser: Browser, runs: dict[str, str]) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(page(runs["shown"]))
        steps = browser.driver.find_elements(By.CSS_SELECTOR, ".step")
        assert [step.is_displayed() for step in steps] == [True, True, True]
        assert browser.find("noscript meta").get_attribute("content") == "5"
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_nothing_is_wider_than_a_phone(browser: Browser, runs: dict[str, str], endpoint: str) -> None:
    model = f"{NUMBERED}/models/console-model"
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        for path in ("/", page(runs["refused"]), page(runs["shown"]) + "#task-note", page(endpoint), page(model)):
            browser.open(path)
            browser.run("document.querySelectorAll('details').forEach((one) => (one.open = true))")
            assert browser.run("return document.documentElement.scrollWidth") == 360, path
        browser.open("/")
        before = "return getComputedStyle(document.querySelector('#runs td'), '::before').content"
        assert browser.run(before) == '"State"'
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_names_are_shown_as_they_are_and_do_nothing(browser: Browser, runs: dict[str, str], endpoint: str) -> None:
    model = f"{NUMBERED}/models/console-model"
    for path, selector in (
        ("/", "#runs"),
        ("/", "#endpoints"),
        (page(runs["shown"]), "h1"),
        (page(runs["shown"]) + "#task-show", ".step.chosen h2"),
        (page(endpoint), "h1"),
        (page(model), "#version-1"),
    ):
        browser.open(path)
        if path != page(model):
            assert HOSTILE in browser.text(selector)
        assert browser.driver.title.endswith("· Vertex AI, local")
        assert not browser.driver.find_elements(By.CSS_SELECTOR, "img[src='x']")


def test_an_endpoint_shows_its_models_and_their_logs(browser: Browser, emulator: Emulator, endpoint: str) -> None:
    emulator.predictions.predict(endpoint=endpoint, instances=[1])
    browser.open(page(endpoint))
    assert "60 %" in browser.text("#deployed-71")
    assert "Serving" in browser.text("#deployed-71")
    assert browser.find("#deployed-72 h3 a").text == "console-model@2"
    assert endpoint in browser.text("#resource-name")
    statuses = [browser.text(f"#deployed-{one}") for one in (71, 72)]
    counts = [re.search(r"Requests\s+(\d+)\s+Failed\s+(\d+)\s+Restarts\s+(\d+)", status) for status in statuses]
    found = [tuple(map(int, count.groups())) for count in counts if count]
    assert [sum(column) for column in zip(*found, strict=True)] == [1, 0, 0]
    code, _, log = get(emulator, f"{page(endpoint)}/logs/71")
    assert (code, log.splitlines()[0]) == (200, b"listening")
    browser.find("#deployed-72 h3 a").click()
    assert browser.find("#version-1 .label").text == "default"
    browser.find("#version-2 dd a").click()
    assert browser.find("h1").text == HOSTILE


def test_what_is_replaced_keeps_the_focus(browser: Browser, emulator: Emulator, endpoint: str) -> None:
    browser.open(page(endpoint))
    browser.run("document.querySelector('[data-copy]').focus()")
    emulator.endpoints.update_endpoint(
        endpoint={"name": endpoint, "labels": {"team": "maps"}}, update_mask={"paths": ["labels"]}
    )
    until(lambda: "team: maps" in browser.text("#live-endpoint"))
    assert browser.driver.switch_to.active_element.text == "Copy"


def test_the_page_says_when_the_emulator_is_gone_and_goes_on_when_it_is_back(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    port = free_ports()
    running = start(tmp_path, port)
    browser = Browser(chromium, running.url)
    browser.open("/")
    assert "pipeline.py submit" in browser.text("#runs")
    stop(running)
    until(lambda: "does not answer" in browser.text("#connection"))
    running = start(tmp_path, port)
    try:
        running.endpoint(display_name="made meanwhile")
        until(lambda: "made meanwhile" in browser.text("#endpoints"))
        assert browser.text("#connection") == ""
    finally:
        browser.driver.get("about:blank")
        stop(running)


def get(emulator: Emulator, path: str) -> tuple[int, dict[str, str], bytes]:
    """A GET of the path as it stands; urllib and browsers would tidy it."""
    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def artifact_paths(emulator: Emulator, name: str, task_name: str) -> dict[str, str]:
    """The paths of what a task wrote, by the names of its outputs."""
    tasks = emulator.jobs.get_pipeline_job(name=name).job_detail.task_details
    [task] = [task for task in tasks if task.task_name == task_name]
    return {
        key: f"{page(name)}/artifacts/{task.task_id}/outputs/{number}"
        for number, key in enumerate(sorted(task.outputs))
    }


def test_files_of_artifacts_are_served_as_what_they_are(emulator: Emulator, runs: dict[str, str]) -> None:
    paths = artifact_paths(emulator, runs["shown"], "show")
    status, headers, body = get(emulator, paths["picture"] + "/map%20of%20100%25%20%26%20more.png")
    assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
    status, headers, body = get(emulator, paths["picture"] + "/numbers.bin")
    assert (status, body) == (200, b"12345")
    assert headers["content-disposition"].startswith("attachment")
    status, headers, _ = get(emulator, paths["report"])
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"].startswith(
        "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox;"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    # What lies in Cloud Storage is there as well.
    paths = artifact_paths(emulator, runs["imported"], "importer-2")
    assert get(emulator, paths["artifact"] + "/model.mar")[2] == b"weights"


def test_only_files_of_artifacts_that_a_job_names_are_served(emulator: Emulator, runs: dict[str, str]) -> None:
    paths = artifact_paths(emulator, runs["shown"], "show")
    assert (Path("/etc/hostname")).exists()
    for path in (
        paths["picture"] + "/../../../../../jobs/console-shown/job.json",
        paths["picture"] + "/..%2f..%2fnumbers.bin",
        paths["picture"] + "/%2fetc%2fhostname",
        paths["picture"] + "//etc/hostname",
        paths["picture"] + "/numbers.bin%00",
        paths["picture"],
        paths["link"] + "/hostname",
        paths["report"].replace("outputs/", "outputs/9"),
        paths["report"].replace("/outputs/", "/elsewhere/"),
        page(runs["shown"]) + "/artifacts/99/outputs/0",
        artifact_paths(emulator, runs["imported"], "importer")["artifact"],
        page(runs["shown"]) + "/logs/99",
        page(runs["shown"]) + "/logs/..%2fjob.json",
        "/console/static/../pages.py",
        "/console/static/..%2fpages.py",
        page(NUMBERED) + "/pipelineJobs/nothing",
        page(NUMBERED) + "/models/nothing",
        page(NUMBERED) + "/endpoints/nothing",
        page(NUMBERED) + "/schedules/nothing",
    ):
        assert get(emulator, path)[0] == 404, path
    assert b"/etc/hostname" in get(emulator, page(runs["imported"]))[2]


def test_a_task_s_name_leads_to_no_log_but_its_own(emulator: Emulator, runs: dict[str, str], tmp_path: Path) -> None:
    emulator_log = (emulator.state / "log" / "emulator.log").read_text()
    name = submit(emulator, named, "console-named", tmp_path, renamed={"refuse": "../../../../log/emulator"})
    finished(emulator, name)
    _, _, body = get(emulator, page(name))
    assert b"../../../../log/emulator" in body
    assert emulator_log.splitlines()[0].encode() not in body
    for task in emulator.jobs.get_pipeline_job(name=name).job_detail.task_details:
        assert emulator_log.encode() not in get(emulator, f"{page(name)}/logs/{task.task_id}")[2]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def worker(loop: dsl.Output[dsl.Artifact]) -> None:
    from pathlib import Path

    print("the step's own words")  # noqa: T201
    Path(loop.path).mkdir()
    Path(loop.path, "loop").symlink_to("loop")
    Path(loop.path, "seen.txt").write_text("seen")


@dsl.pipeline(name="odd")
def odd() -> None:
    worker()
    dsl.importer(artifact_uri="gs://models/" + "long" * 100, artifact_class=dsl.Artifact)


def test_an_odd_artifact_and_a_step_called_worker_are_shown(emulator: Emulator, tmp_path: Path) -> None:
    name = submit(emulator, odd, "console-odd", tmp_path)
    finished(emulator, name)
    code, _, body = get(emulator, page(name))
    assert code == 200
    assert b"seen.txt" in body
    [task] = [
        task for task in emulator.jobs.get_pipeline_job(name=name).job_detail.task_details if task.task_name == "worker"
    ]
    assert b"the step&#39;s own words" in body
    assert b"the step's own words" in get(emulator, f"{page(name)}/logs/{task.task_id}")[2]


def test_no_two_parts_of_the_overview_have_one_id(emulator: Emulator, endpoint: str) -> None:
    emulator.endpoints.create_endpoint(
        parent=PARENT, endpoint={"display_name": "same"}, endpoint_id="console-model"
    ).result(timeout=20)
    ids = re.findall(rb' id="([^"]+)"', get(emulator, "/")[2])
    assert len(ids) == len(set(ids))


def test_every_page_has_a_strict_policy(emulator: Emulator, runs: dict[str, str], endpoint: str) -> None:
    for path in (
        "/",
        page(runs["shown"]),
        page(endpoint),
        page(f"{NUMBERED}/models/console-model"),
        "/console/nothing",
    ):
        _, headers, body = get(emulator, path)
        assert headers["content-security-policy"].startswith("default-src 'none';")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert not re.search(rb' style=| on[a-z]+="|<script>|<style', body)


@pytest.fixture
def schedule(emulator: Emulator, tmp_path: Path) -> str:
    """A paused schedule that has not run yet."""
    path = tmp_path / "waiting.yaml"
    compiler.Compiler().compile(waiting, str(path))
    request = {
        "parent": PARENT,
        "pipeline_job": {
            "pipeline_spec": yaml.safe_load(path.read_text()),
            "runtime_config": {"gcs_output_directory": "gs://staging/root", "parameter_values": {"path": "/never"}},
        },
    }
    schedule = {
        "display_name": HOSTILE,
        "cron": "TZ=Europe/Vienna 0 3 29 2 *",
        "max_concurrent_run_count": 1,
        "create_pipeline_job_request": request,
    }
    name: str = emulator.schedules.create_schedule(parent=PARENT, schedule=schedule).name
    emulator.schedules.pause_schedule(name=name)
    return name


def test_a_schedule_shows_when_it_runs(chromium: webdriver.Chrome, emulator: Emulator, schedule: str) -> None:
    browser = Browser(chromium, emulator.url)
    browser.open("/")
    row = browser.text("#schedules tbody tr")
    for part in (HOSTILE, "Paused", "TZ=Europe/Vienna 0 3 29 2 *"):
        assert part in row
    browser.find("#schedules a").click()
    assert HOSTILE in browser.text("h1")
    assert "It has not run yet." in browser.text()


SMUGGLED = "'\" onmouseover=\"document.title='broken'\" x='\"><svg onload=document.title='broken'>"
LINKED = "javascript:document.title='broken'"


def test_names_that_break_out_of_attributes_and_addresses_that_run_do_nothing(
    browser: Browser, emulator: Emulator, tmp_path: Path
) -> None:
    """Of a run, with its labels, parameters, artifacts and log, of a model and of an endpoint."""
    path = tmp_path / "smuggled.yaml"
    compiler.Compiler().compile(smuggled, str(path))
    spec = yaml.safe_load(path.read_text())
    tasks = spec["root"]["dag"]["tasks"]
    tasks["note"]["taskInfo"]["name"] = SMUGGLED
    job = {
        "display_name": SMUGGLED,
        "pipeline_spec": spec,
        "template_uri": LINKED,
        "runtime_config": {"gcs_output_directory": "gs://staging/root", "parameter_values": {"text": SMUGGLED}},
    }
    name = emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id="smuggled").name
    finished(emulator, name)
    model = emulator.upload("smuggled", display_name=SMUGGLED, description=LINKED).model
    endpoint = emulator.endpoint(display_name=SMUGGLED, description=SMUGGLED)
    for where in ("/", page(name), page(model.partition("@")[0]), page(endpoint)):
        browser.open(where)
        assert SMUGGLED in browser.run("return document.body.textContent")
        # As a mouse would over all there is, and as a click on every link would begin.
        found = browser.run(
            "for (const one of document.querySelectorAll('*')) one.dispatchEvent(new MouseEvent('mouseover'));"
            "const all = [...document.querySelectorAll('*')];"
            "return [all.flatMap((one) => one.getAttributeNames().filter((name) => name.startsWith('on'))),"
            " all.map((one) => one.href?.baseVal ?? one.href ?? '').filter((link) => /^(?!http|$)/.test(link))]"
        )
        assert found == [[], []]
        assert "broken" not in browser.driver.title.replace(SMUGGLED, "")
