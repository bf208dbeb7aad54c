"""Persistent launches: runs of small launches as one, whose programs meet at a barrier where one waits for another."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from golden_kernels import training_step
from gpu_programs import NULL, feeds, needs_compiler, step
from hypothesis import given
from hypothesis import strategies as st

import graphrt as grt
import graphrt.ops as F
from graphrt.errors import AccessError
from graphrt.runtime.machine import GAPS, find_data_sheet
from graphrt.runtime.roofline import predict
from graphrt.targets.triton.target import ARCHITECTURES

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton.compile import build
from graphrt.targets.triton.emit import persistent

GAIN = (4000.0, 2400.0)


def made(program: grt.Program) -> Any:
    return program._executable._compilation  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_PERSISTENT", "1")


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The interpreter joins launches too, whatever that is worth."""
    monkeypatch.setattr(persistent, "prices", lambda options: GAIN)
    monkeypatch.setattr(persistent, "WORTH", 0.0)
    return monkeypatch


# --- which launches --------------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.integers(0, 12).map(float), max_size=8), st.integers(1, 8).map(float))
def test_the_best_launches_are_joined(longer: list[float | None], gain: float) -> None:
    """Beside every other choice: each joined launch costs what it takes longer, each two neighbours save a gain."""

    def saved(inside: tuple[bool, ...]) -> float:
        together = sum(a and b for a, b in itertools.pairwise(inside))
        return gain * together - sum(more or 0.0 for more, joins in zip(longer, inside, strict=True) if joins)

    found = persistent._chosen(longer, gain)
    assert len(found) == len(longer) and not any(joins and more is None for joins, more in zip(found, longer, strict=True))
    every = itertools.product(*([False] if more is None else [False, True] for more in longer))
    assert saved(tuple(found)) == max(map(saved, every))


_SPANS = st.lists(st.tuples(st.sampled_from(["", "state w"]), st.integers(0, 30), st.integers(1, 9)), max_size=3)


@given(st.lists(st.tuples(_SPANS, _SPANS), min_size=1, max_size=8))
def test_levels_keep_the_order_of_what_meets(drawn: list[Any]) -> None:
    touched = [tuple([(name, at, at + size) for name, at, size in spans] for spans in both) for both in drawn]

    def bytes_of(spans: Any) -> set[tuple[str, int]]:
        return {(name, i) for name, start, end in spans for i in range(start, end)}

    levels = persistent._levels(range(len(touched)), touched)
    level = {i: n for n, members in enumerate(levels) for i in members}
    assert sorted(level) == list(range(len(touched)))
    sets = [(bytes_of(read), bytes_of(written)) for read, written in touched]
    waits = {j: [i for i in range(j) if sets[i][1] & (sets[j][0] | sets[j][1]) or sets[i][0] & sets[j][1]] for j in level}
    assert all(level[j] == 1 + max((level[i] for i in before), default=-1) for j, before in waits.items())


def test_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    program = grt.compile(step(), target="cuda:sm_90")
    count = len(made(program).parts)
    assert count < program.launches and f"{program.launches} launches joined in {count}," in program.explain().totals()
    decisions = [d for d in program.explain().decisions if d.stage == "persistent"]
    assert sum(d.taken for d in decisions) == program.launches - count and all(d.reason for d in decisions)
    assert all(d.change for d in decisions if not d.taken)
    assert "is launched with" in str(next(d for d in decisions if d.taken))
    for flag, target in (("0", "cuda:sm_90"), ("1", "interpret" if INTERPRETED else "cpu")):
        monkeypatch.setenv("GRAPHRT_PERSISTENT", flag)
        other = grt.compile(step(), target=target)
        assert set(other.gaps()) == {"launch"} and not any(d.stage == "persistent" for d in other.explain().decisions)
    monkeypatch.setenv("GRAPHRT_PDL", "1")
    dependent = grt.compile(step(), target="cuda:sm_90")
    assert not made(dependent).runs and "GRAPHRT_PDL" in "".join(map(str, made(dependent).decisions()))
    monkeypatch.delenv("GRAPHRT_PDL")
    monkeypatch.setattr(persistent, "WORTH", 1.0)
    alone = grt.compile(step(), target="cuda:sm_90")
    assert not made(alone).runs and "of the predicted time" in "".join(map(str, alone.explain().refused()))


