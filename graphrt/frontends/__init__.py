"""Front ends: they make a Graph of a model that was written for something else. Each is imported when it is first used."""

from typing import Any

from graphrt.compiler import TRACERS
from graphrt.ir import Graph


def _trace(model: Any, example_inputs: Any) -> Graph:
    from graphrt.frontends.torch import from_torch

    return from_torch(model, example_inputs)


TRACERS[object] = _trace
