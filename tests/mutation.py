"""Mutation test of the suite: faults planted one at a time in the compiler, each looked for by tests that call its function.

``python -m tests.mutation --count 200 --seed 0`` draws faults (``mutants.py``) and tries the tests on a copy of the repository
with one of them at a time: those of the file named after the module or that import it first, the quickest of them first, until
one fails. Which test calls what is noted once, by running them all (``--calls``). All tests are imported once: a process is
forked for each fault, and functions get the code of what is planted in place of theirs; what runs when a module is imported,
such as a constant, needs a process of its own. The C compiler is asked only for what it has not compiled before.

A fault that no test finds is printed as a diff: either it changes nothing that is promised, or a test is missing. Each verdict
is added to ``--out`` as it comes, and what is in there is not tried again; with ``--again`` those that no test found are. Who
has seen that one changes nothing that is promised adds a row for it by hand: its diff, the result "equivalent", and ``why``.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Annotated, Any, cast

import pytest
import typer

sys.path.insert(0, str(Path(__file__).parent))

from mutants import AREAS, ROOT, Mutant, around, drawn, recorded, unnumbered

TREES = ("graphrt", "kernels", "tests", "bench", "examples", "docs")
FILES = ("pyproject.toml", "README.md", "Makefile", "CONTRIBUTING.md")
COMPILED = (  # subjects of the tests that look for faults: what compiles, and is done in seconds
    "passes patterns plans stages fusion index movement rows row_chunks rows_drawn generated_c variants scalar freeze fuzz "
    "siblings gates half_copies channels combinations concat_buffers addends following producers on_load segments stretches "
    "winograd batch_invariant cost explain growth identities indexing scan_sort search view_scatter pooling normalization "
    "rounding ops precision long_sums loop ir static_model debug extremum pairs odd_sizes convolution attention any_batch "
    "memory_limit elimination decomposition sharding collectives detection reachability every_function dump bucket_size "
    "results save program_cache quantize library"
)
INTERPRETED = (
    "attention combinations convolution decomposition detection elimination embedding extremum fusion fuzz indexing library "
    "loop odd_sizes pooling recurrent rounding rows rows_drawn scalar scan_sort tma"
)
TESTS = {
    "compiled": ["kernels/test_c_templates.py", "kernels/test_c_runtime.py", *(f"test_{t}.py" for t in COMPILED.split())],
    "interpret": [
        *(f"kernels/test_triton_{t}.py" for t in ("interpret", "tma")),
        *(f"test_{t}.py" for t in INTERPRETED.split()),
    ],
}
MARKS = {
    "compiled": "not interpret and not slow and not kernels and not proof and not aot",
    "interpret": "interpret and not proof",
}
OPTIONS = ("-x", "-v", "-s", "-p", "no:cacheprovider", "--no-header", "--tb=line", "-m")
GIGABYTES = 12  # that a process may take
UNPLANTED = 77  # exit status of a process that could not begin
PATHS = {str(path.relative_to(ROOT)) for area in AREAS for path in ROOT.glob(area.files)}


class Calls:
    """Notes the functions of ``PATHS`` in ``copy`` that a test calls and headers of C that it compiles, a line of ``out``."""

    def __init__(self, copy: Path, out: Path) -> None:
        self.root, self.out, self.called, self.sources = f"{copy.resolve()}/", out, dict[int, CodeType](), list[str]()

    def note(self, frame: Any, event: str, of: Any) -> None:
        """Takes a call down."""
        code = frame.f_code
        self.called[id(code)] = code
        if code.co_name == "_cached":  # which looks whether its sources are compiled already
            self.sources += frame.f_locals.get("sources", ())
        elif code is subprocess.run.__code__ and isinstance(frame.f_locals["popenargs"][0], list):
            texts = (Path(str(argument)) for argument in frame.f_locals["popenargs"][0])
            self.sources += [text.read_text() for text in texts if text.suffix == ".c" and text.exists()]

    @contextlib.contextmanager
    def test(self, name: str, failed: Callable[[], int]) -> Iterator[None]:
        """Takes down what the test called ``name`` calls; ``failed`` counts those that failed until now."""
        self.called.clear()
        self.sources.clear()
        before, start = failed(), time.monotonic()
        threading.settrace(self.note)
        sys.settrace(self.note)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        places = {f"{path}:{code.co_qualname}" for code in self.called.values() if (path := self.path(code)) in PATHS}
        row = {"test": name, "seconds": round(time.monotonic() - start, 2), "passed": failed() == before}
        row["calls"] = sorted(places | included(self.sources))
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def path(self, code: CodeType) -> str:
        """The file of ``code`` in the repository."""
        path = code.co_filename.removeprefix(self.root)
        return path.removeprefix("graphrt/") if path.startswith("graphrt/kernels/") else path


def included(sources: Sequence[str]) -> set[str]:
    """The headers of the texts ``sources`` in C, and those that they include in turn."""
    include, found = re.compile(r'^ *# *(?:include|define \w+) "(\w+\.h)"', re.M), set[str]()
    pending = [name for source in sources for name in include.findall(source)]
    while pending:
        path = f"kernels/c/{pending.pop()}"
        if path not in found and (ROOT / path).exists():
            found.add(path)
            pending += include.findall((ROOT / path).read_text())
    return found


def called(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of the file at ``path`` by test. Tests that differ in a number share what they compile."""
    rows = {row["test"]: row for row in map(json.loads, path.read_text().splitlines())}
    headers: dict[str, set[str]] = {}
    for test, row in rows.items():
        headers.setdefault(re.sub(r"\d+", "", test), set()).update(c for c in row["calls"] if c.endswith(".h"))
    return {test: {**row, "calls": {*row["calls"], *headers[re.sub(r"\d+", "", test)]}} for test, row in rows.items()}


