"""DLPack both ways: programs take what has ``__dlpack__`` and give what has it, over the same memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import graphrt as grt
from graphrt import nn
from graphrt.errors import InputError
from graphrt.runtime.arrays import from_dlpack, to_numpy


class Foreign:
    """An array of some other library: nothing but DLPack's two methods."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_memory_is_shared() -> None:
    for array in (np.arange(6, dtype=np.float32).reshape(2, 3), torch.arange(6).reshape(2, 3)):
        found = to_numpy(Foreign(array))
        assert found.ctypes.data == to_numpy(array).ctypes.data and found.shape == (2, 3)
    half = torch.arange(4, dtype=torch.bfloat16)  # NumPy has no such dtype
    assert from_dlpack(Foreign(half)).data_ptr() == half.data_ptr()
    assert from_dlpack(half) is half and from_dlpack("x") == "x"


def test_a_program_takes_and_gives_dlpack(target: str) -> None:
    g = grt.Graph()
    x, n = g.input("x", (2, 3)), g.input("n", (3,), "int64")
    g.output("y", x * 2.0 + grt.ops.cast(n, "float32"))
    program = grt.compile(g, target=target)
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    y = program(x=Foreign(given), n=Foreign(torch.arange(3)))["y"]
    expected = given * 2 + np.arange(3)
    np.testing.assert_array_equal(np.from_dlpack(y), expected)
    there = torch.from_dlpack(y)
    assert there.data_ptr() == y.ctypes.data and there.tolist() == expected.tolist()
    again = program(x=torch.from_numpy(given), n=torch.arange(3))["y"]
    assert np.from_dlpack(again.cpu()).tolist() == expected.tolist()
    with pytest.raises(InputError, match=r"input 'x' is f32\[2,3\].*got shape \[3, 2\]"):
        program(x=Foreign(given.T), n=torch.arange(3))


def test_a_trainer_takes_dlpack(target: str) -> None:
    nn.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)).astype(np.float32), rng.integers(0, 2, 8)
    losses = []
    for wrap in (lambda a: a, Foreign):
        nn.manual_seed(0)
        trainer = grt.Trainer(nn.Linear(3, 2), nn.CrossEntropyLoss(), grt.optim.SGD(0.1), target=target)
        losses.append([trainer.step(wrap(x), wrap(y))["loss"] for _ in range(2)])
    assert losses[0] == losses[1]


def test_arrays_of_jax(target: str) -> None:
    jnp = pytest.importorskip("jax.numpy", reason="the package jax is missing", exc_type=ImportError)
    g = grt.Graph()
    g.output("y", g.input("x", (2, 3)) * 2.0)
    x = jnp.arange(6, dtype="float32").reshape(2, 3)
    y = grt.compile(g, target=target)(x=x)["y"]
    assert jnp.from_dlpack(y).tolist() == (x * 2).tolist()
