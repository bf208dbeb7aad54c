"""README, CONTRIBUTING and docs against the program: samples run, listings are what it prints, figures are bench/results'."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import lenet_step

import graphrt as grt
from graphrt import models, nn, optim
from graphrt import ops as F
from graphrt.data import Dataset
from graphrt.errors import TargetError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
Row = dict[str, Any]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# --- samples --------------------------------------------------------------------------------------------------------


def levels() -> Row:
    data = Dataset(numbers((64, 1, 32, 32)), np.arange(64) % 10)
    return {"train_data": data, "test_data": data, "xb": data.x, "yb": data.y}


def elsewhere() -> Row:
    """A model of ONNX's under the name that README gives it, and ResNet-18's weights with a prefix."""
    onnx = pytest.importorskip("onnx", reason="needs the package onnx")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "resnet", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), "resnet.onnx")
    from safetensors.numpy import save_file

    save_file({f"backbone.{k}": np.array(v) for k, v in models.resnet18().state_dict().items()}, "resnet18.safetensors")
    return {"images": numbers((8, 3))}


def pytorch() -> Row:
    import torch

    return {"torch": torch, "net": torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()), "x": torch.randn(2, 8)}


def inside() -> Row:
    g = grt.Graph()
    g.output("y", F.relu(g.input("x", (2, 3))))
    return {"graph": g, "x": numbers((2, 3))}


def alone() -> Row:
    return {"net": nn.Linear(8, 4)}


@pytest.mark.parametrize("number", range(5))
def test_readmes_samples_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = blocks(README, "python")
    assert len(samples) == 5
    names = {"grt": grt, "nn": nn, "optim": optim, **(levels, alone, elsewhere, pytorch, inside)[number]()}
    message = "Mesh.dp=2. is 2 processes, and this is one: start them with torchrun"  # tests/test_distributed_training.py does
    with pytest.raises(TargetError, match=message) if "torchrun" in samples[number] else nullcontext():
        exec(compile(samples[number], f"README.md, sample {number}", "exec"), names)
    if number == 0:
        assert [float(v) for v in grt.compile([names[n] for n in ("f", "dx", "dy", "dz")], target="cpu")(x=-2, y=5, z=-4)] == [
            float(v) for v in re.findall(r"# (-?\d+), (-?\d+), (-?\d+), (-?\d+)\n", samples[0])[0]
        ]


def test_the_docs_samples_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The listing of docs/cpu.md is what its sample prints; lines in brackets stand for lines that are left out."""
    text = (ROOT / "docs" / "cpu.md").read_text()
    exec(blocks(text, "python")[0], {"grt": grt, "F": F, "np": np})
    printed = capsys.readouterr().out
    pattern = r"\n".join(
        r"(?:.*\n)*?.*" if line.startswith("  [...") else re.escape(line) for line in blocks(text, "c")[0].rstrip().split("\n")
    )
    assert re.fullmatch(pattern, printed.rstrip()), printed

    (sample,) = blocks((ROOT / "docs" / "index.md").read_text(), "python")
    exec(sample, {})
    assert sample.strip().splitlines()[1:] and all(line in README for line in sample.splitlines()[2:])

    printed, sample = blocks((ROOT / "docs" / "gpu.md").read_text(), "python")
    assert printed.startswith("for pid in tl.range(")  # of a kernel, for the eye
    trainer = grt.Trainer(nn.Linear(3, 2), nn.CrossEntropyLoss(), optim.SGD(0.1))
    x, y = numbers((3, 4, 3)), np.zeros((3, 4), np.int64)
    names: Row = {"program": trainer.program("train", x[0], y[0]), "steps": 3, "x": x, "y": y}
    exec(sample, names)
    assert names["results"].keys() == {"loss", "accuracy"}

    (sample,) = blocks((ROOT / "docs" / "aot.md").read_text(), "python")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")
        names = {"program": grt.compile(trainer.training_graph(((256, 3), "float32"), ((256,), "int64")), target="cuda:sm_90")}
        exec(sample, names)
        assert "H100" in str(names["estimate"])


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="plans for a GPU are made in the lane that compiles")
def test_lenets_launches() -> None:
    pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")
    trainer = grt.Trainer(models.get("lenet5").build(), nn.CrossEntropyLoss(), optim.SGD(0.05, momentum=0.9))
    program = grt.compile(trainer.training_graph(((64, 1, 32, 32), "float32"), ((64,), "int64")), target="cuda:sm_90")
    assert f"LeNet-5 is {program.launches} launches on the Triton targets; this is the first:" in " ".join(README.split())
    assert program.plan_text().splitlines()[0] in README.splitlines()
    shown = [line for line in (ROOT / "docs" / "architecture.md").read_text().splitlines() if re.match(r"g\d+ \w+\[", line)]
    plan = grt.compile(lenet_step(), target="cuda:sm_90").plan_text().splitlines()
    assert shown and set(shown) <= set(plan)


