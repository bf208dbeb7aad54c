"""Files that appear whole or not at all, and the cache that they lie in."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphrt.config import Flags


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when the block ends; an old one stays if the block raises.

    Others, who may have the old file open or want to write the same one, meet the old or the new. The folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def cache(part: str) -> Path:
    """The folder ``part`` of the cache, made to be written to.

    Where that fails, as in a home that is read-only, a temporary folder takes the whole cache's place: in this process and
    those it starts, until it ends, with a warning. What the old place holds already can be read there before.
    """
    folder = Flags.read().cache / part
    try:
        writable(folder)
    except OSError as error:
        _move_cache(f"{error.strerror}: {folder}")
        folder = Flags.read().cache / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def writable(folder: Path) -> None:
    """Tries a file in ``folder``, or where it would be made; leaves nothing. Raises OSError."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass


def _move_cache(why: str) -> None:
    place, owner = tempfile.mkdtemp(prefix="graphrt-"), os.getpid()
    os.environ["GRAPHRT_CACHE"] = place

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:  # a fork still uses it
            shutil.rmtree(place, ignore_errors=True)

    warnings.warn(
        f"compiled code cannot be kept ({why}) and lies in {place} until this process ends; GRAPHRT_CACHE names a better place",
        stacklevel=2,
    )
