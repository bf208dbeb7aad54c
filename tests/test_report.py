"""``program.report``: one page that works without a network, read by a real browser, whatever the names in it are."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from graphs import lenet_step
from hypothesis import given
from typer.testing import CliRunner

import graphrt as grt
from graphrt import ops as F
from graphrt.cli import app
from graphrt.errors import ArgumentError
from graphrt.runtime.page import document
from graphrt.runtime.report import changes

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
HOSTILE = """</script><img src=x onerror="document.title='taken'">'"\\ \n${1}"""
MOST = 1_000_000  # bytes of the page of ResNet-50's training step


def data_of(page: str) -> Any:
    """What a page has for its script."""
    found = re.search(r'id="data">([^<]*)<', page)
    assert found is not None
    return json.loads(gzip.decompress(b64decode(found[1])))


def hostile() -> grt.Graph:
    """Names of inputs, parameters and outputs that would do something if they were taken for anything but text."""
    g = grt.Graph()
    x, w = g.input(HOSTILE, (4, 8)), g.parameter("w" + HOSTILE, shape=(8, 3))
    g.output("y" + HOSTILE, F.relu(x @ w))
    return g


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = grt.compile(lenet_step(4), target="cpu")
    path = tmp_path_factory.mktemp("report") / "net.html"
    feeds = {"x": np.ones((4, 1, 32, 32), np.float32), "target": np.zeros(4, np.int64), "lr": 0.1}
    program.report(path, program.profile(feeds, runs=2), title="LeNet-5")
    return path


def test_the_page_has_everything_the_program_decided(lenet: Path) -> None:
    page, program = lenet.read_text(), grt.compile(lenet_step(4), target="cpu")
    data = data_of(page)
    assert [x["title"] for x in data["launches"]] == [x.title() for x in program.schedule.launches]  # type: ignore[union-attr]
    assert all(x["seconds"] > 0 and x["predicted"] > 0 and x["bound"] for x in data["launches"])
    assert [data["sources"][x["source"]] for x in data["launches"]] == [program.source(i) for i in range(program.launches)]
    names = {name for x in data["launches"] for g in x["groups"] for name, *_ in g["nodes"]}
    assert {"conv_0", "relu_0", "max_pool_0"} <= names
    ledger = program.explain().ledger
    assert data["ledger"]["fused"] == ledger.fused and len(data["decisions"]) == len(program.explain().decisions)
    assert [name for name, *_ in data["passes"]] == [name for name, _ in program.passes]
    assert data["passes"][0][2][0].startswith(" x : f32[4,1,32,32] = input(")
    assert data["arena"]["size"] == program.plan.size and len(data["arena"]["slots"]) == len(program.plan.offset)  # type: ignore[union-attr]
    assert {"passes", "fusion", "memory"} <= data["compiling"].keys()
    assert "://" not in page.replace("http://www.w3.org/2000/svg", ""), "nothing is to be fetched"


def test_the_policy_allows_what_is_in_the_page_alone() -> None:
    page = document("a <title>", "<p>body</p>", "p{}", "let x;", {"a": 1})
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "script-src 'sha256-" in policy[1] and "unsafe" not in policy[1] and "&lt;title&gt;" in page
    assert data_of(page) == {"a": 1} and "<script" not in document("a", "b")


def test_a_pass_shows_the_lines_that_it_changes(lenet: Path) -> None:
    """What the passes show, one applied after the other, leads from the first graph to the last."""
    program, data = grt.compile(lenet_step(4), target="cpu"), data_of(lenet.read_text())
    lines = [line[1:] for line in data["passes"][0][2]]
    for _, _, changed in data["passes"][1:]:
        for line in changed:
            if line[0] == "-":
                lines.remove(line[1:])
            elif line[0] == "+":
                lines.append(line[1:])
    graph = program.graph
    values = {f"%{i}": v.name for i, v in enumerate(graph.values())}
    last = [re.sub(r"%\d+\b", lambda m: values[m[0]], re.sub(r"^%\d+(, %\d+)* ", "", x)) for x in str(graph).splitlines()]
    assert sorted(lines) == sorted(last) and any(changed for *_, changed in data["passes"][1:])


@given(st.permutations(range(9)), st.sets(st.integers(0, 8)))
def test_differences_lead_from_one_text_to_the_other(order: list[int], gone: set[int]) -> None:
    """What neither goes nor comes stands in both in one order, and is as much as can."""
    before, after = [str(i) for i in range(9)], [str(i) for i in order if i not in gone] + ["new"]
    lines = changes(before, after)
    removed, added = ({line[1:] for line in lines if line[0] == sign} for sign in "-+")
    stays = [line for line in before if line not in removed]
    assert stays == [line for line in after if line not in added] and removed <= {*before} and "new" in added
    assert len(stays) >= sum(block.size for block in SequenceMatcher(None, before, after, False).get_matching_blocks())
    around = [line for line in lines if line[0] == " "]
    assert all(line[1:] in stays for line in around) and lines[0].startswith("@@ -")


