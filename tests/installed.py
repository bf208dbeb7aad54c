"""What an installed graphrt must do, run by an interpreter outside the checkout: ``make lane-package``, test_package.py."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import graphrt as grt
from graphrt import nn, optim


def main() -> None:
    """Trains through the command line, compiles a model of torch's and a GPU's kernels. Raises AssertionError."""
    checkout = Path(__file__).parents[1]
    assert checkout not in Path(grt.__file__).parents, f"{grt.__file__} is the checkout's"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "graphrt.cli", "train", "lenet5", "--target", "cpu", "--limit", "256"]
        subprocess.run([*command, "--epochs", "1", "--out", folder], check=True, cwd=folder)
        assert {p.name for p in Path(folder).iterdir()} == {"checkpoint.safetensors", "curves.png", "history.json"}

    net, x = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.GELU()), torch.randn(3, 8)
    np.testing.assert_allclose(grt.compile(net, (x,), target="cpu")(x), net(x).detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(torch.compile(net, backend="graphrt")(x).detach(), net(x).detach(), rtol=1e-5, atol=1e-6)

    with contextlib.suppress(ImportError):  # Triton is for Linux only
        import triton

        trainer = grt.Trainer(nn.Linear(8, 4), nn.CrossEntropyLoss(), optim.SGD(0.1))
        program = grt.compile(trainer.training_graph(((16, 8), "float32"), ((16,), "int64")), target="cuda:sm_90")
        print(f"{len(program.kernels())} kernels by Triton {triton.__version__}")
    print(f"{Path(grt.__file__).parent} is right")


if __name__ == "__main__":
    main()