def test_commands_and_files_exist() -> None:
    """Make targets, scripts of bench, documents and folders that README, CONTRIBUTING and the guides name."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        named = set(re.findall(r"`make ([a-z][\w-]*)", text)) | set(re.findall(r"^make ([a-z][\w-]*)", text, re.MULTILINE))
        assert named <= targets, page.name
        for script in re.findall(r"python -m (bench\.\w+)", text):
            assert (ROOT / f"{script.replace('.', '/')}.py").exists(), f"{page.name}: {script}"
        for path in re.findall(r"`((?:docs|bench|examples|kernels|tests|graphrt)/[\w/.]+)`", text):
            assert any(ROOT.glob(re.sub(r"[A-Z_]{4,}", "*", path.rstrip("/")))), f"{page.name}: {path}"  # MODEL stands for any


def test_everything_is_run_by_ci() -> None:
    """.ci/run names the lanes, GitHub's workflow calls it, and the tests of no marker but slow (make samples) are left out."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "make browser" in script
    (lanes,) = re.findall(r"^make (.+)$", script, re.MULTILINE)
    assert lanes.split() == ["lint", "test", "proofs", "site", "kernels", "kernels-oldest"]
    makefile = (ROOT / "Makefile").read_text()
    (left,) = re.findall(
        r'pytest -n 2 --dist worksteal -m "not interpret and (.+)"', makefile.split("\ntest:")[1].split("\n\n")[0]
    )
    assert left == "not slow and not kernels and not proof"
    for lane, marker in (
        ("test", '"interpret and not proof"'),
        ("proofs", '"proof and not kernels"'),
        ("kernels", "kernels"),
        ("samples", "slow"),
    ):
        assert f"-m {marker}" in makefile.split(f"\n{lane}:")[1].split("\n\n")[0], lane
    assert "- run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_the_version_is_said_once() -> None:
    """In pyproject.toml; the package, the citation and the changelog agree."""
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert grt.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()


# --- measured figures: those of committed rows ----------------------------------------------------------------------


def rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (ROOT / "bench" / "results" / f"{name}.jsonl").read_text().splitlines()]


def last(name: str, **about: Any) -> Row:
    """The row of ``name`` that was added last of those that say ``about``."""
    return [r for r in rows(name) if about.items() <= r.items()][-1]


def as_shown(value: float, text: str) -> bool:
    """Whether ``value`` rounds to ``text``."""
    return f"{value:.{len(text.partition('.')[2])}f}" == text


CANDIDATES = ("graphrt", "torch eager", "torch channels_last", "torch compile", "jax")
TABLE = [line.strip("| ").split(" | ") for line in README.splitlines() if re.match(r"\| [^|]+ \| \d+ \| [\d.]+ \|", line)]


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line[0])
def test_a_row_of_the_table_is_one_run(line: list[str]) -> None:
    work, batch, *cells = line
    runs: list[dict[str, Row]] = []
    for r in rows("train_step"):
        if r["candidate"] == "graphrt":
            runs.append({})
        if work.startswith(r["work"]) and r["batch"] == int(batch):
            runs[-1][r["candidate"]] = r

    def agrees(run: dict[str, Row]) -> bool:
        for candidate, cell in zip(CANDIDATES, cells, strict=False):
            found = re.findall(r"[\d.]+", cell)
            row = run.get(candidate)
            if found and (row is None or not all(map(as_shown, (row["ms"], row["ratio"]), found))):
                return False
        return bool(run)

    assert any(map(agrees, runs)), line


