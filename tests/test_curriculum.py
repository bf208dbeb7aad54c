"""The worked examples, against the numbers that the lectures print (two digits, truncated), and their index."""

from __future__ import annotations

import ast
import importlib.util
import io
import math
import re
import runpy
import statistics
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphrt as grt
from graphrt import models, nn, optim
from graphrt import ops as F
from graphrt.train import tasks

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, **arguments: Any) -> Any:
    """What ``main`` of an example returns: called with ``arguments``, or, without any, by the example's command."""
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if arguments:
        return module.main(**arguments)
    main, returned = module.main, list[Any]()
    vars(module)["main"] = lambda *given: returned.append(main(*given)) or returned[-1]
    command = ast.parse(path.read_text()).body[-1]
    assert isinstance(command, ast.If) and "__main__" in ast.unparse(command.test)
    with redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path.name])
        exec(compile(ast.Module(command.body, []), path, "exec"), vars(module))
    assert printed.getvalue().strip() and len(returned) == 1
    return returned[0]


def truncated(values: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda v: math.trunc(round(float(v) * 100, 4)) / 100)(values)


def test_toy_graph() -> None:
    assert run("toy_graph") == {"f": -12.0, "dx": -4.0, "dy": -4.0, "dz": 3.0, "dq": -4.0}


def test_chain_rule() -> None:
    found = run("chain_rule")
    for case in ("positive", "negative"):
        np.testing.assert_allclose(found[case], found[f"{case}_by_hand"], rtol=1e-5)


def test_fan_out() -> None:
    found = run("fan_out")
    assert found["whole"] == pytest.approx(found["sum of parts"], rel=1e-6)
    assert found["whole"] == pytest.approx(math.cos(0.7) + 1.4 + 0.5 * math.exp(0.7), rel=1e-6)


def test_xs_and_os() -> None:
    found = run("xs_and_os")
    response = found["map"]
    shown = truncated(response)
    assert shown[0].tolist() == [0.77, -0.11, 0.11, 0.33, 0.55, -0.11, 0.33]
    assert shown[1].tolist() == [-0.11, 1.00, -0.11, 0.33, -0.11, 0.11, -0.11]
    assert shown[3].tolist() == [0.33, 0.33, -0.33, 0.55, -0.33, 0.33, 0.33]
    np.testing.assert_allclose(response, response.T, atol=1e-6)
    np.testing.assert_allclose(response, response[::-1, ::-1], atol=1e-6)
    pooled = [[1.00, 0.33, 0.55, 0.33], [0.33, 1.00, 0.33, 0.55], [0.55, 0.33, 1.00, 0.11], [0.33, 0.55, 0.11, 0.77]]
    assert truncated(found["pooled"]).tolist() == pooled
    np.testing.assert_array_equal(found["rectified"], np.maximum(response, 0))


def test_shapes_and_counts() -> None:
    found = run("shapes_and_counts")
    assert found.pop("a filter larger than its input").startswith("conv at ")
    assert found == {
        "32x32x3, ten 5x5, stride 1, pad 2": (10, 32, 32),
        "32x32x3, ten 5x5, stride 2, pad 2": (10, 16, 16),
        "parameters of ten 5x5x3 filters": 760,
        "7x7 with 3x3, stride 1": (1, 5, 5),
        "7x7 with 3x3, stride 2": (1, 3, 3),
        "7x7 with 3x3, stride 3, of which there is no such number": 2.33,
        "2x2 pool of 7x7, rounded up": (1, 4, 4),
        "2x2 pool of 8x8": (1, 4, 4),
        "parameters of a pool": 0,
        "1x1 conv on 6x6x32": (16, 6, 6),
        "fully connected, 100x100x3 to 100x100x3": 900_000_000,
        "3x3 conv, 3 to 3 channels, weights": 81,
        "MLP 784-128-10": 101_770,
        "LeNet-5 conv2": 2_416,
    }


def test_multiplications() -> None:
    assert run("multiplications") == {
        "5x5, 192 to 32 at 28x28": [120_422_400],
        "the same behind a 1x1 to 16": [2_408_448, 10_035_200],
        "inception 1x1, 192 to 64": [9_633_792],
        "inception 3x3, 192 to 128": [173_408_256],
        "5x5, 64 to 128 at 32x32": [209_715_200],
        "5x5 behind a 1x1 to 8": [524_288, 26_214_400],
    }


