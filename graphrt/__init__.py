"""graphrt: a compiler-style graph runtime for deep learning."""

from importlib import metadata
from typing import Any

from graphrt import data, errors, frontends, models, nn, ops, optim, visualize
from graphrt.autodiff import grad
from graphrt.compiler import compile
from graphrt.frontends.onnx import from_onnx
from graphrt.frontends.onnx.export import to_onnx
from graphrt.gradcheck import GradcheckReport, backward_text, gradcheck
from graphrt.ir import Graph, Node, Value
from graphrt.mesh import Mesh
from graphrt.nn.weights import LoadReport, load_weights
from graphrt.passes.open_batch import up_to
from graphrt.passes.quantize import quantize_weights
from graphrt.passes.stages import STAGES
from graphrt.runtime.bisection import bisect
from graphrt.runtime.program import Program
from graphrt.runtime.state import State
from graphrt.targets.load import load
from graphrt.train import Trainer

try:
    __version__ = metadata.version("graphrt")
except metadata.PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """The torch front end, imported when it is first asked for: it takes as long to import as torch.compile does."""
    if name in ("from_torch", "to_torch"):
        from graphrt.frontends import torch

        return getattr(torch, name)
    raise AttributeError(f"module 'graphrt' has no attribute {name!r}")


__all__ = [
    "STAGES",
    "GradcheckReport",
    "Graph",
    "LoadReport",
    "Mesh",
    "Node",
    "Program",
    "State",
    "Trainer",
    "Value",
    "__version__",
    "backward_text",
    "bisect",
    "compile",
    "data",
    "errors",
    "from_onnx",
    "from_torch",
    "frontends",
    "grad",
    "gradcheck",
    "load",
    "load_weights",
    "models",
    "nn",
    "ops",
    "optim",
    "quantize_weights",
    "to_onnx",
    "to_torch",
    "up_to",
    "visualize",
]
