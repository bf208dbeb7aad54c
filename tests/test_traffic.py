"""What a training step moves and how many kernels it launches, by its plan alone: ceilings, to be lowered as plans improve.

The aim, of published recipes: 300 MB an image and 230 launches for ResNet-50, whose sums are added in two steps here, and of
whose maps those are stored that would be computed many times on load; 9.5 MB for AlexNet, 24 launches for LeNet-5.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("plans for a GPU are made in the lane that compiles", allow_module_level=True)

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from golden_kernels import training_step

from graphrt.runtime.machine import find_data_sheet
from graphrt.runtime.roofline import predict

# MB an image and launches at most
CEILINGS = {
    ("resnet50", 256, "bfloat16"): (289.7, 329),
    ("alexnet", 1024, "bfloat16"): (9.77, 33),
    ("lenet5", 64, "float32"): (0.23, 19),
    ("googlenet", 64, "bfloat16"): (108.4, 306),
}

# what docs/gpu.md says
STATED = {
    "resnet50": r"the step moves ([\d.]+) MB an image in (\d+) launches",
    "googlenet": r"\) moves ([\d.]+) MB an image in (\d+) ",
}


@pytest.mark.proof
@pytest.mark.parametrize(("model", "batch", "dtype"), CEILINGS)
def test_traffic(model: str, batch: int, dtype: str) -> None:
    estimate = predict(training_step(model, dtype, "cuda:sm_90", batch), find_data_sheet("cuda:sm_90"), batch)
    megabytes, launches = CEILINGS[model, batch, dtype]
    assert estimate.bytes / batch / 1e6 <= megabytes
    assert len(estimate.launches) <= launches
    if model in STATED:
        stated = re.findall(STATED[model], " ".join((Path(__file__).parents[1] / "docs" / "gpu.md").read_text().split()))
        assert stated == [(f"{estimate.bytes / batch / 1e6:.1f}", str(len(estimate.launches)))]
