"""Optimizers and learning-rate schedules."""

from graphrt.optim.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from graphrt.optim.scaler import GradScaler
from graphrt.optim.schedules import SCHEDULES, Constant, Cosine, InverseSqrt, Linear, LRSchedule, Step, Warmup, warmup

__all__ = [
    "SCHEDULES",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "GradScaler",
    "InverseSqrt",
    "LRSchedule",
    "Linear",
    "Optimizer",
    "RMSprop",
    "Step",
    "Warmup",
    "warmup",
]  # fmt: skip