def test_predictions_count_barriers(monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = find_data_sheet("cuda:sm_90")
    program = grt.compile(step(), target="cuda:sm_90")
    monkeypatch.delenv("GRAPHRT_PERSISTENT")
    other = grt.compile(step(), target="cuda:sm_90")
    joined, single = (predict(p, sheet, 8) for p in (program, other))
    gaps = program.gaps()
    assert gaps.count("launch") == len(made(program).parts) and {"launch", "barrier"} <= {*gaps} <= {*GAPS}
    assert joined.seconds < single.seconds and joined.bytes == single.bytes
    assert [p.bound for p in joined.launches if p.bound in GAPS] == [g for g in gaps if g != "beside"]
    assert f"joined in {gaps.count('launch')}" in str(joined) and "joined" not in str(single)


# --- the runtime around them ------------------------------------------------------------------------------------------


@needs_compiler
def test_a_run_makes_fewer_launches(tmp_path: Path) -> None:
    program = grt.compile(step(), target="null")
    image = program._binary.image
    word = next(b for launch in image.launches for b in launch.buffers if b.space == "barrier")
    ends = [b.offset + b.type.nbytes for launch in image.launches for b in launch.buffers if b.space in ("input", "output")]
    assert word.offset >= max([image.temporary, *ends]) and word.offset + 4 <= image.size  # nobody fills it between runs
    with NULL.recorded() as log:
        program(feeds())
    assert sum(e.kind == "launch" for e in log) == len(image.launches) == len(made(program).parts) < program.launches
    profile = program.profile(feeds(), runs=1)
    assert len(list(profile)) == program.launches == len(program.work())
    program.save(tmp_path / "net.grt")
    loaded = grt.load(tmp_path / "net.grt", target="null")
    assert loaded._binary.image.launches == image.launches
    assert [k.cooperative for k in loaded._binary.image.kernels] == [k.cooperative for k in image.kernels]
    with NULL.recorded() as log:
        loaded(feeds())
    assert sum(e.kind == "launch" for e in log) == len(image.launches)


@needs_compiler
@pytest.mark.parametrize("target", [pytest.param(a, marks=[pytest.mark.proof] * (a != "cuda:sm_90")) for a in ARCHITECTURES])
@pytest.mark.parametrize("model,dtype", [("mlp", "float32"), pytest.param("lenet5", "bfloat16", marks=pytest.mark.proof)])
def test_compiled_code(model: str, dtype: str, target: str) -> None:
    """No registers are spilled, enough programs fit, and nothing is read past what other multiprocessors wrote."""
    program = training_step(model, dtype, target)
    image, reports = made(program).image, program.kernels()
    together = [r for r in reports if r.title.endswith("launches one after another")]
    assert together and sum(r.launches for r in reports) == len(image.launches) < program.launches
    assert all(not r.spills and r.blocks >= persistent.RESIDENT for r in together), together
    kernels = [k for k in image.kernels if k.cooperative]
    assert len(kernels) == len(together) and not any(k.scratch for k in kernels)
    if target.startswith("cuda"):
        from graphrt.targets.triton.compile.cubin import listings

        for kernel, run in zip(kernels, made(program).runs, strict=True):
            (text,) = listings([kernel.code], target.split(":")[1])
            assert not re.search(r"\bLDG\S*\.CONSTANT", text)  # a cache that does not follow memory
            meetings = [m.end() for m in re.finditer(r"\b(?:ATOMG?|LDG?)\S*STRONG\.GPU", text)]
            assert len(meetings) == 2 * (len(run.levels) - 1)  # comes, and looks until all have
            for comes, looks in zip(meetings[::2], meetings[1::2], strict=True):
                assert "MEMBAR" in text[:comes].rsplit("BAR.SYNC", 1)[1] and "CCTL.IVALL" in text[looks:].split("BAR.SYNC")[0]


@needs_compiler
@pytest.mark.parametrize("fault", ["spills", "fits"])
def test_what_spills_is_launched_apart(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As is a kernel of which no program fits; both are known when it is compiled, and then the plan, too, is that of parts."""
    planned = made(grt.compile(step(), target="cuda:sm_90"))
    whole, joined = len(planned.parts), planned.runs[0].launches
    if fault == "spills":
        real = build.usage
        monkeypatch.setattr(build, "usage", lambda code, arch: (255, 16) if b"persistent" in code else real(code, arch))
    else:
        monkeypatch.setattr(build, "MOST_RESIDENT", 0)
        monkeypatch.setenv("GRAPHRT_CACHE", str(tmp_path))
    program = grt.compile(step(), target="null")
    with NULL.recorded() as log:
        program(feeds())
    launches = sum(e.kind == "launch" for e in log)
    assert whole < launches == program.launches == len(made(program).parts) and not made(program).runs
    assert {*program.gaps()} == {"launch"} and "persistent" not in program.source()
    decisions = [d for d in program.explain().decisions if d.stage == "persistent"]
    assert not any(d.taken for d in decisions) and all(d.change for d in decisions)
    what = "spills 16 bytes a thread of 255 registers" if fault == "spills" else "no program of it fits on a multiprocessor"
    assert sum(what in d.reason for d in decisions) >= len(joined) - 1


# --- numbers ----------------------------------------------------------------------------------------------------------


@st.composite
def steps(draw: st.DrawFn) -> tuple[grt.Graph, dict[str, Any]]:
    """A training step with momentum of a small network: maybe a convolution and a pool, then layers with activations."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch, g = draw(st.integers(1, 6)), grt.Graph()

    def weight(name: str, *shape: int) -> grt.Value:
        return g.parameter(name, rng.standard_normal(shape).astype(np.float32) / 2)

    if draw(st.booleans()):
        x = rng.standard_normal((batch, draw(st.integers(1, 3)), 7, 7)).astype(np.float32)
        channels = draw(st.integers(1, 4))
        h = F.conv2d(g.input("x", x.shape), weight("conv", channels, x.shape[1], 3, 3), padding=1)
        h = F.flatten(F.max_pool2d(F.relu(h), 2), 1)
    else:
        x = rng.standard_normal((batch, draw(st.integers(1, 20)))).astype(np.float32)
        h = g.input("x", x.shape)
    activation = draw(st.sampled_from([F.relu, F.tanh, F.sigmoid]))
    for i in range(draw(st.integers(1, 3))):
        width = draw(st.integers(2, 20))
        h = activation(F.linear(h, weight(f"w{i}", width, h.shape[1]), weight(f"b{i}", width)))
    loss = g.output("loss", F.cross_entropy(h, g.input("y", (batch,), "int64")))
    parameters, lr = g.parameters(), g.input("lr")
    for p, d in zip(parameters, grt.grad(loss, parameters), strict=True):
        m = g.parameter(f"{p.name}.m", shape=p.shape, trainable=False)
        velocity = m * 0.9 + d
        g.update(m, velocity)
        g.update(p, p - velocity * lr)
    return g, {"x": x, "y": rng.integers(0, h.shape[1], batch), "lr": 0.1}


def trained(program: grt.Program, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The losses of three runs, and what the state is then."""
    losses = [program(inputs)["loss"] for _ in range(3)]
    return {"losses": np.array(losses), **{name: program.state[name] for name in program.state}}


if INTERPRETED:
    import torch
    import triton
    import triton.language as tl
    from graphrt.kernels.triton.meeting import meet

    from graphrt.targets.triton import guard

    @pytest.mark.interpret
    @pytest.mark.parametrize("guarded", [False, True])
    def test_numbers_of_drawn_networks(guarded: bool, forced: pytest.MonkeyPatch) -> None:
        """The same in one launch, as one program and as sixteen, as in many, and as the reference's."""
        forced.setenv("GRAPHRT_GUARD", str(int(guarded)))
        fewer = 0

        @given(steps())
        def check(case: tuple[grt.Graph, dict[str, Any]]) -> None:
            nonlocal fewer
            g, inputs = case
            program = grt.compile(g, target="interpret")
            fewer += len(program._binary.image.launches) < program.launches
            found = trained(program, inputs)
            expected = trained(grt.compile(g, target="reference"), inputs)
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
            assert program.check(inputs) is None  # each launch by itself

        check()
        assert fewer

    @pytest.mark.interpret
    def test_a_barrier_that_is_missing_is_found(forced: pytest.MonkeyPatch) -> None:
        forced.setenv("GRAPHRT_GUARD", "1")
        grt.compile(step(batch=80), target="interpret")(feeds(batch=80))
        forced.setattr(persistent, "_levels", lambda launches, touched: (tuple(launches),))
        with pytest.raises(AccessError, match=r"persistent_\d+_launches: program \d+ \w+ element .* programs? .*too"):
            grt.compile(step(batch=80), target="interpret")(feeds(batch=80))

    @triton.jit
    def shifts(x, y, word, MEET: tl.constexpr):
        pid, programs = tl.program_id(0), tl.num_programs(0)
        for _ in range(3):
            tl.store(y + (pid + 1) % programs, tl.load(x + pid))
            if MEET:
                meet(word)
            tl.store(x + pid, tl.load(y + pid))
            if MEET:
                meet(word)

    @pytest.mark.interpret
    @pytest.mark.parametrize("programs", [1, 2, 3, 8])
    def test_programs_meet(programs: int) -> None:
        """Again and again at one word, which is never reset; other numbers of programs may have met there before."""
        x, word = torch.arange(8.0), torch.zeros(1, dtype=torch.int32)
        for count in (programs, 5, programs):
            y, before = torch.zeros(8), x.clone()
            given = (x, y, word), {"MEET": True}, ("x", "y", guard.MEETING)
            guard.launch(shifts, (count,), *given, together=True)
            np.testing.assert_array_equal(x[:count], np.roll(before[:count], 3))
            assert word.item() in (0, -(2**31))
        if programs > 1:
            with pytest.raises(AccessError, match="too"):
                guard.launch(shifts, (programs,), (x, y, word), {"MEET": False}, ("x", "y", guard.MEETING), together=True)