def test_filters() -> None:
    from scipy import ndimage

    found = run("filters")
    picture = found["picture"]
    np.testing.assert_allclose(found["back"], picture, atol=1e-5)
    edges = picture[..., 1:-1, 2:] - picture[..., 1:-1, 1:-1]
    np.testing.assert_allclose(found["edges"], edges, atol=1e-5)
    across = picture[..., 2:, 1:-1] - picture[..., 1:-1, 1:-1]
    spots = ndimage.laplace(picture[0, 0].astype(np.float64))[1:-1, 1:-1]
    np.testing.assert_allclose(found["texture"], [np.abs(v).mean() for v in (edges, across, spots)], rtol=1e-5)
    bell = [statistics.NormalDist().pdf(u) for u in range(-2, 3)]
    np.testing.assert_allclose(found["gaussian"], np.outer(bell, bell), rtol=1e-6)
    smoothed = ndimage.correlate(picture[0, 0], np.outer(bell, bell), mode="mirror")
    np.testing.assert_allclose(found["smoothed"][0, 0], smoothed, atol=1e-5)
    defined = np.convolve(found["signal"], found["taps"])
    np.testing.assert_allclose(found["convolution"], defined, atol=1e-5)
    np.testing.assert_allclose(found["toeplitz"], defined, atol=1e-5)
    spectrum = np.fft.fft2(picture[0, 0]) * np.fft.fft2(found["filter"], (16, 16))  # what is circulant is diagonal there
    for name in ("around", "circulant"):
        np.testing.assert_allclose(found[name].reshape(16, 16), np.fft.ifft2(spectrum).real, atol=1e-4)


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_equivariance(shift: int) -> None:
    found = run("equivariance", shift=shift, seed=shift)
    assert found["conv"] < 1e-5 and found["global max pool"] == 0.0
    assert found["fully connected"] > 0.1


def test_receptive_fields() -> None:
    """Fields by (k - 1) * dilation * the strides before; ways by the sum of the variances of boxes of k, (k ** 2 - 1) / 12."""
    found = run("receptive_fields")
    kernels = {  # of each layer: its size, and the distance of its taps in the picture
        "six 3x3": [(3, 1)] * 6,
        "two 7x7": [(7, 1)] * 2,
        "dilated 3x3": [(3, d) for d in (1, 2, 4, 8)],
        "3x3 and pools": [(3, 1), (2, 1), (3, 2), (2, 2), (3, 4)],
    }
    assert [row["weights"] for row in found.values()] == [54, 98, 36, 27]
    for name, layers in kernels.items():
        assert found[name]["field"] == found[name]["seen"] == 1 + sum((k - 1) * step for k, step in layers), name
        deviation = math.sqrt(sum((k * k - 1) / 12 * step**2 for k, step in layers))
        assert found[name]["deviation"] == pytest.approx(deviation, rel=1e-5), name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("equivariance", {}), ("receptive_fields", {}), ("initialisation", {"width": 32}), ("optimizer_paths", {})],
)
def test_studies_draw_a_picture(name: str, arguments: dict[str, int], tmp_path: Path) -> None:
    run(name, **arguments, **{"file" if name == "optimizer_paths" else "path": str(tmp_path / "picture.png")})
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_linear_models() -> None:
    found = run("linear_models")
    assert found["distance from the closed form"] < 1e-5 and found["the bias trick is away from a bias"] < 1e-6
    assert found["points on the wrong side"] == 0
    assert found["right about 5"] > 0.97


def test_in_the_plane() -> None:
    found = run("in_the_plane")
    assert found["rings"] == 1.0 and found["xor"] > 0.95 and found["spirals"] > 0.97


def test_circles() -> None:
    found = run("circles")
    assert max(found.values()) < 1.0, "the recipe of bench.accuracy, which takes longer, has less than half a pixel"


def test_live_or_spoof() -> None:
    found = run("live_or_spoof")
    assert found["what the trunk moved"] == 0.0
    assert found["frozen trunk"] > 0.8 and found["tuned"] > 0.95


def test_adversarial() -> None:
    found = run("adversarial", epochs=4)
    drawn = found["drawn"]
    assert drawn.shape == (64, 1, 32, 32) and np.abs(drawn).max() <= 1 and drawn.std(0).mean() > 0.01
    assert drawn.mean() < -0.05, "most of a digit is dark, and of what is drawn at first nothing is"
    assert all(np.isfinite(found[name]).all() for name in ("loss", "generator_loss"))


@pytest.mark.proof
def test_scenes(tmp_path: Path) -> None:
    found = run("scenes", names=["fcn"], seeds=1, share=0.2, target="cpu", out=str(tmp_path))
    assert found["fcn"][0] > 0.3 and (tmp_path / "fcn_0.png").exists()


@pytest.mark.proof
def test_style() -> None:
    """The style comes near, and the content stays nearer than another picture's would."""
    found = run("style", steps=25, factor=16)
    assert found["after"]["style"] < 0.3 * found["before"]["style"] and found["drawn"].shape == (3, 26, 40)


def test_one_process_is_a_mesh_too() -> None:
    """The losses fall; ``tests/test_distributed_training.py`` has them beside those of two processes."""
    losses = run("distributed", policy="fsdp")
    assert losses[-1] < losses[0]


