"""Files that appear whole or not at all, and the cache that compiled code lies in.

What is in the cache is run, so it is trusted only if nobody else can have put it there, and only if it is what was written:
each file ends in a seal, the digest of its name and content.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import glob
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphrt.config import Flags
from graphrt.errors import ArgumentError

_SEAL = b"\n# sha256 "  # a comment in Python, and behind the end of what ELF and JSON readers look at
_DAY = 24 * 3600.0
PARTS = ("cpu", "triton")  # folders of the cache
_MACHINE = re.sub(r"[^\w.]", "_", platform.node())  # others may write to a folder that is shared


class DamagedError(OSError):
    """A file of the cache is not what was written, or somebody else may have written it."""


# --- files that appear whole --------------------------------------------------------------------------------------


@contextmanager
def whole(path: str | Path, durable: bool = False, sealed: bool = False) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` when the block ends; an old one stays if the block raises.

    Others, who may have the old file open or want to write the same one, meet the old or the new. The folder is made. A
    ``durable`` file is on the disk before it takes its place, so that it is whole after a power cut too, and what killed
    processes left in its folder is removed. A ``sealed`` one gets its seal, and nobody else may write it; other files have the
    mode that the umask gives.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if durable:
        remove_halves(path.parent)
    folder = scratch(path)  # of its own: libraries write beside the file
    temporary = folder / path.name
    try:
        folder.mkdir()
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if sealed:
            _seal(temporary, path.name)
        os.chmod(temporary, 0o600 if sealed else mode)  # libraries make files with modes of their own
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch(path: Path) -> Path:
    """A path beside ``path`` for this thread alone, which ``remove_halves`` knows."""
    return path.with_name(f".{path.name}{_mark()}")


@contextmanager
def workshop(place: str | Path) -> Iterator[Path]:
    """A new folder in ``place`` until the block ends; where the process is killed before, ``remove_halves`` knows it."""
    with tempfile.TemporaryDirectory(dir=place, prefix=".", suffix=_mark()) as folder:
        yield Path(folder)


def _mark() -> str:
    """The end of names that are this thread's alone."""
    return f".{_MACHINE}-{os.getpid()}-{threading.get_ident()}"


def remove_halves(folder: str | Path) -> None:
    """Removes from ``folder`` what processes of this machine that were killed left half written."""
    for half in Path(folder).glob(f".*.{glob.escape(_MACHINE)}-*-*"):
        process, thread = half.name.rsplit("-", 2)[1:]
        if process.isdigit() and thread.isdigit() and not _runs(int(process)):
            with contextlib.suppress(OSError):  # another user's
                shutil.rmtree(half, ignore_errors=True) if half.is_dir() else half.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether the process of this number runs; True where the system cannot be asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # another user's
    return True


def sync(path: Path) -> None:
    """Waits until the file or folder ``path`` is on the disk; where the file system cannot say, goes on."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- what can be trusted ------------------------------------------------------------------------------------------


def _seal(path: Path, name: str) -> None:
    content = path.read_bytes()
    with path.open("ab") as file:
        file.write(_SEAL + _digest(name, content) + b"\n")


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest().encode()


def sealed(path: Path) -> bytes:
    """The content of a file that ``whole`` has sealed, without the seal.

    Raises FileNotFoundError where there is none; DamagedError when it is not what was written under this name, or when
    somebody else may have written it.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0))) as file:
        if why := _foreign(os.fstat(file.fileno())):
            raise DamagedError(f"{path} {why}")
        content, _, seal = file.read().rpartition(_SEAL)
    if seal.strip() != _digest(path.name, content):
        raise DamagedError(f"{path} is not what was written")
    with contextlib.suppress(OSError):
        os.utime(path)  # what is used stays longest
    return content


def intact(path: Path) -> bool:
    """Whether ``path`` is there and is what was written; what is not is to be made again."""
    try:
        sealed(path)
    except OSError:
        return False
    return True


def foreign(path: Path, group: bool = True) -> str:
    """Why ``path`` may be somebody else's work, and what to do; empty where only this user or the system writes there.

    ``group`` is whether what the user's group can write counts.
    """
    for place in dict.fromkeys((path, path.resolve())):  # a link, and where it leads
        with contextlib.suppress(OSError):  # what is not there is nobody's
            if why := _foreign(place.lstat(), group):
                return f"{place} {why}"
    return ""


