"""What a user gave is printed as it is: square brackets in a name or a path are no markup of the terminal."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import INTERPRETED
from typer.testing import CliRunner

from graphrt import cli, errors

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the command line is the same in both lanes")
ROOT = Path(__file__).parent.parent
NAME = "[red]a[/x]"
FUSION = ("bench", "fusion", "--filter", "softmax", "--processes", "1", "--rounds", "0")
COMMANDS = [  # each command, given NAME wherever it takes a name or a path
    ("train", NAME), ("train", "mlp", "--data", NAME), ("train", "mlp", "--out", f"{__file__}/{NAME}"),
    ("train", "mlp", "--config", NAME), ("eval", NAME), ("predict", NAME, NAME), ("see", "filters", NAME), ("see", NAME, NAME),
    ("models", "--weights", NAME), ("models",),
    ("summary", NAME), ("data",), ("ops",), ("ops", NAME), ("flags",), ("version",), ("compile", NAME, "--out", NAME),
    ("compile", "mlp", "--out", f"{__file__}/{NAME}"), ("explain", NAME), ("explain", "mlp", "--target", NAME),
    ("explain", "mlp", "--target", "reference", "--module", NAME),
    ("explain", "mlp", "--target", "reference", "--why", NAME, NAME), ("bisect", NAME), ("report", NAME),
    ("bench", "fusion", "--filter", NAME), ("bench", "fusion", "--read", NAME), (*FUSION, "--targets", NAME),
]  # fmt: skip


def leaves(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of each command of ``command``."""
    if not hasattr(command, "commands"):
        yield path
    else:
        for name, part in command.commands.items():
            yield from leaves(part, *path, name)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words).replace(f"{__file__}/", ""))
def test_a_command_prints_what_it_was_given(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a terminal; what it refuses, it refuses by an error of its own that names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("GRAPHRT_CACHE", str(tmp_path / NAME))
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr("graphrt.bench.fusion.about", lambda: {"gbs": 1.0, "gflops": 1.0})
    monkeypatch.setattr("graphrt.bench.fusion.run", lambda specs, *_: (f"{s.pattern}, {s.target}: no" for s in specs))
    done = CliRunner().invoke(cli.app, words)
    assert done.exception is None or isinstance(done.exception, errors.GraphrtError | OSError | SystemExit), done.exception
    said = f"{done.output}{done.exception or ''}"
    if any(NAME in word for word in words) or words == ("flags",):
        assert "[/x]" in said and "[red]" in said


def test_no_command_is_left_out() -> None:
    found = {*leaves(typer.main.get_command(cli.app))}
    assert found == {words[: 2 if words[0] == "bench" else 1] for words in COMMANDS}


def test_whatever_prints_says_that_it_has_no_markup() -> None:
    """Consoles and columns of text take it for markup unless they are told."""
    wrong = []
    for path in (p for part in ("graphrt", "bench", "examples") for p in sorted((ROOT / part).rglob("*.py"))):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "Console(" in text or "TextColumn(" in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Console", "TextColumn"):
                if not any(k.arg == "markup" and ast.unparse(k.value) == "False" for k in node.keywords):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong
