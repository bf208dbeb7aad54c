"""Records of tuning: the configuration that won for a kernel on a device, one JSON line each.

    {"key": "51ab...", "kernel": "conv__add_relu", "sizes": {"N": 64, ...}, "dtypes": ["*fp32", ...], "device": "NVIDIA ...",
     "triton": "3.9.0", "form": "conv_fwd", "config": {"BM": 64, ...}, "microseconds": ..., "heuristic_microseconds": ...}

Those found on this machine are appended to ``<cache>/tune/<device>.jsonl``; those that come with graphrt lie in
``kernels/triton/configs``. A later line overrules an earlier one, and the cache what was shipped. A key changes with the
kernel's template, closures, constants, dtypes, the device and Triton's version, so an outdated line is never met.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from graphrt.config import Flags
from graphrt.files import cache
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.compile.build import content, digest
from graphrt.targets.triton.emit.launch import Choice, LaunchCode


@dataclass(frozen=True)
class Record:
    """The winner among the configurations of one kernel, and its time beside the heuristic's.

    Under a ``device`` that begins with null the times are predicted clocks, not measured.
    """

    key: str
    kernel: str
    sizes: Mapping[str, int]
    dtypes: tuple[str, ...]
    device: str
    triton: str
    form: str
    config: Mapping[str, int]
    microseconds: float
    heuristic_microseconds: float

    def line(self) -> str:
        """The record as one line of JSON."""
        return json.dumps({**asdict(self), "dtypes": list(self.dtypes)})


def key(code: LaunchCode, device: str) -> str:
    """The key of a kernel's record on ``device``: everything that it depends on but its configuration."""
    forms = {c.form.name: c for c in reversed(code.choices)}  # the first choice of each
    parts: list[Any] = []
    for choice in forms.values():
        if choice.form.call is not None:
            parts += [choice.form.call, _torch()]  # a record of it is no record for those who want none
            continue
        module, kernel, constants, pointers, text = content(code.configured(choice, ""))
        kept = {n: v for n, v in constants.items() if n not in choice.config}
        called = [module] if module else re.findall(r"^ +(?!tl\.)(\w+)\.\w+\(ARGS", text, re.MULTILINE)  # by a dispatcher
        parts += [*map(_source, called), kernel, kept, pointers, text]
    return digest((*parts, device, _triton()))


def record(code: LaunchCode, device: str, choice: Choice, seconds: float, heuristic: float) -> Record:
    """The record of ``choice`` as the winner."""
    first = code.configured(code.choices[0], "")
    _, _, constants, pointers, _ = content(first)
    given = {**constants, **(constants["G"]._asdict() if "G" in constants else {})}
    sizes = {n: v for n, v in given.items() if type(v) is int and n not in first.config}
    how = choice.form.name, dict(choice.config), round(1e6 * seconds, 3), round(1e6 * heuristic, 3)
    return Record(key(code, device), code.display, sizes, pointers, device, _triton(), *how)


@functools.cache
def _source(module: str) -> str:
    """Digest of a template's file; what it computes decides, not how tiles are chosen."""
    return hashlib.sha256((find_kernels() / "triton" / f"{module}.py").read_bytes()).hexdigest()


@functools.cache
def _triton() -> str:
    import triton

    return str(triton.__version__)


@functools.cache
def _torch() -> str:
    import torch

    return str(torch.__version__)


# --- files ----------------------------------------------------------------------------------------------------------


def file(device: str) -> Path:
    """The file of the records of this machine's ``device``."""
    return Flags.read().cache / "tune" / f"{re.sub(r'[^A-Za-z0-9.]+', '_', device).strip('_')}.jsonl"


def shipped() -> dict[str, Record]:
    """The records that come with graphrt, by key."""
    found: dict[str, Record] = {}
    for path in sorted((find_kernels() / "triton" / "configs").glob("*.jsonl")):
        found.update(read(path))
    return found


def read(path: Path) -> dict[str, Record]:
    """The records of a file by key, none if there is no file. A line that is no record is left out with a warning."""
    if not path.exists():
        return {}
    found, names = {}, {f.name for f in fields(Record)}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row: dict[str, Any] = json.loads(line)
            if row.keys() != names:
                raise ValueError(f"the fields are {', '.join(sorted(names))}")
        except (ValueError, AttributeError) as error:
            warnings.warn(f"{path}:{number} is no record of tuning: {error}", stacklevel=2)
            continue
        found[row["key"]] = Record(**{**row, "dtypes": tuple(row["dtypes"])})
    return found


def append(device: str, records: Iterable[Record]) -> None:
    """Adds ``records`` to the file of ``device``."""
    cache("tune")  # made, or another found
    with file(device).open("a") as out:
        out.write("".join(r.line() + "\n" for r in records))  # in one piece: others may append too
