"""Comparison of two runs: ratios with intervals, and the differences that are not chance's.

The unit is a process: its median says how fast it was, and processes differ more than calls do (memory that lies otherwise,
a processor that was warmer). A difference counts if Welch's test says so for all rows together (Holm, "A simple sequentially
rejective multiple test procedure", 1979), and if it is larger than what two measurements of the same thing differed by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05  # of one false alarm among all rows of a run
LEAST = 0.03  # a smaller change is not called one
RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A ratio of times and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(logs: Sequence[float]) -> Ratio:
    """The ratio whose logarithm each process measured once, with a bootstrap interval over processes."""
    values = np.asarray(logs, float)
    if len(values) < 2:
        return Ratio(*[float(np.exp(values.mean()))] * 3)
    rng = np.random.default_rng(0)
    means = rng.choice(values, (RESAMPLES, len(values))).mean(1)
    return Ratio(float(np.exp(values.mean())), *(float(np.exp(np.percentile(means, p))) for p in (2.5, 97.5)))


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """The probability that means differ as those of ``a`` and ``b`` do if they are the same (Welch, 1947), two-sided."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    if len(x) < 2 or len(y) < 2:
        return 1.0
    u, v = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    if u + v == 0:
        return 1.0 if x.mean() == y.mean() else 0.0
    t = (x.mean() - y.mean()) / math.sqrt(u + v)
    freedom = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
    return _tails(t, freedom)


def _tails(t: float, freedom: float) -> float:
    """The probability of a value beyond ``t`` on either side of Student's distribution; with t = sqrt(freedom) tan(angle)."""
    angles = np.linspace(math.atan(abs(t) / math.sqrt(freedom)), math.pi / 2, 2001)
    half = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2)) * math.sqrt(math.pi) / 2
    density = np.maximum(np.cos(angles), 0) ** (freedom - 1)
    return min(float(((density[1:] + density[:-1]) / 2 * np.diff(angles)).sum() / half), 1.0)


def holm(probabilities: Mapping[str, float], level: float = LEVEL) -> set[str]:
    """The tests that are rejected when all of them together may fail once with probability ``level``."""
    rejected = set[str]()
    ordered = sorted(probabilities, key=probabilities.__getitem__)
    for i, name in enumerate(ordered):
        if probabilities[name] > level / (len(ordered) - i):
            break
        rejected.add(name)
    return rejected
