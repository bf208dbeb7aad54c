"""Learning-rate schedules: each as torch's at every step, per step and per epoch, alone and behind a warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphrt import optim
from graphrt.errors import ArgumentError

torch = pytest.importorskip("torch")
lr_scheduler = torch.optim.lr_scheduler

EPOCHS, PER_EPOCH = 12, 5
STEPS = EPOCHS * PER_EPOCH


def torchs(make: Callable[[Any], Any], each: int = 1) -> list[float]:
    """The rates of torch's schedule, which is stepped after every ``each`` steps, at a base rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    schedule = make(optimizer)
    rates = []
    for i in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if (i + 1) % each == 0:
            schedule.step()
    return rates


def ours(schedule: optim.LRSchedule) -> list[float]:
    return [schedule.lr(i, STEPS, PER_EPOCH) for i in range(STEPS)]


PER_STEP: list[tuple[optim.LRSchedule, Callable[[Any], Any]]] = [
    (optim.Step((10, 30, 40), 0.2, by="step"), lambda o: lr_scheduler.MultiStepLR(o, [10, 30, 40], 0.2)),
    (optim.Exponential(0.97, by="step"), lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
    (optim.Polynomial(1.5), lambda o: lr_scheduler.PolynomialLR(o, STEPS, 1.5)),
    (optim.Cosine(final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, 0.1)),
    (optim.Linear(final=0.25), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, STEPS)),
    (
        optim.CosineRestarts(7, by="step", final=0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, eta_min=0.1),
    ),
    (optim.CosineRestarts(7, 2, by="step"), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, 2)),
    (optim.InverseSqrt(1, by="step"), lambda o: lr_scheduler.LambdaLR(o, lambda i: 1 / math.sqrt(i + 1))),
    (optim.OneCycle(), lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS)),
    (
        optim.OneCycle(0.2, "linear", 10.0, 100.0),
        lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS, None, None, 0.2, "linear", True, 0.85, 0.95, 10.0, 100.0),
    ),
    (optim.OneCycle(0.4, three_phase=True), lambda o: lr_scheduler.OneCycleLR(o, 1.0, STEPS, pct_start=0.4, three_phase=True)),
    (
        optim.warmup(optim.Step((20,), by="step"), 10, 0.1, by="step"),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 10), lr_scheduler.MultiStepLR(o, [20])], [10]
        ),
    ),
    (
        optim.Warmup(optim.Cosine(), 2, 0.01, by="epoch"),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.01, 1.0, 10), lr_scheduler.CosineAnnealingLR(o, STEPS - 10)], [10]
        ),
    ),
]
PER_EPOCH_TOO: list[tuple[optim.LRSchedule, Callable[[Any], Any]]] = [
    (optim.Step((3, 6, 9), by="epoch"), lambda o: lr_scheduler.MultiStepLR(o, [3, 6, 9])),
    (optim.PerEpoch(optim.Exponential(0.9)), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    (optim.PerEpoch(optim.Cosine(final=0.1)), lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS, 0.1)),
    (optim.PerEpoch(optim.CosineRestarts(2, 2)), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 2)),
    (
        optim.PerEpoch(optim.Warmup(optim.Polynomial(2.0), 3, 0.1, by="epoch")),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.PolynomialLR(o, EPOCHS - 3, 2.0)], [3]
        ),
    ),
]


@pytest.mark.filterwarnings("ignore")
def test_rates_are_torchs() -> None:
    for each, pairs in ((1, PER_STEP), (PER_EPOCH, PER_EPOCH_TOO)):
        for schedule, make in pairs:
            np.testing.assert_allclose(ours(schedule), torchs(make, each), rtol=1e-9, atol=1e-12, err_msg=repr(schedule))