def test_the_command_and_what_has_no_launches(tmp_path: Path) -> None:
    out = tmp_path / "resnet20.html"
    words = ["report", "resnet20", "--batch", "4", "--target", "cpu", "--eval", "-o", str(out)]
    done = CliRunner().invoke(app, words)
    assert (
        done.exit_code == 0
        and "resnet20, batch 4, cpu" in done.output
        and data_of(out.read_text())["title"] == "resnet20, batch 4, cpu"
    )
    where = {n[3].partition(":")[0] for x in data_of(out.read_text())["launches"] for g in x["groups"] for n in g["nodes"]}
    assert where and all((Path(grt.__file__).parent / "models" / file).exists() for file in where), "a model's own lines"
    with pytest.raises(ArgumentError, match="no launches to report on"):
        grt.compile(hostile(), target="reference").report(out)


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.skip("needs the package playwright, to drive a browser: make browser, or pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs Chromium: make browser, or apt-get install chromium-headless-shell")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Opened:
    """A page in the browser, with what went wrong and what was asked for."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.page = browser.new_page(viewport={"width": 1400, "height": 900})
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def close(self) -> None:
        """Nothing went wrong, and nothing but the file was asked for."""
        assert self.wrong == [] and len(self.requests) == 1, (self.wrong, self.requests)
        self.page.close()


def test_search_finds_a_node_and_a_click_shows_its_source(browser: Any, lenet: Path) -> None:
    opened = Opened(browser, lenet)
    page = opened.page
    assert page.title() == "LeNet-5, cpu" and "launches" in page.inner_text("#totals")
    page.fill("#search", "max_pool_0")
    page.click("#found button >> nth=0")
    detail = page.inner_text("#detail")
    assert "max_pool_0" in detail and "graphs.py:" in detail and "measured" in detail and "bound by" in detail
    assert "#undef OP_MAX" in page.inner_text("#detail pre.source") and page.locator("#detail pre.source span").count() > 5
    kinds = {span.get_attribute("class") for span in page.locator("#detail pre.source span").all()}
    assert {"comment", "directive", "keyword", "name", "number"} <= kinds
    assert page.evaluate("byId('detail').querySelector('pre.source').textContent") in data_of(lenet.read_text())["sources"]
    assert page.locator("#detail .verdicts li").count() > 0 and page.locator("#spine svg path").count() > 0
    page.click('[data-launch="0"]')
    assert "relu_0 into conv_0: fused" in page.inner_text("#detail .verdicts")
    rows = page.locator("#spine [data-launch]").count()
    page.click(".fold button >> nth=0")
    assert page.locator("#spine [data-launch]").count() < rows, "a module folds"
    opened.close()


def test_every_tab_shows_something(browser: Any, lenet: Path) -> None:
    opened = Opened(browser, lenet)
    page = opened.page
    for tab, selector in (
        ("Ablation", "td >> text=epilogue"),
        ("Roofline", "svg circle >> nth=5"),
        ("Memory", "svg rect >> nth=5"),
        ("Compiling", "td >> text=fusion"),
    ):
        page.click(f"#tabs >> text={tab}")
        page.wait_for_selector(selector)
    page.click("#tabs >> text=IR")
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator(".pass .removed").count() > 0, "no pass has changed a line"
    opened.close()


def test_hostile_names_are_text(browser: Any, tmp_path: Path) -> None:
    program = grt.compile(hostile(), target="cpu")
    program.report(tmp_path / "net.html", title=HOSTILE)
    opened = Opened(browser, tmp_path / "net.html")
    page = opened.page
    assert "onerror" in page.title()
    for tab in ("Ablation", "Roofline", "Memory", "IR", "Compiling", "Launches"):
        page.click(f"#tabs >> text={tab}")
        for summary in page.locator("summary").all():
            summary.click()
    page.click('[data-launch="0"]')
    page.fill("#search", "onerror")
    page.wait_for_selector("#found button")
    assert "onerror" in page.inner_text("#detail") and page.locator("img").count() == 0 and page.title() != "taken"
    opened.close()


def test_a_large_training_step_is_less_than_a_megabyte(browser: Any, tmp_path: Path) -> None:
    """Small sizes make as many launches."""
    trainer = grt.Trainer(
        grt.models.resnet50(), grt.nn.CrossEntropyLoss(), grt.optim.SGD(0.1, momentum=0.9), target="cuda:sm_90"
    )
    graph = trainer.training_graph(((2, 3, 64, 64), "float32"), ((2,), "int64"))
    path = tmp_path / "resnet50.html"
    grt.compile(graph, target="cuda:sm_90").report(path, title="ResNet-50")
    assert path.stat().st_size <= MOST
    opened = Opened(browser, path)
    opened.page.fill("#search", "layer3.4")
    assert opened.page.locator("#found button").count() > 3
    opened.close()
