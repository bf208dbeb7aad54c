"""The command line, on a few images."""

from __future__ import annotations

import json
import os
import sys
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
    output = run("explain", "lenet5", "--batch", "4", "--target", "cpu", "--source")
    assert "fused, saves" in output and "conv[" in output and "arena" in output and "/* launch" in output
    assert "the target has no plan" in run("explain", "mlp", "--target", "reference")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="plans for a GPU are made in the lane that compiles")
def test_explain_predicts_for_a_gpu_that_is_not_here() -> None:
    output = run("explain", "lenet5", "--train", "--batch", "64", "--dtype", "float32", "--target", "cuda:sm_90")
    assert "not measured" in output and "H200" in output and "images/s" in output and "MB an image" in output
    half = run("explain", "lenet5", "--train", "--dtype", "bf16", "--target", "cuda:sm_90")
    assert "bf16[" in half and "bf16[" not in output
    data = json.loads(run("explain", "mlp", "--eval", "--target", "cuda:sm_80", "--json"))
    assert data["predicted"] and data["device"]["name"] == "A100" and data["kernels"][0]["bound"] in ("memory", "launch")


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
def test_compile_writes_a_program_for_a_machine(tmp_path: Path, target: str) -> None:
    if target != "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("compiles kernels, so it cannot run under TRITON_INTERPRET=1")
    run_as = "cpu" if target == "cpu" else "null"
    output = run("compile", "mlp", "--target", target, "--batch", "4", "-o", str(tmp_path / "train.grt"))
    assert f"mlp, training step, batch 4, for {target}" in output and "launches" in output
    x, y = np.zeros((4, 1, 28, 28), np.float32), np.zeros(4, np.int64)
    assert set(graphrt.load(tmp_path / "train.grt", target=run_as)(x=x, y=y, lr=0.1)) == {"loss", "accuracy"}
    output = run(
        "compile", "mlp", "--eval", "--dtype", "bf16", "--target", target, "--batch", "4", "-o", str(tmp_path / "eval.grt")
    )
    assert f"mlp, evaluation, batch 4, for {target}" in output
    assert graphrt.load(tmp_path / "eval.grt", target=run_as)(x=x)["out"].shape == (4, 10)


def test_flags_and_version() -> None:
    assert "GRAPHRT_CACHE" in run("flags")
    assert run("version").startswith("0.1.0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "vgg"], "no model 'vgg'; there is alexnet, googlenet"),
        (["train", "resnet20"], "resnet20 takes images of 3 channels, mnist has 1; lenet5, mlp fit"),
        (["train", "mlp", "--data", "cifar"], "no dataset 'cifar'"),
        (["train", "mlp", "--schedule", "x"], "no schedule 'x'"),
        (["explain", "mlp", "--target", "tpu"], "target must be"),
        (["explain", "mlp", "--target", "cpu", "--json"], "nothing is predicted for the cpu target"),
        (["explain", "mlp", "--target", "cpu", "--device", "TPU"], "no data sheet of TPU"),
        (["explain", "mlp", "--dtype", "int8"], "dtype must be"),
        (["compile", "mlp", "--dtype", "int8", "-o", "f.grt"], "dtype must be"),
        (["compile", "mlp", "--target", "cuda:90", "-o", "f.grt"], "looks like cuda:sm_80, cuda:sm_90"),
        (["compile", "mlp", "--target", "reference", "-o", "f.grt"], "this one is of reference"),
        (["train", "mlp", "--resume", "/nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_message(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["graphrt", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("graphrt: ") and message in error and "Traceback" not in error
