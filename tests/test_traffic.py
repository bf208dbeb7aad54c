"""What a training step moves and how many kernels it launches, by its plan alone: ceilings, to be lowered as plans improve.

The aim, of published recipes: 300 MB an image and 230 launches for ResNet-50, whose sums are added in two steps here, and of
whose maps those are stored that would be computed many times on load; 9.5 MB for AlexNet, 24 launches for LeNet-5.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("plans for a GPU are made in the lane that compiles", allow_module_level=True)

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

import golden_kernels

import graphrt as grt
from graphrt.runtime.machine import find_data_sheet
from graphrt.runtime.roofline import predict

PAGE = " ".join((Path(__file__).parents[1] / "docs" / "gpu.md").read_text().split())

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


@functools.cache
def training_step(model: str, dtype: str, batch: int) -> grt.Program:
    return golden_kernels.training_step(model, dtype, "cuda:sm_90", batch)


@pytest.mark.proof
@pytest.mark.parametrize(("model", "batch", "dtype"), CEILINGS)
def test_traffic(model: str, batch: int, dtype: str) -> None:
    estimate = predict(training_step(model, dtype, batch), find_data_sheet("cuda:sm_90"), batch)
    megabytes, launches = CEILINGS[model, batch, dtype]
    assert estimate.bytes / batch / 1e6 <= megabytes
    assert len(estimate.launches) <= launches
    if model in STATED:
        stated = re.findall(STATED[model], PAGE)
        assert stated == [(f"{estimate.bytes / batch / 1e6:.1f}", str(len(estimate.launches)))]


@pytest.mark.proof
def test_how_many_convolutions_can_read_through_descriptors() -> None:
    """As docs/gpu.md says of ResNet-50: of all that are launched, those with the form ``conv_tma``."""
    codes = training_step("resnet50", "bfloat16", 256)._executable._compilation  # type: ignore[attr-defined]
    every, described = Counter[str](), Counter[str]()
    for code, kernels in zip(codes.codes, codes.kernels, strict=True):
        anchor = kernels[0].group.anchor
        name = anchor.op.template if anchor is not None else None
        if name in ("conv", "conv_dgrad"):
            every[name] += 1
            described[name] += any(c.form.name == "conv_tma" for c in code.choices)
    stated = re.findall(r"bfloat16 (\d+) convolutions of (\d+) and (\d+) gradients of (\d+) have that form", PAGE)
    assert stated == [tuple(str(n[name]) for name in ("conv", "conv_dgrad") for n in (described, every))]
