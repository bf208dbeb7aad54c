"""Kernels compiled where there is no GPU, for a run where there is one: all of a program, and the candidates of its tuning."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import ModuleType

from graphrt.runtime.machine import DataSheet, expected
from graphrt.schedule.cost import launch_cost
from graphrt.schedule.kernel_ir import Kernel
from graphrt.targets.triton.compile import build
from graphrt.targets.triton.compile.cubin import listings
from graphrt.targets.triton.compile.sass import work_of
from graphrt.targets.triton.emit.launch import LaunchCode
from graphrt.targets.triton.kernel import KernelBinary
from graphrt.targets.triton.tune.bounds import bound, keep
from graphrt.targets.triton.tune.tuner import candidates_of


def prepared(
    codes: Sequence[LaunchCode],
    kernels: Sequence[Sequence[Kernel]],
    module: ModuleType,
    target: str,
    sheet: DataSheet,
    level: int,
    share: float = 0.0,
    most: int | None = None,
) -> list[str]:
    """Fills the cache with the kernels of ``codes`` and the candidates of tuning at ``level``, with their bounds; their keys.

    Tuning has ``most`` candidates, and kernels whose launches take less than ``share`` of the predicted time have none but the
    heuristic's. A candidate that does not compile is left out.
    """
    times: dict[str, float] = {}
    for code, group in zip(codes, kernels, strict=True):
        name = build.key(code, target)
        times[name] = times.get(name, 0.0) + expected(launch_cost(group), sheet)[0]
    least = share * sum(times.values())
    wanted: dict[str, tuple[LaunchCode, Sequence[Kernel]]] = {}
    for code, group in zip(codes, kernels, strict=True):
        tuned = level and times[build.key(code, target)] >= least
        for choice in candidates_of(code, level)[:most] if tuned else [code.choice]:
            one = code.configured(choice, code.origin)
            if one.grid and one.call is None:
                wanted.setdefault(build.key(one, target), (one, group))
    build.prepare([code for code, _ in wanted.values()], module, target)
    binaries: dict[str, KernelBinary] = {}
    for key, (code, _) in wanted.items():
        with contextlib.suppress(Exception):  # the compiler raises anything
            binary = build.cached(code, module, target)
            assert isinstance(binary, KernelBinary)
            binaries[key] = binary
    new = [key for key in binaries if bound(key) is None and not wanted[key][0].cooperative]
    if new and target.startswith("cuda"):
        for key, text in zip(new, listings([binaries[key].code for key in new], target.split(":")[1]), strict=True):
            code, group = wanted[key]
            cost = launch_cost(group)
            keep(key, *expected(cost, sheet, work_of(binaries[key], text, code.choice, cost)))
    return list(binaries)
