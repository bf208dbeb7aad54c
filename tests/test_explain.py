"""``program.explain()``: a summary that can be read, and answers to questions."""

from __future__ import annotations

import json

import pytest
from graphs import lenet_step
from typer.testing import CliRunner

import graphrt as grt
from graphrt import models, nn, optim
from graphrt.cli import app
from graphrt.compiler import lower_graph
from graphrt.errors import ArgumentError
from graphrt.passes.stages import STAGES
from graphrt.runtime.explanation import Explanation
from graphrt.targets.target import parse


@pytest.fixture(scope="module")
def lenet() -> Explanation:
    return Explanation(lower_graph(lenet_step(), parse("cpu"), {}))


def test_a_large_training_step_is_told_in_sixty_lines() -> None:
    trainer = grt.Trainer(models.resnet50(), nn.CrossEntropyLoss(), optim.SGD(0.1, momentum=0.9), target="cuda:sm_90")
    graph = trainer.training_graph(((2, 3, 64, 64), "float32"), ((2,), "int64"))
    found = Explanation(lower_graph(graph, parse("cuda:sm_90"), {}))
    lines, text = str(found).splitlines(), str(found)
    assert len(lines) <= 60 and lines[0].endswith("bytes saved") and len(found.full().splitlines()) > 1000
    assert all(f"  {name}" in text for name in ("layer1", "layer4", "fc", "epilogue", "inline", "rows"))
    assert "which waits for ..." in text and "layout: " in text and "in_place: " in text


def test_every_decision_has_its_stage(lenet: Explanation) -> None:
    fusions = {d.stage for d in lenet.decisions if d.fuses}
    assert {"epilogue", "rowops", "rows"} <= fusions <= STAGES.keys() and all(d.reason for d in lenet.decisions)
    assert {d.stage for d in lenet.decisions} <= {*STAGES, "layout", "template"}


def test_why(lenet: Explanation) -> None:
    (found,) = lenet.why("relu_0", "conv_0")
    assert found == lenet.why("conv_0", "relu_0")[0] and found.taken and found.stage == "epilogue"
    (found,) = lenet.why("max_pool_0", "conv_0")
    assert not found.taken and "kernel of its own" in found.reason
    assert lenet.why("conv_0", "channels-last")[0].stage == "layout"
    assert "by way of others" in lenet.why("add_0", "relu_0")[0].reason
    assert "neither reads" in lenet.why("conv_0", "matmul_2")[0].reason
    with pytest.raises(ArgumentError, match="'relu_99' is no node .* relu_"):
        lenet.why("relu_99", "conv_0")


def test_refused_are_those_that_were_not_done(lenet: Explanation) -> None:
    assert set(lenet.refused()) == {d for d in lenet.decisions if not d.taken}


def test_a_group_says_where_it_comes_from(lenet: Explanation) -> None:
    text = lenet.group("g0")
    assert text.startswith("g0 conv[add_0, relu_0]") and "graphs.py:" in text
    assert "relu_0 into conv_0: fused" in text and "max_pool_0 into conv_0: not fused" in text
    with pytest.raises(ArgumentError, match="g0 to g"):
        lenet.group("g999")


def test_plain_data(lenet: Explanation) -> None:
    data = json.loads(json.dumps(lenet.to_json()))
    assert len(data["decisions"]) == len(lenet.decisions) and data["launches"][0]["title"] == "g0 conv[add_0, relu_0]"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--why", "relu_0", "conv_0"], "relu_0 into conv_0: fused"),
        (["--group", "g0"], "g0 conv[add_0, relu_0]"),
        (["--full"], "launches"),
        ([], "saved, by stage"),
    ],
)
def test_the_command(words: list[str], expected: str) -> None:
    done = CliRunner().invoke(app, ["explain", "lenet5", "--batch", "4", "--target", "cpu", *words])
    assert done.exit_code == 0 and expected in done.output
