"""Optimizers and learning-rate schedules."""

from graphrt.optim.optimizers import SGD, Adam, AdamW, Optimizer
from graphrt.optim.schedules import SCHEDULES, Constant, Cosine, InverseSqrt, Linear, Schedule, Step, Warmup, warmup

__all__ = [
    "SCHEDULES", "SGD", "Adam", "AdamW", "Constant", "Cosine", "InverseSqrt", "Linear", "Optimizer", "Schedule", "Step",
    "Warmup", "warmup",
]  # fmt: skip