def _foreign(found: os.stat_result, group: bool = True) -> str:
    if not hasattr(os, "geteuid"):
        return ""
    if found.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (number {found.st_uid})"
    if found.st_mode & (0o022 if group else 0o002) and not stat.S_ISLNK(found.st_mode):
        return "can be written by others; chmod go-w takes that from them"
    return ""


# --- the cache ----------------------------------------------------------------------------------------------------


def cache_path(part: str) -> Path:
    """The folder ``part`` of the cache, to read from: it need not be there.

    Where others can write to it, a temporary folder takes the whole cache's place, as in ``cache``.
    """
    root = Flags.read().cache
    if why := _untrusted(root, root / part):
        _move_cache(why)
    return Flags.read().cache / part


def cache(part: str) -> Path:
    """The folder ``part`` of the cache, made to be written to, by this user alone.

    Where that fails, as in a home that is read-only, a temporary folder takes the whole cache's place: in this process and
    those it starts, until it ends, with a warning. What the old place holds already can be read there before.
    """
    folder = cache_path(part)
    try:
        writable(folder)
        _make(folder)
    except OSError as error:
        _move_cache(f"{error.strerror}: {folder}")
        folder = Flags.read().cache / part
        _make(folder)
    _tidy(Flags.read().cache)
    _sweep(Flags.read().cache, Flags.read().cache_size)
    return folder


def _make(folder: Path) -> None:
    """Makes ``folder``; those of the cache are for its user only."""
    root = Flags.read().cache
    root.parent.mkdir(parents=True, exist_ok=True)
    for each in (root, *reversed([p for p in (folder, *folder.parents) if root in p.parents])):
        each.mkdir(mode=0o700, exist_ok=True)


@functools.cache
def _untrusted(root: Path, folder: Path) -> str:
    return foreign(root) or foreign(folder)


@functools.cache
def writable(folder: Path) -> None:
    """Tries a file in ``folder``, or where it would be made; leaves nothing. Raises OSError."""
    while not folder.exists():
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_place(option: str, path: Path, folder: bool = False) -> None:
    """Raises ArgumentError where ``path``, the file or ``folder`` that ``option`` names, could not be written in the end.

    A folder would be made, but not the one that a file is to lie in.
    """
    try:
        if not folder and not path.parent.is_dir():
            raise ArgumentError(f"{option} {path} cannot be written: there is no folder {path.parent}")
        if not folder and path.exists():
            path.open("a").close()
        writable(path if folder else path.parent)
    except OSError as error:
        raise ArgumentError(f"{option} {path} cannot be written: {error.strerror}") from None


def _move_cache(why: str) -> None:
    remove_halves(tempfile.gettempdir())
    place, owner = tempfile.mkdtemp(prefix=".graphrt-", suffix=_mark()), os.getpid()
    os.environ["GRAPHRT_CACHE"] = place

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:  # a fork still uses it
            shutil.rmtree(place, ignore_errors=True)

    warnings.warn(
        f"compiled code cannot be kept ({why}) and lies in {place} until this process ends; GRAPHRT_CACHE names a better place",
        stacklevel=2,
    )


@functools.cache
def _tidy(root: Path) -> None:
    """Once in a process: removes what killed ones left."""
    for part in PARTS:
        remove_halves(root / part)


@functools.cache
def _sweep(root: Path, limit: float) -> None:
    """Once a day: removes what was not used for longest, until ``limit`` GB are left, and hidden files of a day ago."""
    stamp, now = root / "swept", time.time()
    with contextlib.suppress(OSError):
        if stamp.exists() and now - stamp.stat().st_mtime < _DAY:
            return
        stamp.touch()
        files = list[tuple[float, int, Path]]()
        for part in PARTS:
            for folder, _, names in os.walk(root / part):
                files += [(s.st_mtime, s.st_size, p) for p in (Path(folder) / n for n in names) if (s := p.lstat())]
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files):
            left = now - used > _DAY and path.name.startswith(".")  # on another machine, whose processes cannot be asked for
            if left or total > limit * 1e9:
                path.unlink(missing_ok=True)
                total -= size
