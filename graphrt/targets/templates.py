"""Finds the kernel templates: the package ``graphrt.kernels``, which is the folder ``kernels/`` of a checkout.

Wheels and editable installs map the folder to the package; in a bare checkout on ``PYTHONPATH`` it is loaded under the same
name here, so that generated code imports it one way.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def find_kernels() -> Path:
    """The folder of ``graphrt.kernels``, importable under that name afterwards."""
    try:
        package = importlib.import_module("graphrt.kernels")
    except ModuleNotFoundError:
        init = Path(__file__).resolve().parents[2] / "kernels" / "__init__.py"
        spec = importlib.util.spec_from_file_location("graphrt.kernels", init, submodule_search_locations=[str(init.parent)])
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["graphrt.kernels"] = package
        spec.loader.exec_module(package)
    return Path(next(iter(package.__path__)))
