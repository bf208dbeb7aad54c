"""graphrt: a compiler-style graph runtime for deep learning."""

from graphrt import data, errors, models, nn, ops, optim
from graphrt.autodiff import grad
from graphrt.compiler import compile
from graphrt.ir import Graph, Node, Value
from graphrt.runtime.program import Program
from graphrt.runtime.state import State
from graphrt.targets.cpu.saved import load
from graphrt.train import Trainer

__all__ = [
    "Graph",
    "Node",
    "Program",
    "State",
    "Trainer",
    "Value",
    "compile",
    "data",
    "errors",
    "grad",
    "load",
    "models",
    "nn",
    "ops",
    "optim",
]
