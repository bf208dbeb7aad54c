"""load: a saved program, whichever target it is of."""

from __future__ import annotations

from pathlib import Path

from graphrt.errors import TargetError
from graphrt.runtime.program import Runnable
from graphrt.targets.saved import read_manifest


def load(path: str | Path, target: str = "auto") -> Runnable:
    """The program that ``Program.save`` wrote at ``path``, with a state of its own. No compiler runs.

    ``target`` auto is what the program was compiled for: the cpu, or a GPU of that architecture. ``null`` runs everything but
    the kernels of a GPU program, on a machine without one. Raises InputError for a folder that is no saved program of this
    version or lacks a file, TargetError when this machine cannot run it.
    """
    folder = Path(path).resolve()
    manifest = read_manifest(folder)
    kind = manifest["target"].split(":")[0]
    if target not in ("auto", kind) and (target != "null" or kind == "cpu"):
        raise TargetError(f"{folder} is a program of {manifest['target']}; it does not run on {target!r}")
    if kind == "cpu":
        from graphrt.targets.cpu.saved import load as load_cpu

        return load_cpu(folder, manifest)
    from graphrt.targets.triton.saved import load as load_gpu

    return load_gpu(folder, manifest, "" if target == "auto" else target)
