"""Tensors of more elements than 32 bits count."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

SIZE = 2**31 + 64


@pytest.mark.skipif(INTERPRETED, reason="about kernels in C, and what is refused before there is a kernel")
def test_more_than_two_thousand_million_elements() -> None:
    """On the cpu indices are as wide as they must be; a Triton kernel is refused."""
    graph = grt.Graph()
    x = graph.input("x", (SIZE,), "uint8")
    program = grt.compile([F.amax(x), F.argmax(x), F.flip(x, (0,))[:4], (x + 1)[-3:]], target="cpu")
    array = np.zeros(SIZE, np.uint8)  # pages that nobody writes take no memory
    array[-3] = 7
    most, at, first, last = program(x=array)
    assert (most, at) == (7, SIZE - 3)
    assert first.tolist() == [0, 0, 7, 0] and last.tolist() == [8, 1, 1]
    with pytest.raises(errors.TargetError, match=rf"test_large.py.*u8\[{SIZE}\] has {SIZE} elements, and Triton kernels"):
        grt.compile(F.amax(x), target="cuda:sm_90")


@pytest.mark.skipif(INTERPRETED, reason="about kernels in C")
def test_a_template_says_how_far_it_counts() -> None:
    graph = grt.Graph()
    x = graph.input("x", (SIZE, 2), "uint8")
    with pytest.raises(errors.TargetError, match="the loops of templates count to 2147483647"):
        grt.compile(F.cumsum(x, 1), target="cpu")
