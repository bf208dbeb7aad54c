"""Optimizers and learning-rate schedules."""

from graphrt.optim.adam import LAMB, Adam, Adamax, AdamW, NAdam, RAdam
from graphrt.optim.adaptive import Adadelta, Adagrad, RMSprop
from graphrt.optim.gradients import clip_grad_norm, clip_grad_value, total_norm
from graphrt.optim.muon import Muon
from graphrt.optim.optimizer import Optimizer, Run
from graphrt.optim.scaler import GradScaler
from graphrt.optim.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseSqrt,
    Linear,
    LRSchedule,
    OneCycle,
    PerEpoch,
    Polynomial,
    ReduceOnPlateau,
    Step,
    Warmup,
    scaled_lr,
    warmup,
)
from graphrt.optim.sgd import LARS, SGD, Lion

OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in (SGD, Adam, AdamW, Adamax, NAdam, RAdam, Adagrad, Adadelta, RMSprop, Lion, LARS, LAMB, Muon)
}

__all__ = [
    "LAMB",
    "LARS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "GradScaler",
    "InverseSqrt",
    "LRSchedule",
    "Linear",
    "Lion",
    "Muon",
    "NAdam",
    "OneCycle",
    "Optimizer",
    "PerEpoch",
    "Polynomial",
    "RAdam",
    "RMSprop",
    "ReduceOnPlateau",
    "Run",
    "Step",
    "Warmup",
    "clip_grad_norm",
    "clip_grad_value",
    "scaled_lr",
    "total_norm",
    "warmup",
]  # fmt: skip
