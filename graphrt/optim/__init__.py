"""Optimizers and learning-rate schedules."""

from graphrt.optim.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from graphrt.optim.scaler import GradScaler
from graphrt.optim.schedules import SCHEDULES, Constant, Cosine, InverseSqrt, Linear, Schedule, Step, Warmup, warmup

__all__ = [
    "SCHEDULES", "SGD", "Adagrad", "Adam", "AdamW", "Constant", "Cosine", "GradScaler", "InverseSqrt", "Linear", "Optimizer",
    "RMSprop", "Schedule", "Step", "Warmup", "warmup",
]  # fmt: skip
