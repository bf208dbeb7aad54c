"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graphrt import files
from graphrt.files import DamagedError, foreign, intact, sealed, whole


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


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    """By the next file that is to last; what others write now stays, as does what is only called so."""
    code = """if True:
        import os, sys
        from graphrt.files import whole
        with whole(sys.argv[1]) as file:
            file.write_text("half")
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "killed")])
    (half,) = tmp_path.iterdir()
    assert half.name.startswith(".killed.") and (half / "killed").read_text() == "half"
    others = [tmp_path / ".hidden-1-2", tmp_path / f"{half.name[:-1]}x.y", tmp_path / ".a.elsewhere-999999-1"]
    for path in others:
        path.touch()
    with whole(tmp_path / "mine") as mine, whole(tmp_path / "file", durable=True) as file:
        file.write_text("whole")
        assert mine.exists() and not half.exists()
    assert {*tmp_path.iterdir()} == {tmp_path / "mine", tmp_path / "file", *others}


def test_what_killed_compilations_left_in_the_cache_is_removed_by_the_next_process(tmp_path: Path) -> None:
    """However often it was tidied that day; what runs keeps its folder."""
    code = """if True:
        import os, sys
        from graphrt.files import cache, workshop
        with workshop(cache("cpu")) as folder:
            (folder / "half.o").write_text("half")
            print([path.name for path in folder.parent.iterdir() if path.is_dir()])
            if sys.argv[1:]:
                os.kill(os.getpid(), 9)
    """
    env = {**os.environ, "GRAPHRT_CACHE": str(tmp_path / "cache")}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, "killed"], env=env)
        assert len([path for path in (tmp_path / "cache" / "cpu").iterdir() if path.is_dir()]) == 1
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert not [path for path in (tmp_path / "cache" / "cpu").iterdir() if path.is_dir()]


def test_a_seal_holds_name_and_content(tmp_path: Path) -> None:
    path, umask = tmp_path / "file", os.umask(0)
    try:
        with whole(path, sealed=True) as file:
            file.write_bytes(b"code")
        with whole(tmp_path / "plain", durable=True) as file:
            file.write_bytes(b"code")
            file.chmod(0o600)
    finally:
        os.umask(umask)
    assert sealed(path) == b"code" and path.stat().st_mode & 0o777 == 0o600, "whatever the umask"
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o666, "as the umask has it"
    path.rename(tmp_path / "other")
    with pytest.raises(DamagedError, match="other is not what was written"):
        sealed(tmp_path / "other")
    assert not intact(path) and not intact(tmp_path / "plain")


@pytest.mark.parametrize("harm", ["empty", "cut", "altered", "longer", "writable", "link"])
def test_a_file_that_was_altered_is_not_intact(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole(path, sealed=True) as file:
        file.write_bytes(b"code")
    content = path.read_bytes()
    if harm == "writable":
        path.chmod(0o666)
    elif harm == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_bytes({"empty": b"", "cut": content[:-9], "altered": b"C" + content[1:], "longer": content + b"x"}[harm])
    assert not intact(path)


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``path`` another user's: root can; for anybody else the tests' own user becomes another."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


def test_a_folder_of_others_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreign(tmp_path) == "" == foreign(tmp_path / "missing")
    tmp_path.chmod(0o770)
    assert "can be written by others" in foreign(tmp_path) and foreign(tmp_path, group=False) == ""
    tmp_path.chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path)
    assert foreign(tmp_path / "link") == "", "a link of one's own"
    give_away(tmp_path / "link", monkeypatch)
    assert "belongs to another user" in foreign(tmp_path / "link")


RUN = """
import numpy as np, graphrt as grt
g = grt.Graph()
g.output("y", grt.ops.tanh(g.input("x", (4,))) * %s)
print(grt.compile(g, target="cpu")(x=np.ones(4, "f"))["y"][0])
"""


def run(cache: Path, factor: int = 3) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GRAPHRT_CACHE": str(cache)}
    return subprocess.run([sys.executable, "-c", RUN % factor], env=environment, capture_output=True, text=True, check=True)


def test_code_that_others_can_plant_is_not_run(tmp_path: Path) -> None:
    """The cache is one's own, and made so; in one that is not, nothing is read and nothing written."""
    cache = tmp_path / "cache"
    value = float(run(cache).stdout)
    assert cache.stat().st_mode & 0o777 == (cache / "cpu").stat().st_mode & 0o777 == 0o700
    cache.chmod(0o777)
    before = {p: p.stat().st_mtime_ns for p in (cache / "cpu").iterdir()}
    done = run(cache, 5)
    assert float(done.stdout) == pytest.approx(value * 5 / 3)
    assert done.stderr.count("UserWarning") == 1 and "can be written by others; chmod go-w" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (cache / "cpu").iterdir()}


def test_code_that_was_exchanged_or_emptied_is_compiled_again(tmp_path: Path) -> None:
    values = [float(run(tmp_path, factor).stdout) for factor in (3, 5)]
    one, other = (tmp_path / "cpu").glob("program-*.so")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    next((tmp_path / "cpu").glob("runtime-*.so")).write_bytes(b"")
    assert [float(run(tmp_path, factor).stdout) for factor in (3, 5)] == values
    for record in (tmp_path / "cpu").glob("program-*.json"):
        record.write_text(record.read_text().replace(one.name, other.name))
    assert [float(run(tmp_path, factor).stdout) for factor in (3, 5)] == values


def test_the_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    for age, name in enumerate(["new", "used", "old", ".torn"]):
        (tmp_path / "cpu" / name).write_bytes(bytes(1000))
        os.utime(tmp_path / "cpu" / name, (time.time() - age * 86401,) * 2)
    files._sweep(tmp_path, 2e-6)
    assert {p.name for p in (tmp_path / "cpu").iterdir()} == {"new", "used"}
    (tmp_path / "cpu" / "more").write_bytes(bytes(9000))
    files._sweep.__wrapped__(tmp_path, 2e-6)
    assert len([*(tmp_path / "cpu").iterdir()]) == 3, "once a day"