def geometric() -> tuple[float, float, int]:
    run = rows("conv_shapes")[-91:]
    ratios = [r["speed ratio"] for r in run if r["layer"] != "geometric mean"]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)), min(ratios), len(ratios)


def sooner() -> list[float]:
    return [last("torch_backend", work=w, what="first step", candidate="inductor")["ratio"] for w in ("ResNet-20", "LeNet-5")]


def first_steps(candidate: str) -> list[float]:
    return [last("compile_time", work=w, candidate=candidate)["ms"] / 1e3 for w in ("LeNet-5", "ResNet-20", "ResNet-50")]


def speed_ups(work: str, small: bool, limit: int) -> list[float]:
    found = [last("scaling", work=work, batch=b, threads=2, candidate="graphrt") for b in (16, 32, 64, 128, 256, 512)]
    chosen = [r["speed-up"] for r in found if (r["batch"] <= limit) is small]
    return [min(chosen), max(chosen)]


def steps(*of: tuple[str, str]) -> list[float]:
    return [last("torch_backend", work=w, what="step", candidate=c)["ratio"] for w, c in of]


def copies(column: str) -> list[float]:
    run = [last("bandwidth", MB=64, group=g)[column] for g in ("elementwise", "softmax", "layer norm", "cross-entropy")]
    return [min(run), max(run)]


FIGURES: dict[str, Callable[[], Any]] = {
    r"ResNet-20 ([\d.]+)x as fast as inductor does and ([\d.]+)x as eager mode": lambda: steps(
        ("ResNet-20", "inductor"), ("ResNet-20", "eager")
    ),
    r"eager mode, LeNet-5 ([\d.]+)x and ([\d.]+)x;": lambda: steps(("LeNet-5", "inductor"), ("LeNet-5", "eager")),
    r"is there (\d+) to (\d+) times sooner": sooner,
    r"ResNet-50 takes ([\d.]+)x of eager mode's memory": lambda: [
        1 / last("memory", work="ResNet-50", candidate="torch eager")["ratio"]
    ],
    r"is there after ([\d.]+), ([\d.]+) and ([\d.]+) s,": lambda: first_steps("graphrt, cold"),
    r"with a warm cache after ([\d.]+), ([\d.]+) and ([\d.]+) s,": lambda: first_steps("graphrt, warm"),
    r"is ([\d.]+)x of ONNX Runtime at batch 8 and ([\d.]+)x at batch 1": lambda: [
        last("inference", batch=b, candidate="onnxruntime")["ratio"] for b in (8, 1)
    ],
    r"reach ([\d.]+)x of oneDNN's speed .* the least of \d+ ([\d.]+)x": lambda: geometric()[:2],
    r"the least of (\d+) ": lambda: [geometric()[2]],
    r"ResNet-20 ([\d.]+) to ([\d.]+) times as fast at batches up to 128": lambda: speed_ups("ResNet-20", True, 128),
    r"up to 128 and ([\d.]+) to ([\d.]+) times beyond": lambda: speed_ups("ResNet-20", False, 128),
    r"of LeNet-5 ([\d.]+) to ([\d.]+) times up to 64": lambda: speed_ups("LeNet-5", True, 64),
    r"up to 64 and ([\d.]+) to ([\d.]+) times beyond": lambda: speed_ups("LeNet-5", False, 64),
    r"run at ([\d.]+) to ([\d.]+) % of the speed of a copy": lambda: copies("% of memory"),
    r"that no cache holds, ([\d.]+) to ([\d.]+) GB/s here": lambda: copies("memory GB/s"),
}


@pytest.mark.parametrize("pattern", FIGURES)
def test_a_figure_is_of_the_last_rows(pattern: str) -> None:
    found = re.search(pattern, " ".join(README.split()))
    assert found is not None, "README no longer says so"
    values = list(FIGURES[pattern]())
    assert len(values) == len(found.groups()) and all(map(as_shown, values, found.groups())), (found[0], values)