LONG = {"scenes.py", "style.py"}  # trains for minutes, or compiles a deep network four times
INDEX = re.findall(r"^\| `([\w/.]+)` \| (.+?) \| `python examples/([\w/.]+)` \|$", (EXAMPLES / "README.md").read_text(), re.M)
CALLED = re.findall(r'run\("(\w+)", ', Path(__file__).read_text())  # with arguments; the others' tests run their commands


def test_the_index_lists_every_example() -> None:
    assert sorted(path for path, *_ in INDEX) == sorted(str(p.relative_to(EXAMPLES)) for p in EXAMPLES.rglob("*.py"))
    assert all(path == command for path, _, command in INDEX)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.proof] if path in LONG else [])
        for *_, path in INDEX
        if "/" in path or Path(path).stem in CALLED
    ],
)
def test_the_command_of_an_example_runs(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path])
    runpy.run_path(str(EXAMPLES / path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'run("{path.stem}"' in text, f"{path.name} has no test"


def test_a_penalty_on_squared_weights_is_decay() -> None:
    """c * sum(w**2) in the loss moves weights as ``weight_decay`` 2c does."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)).astype(np.float32), rng.standard_normal((8, 2)).astype(np.float32)
    moved = []
    for c, decay in ((0.05, 0.0), (0.0, 0.1)):
        nn.manual_seed(0)
        layer, g = nn.Linear(3, 2), grt.Graph()
        loss = F.mse_loss(layer(g.input("x", x.shape)), g.input("y", y.shape))
        parameters = g.parameters()
        for p in parameters:
            loss = loss + c * F.sum(F.square(p))
        optim.SGD(0.1, momentum=0.9, weight_decay=decay).apply(parameters, grt.grad(loss, parameters), g.input("lr"))
        step = grt.compile(g, target="reference")
        for _ in range(5):
            step(x=x, y=y, lr=0.1)
        moved.append(np.append(step.state["weight"], step.state["bias"]))
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-5)


def test_the_page_of_the_curriculum_names_what_is_there() -> None:
    """Every file, test, module and model that docs/curriculum.md names; and a row has something to run, and a test."""
    root = EXAMPLES.parent
    text = (root / "docs" / "curriculum.md").read_text()
    rows = re.findall(r"^\| (?!what|---|recipe)(.+) \| (.+) \| (.+) \|$", text.partition("## How well they train")[0], re.M)
    assert len(rows) > 50
    for what, where, test in rows:
        assert "`" in where and re.search(r"`test_\w+\.py::test_", test), f"{what}: {where}, {test}"
    names = re.findall(r"`([^`]+)`", text)
    for name in names:
        file, _, test = name.partition("::")
        if name.startswith("examples/") and name != "examples/NAME.py":
            assert (root / name).is_file(), name
        elif file.startswith("test_"):
            assert (root / "tests" / file).is_file(), name
            assert not test or f"def {test}(" in (root / "tests" / file).read_text(), name
        elif command := re.fullmatch(r"graphrt (train|summary) ([a-z]\w+)", name):
            assert command[2] in {*models.MODELS, *tasks.TASKS}, name
        elif name.split(".")[0] in ("nn", "optim", "data", "models", "train", "ops", "visualize"):
            found: Any = importlib.import_module("graphrt")
            for part in name.split("(")[0].split("."):
                found = getattr(found, part)
    assert len(names) > 60


@pytest.mark.parametrize("width", [256, pytest.param(4096, marks=pytest.mark.proof)])
def test_initialisation_collapses_saturates_or_stays(width: int) -> None:
    found = run("initialisation", width=width)
    small, large, xavier, relu, he = found.values()
    assert small[-1] < 0.2 * small[0]  # times 0.64 a layer, and what tanh takes
    assert large[-1] > 0.8  # nearly all at -1 and 1
    assert xavier[-1] > 0.25 > 4 * small[-1]  # 0.29 after six layers of tanh, by which it narrows slowly
    assert relu[-1] < 0.3 * relu[0] and 0.5 * he[0] < he[-1] < 2 * he[0]


def test_optimizer_paths_come_near() -> None:
    found = run("optimizer_paths")
    assert len(found) == 6 and max(found.values()) < 2.0 and found["Adagrad"] < 1.0


def test_rates_batches_and_regularisation() -> None:
    """Too low does not arrive, too high does not learn; more steps an epoch learn faster; dropout overfits less."""
    studies = run("rates_and_batches")
    last = {name: run.val_accuracy[-1] for runs in studies.values() for name, run in runs.items()}
    assert last["0.1"] > 0.95 > last["0.001"] and last["20"] < 0.5
    assert last["8"] > last["512"]
    plain, dropped = (studies["regularisation"][name] for name in ("none", "dropout 0.5"))
    assert plain.loss[-1] < dropped.loss[-1]
