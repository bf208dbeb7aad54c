"""What ``pip wheel .`` and an sdist hold, what an installed graphrt does, and that the pins fit what torch's wheels require."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# torch's pairs, as the wheels for GPUs on the public index require them: Triton, setuptools.
REQUIRED = {
    "2.11.0": ("==3.6.0", "<82"),
    "2.12.1": ("==3.7.1", "<82"),
    "2.13.0": ("==3.7.1", ">=77.0.3"),
    "2.14.1": ("~=3.8.0", ">=77.0.3"),
    "2.15.0": ("~=3.9.0", ">=77.0.3"),
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    pytest.importorskip("setuptools", minversion="77")
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    for path in files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes((ROOT / path).read_bytes())
    build(source, "build_sdist", folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    build(next((folder / "unpacked").iterdir()), "build_wheel", folder)
    return folder


def build(source: Path, hook: str, folder: Path) -> None:
    code = f"import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=source, check=True, capture_output=True)


def files() -> list[Path]:
    """What the package is made of, relative to the checkout."""
    sources = [p for name in ("graphrt", "kernels") for p in (ROOT / name).rglob("*") if p.is_file()]
    paths = [p.relative_to(ROOT) for p in sources if "__pycache__" not in p.parts]
    return [*paths, *(Path(name) for name in ("LICENSE", "README.md", "pyproject.toml"))]


def test_the_wheel_holds_the_package(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
        text = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("entry_points.txt"))
    expected = {str(p) for p in files() if p.parts[0] == "graphrt"}
    expected |= {f"graphrt/{p}" for p in files() if p.parts[0] == "kernels"}
    assert found == expected
    assert "graphrt = graphrt.cli:main" in text and "graphrt = graphrt.frontends.torch.dynamo:backend" in text


@pytest.mark.proof
def test_the_installed_package_trains_and_compiles(dist: Path, tmp_path: Path) -> None:
    """From the wheel's own files, in an empty folder; ``make lane-package`` does it in an environment of its own."""
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    path = os.pathsep.join([str(tmp_path / "site"), sysconfig.get_path("purelib")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(ROOT / "tests" / "installed.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tmp_path / 'site' / 'graphrt'} is right" in done.stdout


# --- pins -----------------------------------------------------------------------------------------------------------


def pins(python: str) -> dict[str, str]:
    """requirements.txt under a version of Python on Linux: versions by name. Each package has one."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    environment = {"python_version": python, "platform_system": "Linux", "sys_platform": "linux"}
    rows = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate(environment)]
    assert all(re.fullmatch(r"==[^*,]+", str(r.specifier)) for r in rows)
    table = {canonical(r.name): str(r.specifier)[2:] for r in rows}
    assert len(table) == len(rows), "a package is pinned twice"
    return table


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_pins_are_what_torch_requires(python: str) -> None:
    """torch's wheel for GPUs takes exactly one Triton: with another pin pip finds no solution where that wheel is the one."""
    table = pins(python)
    triton, setuptools = REQUIRED[table["torch"]]
    assert Requirement(f"triton{triton}").specifier.contains(table["triton"])
    assert all(Requirement(f"setuptools{s}").specifier.contains(table["setuptools"]) for _, s in REQUIRED.values())


def test_pins_are_what_the_installed_torch_requires() -> None:
    """The table above is of wheels seen; this is the one at hand, which for CPUs requires no Triton."""
    table = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    for line in requires("torch") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            pin = table.get(canonical(wanted.name))
            assert pin is None or wanted.specifier.contains(pin), f"torch requires {line}, the pin is {pin}"


def test_the_pins_cover_what_the_package_requires() -> None:
    for python in ("3.10", "3.13"):
        table = pins(python)
        for line in requires("graphrt") or []:
            wanted = Requirement(line)
            if wanted.name != "graphrt" and not re.search("bench|browser|tensorboard", str(wanted.marker)):
                assert wanted.specifier.contains(table[canonical(wanted.name)]), line


def test_the_lanes_are_pairs_of_torchs() -> None:
    """make lanes tries what torch's own wheels ask for, from the oldest that pyproject.toml admits."""
    text = (ROOT / "Makefile").read_text()
    lanes = re.findall(r"TORCH=([\d.]+) TRITON=([\d.]+)", text.split("\nlanes:")[1].split("\n\n")[0])
    assert lanes
    for torch, triton in lanes:
        assert Requirement(f"triton{REQUIRED[torch][0]}").specifier.contains(triton)
    oldest = {r.name: r.specifier for r in map(Requirement, requires("graphrt") or [])}
    torch, triton = min(lanes, key=lambda pair: Version(pair[0]))
    assert str(oldest["torch"]) == f">={torch.removesuffix('.0')}" and str(oldest["triton"]) == f">={triton.removesuffix('.0')}"
    assert f"lane-kernels-ahead TRITON={triton}" in text


def test_the_command_line_starts_without_torch() -> None:
    """Importing torch takes longer than most commands."""
    code = "import sys, graphrt.cli; print({'torch', 'triton', 'matplotlib', 'onnx'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
