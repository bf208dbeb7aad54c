"""Loads a saved program, whichever target it is of."""

from __future__ import annotations

from pathlib import Path

from graphrt.runtime.runnable import Runnable
from graphrt.targets.saved import read_manifest
from graphrt.targets.target import parse


def load(path: str | Path, target: str = "auto", trusted: bool = False) -> Runnable:
    """The program that ``Program.save`` wrote at ``path``, with a state of its own. No compiler runs.

    ``target`` auto is what the program was compiled for: the cpu, or a GPU of that architecture. ``null`` runs everything but
    the kernels of a GPU program, on a machine without one. Loading runs machine code: a folder that another user has
    written, or that anybody can write, is refused unless it is ``trusted``. Raises InputError for a folder
    that is no saved program of this version, lacks a file or has been altered, TargetError when this machine cannot run it.
    """
    folder = Path(path).resolve()
    manifest = read_manifest(folder, trusted)
    kind: str = manifest["target"].split(":")[0]
    return parse(kind if target == "auto" else target).load(folder, manifest)
