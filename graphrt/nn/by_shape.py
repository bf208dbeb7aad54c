"""ByShape: a module that is called with inputs of any shapes, by a program for each.

A program's shapes are known when it is compiled. A network of convolutions takes any, so there is a program for each shape that
has come, all on the module's own weights, and of these no more than a bounded number.
"""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from typing import Any

from graphrt.compiler import compile as compile_graph
from graphrt.errors import ArgumentError
from graphrt.nn.module import Module
from graphrt.nn.trace import kinds
from graphrt.runtime.program import Program


class ByShape:
    """Calls ``module`` in evaluation mode with tensors of any shapes that it takes, compiled for ``target``.

        net = nn.ByShape(models.fcn8s(), limit=4)
        net(picture)  # compiles; another of the same shape does not

    The ``limit`` programs that were used last are kept. All read the module's own weights, so what is trained or loaded
    meanwhile counts. ``progress`` prints a line for each that is compiled. Raises ArgumentError for a limit under 1.
    """

    def __init__(self, module: Module, limit: int = 8, target: str = "auto", progress: bool = True) -> None:
        if limit < 1:
            raise ArgumentError(f"limit must be at least 1, got {limit}")
        self.module, self.limit, self.target, self.progress = module, limit, target, progress
        self.programs: OrderedDict[Any, Program] = OrderedDict()  # by what they were compiled for, the last used at the end

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The results of the module. Raises ArgumentError for arguments that do not fit it, and what compiling it raises."""
        call = inspect.signature(self.module.forward)
        try:
            bound = call.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"the arguments do not fit {type(self.module).__name__}.forward{call}: {error}") from None
        key = kinds(bound.arguments)
        if key not in self.programs:
            given = {**dict(zip(call.parameters, bound.args, strict=False)), **bound.kwargs} if bound.kwargs else bound.args
            self.programs[key] = made = compile_graph(self.module, given, target=self.target)
            if self.progress:
                print(f"compiled {type(self.module).__name__} for {made!r} in {made.compile_seconds:.2f} s", file=sys.stderr)
            if len(self.programs) > self.limit:
                self.programs.popitem(last=False)
        self.programs.move_to_end(key)
        return self.programs[key](*bound.args, **bound.kwargs)
