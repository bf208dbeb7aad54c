"""The subject of a command, as a graph: a model, an ONNX file, a function of a Python file, a saved program."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphrt import models, nn, optim
from graphrt.compiler import trace
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.optim import Optimizer
from graphrt.targets.saved import MANIFEST, read_explain
from graphrt.train import Trainer

KINDS = "a model of graphrt.models, an ONNX file, file.py:function, or the folder of a saved program"


def prepare(target: str) -> None:
    """Triton chooses between compiler and interpreter when it is imported, so this comes before any import of it."""
    if target == "interpret":
        os.environ["TRITON_INTERPRET"] = "1"


def half(dtype: str) -> str | None:
    """The half that ``dtype`` asks for, None for float32. Raises ArgumentError."""
    names = {
        "float32": None,
        **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
        **dict.fromkeys(("fp16", "float16"), "float16"),
    }
    if dtype not in names:
        raise ArgumentError(f"dtype must be float32, bf16 or fp16, got {dtype!r}")
    return names[dtype]


def trainer(model: str, target: str, seed: int, optimizer: Any, schedule: Any = None, autocast: str | None = None) -> Trainer:
    """A trainer of the model called ``model``. Raises ArgumentError for a name that is none."""
    nn.manual_seed(seed)
    net = models.get(model).build()
    return Trainer(net, nn.CrossEntropyLoss(), optimizer, schedule, target=target, seed=seed, autocast=autocast)


def specs(model: str, batch: int) -> tuple[Any, Any]:
    """Shapes and dtypes of a batch of examples and of their classes. Raises ArgumentError for a name that is none."""
    one = models.get(model)
    return ((batch, *one.input_shape), one.dtype), ((batch, *(one.input_shape if one.dtype == "int64" else ())), "int64")


@dataclass(frozen=True)
class Subject:
    """A thing to be looked into: what ``compile`` takes, and the arguments it is compiled with."""

    title: str
    outputs: Any
    arguments: Mapping[str, Any]

    @property
    def target(self) -> str:
        """The target that it was saved for, or is to be compiled for."""
        return str(self.arguments["target"])


def find(
    name: str,
    target: str,
    batch: int,
    training: bool,
    dtype: str,
    arguments: Mapping[str, Any],
    optimizer: Optimizer | None = None,
    seed: int = 0,
) -> Subject:
    """The subject that ``name`` names: one of ``KINDS``. Raises ArgumentError, ConversionError, InputError, ImportError.

    ``batch``, ``training``, ``dtype``, ``optimizer`` (SGD with momentum where it is None) and the ``seed`` of weights are for
    models; ``batch`` is also the size of an ONNX file's open dimensions.
    """
    autocast = half(dtype)
    arguments = {"target": target, **arguments}
    file, _, function = name.partition(":")
    if name in models.MODELS:
        with_target = trainer(name, target, seed, optimizer or optim.SGD(0.05, momentum=0.9), autocast=autocast)
        x, y = specs(name, batch)
        graph = with_target.training_graph(x, y) if training else with_target.evaluation_graph(x)
        return Subject(f"{name}, batch {batch}", graph, arguments)
    if name.endswith(".onnx"):
        return Subject(name, _onnx(name, batch), arguments)
    if file.endswith(".py"):
        return Subject(name, _called(Path(file), function), arguments)
    if (Path(name) / MANIFEST).exists():
        kept = read_explain(name)
        compiled = {key: value for key, value in kept.items() if key != "graph"}
        chosen = {key: value for key, value in arguments.items() if key == "target" and value != "auto"}
        return Subject(name, Graph.parse(kept["graph"]), {**compiled, **chosen})
    raise ArgumentError(f"no model {name!r}; there is {', '.join(models.MODELS)}. It may also be {KINDS.partition(', ')[2]}")


def _onnx(path: str, batch: int) -> Graph:
    """The graph of an ONNX file, its open dimensions of size ``batch``."""
    from graphrt.frontends.onnx import from_onnx
    from graphrt.frontends.onnx.model import read_model

    if not Path(path).is_file():
        raise ArgumentError(f"there is no file {path}")
    dims = [d for x in read_model(path).graph.input for d in x.type.tensor_type.shape.dim]
    return from_onnx(path, shapes={d.dim_param: batch for d in dims if d.dim_param})


def _called(file: Path, function: str) -> Any:
    """The result of ``function()`` of a Python file, as ``compile`` takes it: a graph, values, or a model and its inputs.

    Raises ArgumentError.
    """
    if not file.is_file():
        raise ArgumentError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, function, None)):
        names = ", ".join(n for n, f in vars(module).items() if callable(f) and getattr(f, "__module__", "") == file.stem)
        raise ArgumentError(f"{file} has no function {function!r}; there is {names or 'none'}")
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{file}:{function} is called without arguments: {error}") from None
    made = found()
    if made is None:
        raise ArgumentError(f"{file}:{function} returned None; it is to return a graph, values, or a model and its inputs")
    if isinstance(made, tuple) and len(made) == 2 and not isinstance(made[0], Value):
        model, inputs = made
        return trace(model, inputs)
    return made
