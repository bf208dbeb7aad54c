"""Golden files: text that a test compares with the last one that was accepted.

A difference is shown as a unified diff, with the command that accepts it: ``GRAPHRT_ACCEPT=1 pytest ...``. Accept only what can
be explained.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

ACCEPT = os.environ.get("GRAPHRT_ACCEPT") == "1"
ROOT = Path(__file__).parent.parent


def check_golden(path: Path, text: str) -> None:
    """Fails with a diff when ``path`` does not hold ``text``, or writes it when GRAPHRT_ACCEPT is 1."""
    if ACCEPT:
        path.write_text(text)
    old = path.read_text() if path.exists() else ""
    if old != text:
        pytest.fail(difference(path, old, text), pytrace=False)


def difference(path: Path, old: str, new: str) -> str:
    """The unified diff from ``old`` to ``new``, the file's name and how to accept."""
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    diff = difflib.unified_diff(old.splitlines(), new.splitlines(), f"{name} (accepted)", f"{name} (now)", lineterm="", n=2)
    return "\n".join([f"{name} differs. Look at the difference, then accept it with", f"    {command()}", "", *diff])


def command() -> str:
    """The command that accepts what the running test compares."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "tests").rpartition(" (")[0]
    return f"GRAPHRT_ACCEPT=1 .venv/bin/python -m pytest -m '' '{test or 'tests'}'"
