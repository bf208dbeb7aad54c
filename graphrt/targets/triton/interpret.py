"""The driver of Triton's interpreter: kernels are Python functions over CPU tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphrt.errors import TargetError
from graphrt.targets.triton.collective import Call
from graphrt.targets.triton.driver import HostDriver, Launch

TOGETHER = 16  # programs of a cooperative launch that is watched; else there is one, which waits for nobody


@dataclass(frozen=True)
class JitKernel:
    """A kernel as its source: Triton's function and its compile-time arguments, and the names of the buffers it works on.

    Programs of a ``cooperative`` one wait for each other.
    """

    function: Any
    constants: dict[str, Any]
    buffers: tuple[str, ...] = ()
    cooperative: bool = False


class InterpretDriver(HostDriver):
    """Runs kernels one after the other in NumPy. Raises TargetError unless Triton was imported as an interpreter.

    Integers wrap unchecked, as they do in compiled kernels: looking at each sum and product takes a third of the time.
    With ``guard`` each access of each program is checked: a run raises AccessError at the first that it may not make.
    """

    target = "interpret"

    def __init__(self, guard: bool = False) -> None:
        import numpy as np
        import triton
        from triton.runtime.interpreter import interpreter_builder

        self._guard = guard

        if not triton.knobs.runtime.interpret:
            raise TargetError(
                "target 'interpret' needs TRITON_INTERPRET=1 in the environment before Triton is imported, "
                "in a process of its own"
            )
        if _version(triton.__version__) < (3, 7) and _version(np.__version__) >= (2, 4):
            raise TargetError(
                f"target 'interpret': Triton {triton.__version__}'s interpreter takes arrays of one element for numbers, which "
                f"NumPy {np.__version__} refuses; install 'numpy<2.4', or Triton 3.7 or later"
            )
        interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)

    def place(self, flat: Any) -> Any:
        """Kernels work on the state's own memory."""
        return flat

    def load(self, kernel: JitKernel | Call) -> JitKernel | Call:
        """The function itself."""
        return kernel

    def bind(
        self, loaded: JitKernel | Call, grid: int, buffers: Sequence[Any], scratch: Any, dependent: bool = False
    ) -> Launch:
        """A call of the interpreter, or of torch on the CPU."""
        if isinstance(loaded, Call):
            return loaded.bind(buffers)
        if self._guard:
            from graphrt.targets.triton import guard

            function, constants, names = loaded.function, loaded.constants, loaded.buffers
            programs = min(grid, TOGETHER) if loaded.cooperative else grid
            together = loaded.cooperative
            return lambda stream: guard.launch(function, (programs,), (tuple(buffers),), constants, names, together)
        launch, args = loaded.function[(1 if loaded.cooperative else grid,)], tuple(buffers)
        return lambda stream: launch(args, **loaded.constants)


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in text.split(".")[:2])