def chosen(name: str, near: Sequence[str], calls: Mapping[str, Any], most: float) -> list[str]:
    """The tests that call the function ``name``, those of the files ``near`` first, the quickest first, for ``most`` seconds.

    Those that call any function of its file where ``name`` ends in a colon.
    """

    def reads(row: Mapping[str, Any]) -> bool:
        return any(c.startswith(name) for c in row["calls"]) if name.endswith(":") else name in row["calls"]

    rows = ((test.partition("::")[0] not in near, row["seconds"], test) for test, row in calls.items() if reads(row))
    found = sorted(row for row in rows if calls[row[-1]]["passed"])
    picked, left = [], most
    for _, seconds, test in found:
        if seconds <= left:
            picked.append(test)
            left -= seconds
    return picked or [test for _, _, test in found[:1]]


@functools.cache
def near(path: str) -> list[str]:
    """The files of tests named after the module at ``path``, and those that import it."""
    module, stem = path.removesuffix(".py").replace("/", "."), Path(path).stem
    imported = re.compile(
        rf"^(from {re.escape(module)} import|from {re.escape(module.rpartition('.')[0])} import .*\b{stem}\b)", re.M
    )
    tests = (f"tests/{test}" for test in {*TESTS["compiled"], *TESTS["interpret"]})
    return [t for t in tests if t == f"tests/test_{stem}.py" or imported.search((ROOT / t).read_text())]


def patched(path: str, old: str, new: str) -> bool:
    """Gives all functions made of the text ``old`` the code that ``new`` has; whether that is all in which the two differ.

    ``path`` is how their file is called in this process.
    """
    made = [compile(text, path, "exec", dont_inherit=True) for text in (old, new)]
    codes, pending = dict[CodeType, CodeType](), [(made[0], made[1])]
    while pending:
        pair = pending.pop()
        inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in pair]
        plain = [[c for c in code.co_consts if not isinstance(c, CodeType)] for code in pair]
        is_function = pair[0].co_flags & inspect.CO_NEWLOCALS
        if len(inner[0]) != len(inner[1]) or (not is_function and (pair[0].co_code != pair[1].co_code or plain[0] != plain[1])):
            return False
        codes |= {a: b for a, b in zip(*inner, strict=True) if a != b}
        pending += zip(*inner, strict=True)
    gc.unfreeze()
    functions = [f for f in gc.get_objects() if type(f) is FunctionType and f.__code__.co_filename.endswith(path)]
    try:
        for function in functions:
            function.__code__ = codes.get(function.__code__, function.__code__)
    except ValueError:  # it reads another number of names of the functions around
        return False
    return True


Task = tuple[Sequence[str], Callable[[], None], float]  # tests, how their process begins, and seconds that it may take


