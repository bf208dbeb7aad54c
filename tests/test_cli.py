"""The command line, on a few images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import graphrt
from graphrt import cli

pytest.importorskip("mlxtend")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def gives_nothing() -> None:
    """A function that builds nothing."""


def gives_a_number() -> int:
    """A function that builds no graph."""
    return 3


@pytest.mark.parametrize("model", ["lenet5", "mlp"])
def test_train_leaves_its_files(tmp_path: Path, model: str) -> None:
    common = ("train", model, "--target", "cpu", "--batch-size", "32", "--limit", "128", "--out", str(tmp_path))
    output = run(*common, "--epochs", "1")
    for line in ("test accuracy", "kernels per step", "milliseconds per step", "arena", "compile seconds"):
        assert line in output
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.safetensors", "curves.png", "history.json"}
    run(*common, "--epochs", "2", "--resume", str(tmp_path / "checkpoint.safetensors"))
    history = json.loads((tmp_path / "history.json").read_text())
    assert len(history["loss"]) == len(history["val_accuracy"]) == 2


def test_train_on_reference(tmp_path: Path) -> None:
    output = run("train", "mlp", "--target", "reference", "--limit", "64", "--epochs", "1", "--out", str(tmp_path))
    assert "reference" in output


@pytest.mark.interpret
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 before Triton is imported")
def test_train_on_interpret(tmp_path: Path) -> None:
    small = ("--limit", "16", "--batch-size", "8", "--epochs", "1", "--out", str(tmp_path))
    assert "interpret" in run("train", "mlp", "--target", "interpret", *small)


def test_explain() -> None:
    output = run("explain", "lenet5", "--batch", "4", "--target", "cpu", "--source", "--full")
    assert "fused, saves" in output and "conv[" in output and "arena" in output and "/* launch" in output
    assert "the target has no plan" in run("explain", "mlp", "--target", "reference")
    output = run("explain", "resnet20", "--batch", "2", "--eval", "--target", "cpu")
    assert len(output.splitlines()) <= 60 and "arena" in output  # one line of it: --full has its buffers


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="plans for a GPU are made in the lane that compiles")
def test_explain_predicts_for_a_gpu_that_is_not_here() -> None:
    output = run("explain", "mlp", "--train", "--batch", "64", "--dtype", "float32", "--target", "cuda:sm_90")
    assert "not measured" in output and "H200" in output and "images/s" in output and "MB an image" in output
    half = run("explain", "mlp", "--train", "--dtype", "bf16", "--target", "cuda:sm_90", "--full")
    assert "bf16[" in half and "bf16[" not in output
    assert len(run("explain", "resnet20", "--batch", "4", "--target", "cuda:sm_90", "--plan").splitlines()) <= 60
    data = json.loads(run("explain", "mlp", "--eval", "--target", "cuda:sm_80", "--json"))
    assert data["predicted"] and data["compiled"] and data["device"]["name"] == "A100"
    assert data["kernels"][0]["limits"].keys() >= {"memory", "launch", "issue", "shared", "l2", "latency"}
    data = json.loads(run("explain", "mlp", "--eval", "--target", "cuda:sm_80", "--plan", "--json"))
    assert not data["compiled"] and data["kernels"][0]["bound"] == "launch"


def branches() -> graphrt.Graph:
    """What the command line is given by name."""
    g = graphrt.Graph()
    x = g.input("x", (4, 8))
    g.output("y", graphrt.ops.relu(x @ g.parameter("block.w", shape=(8, 3))))
    return g


def model() -> tuple[graphrt.nn.Module, tuple[np.ndarray, ...]]:
    return graphrt.nn.Sequential(graphrt.nn.Linear(8, 3), graphrt.nn.ReLU()), (np.zeros((4, 8), np.float32),)


def test_explain_takes_what_there_is(tmp_path: Path) -> None:
    """A function of a file, one that returns a model with its inputs, an ONNX file, and a saved program."""
    line = "relu_0 into matmul_0: fused, saves 96 bytes: same element"
    assert run("explain", f"{__file__}:branches", "--target", "cpu", "--why", "relu_0", "matmul_0").strip() == line
    assert "relu_0 into matmul_0: fused" in run("explain", f"{__file__}:model", "--target", "cpu", "--full")
    program = graphrt.compile(branches(), target="cpu", fusion="-epilogue")
    program.save(tmp_path / "saved")
    saved = str(tmp_path / "saved")
    assert "relu_0 into matmul_0: not fused: the stage epilogue is off" in run("explain", saved, "--refused")
    output = run("explain", saved, "--module", "block")
    assert output.startswith("block: 2 launches move") and "g0 matmul[]" in output and "epilogue is off" in output
    data = json.loads(run("explain", saved, "--json"))
    assert data["target"] == "cpu" and len(data["launches"]) == 2 and data["bytes"]["unfused"] == data["bytes"]["fused"]
    (one,) = json.loads(run("explain", saved, "--json", "--why", "relu_0", "matmul_0"))["decisions"]
    assert not one["taken"] and one["stage"] == "epilogue"


def test_compile_takes_what_explain_takes(tmp_path: Path) -> None:
    for subject in ("branches", "model"):
        output = run("compile", f"{__file__}:{subject}", "-o", str(tmp_path / subject))
        assert f"test_cli.py:{subject}, for cpu: 1 launches" in output
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    assert graphrt.load(tmp_path / "branches")(x=x)["y"].shape == (4, 3)
    assert graphrt.load(tmp_path / "model")(x).shape == (4, 3)  # called as the model


def test_compile_with_weights_of_eight_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run("compile", "mlp", "--eval", "--batch", "2", "-o", str(tmp_path / "plain"))
    eight = run("compile", "mlp", "--eval", "--batch", "2", "--int8", "-o", str(tmp_path / "eight"))
    size = [int(said.rsplit(", ", 1)[1].split()[0].replace(",", "")) for said in (plain, eight)]
    assert size[1] < size[0] - 250_000  # of 101,632 weights, three bytes each
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    expected, found = (graphrt.load(tmp_path / name)(x=x)["out"] for name in ("plain", "eight"))
    assert 0 < abs(found - expected).max() < 0.05 * abs(expected).max()
    message = fails(monkeypatch, capsys, "compile", "mlp", "--int8", "-o", str(tmp_path / "step"))
    assert "weights of eight bits are for inference" in message


def test_explain_takes_an_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    x = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 8])
    y = make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8])
    nodes = [make.make_node("Exp", ["x"], ["h"]), make.make_node("Relu", ["h"], ["y"])]
    file = tmp_path / "net.onnx"
    onnx.save(make.make_model(make.make_graph(nodes, "net", [x], [y]), opset_imports=[make.make_opsetid("", 17)]), file)
    output = run("explain", str(file), "--target", "cpu", "--batch", "3")
    assert "net.onnx, target cpu" in output and "1 launches, 1 edges fused" in output and "of 384 without fusion" in output


def test_summary_takes_an_onnx_file(tmp_path: Path) -> None:
    """Products and what has parameters by node; the total has 8 * 3 + 3 of them, and 4 * 8 * 3 multiplications."""
    onnx = pytest.importorskip("onnx")
    make, numbers = onnx.helper, onnx.numpy_helper
    x = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 8])
    y = make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])
    held = [numbers.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (8, 3)), ("b", (3,)))]
    nodes = [make.make_node("Gemm", ["x", "w", "b"], ["h"], name="fc"), make.make_node("Relu", ["h"], ["y"])]
    graph = make.make_graph(nodes, "net", [x], [y], held)
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)]), tmp_path / "net.onnx")
    lines = run("summary", str(tmp_path / "net.onnx"), "--batch", "4").splitlines()
    assert lines[-1].split() == ["total", "27", "96"] and any("4x3" in line and " 24 " in line for line in lines)


def test_bisect_finds_nothing_where_nothing_is_wrong() -> None:
    assert "the result is the reference's" in run("bisect", f"{__file__}:branches", "--target", "cpu")


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
def test_compile_writes_a_program_for_a_machine(tmp_path: Path, target: str) -> None:
    if target != "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("compiles kernels, so it cannot run under TRITON_INTERPRET=1")
    run_as = "cpu" if target == "cpu" else "null"
    output = run("compile", "mlp", "--target", target, "--batch", "4", "-o", str(tmp_path / "train.grt"))
    assert f"mlp, batch 4, training step, for {target}" in output and "launches" in output
    x, y = np.zeros((4, 1, 28, 28), np.float32), np.zeros(4, np.int64)
    assert set(graphrt.load(tmp_path / "train.grt", target=run_as)(x=x, y=y, lr=0.1)) == {"loss", "accuracy"}
    output = run(
        "compile", "mlp", "--eval", "--dtype", "bf16", "--target", target, "--batch", "4", "-o", str(tmp_path / "eval.grt")
    )
    assert f"mlp, batch 4, evaluation, for {target}" in output
    assert graphrt.load(tmp_path / "eval.grt", target=run_as)(x=x)["out"].shape == (4, 10)


def test_a_file_that_is_no_onnx_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "words.onnx"
    path.write_text("hello world")
    assert "cannot be read as an ONNX model" in fails(monkeypatch, capsys, "explain", str(path))


def test_flags_and_version() -> None:
    assert "GRAPHRT_CACHE" in run("flags")
    assert run("version") == run("--version") == f"{graphrt.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "xyz"], "no model 'xyz'; there is alexnet, alexnet_2012"),
        (["train", "lenet"], "no model 'lenet'; did you mean lenet5 or "),
        (
            ["train", "resnet20", "--data", "iris"],
            "takes pictures, the data has numbers; networks for such examples are ",
        ),
        (["train", "gpt_small"], "gpt_small takes text, the data has pictures; networks for such examples are alexnet, "),
        (["train", "conv_autoencoder"], "has no last layer that is made for a number of outputs, and the data has 10"),
        (["train", "mlp", "--data", "cifar"], "no data 'cifar'; there is mnist, digits"),
        (["train", "mlp", "--data", "minst"], "no data 'minst'; did you mean mnist or "),
        (["train", "mlp", "--optimizer", "adm"], "no optimizer 'adm'; did you mean adam or radam or nadam? There is sgd"),
        (["train", "mlp", "--optimizer", "adam:beta=1"], "--optimizer adam:beta=1: no option 'beta'; did you mean betas?"),
        (["train", "mlp", "--optimizer", "adam:eps"], "'eps' is no key=value, as in adam:key=value"),
        (["train", "mlp", "--optimizer", "sgd:lr=-1"], "lr must be at least 0, got -1"),
        (["train", "mlp", "--optimizer", "sgd:clip_grad_norm=x"], "clip_grad_norm must be a number or none, got x"),
        (["train", "mlp", "--optimizer", "adam:lr=none"], "lr must be a number, got none"),
        (["train", "mlp", "--optimizer", "sgd:nesterov=1"], "nesterov must be true or false, got 1"),
        (["train", "mlp", "--schedule", "cosine:epochs=abc"], "epochs must be a whole number or none, got abc"),
        (["train", "mlp", "--schedule", "inverse_sqrt:start=0"], "start must be above 0, got 0"),
        (["train", "mlp", "--schedule", "plateau:schedule=cosine"], "schedule must be of the class LRSchedule, got cosine"),
        (["train", "mlp", "--target", "null"], "target null computes nothing"),
        (["train", "mlp", "--data", ""], "no data ''; there is mnist"),
        (["train", "mlp", "--policy", "zeros"], "no policy 'zeros'; did you mean zero"),
        (["train", "mlp", "--policy", "zero1"], "--policy zero1 is for several processes: start them with torchrun"),
        (
            ["train", "unet", "--data", "mnist"],
            "unet has scores for each pixel, the data has a target for each picture; networks for such ",
        ),
        (["eval", "/nowhere"], "there is no checkpoint /nowhere; graphrt train MODEL leaves one in runs/MODEL"),
        (["ops", "rellu"], "no op 'rellu'; did you mean relu or "),
        (["train", "mlp", "--schedule", "x"], "no schedule 'x'"),
        (["explain", "mlp", "--target", "tpu"], "target must be"),
        (["explain", "nothing.onnx"], "there is no file nothing.onnx"),
        (["explain", "nothing.py:f"], "there is no file nothing.py"),
        (["explain", "nothing"], "no model 'nothing'; there is alexnet"),
        (["explain", __file__ + ":nothing"], "has no function 'nothing'; there is run"),
        (["explain", __file__ + ":test_errors_are_one_message"], "is called without arguments: missing a required"),
        (["explain", __file__ + ":gives_nothing"], "gives_nothing returned None; it is to return a graph, values, or"),
        (["explain", __file__ + ":gives_a_number"], "compile needs a Graph, a Value, or a list or dict of Values, got 3"),
        (["explain", "mlp", "--refused", "--module", "0"], "--module and --refused are answers of their own: ask for one"),
        (["explain", "mlp", "--full", "--group", "g0"], "--group and --full are answers of their own: ask for one at a time"),
        (["explain", "mlp", "--target", "cpu", "--module", "x"], "no launch belongs to a module 'x'; there is "),
        (["bisect", "mlp", "--target", "cuda:sm_90"], "cannot run here"),
        (["explain", "mlp", "--target", "cpu", "--device", "TPU"], "no data sheet of TPU"),
        (["explain", "mlp", "--dtype", "int8"], "dtype must be"),
        (["compile", "mlp", "--dtype", "int8", "-o", "f.grt"], "dtype must be"),
        (["compile", "mlp", "--target", "cuda:90", "-o", "f.grt"], "looks like cuda:sm_80, cuda:sm_90"),
        (["compile", "mlp", "--target", "reference", "-o", "f.grt"], "this one is of reference"),
        (["train", "mlp", "--resume", "/nowhere"], "nowhere"),
        (["train", "mlp", "--out", f"{os.devnull}/runs"], "--out /dev/null/runs cannot be written: Not a directory"),
        (["compile", "mlp", "--out", f"{os.devnull}/f.grt"], "--out /dev/null/f.grt cannot be written"),
    ],
)
def test_errors_are_one_message(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["graphrt", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("graphrt: ") and message in error and "Traceback" not in error


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """The message of a command that ends with ``status``: 2 for what was asked for wrongly, 1 for what fails."""
    monkeypatch.setattr(sys, "argv", ["graphrt", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == status
    return capsys.readouterr().err


def test_an_interrupted_run_keeps_its_epochs(tmp_path: Path) -> None:
    """Ctrl-C in a process of its own; resumed, it is bit for bit the run that was not interrupted."""
    out, other = tmp_path / "out", tmp_path / "other"
    common = ["train", "mlp", "--target", "cpu", "--limit", "128", "--schedule", "constant"]
    command = [sys.executable, "-m", "graphrt.cli", *common, "--epochs", "1000000", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (out / "history.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130, error
    assert {p.name for p in out.iterdir()} == {"checkpoint.safetensors", "curves.png", "history.json"}
    done = len(json.loads((out / "history.json").read_text())["loss"])
    assert f"graphrt: interrupted; {out / 'checkpoint.safetensors'} is of epoch {done}, and --resume goes on from it" in error
    run(*common, "--epochs", str(done + 2), "--out", str(out), "--resume", str(out))
    run(*common, "--epochs", str(done + 2), "--out", str(other))
    whole, parts = (json.loads((p / "history.json").read_text())["loss"] for p in (other, out))
    assert len(whole) == done + 2 and whole == parts


def test_a_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("train", "mlp", "--target", "cpu", "--limit", "128", "--out", str(tmp_path))
    run(*common, "--epochs", "1")
    error = fails(monkeypatch, capsys, *common, "--epochs", "9", "--lr", "1e30", "--resume", str(tmp_path), status=1)
    assert error.startswith("graphrt: the loss is NaN at step ") and "lower --lr than 1e+30" in error
    history = json.loads((tmp_path / "history.json").read_text())
    assert len(history["loss"]) == 1 and "is of epoch 1" in error  # what was good is still there


def test_resume_names_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "lenet5", "--target", "cpu", "--limit", "64", "--epochs", "1", "--out", str(tmp_path))
    path = str(tmp_path / "checkpoint.safetensors")
    error = fails(monkeypatch, capsys, "train", "mlp", "--target", "cpu", "--limit", "64", "--resume", path)
    assert error.startswith(f"graphrt: {path} is a checkpoint of another network: 3.weight is [16, 6, 5, 5], here [10, 128]")
    assert ".py" not in error
    error = fails(monkeypatch, capsys, "train", "lenet5", "--limit", "64", "--optimizer", "adam", "--resume", path)
    assert "was trained with SGD(lr=0.05, momentum=0.9" in error and "this trainer has Adam(lr=" in error
    assert "load_weights takes the parameters alone" in error


def test_a_read_only_home_is_one_warning(tmp_path: Path) -> None:
    """The cache is a temporary folder then, which is gone when the process ends; so is Triton's."""
    for target in ("cpu", "cuda:sm_90"):
        command = [sys.executable, "-m", "graphrt.cli", "compile", "mlp", "--batch", "4", "--target", target]
        environment = {n: v for n, v in os.environ.items() if n not in ("GRAPHRT_CACHE", "XDG_CACHE_HOME", "TRITON_INTERPRET")}
        environment |= {"HOME": os.devnull, "TMPDIR": str(tmp_path)}
        command += ["--out", str(tmp_path / "net.grt")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "launches" in done.stdout, done.stderr
        assert done.stderr.count("UserWarning") == done.stderr.count("GRAPHRT_CACHE") == 1, done.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["net.grt"]


def test_brackets_in_a_path_are_no_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHRT_CACHE", "a[/x]")  # a closing tag of nothing
    assert "a[/x]" in run("flags")
    assert "a[/x]" in run("train", "mlp", "--limit", "64", "--epochs", "1", "--out", "a[/x]")


@pytest.mark.parametrize("name", ["GRAPHRT_THREADS", "GRAPHRT_DEBUG", "GRAPHRT_TUNE", "GRAPHRT_WINOGRAD", "GRAPHRT_CACHE_SIZE"])
def test_flags_that_are_no_numbers_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("abc", "-1", "nan"):
        monkeypatch.setenv(name, value)
        assert f"{name} must be a" in fails(monkeypatch, capsys, "flags")


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # the command sets it
    for target in ("cuda:sm_90", "null", "interpret"):
        error = fails(monkeypatch, capsys, "explain", "mlp", "--target", target)
        assert f"target '{target}' needs the package triton" in error and "pip install triton" in error


def test_summary() -> None:
    text = run("summary", "lenet5", "--batch", "2")
    assert "2x6x28x28" in text and "61,706" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("ssd300_vgg16", "35,641,826"), ("fasterrcnn_resnet50_fpn", "41,808,406"), ("rcnn", "118,724"), ("diffusion", "627,433")],
)
def test_summary_of_networks_for_scenes(name: str, parameters: str) -> None:
    """Detectors, those that judge proposals among them, and the small networks that ``train`` has by the name of a task."""
    assert run("summary", name).splitlines()[-1].split()[1] == parameters


def test_a_detector_says_how_it_is_trained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "yolo_v1 finds boxes" in fails(monkeypatch, capsys, "train", "yolo_v1")
    assert "did you mean yolo_v1 or yolo" in fails(monkeypatch, capsys, "summary", "yolo_v2")
