"""What a guide of docs/guides does, done: its files and its changes in a copy of the code, then its checks.

A block whose first line is a comment with a path is that file. A block of ``diff`` names a file, too: what stands behind ``-``
in it becomes what stands behind ``+``. Other Python is the guide's script, and shell commands are run in the copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDES = ROOT / "docs" / "guides"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_NAMED = re.compile(r"(?:# |/\* )([\w/]+\.(?:py|h|c))(?: \*/)?\n")
_PYTHON = ".venv/bin/python"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the file it is, or changes ("": the guide's script, or commands)."""

    language: str
    text: str
    path: str = ""


def blocks(guide: str) -> Iterator[Block]:
    """The blocks of the guide of that name, in order."""
    for language, text in _BLOCK.findall((GUIDES / f"{guide}.md").read_text()):
        if language == "diff":
            head, text = text.split("\n", 1)
            yield Block(language, text, head.removeprefix("--- "))
        elif named := _NAMED.match(text):
            yield Block(language, text[named.end() :], named[1])
        else:
            yield Block(language, text)


def copy(folder: Path) -> None:
    """What guides change, as a checkout in ``folder``."""
    for name in ("graphrt", "kernels", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "graphrt" / "kernels").symlink_to(folder / "kernels")  # as it is installed


def write(guide: str, folder: Path) -> None:
    """The guide's files and changes."""
    for block in blocks(guide):
        path = folder / block.path
        if block.language == "diff":
            for old, new in _replacements(block.text):
                text = path.read_text()
                assert text.count(old) == 1, f"{guide}: {block.path} has {text.count(old)} times: {old}"
                path.write_text(text.replace(old, new))
        elif block.path:
            assert not path.exists(), f"{guide}: {block.path} exists already"
            path.write_text(block.text)


def _replacements(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of what lines behind ``-`` say and what the lines behind ``+`` after them say."""
    for change in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", text, re.M):
        old, new = ("\n".join(line[1:] for line in part.splitlines()) for part in change)
        yield old, new


def check(guide: str, folder: Path) -> None:
    """Runs the guide's script and its commands, which must succeed."""
    script = "\n".join(b.text for b in blocks(guide) if b.language == "python" and not b.path)
    (folder / f"{guide}_check.py").write_text(script)
    commands = [line for b in blocks(guide) if b.language == "sh" for line in b.text.splitlines() if line.strip()]
    environment = {**os.environ, "PYTHONPATH": str(folder), "GRAPHRT_CACHE": str(folder / "cache")}
    for name in ("TRITON_INTERPRET", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    for command in [f"{_PYTHON} {guide}_check.py", *commands]:
        done = subprocess.run(
            command.replace(_PYTHON, sys.executable), shell=True, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
