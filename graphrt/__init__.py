"""graphrt: a compiler-style graph runtime for deep learning."""

from graphrt import data, errors, models, nn, ops, optim
from graphrt.autodiff import grad
from graphrt.compiler import compile
from graphrt.frontends.onnx import from_onnx
from graphrt.ir import Graph, Node, Value
from graphrt.nn.weights import LoadReport, load_weights
from graphrt.runtime.program import Program
from graphrt.runtime.state import State
from graphrt.targets.cpu.saved import load
from graphrt.train import Trainer

__all__ = [
    "Graph",
    "LoadReport",
    "Node",
    "Program",
    "State",
    "Trainer",
    "Value",
    "compile",
    "data",
    "errors",
    "from_onnx",
    "grad",
    "load",
    "load_weights",
    "models",
    "nn",
    "ops",
    "optim",
]
