"""Files that appear whole or not at all."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graphrt.files import whole


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with whole(path) as file:
        file.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half" and [*path.parent.iterdir()] == [path]


def test_the_old_file_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="torn"), whole(path) as file:
        file.write_text("half")
        raise RuntimeError("torn")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, together = tmp_path / "file", threading.Barrier(2)

    def write(text: str) -> None:
        with whole(path) as file:
            file.write_text(text)
            together.wait()
            assert file.read_text() == text

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, ("a" * 1000, "b" * 1000)))
    assert path.read_text() in ("a" * 1000, "b" * 1000) and [*tmp_path.iterdir()] == [path]