class Suite:
    """A plugin of pytest that runs no test itself, but some in each of the processes that it forks when all are imported.

    ``work`` says which, one process after the other; how the last one ended is ``result``.
    """

    def __init__(self, copy: Path, work: Callable[[Suite], Iterator[Task]]) -> None:
        self.copy, self.work, self.result, self.seconds = copy, work, "", dict[str, float]()
        self.log, self.calls = copy.parent / f"log-{os.getpid()}", cast(Calls | None, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Forks a process for each task of ``work``; there its tests are run."""
        self.session, self.tests = session, {item.nodeid: item for item in session.items}
        for tests, begin, seconds in self.work(self):
            child = os.fork()
            if not child:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                with self.log.open("w") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_DATA, 2 * (GIGABYTES << 30,))
                try:
                    begin()
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(UNPLANTED)
                session.items[:] = [self.tests[test] for test in tests]
                return None  # and the tests are run
            self.result = self.end(child, seconds)
        return True

    def end(self, child: int, seconds: float) -> str:
        """How ``child`` ended: empty where all passed, else the test in which it did, and how."""
        until, why = time.monotonic() + seconds, ""
        try:
            while not (found := os.waitpid(child, os.WNOHANG))[0]:
                if time.monotonic() > until:
                    why = f" did not end within {seconds:.0f} s"
                    os.killpg(child, signal.SIGKILL)
                time.sleep(0.02)
        except KeyboardInterrupt:
            os.killpg(child, signal.SIGKILL)
            raise
        status = os.waitstatus_to_exitcode(found[1])
        if status == 0:
            return ""
        log = self.log.read_text(errors="replace")
        begun = re.findall(r"^(tests/\S+?::.*?)(?= *$| (?:PASSED|FAILED|ERROR|SKIPPED|XFAIL))", log, re.M)
        imported = re.search(r"^ImportError while loading conftest|^_+ ERROR collecting", log, re.M) is None
        nothing = UNPLANTED, pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR
        if imported and (status in nothing or not (begun or why or status < 0)):
            raise RuntimeError(f"nothing was tried, and the status is {status}:\n{log}")
        why = why or (
            "" if status > 0 else " did not end in time" if status == -signal.SIGPROF else f" ended by signal {-status}"
        )
        return (begun[-1] if begun else "import") + why

    def pytest_internalerror(self, excrepr: object) -> None:
        """Shows what went wrong here: pytest's own words go to nobody."""
        print(excrepr, file=sys.stderr)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Lets a test take so many times what it does; notes what it calls where it is to be known."""
        if self.calls is None:
            signal.setitimer(signal.ITIMER_PROF, 20 + 5 * self.seconds.get(item.nodeid, 20.0))
            yield
        else:
            with self.calls.test(item.nodeid, lambda: self.session.testsfailed):
                yield

    def known(self, path: Path) -> Iterator[Task]:
        """The work of noting what the tests call that are not in the file at ``path`` yet."""

        def begin() -> None:
            self.session.config.option.maxfail = 0
            self.calls = Calls(self.copy, path)

        path.touch()
        before = called(path)
        missing = [test for test in self.tests if test not in before]
        while missing:
            yield missing, begin, 7200.0
            done = called(path)
            rest = [test for test in missing if test not in done]
            missing = rest[1:] if self.result and len(rest) < len(missing) else []  # the first ended its process


def plant(copy: Path, lane: str, mutant: Mutant, tests: Sequence[str]) -> None:
    """Makes this process one with ``mutant``, whose file is there already; or one that runs ``tests``, and never returns."""
    from hypothesis.internal.conjecture import engine

    engine.MAX_SHRINKING_SECONDS = 0  # finding is enough
    if "fuzz" in sys.modules:  # some test files use it
        sys.modules["fuzz"].CUT = False  # type: ignore[attr-defined]
    sys.dont_write_bytecode = True
    if mutant.path.endswith(".py"):
        if not patched(f"{copy.name}/{_imported(mutant.path)}", (ROOT / mutant.path).read_text(), mutant.text()):
            signal.setitimer(signal.ITIMER_PROF, 300.0)
            os.execv(sys.executable, [sys.executable, "-B", "-m", "pytest", *OPTIONS, MARKS[lane], *tests])
    else:
        sys.modules["graphrt.targets.cpu.build"]._identity.cache_clear()  # type: ignore[attr-defined]


def _imported(path: str) -> str:
    return f"graphrt/{path}" if path.startswith("kernels/") else path


def copied(to: Path) -> None:
    """A copy of the repository at ``to`` whose own kernels are imported."""
    for tree in TREES:
        shutil.copytree(ROOT / tree, to / tree, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy2(ROOT / file, to / file)
    (to / "graphrt" / "kernels").symlink_to(to / "kernels")


def tried(copy: Path, lane: str, mutants: Sequence[Mutant], calls: Path, out: Path, most: float, files: Sequence[str]) -> None:
    """Tries ``mutants`` in a process of their own, in which the tests ``files`` are imported; adds rows to ``out``.

    Raises SystemExit where that process could not go on.
    """
    child = os.fork()
    if child:
        if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise SystemExit(status)
        return
    os.chdir(copy)
    here = (str(ROOT), str(ROOT / "tests"))
    sys.path[:] = [str(copy), str(copy / "tests"), *(p for p in sys.path if p and str(Path(p).resolve()) not in here)]
    os.environ |= {"PYTHONPATH": str(copy), "TRITON_DEFAULT_FP_FUSION": "1"}
    os.environ |= {"OMP_NUM_THREADS": "1", "GRAPHRT_THREADS": "2"}  # torch's threads would not be there in forked processes
    os.environ |= {"TRITON_INTERPRET": "1", "GRAPHRT_GUARD": "1"} if lane == "interpret" else {}  # as make kernels-checked
    screen = os.fdopen(os.dup(1), "w", buffering=1)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)

    def work(suite: Suite) -> Iterator[Task]:
        yield from suite.known(calls)
        passed = {test: row["seconds"] for test, row in called(calls).items() if row["passed"] and test in suite.tests}
        nothing, tests = Mutant("graphrt/ir.py", 0, 0, "", "none"), [min(passed, key=passed.__getitem__)]
        yield tests, lambda: plant(copy, lane, nothing, tests), 60
        if suite.result:
            raise RuntimeError(f"a fault that is none is found by {suite.result}:\n{suite.log.read_text(errors='replace')}")
        for mutant in mutants:
            known = {test: row for test, row in called(calls).items() if test in suite.tests}
            suite.seconds = {test: row["seconds"] for test, row in known.items()}
            start, place, name = time.monotonic(), copy / mutant.path, around(mutant)
            tests = chosen(name, near(mutant.path), known, most)
            place.write_text(mutant.text())
            if tests:
                yield tests, lambda m=mutant, t=tests: plant(copy, lane, m, t), 60 + 10 * sum(suite.seconds[t] for t in tests)
            result = (suite.result or "survived") if tests else "not run"
            shutil.copy2(ROOT / mutant.path, place)
            row = {"path": mutant.path, "kind": mutant.kind, "lane": lane, "in": name.partition(":")[2], "result": result}
            row |= {"tests": len(tests), "seconds": round(time.monotonic() - start, 1), "diff": str(mutant)}
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{row['seconds']:6.1f} s {row['path']} {row['kind']}: {result}", file=screen)

    suite = Suite(copy, work)
    status = 1
    try:
        status = int(pytest.main([*OPTIONS, MARKS[lane], *files], [suite]))
    finally:
        sys.stdout.flush()
        os._exit(status)


def read(out: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The last row of ``out`` of each fault, by its diff without line numbers, and by lane."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in map(json.loads, out.read_text().splitlines() if out.exists() else ()):
        found.setdefault(unnumbered(row["diff"]), {})[row["lane"]] = row
    return found


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The verdict on a fault from its ``rows`` by lane: found, survived, or equivalent, as somebody has seen."""
    results = {row["result"] for row in rows.values()}
    if "equivalent" in results:
        return "equivalent"
    return "found" if results - {"survived", "not run"} else "survived"


def main(
    count: Annotated[int, typer.Option(help="how many faults are drawn")] = 40,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    files: Annotated[str, typer.Option(help="only in paths that contain this")] = "",
    most: Annotated[float, typer.Option(help="seconds of the tests that a fault is looked for by")] = 60.0,
    out: Annotated[Path, typer.Option(help="results, a line each")] = Path("bench/results/mutation.jsonl"),
    calls: Annotated[Path, typer.Option(help="folder of what tests call, noted where it is not there")] = Path("build/calls"),
    tests: Annotated[str, typer.Option(help="only tests of files with one of these parts in their names")] = "",
    lanes: Annotated[str, typer.Option(help="of tests: compiled, interpret")] = "compiled,interpret",
    again: Annotated[bool, typer.Option(help="try those of the results again that no test found")] = False,
) -> None:
    """Plants COUNT faults, prints all in OUT that no test finds; exit status 1 when fewer than 95 % were found."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is ended then
    out, calls = out.absolute(), calls.absolute()
    calls.mkdir(parents=True, exist_ok=True)
    planted = list(itertools.islice(drawn(AREAS, seed, files), count))
    lost = {diff for diff, rows in read(out).items() if verdict(rows) == "survived"}
    planted += recorded(AREAS, lost) if again else ()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = Path(folder).resolve() / "copy"
        copied(copy)
        for lane in lanes.split(","):
            rows = read(out).items()
            done = {diff for diff, of in rows if verdict(of) != "survived" or (lane in of and not again)}
            todo = [mutant for area, mutant in planted if lane in area.lanes and unnumbered(str(mutant)) not in done]
            if todo:
                looking = [f"tests/{test}" for test in TESTS[lane] if any(part in test for part in tests.split(","))]
                tried(copy, lane, todo, calls / f"{lane}.jsonl", out, most, looking)
    raise SystemExit(int(not told(read(out))))


def told(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bool:
    """Prints the faults that survived and how many there are of each verdict; whether tests find 95 % of those that matter."""
    found = Counter(map(verdict, rows.values()))
    for each in rows.values():
        if verdict(each) == "survived":
            (row, *_) = each.values()
            print(", ".join(f"{lane}: {of['result']}" for lane, of in each.items()), row["diff"], "", sep="\n")
    print(", ".join(f"{n} {word}" for word, n in found.most_common()))
    return found["found"] >= 0.95 * (found["found"] + found["survived"])


if __name__ == "__main__":
    typer.run(main)
