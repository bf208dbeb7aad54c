"""``batch_invariant``: an example's results are the same bits whatever the batch it is in, for any number of threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import errors, nn
from graphrt import ops as F

MOST = 40


class Attending(nn.Module):
    """Self-attention over seven tokens, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attend, self.out = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: grt.Value) -> grt.Value:
        h = self.norm(x)
        return self.out(F.mean(x + self.attend(h, h, h)[0], 1))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(37, 50), nn.ReLU(), nn.LayerNorm(50), nn.Linear(50, 10), nn.Softmax(1))


def convolutional() -> nn.Module:
    block = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*block, nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


def pooled() -> nn.Module:
    """Sums of 4,096 pixels of few channels, which are split in parts where there are few of them."""
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


NETS: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    dense: (37,),
    convolutional: (3, 9, 9),
    pooled: (1, 64, 64),
    Attending: (7, 16),
}
WHOLE: dict[Callable[[], nn.Module], tuple[nn.Module, np.ndarray, np.ndarray]] = {}


def results(net: nn.Module, x: np.ndarray, invariant: bool = True) -> np.ndarray:
    return np.asarray(grt.compile(net, (x,), target="cpu", batch_invariant=invariant)(x))


def whole(make: Callable[[], nn.Module]) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """A network, examples, and the results of all of them in one batch; made once."""
    if make not in WHOLE:
        net = make()
        x = np.random.default_rng(0).standard_normal((MOST, *NETS[make])).astype(np.float32)
        WHOLE[make] = net, x, results(net, x)
    return WHOLE[make]


@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
@given(part=st.integers(0, MOST - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, MOST))))
@settings(max_examples=3)
def test_any_part_of_a_batch_gives_the_same_bits(make: Callable[[], nn.Module], part: tuple[int, int]) -> None:
    net, x, expected = whole(make)
    np.testing.assert_array_equal(results(net, x[slice(*part)]), expected[slice(*part)])


@pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)
def test_single_examples_give_the_same_bits(make: Callable[[], nn.Module]) -> None:
    net, x, expected = whole(make)
    for rows in (1, 3):
        np.testing.assert_array_equal(results(net, x[:rows]), expected[:rows])


def test_without_it_a_product_of_few_rows_is_summed_otherwise() -> None:
    net, x, _ = whole(dense)
    text = [str(grt.compile(net, (x[:rows],), target="cpu").explain().full()) for rows in (2, MOST)]
    assert "is computed by matmul_thin.h" in text[0] and "is computed by matmul_thin.h" not in text[1]
    text = [str(grt.compile(net, (x[:n],), target="cpu", batch_invariant=True).explain().full()) for n in (2, MOST)]
    assert all("matmul_packed.h: rows are summed alike, however many there are" in found for found in text)


def test_other_targets_say_that_they_add_up_as_suits_the_batch() -> None:
    net, x, _ = whole(dense)
    with pytest.raises(errors.ArgumentError, match="batch_invariant is for the target cpu; 'reference' adds up as suits"):
        grt.compile(net, (x,), target="reference", batch_invariant=True)


def digests() -> str:
    """The results of the first two examples in batches of two and of twelve."""
    net, x, _ = whole(convolutional)
    for name, array in net.state_dict().items():
        ramp = np.cos(np.arange(array.size)).reshape(array.shape) * 0.3 + (0.5 if "var" in name else 0.0)
        net.load_state_dict({name: ramp.astype(array.dtype)}, strict=False)
    return " ".join(hashlib.sha256(results(net, x[:rows])[:2].tobytes()).hexdigest() for rows in (2, 12))


@pytest.mark.proof
def test_for_any_number_of_threads() -> None:
    code = "from test_batch_invariant import digests; print(digests())"
    found = set[str]()
    for threads in ("1", "2", "5"):
        environment = {**os.environ, "GRAPHRT_THREADS": threads, "PYTHONPATH": f"{Path(__file__).parent}:{os.getcwd()}"}
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found |= set(ran.stdout.split())
    assert len(found) == 1