def test_rates_of_a_course() -> None:
    """As lectures write them: a tenth at epochs 30, 60 and 90, half a cosine, a line, 1 / sqrt(t) from t = 1, a ramp."""
    step = optim.Step((30, 60, 90), by="epoch")
    assert [step.lr(e * 5, 500, 5) for e in (0, 29, 30, 60, 90)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    for t in range(10):
        assert optim.Constant().lr(t, 10) == 1.0
        assert optim.Cosine().lr(t, 10) == pytest.approx(0.5 * (1 + math.cos(t * math.pi / 10)))
        assert optim.Linear().lr(t, 10) == pytest.approx(1 - t / 10)
        assert optim.InverseSqrt(1, by="step").lr(t, 10) == pytest.approx(1 / math.sqrt(t + 1))
        assert optim.Warmup(optim.Constant(), 5, 0.2, by="step").lr(t, 10) == pytest.approx(min(0.2 + 0.8 * t / 5, 1.0))


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_is_torchs(mode: str, threshold_mode: str) -> None:
    """Epoch by epoch on values that improve, rest and jump."""
    rng = np.random.default_rng(0)
    values = (np.repeat(np.linspace(2.0, 1.0, 12), 5) + 0.02 * rng.standard_normal(60)) * (1 if mode == "min" else -1) + 3
    shared: dict[str, Any] = {"patience": 2, "threshold": 0.01, "threshold_mode": threshold_mode, "cooldown": 2, "mode": mode}
    mine = optim.ReduceOnPlateau(0.5, least=1e-4, monitor="score", schedule=optim.Constant(), **shared)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    other = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, min_lr=1e-4, eps=0.0, **shared)
    seen = set()
    for i, value in enumerate(values):
        other.step(value)
        mine.observe({"loss": [1.0], "score": values[: i + 1].tolist()})
        seen.add(mine.lr(i, 60))
        assert mine.lr(i, 60) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert len(seen) > 2
    mine.observe({"score": []})
    assert optim.Warmup(mine, 0.5).lr(40, 60) == 1.0
    with pytest.raises(ArgumentError, match="no 'score' to reduce the rate by; the history has loss"):
        optim.PerEpoch(optim.Warmup(mine)).observe({"loss": [1.0], "val_loss": []})


def test_a_warm_up_as_a_share_of_training() -> None:
    schedule = optim.warmup(optim.Linear(epochs=3), 0.25, first=0.2)
    assert schedule.epochs == 3
    assert [schedule.lr(i, 8) for i in (0, 1, 2, 5, 8)] == pytest.approx([0.2, 0.6, 1.0, 0.5, 0.0])


def test_the_rate_of_a_larger_batch() -> None:
    assert optim.scaled_lr(0.1, 1024) == pytest.approx(0.4) and optim.scaled_lr(0.1, 64, 256) == pytest.approx(0.025)
    assert optim.scaled_lr(1e-3, 1024, 256, "sqrt") == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.Warmup(optim.Constant(), 1.5), "as a share of training under 1"),
        (lambda: optim.Cosine(epochs="abc"), "epochs must be a whole number or none, got 'abc'"),
        (lambda: optim.Linear(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: optim.Step(milestones=30), r"milestones must be numbers in brackets, as in \(0.5,0.8\), got 30"),
        (lambda: optim.InverseSqrt(0.0), "start must be above 0"),
        (lambda: optim.OneCycle(div_factor=0.0), "div_factor and final_div_factor must be above 0"),
        (lambda: optim.PerEpoch("cosine"), "schedule must be of the class LRSchedule, got 'cosine'"),
        (lambda: optim.Step(by="week"), 'by must be "progress", "epoch" or "step", got \'week\''),
        (lambda: optim.OneCycle(anneal_strategy="cubic"), "anneal_strategy"),
        (lambda: optim.CosineRestarts(0), "first above 0"),
        (lambda: optim.ReduceOnPlateau(mode="least"), 'mode "min" or "max"'),
        (lambda: optim.Constant().lr(-1, 10), "step >= 0"),
        (lambda: optim.scaled_lr(0.1, 0), "batch sizes of at least 1"),
    ],
)
def test_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
