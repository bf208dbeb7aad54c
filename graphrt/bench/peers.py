"""The same patterns by others: torch, eager and compiled, and JAX where it is installed; and the kernels of torch.compile.

A kernel of torch.compile is a line of the code that it writes: a generated loop nest or Triton kernel, or a call of a library.
The gradient of a convolution is one call for as many contractions as it gives results, and counts as these.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphrt.bench.builder import Builder, Pattern
from graphrt.targets.target import names_architecture

PEERS = ("torch", "torch.compile", "jax")
Call = Callable[[], Any]
_CALLED = r"cpp_fused\w*|triton_\w+\.run|extern_kernels\.\w+|torch\.ops\.[\w.]+|aten\.[\w.]+"
_LAUNCH = re.compile(rf"^\s+(?:\w+ = )?(?:{_CALLED})\(.*", re.M)


def missing(names: Sequence[str], target: str) -> dict[str, str]:
    """The peers ``names`` that cannot stand beside programs for ``target`` on this machine, and why."""
    if names_architecture(target):
        return dict.fromkeys(names, f"programs for {target} do not run here, so nothing is timed")
    if "jax" in names and importlib.util.find_spec("jax") is None:
        return {"jax": "needs the package jax: pip install jax"}
    return {}


def peer(
    pattern: Pattern, builder: Builder, feeds: Mapping[str, Any], backward: bool, name: str, device: str = "cpu"
) -> Call | None:
    """The pattern by the peer ``name``, on the same numbers, as a call that returns when its work is done; None if it has none.

    With ``backward`` it finds the gradients too. torch computes on ``device``, JAX on the one that it takes by itself.
    """
    if name != "jax":
        return _torch(pattern, builder, feeds, backward, name, device) if pattern.peer is not None else None
    if importlib.util.find_spec("jax") is None:
        return None
    from graphrt.bench import jax_patterns

    dys = {i: feeds[f"dy{i}"] for i in range(len(feeds)) if f"dy{i}" in feeds}
    wrt = tuple(builder.wrt) if backward else ()
    return jax_patterns.call(pattern.name, builder.sizes, builder.operands(feeds), wrt, dys)


def _torch(pattern: Pattern, builder: Builder, feeds: Mapping[str, Any], backward: bool, name: str, device: str) -> Call:
    import torch

    function, sizes = pattern.peer, builder.sizes
    assert function is not None

    def eager(*args: Any) -> Any:
        return function(sizes, *args)

    step = torch.compile(eager, dynamic=False) if name == "torch.compile" else eager
    tensors = {n: torch.as_tensor(array, device=device) for n, array in builder.operands(feeds).items()}
    if not backward:

        def forward() -> Any:
            with torch.no_grad():
                return step(*tensors.values())

        return _finished(forward, device)
    leaves = [tensors[n].requires_grad_() for n in builder.wrt]
    cotangents = {i: torch.as_tensor(feeds[f"dy{i}"], device=device) for i in range(len(feeds)) if f"dy{i}" in feeds}

    def both() -> Any:
        found = step(*tensors.values())
        every = enumerate(found if isinstance(found, tuple | list) else [found])
        results = [(y, cotangents.get(i)) for i, y in every if y.requires_grad]
        return found, torch.autograd.grad([y for y, _ in results], leaves, [dy for _, dy in results], allow_unused=True)

    return _finished(both, device)


def _finished(call: Call, device: str) -> Call:
    """``call``, which returns when ``device`` has done it."""
    if device != "cuda":
        return call
    import torch

    def finished() -> Any:
        found = call()
        torch.cuda.synchronize()
        return found

    return finished


def kernels(step: Call) -> int:
    """The kernels that ``step``, a call of torch.compile, launches: those of the code that is written for it."""
    import torch._functorch.config
    import torch._inductor.config
    from torch._inductor.utils import run_and_get_code

    with torch._functorch.config.patch(enable_autograd_cache=False), torch._inductor.config.patch(fx_graph_cache=False):
        _, codes = run_and_get_code(step)  # what is found in a cache is not written again
    return sum(map(count, codes))


def count(code: str) -> int:
    """The kernels that a module which torch.compile has written launches."""
    body = code[code.index("def call(") :].partition("\n\n")[0]
    return sum(_contractions(line) for line in _LAUNCH.findall(body))


def _contractions(line: str) -> int:
    wanted = re.search(r"convolution_backward.*\[(\w+), (\w+), \w+\]\)", line)
    return sum(flag == "True" for flag in wanted.groups()) if wanted else 1
