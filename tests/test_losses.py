"""Losses and distances beside torch, values and gradients, in few programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED
from test_functional import TARGET, Call, compare, data

import graphrt as grt
from graphrt import nn
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
REDUCTIONS = ("mean", "sum", "none")


def classes(high: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape)


def pair(name: str, arrays: list[np.ndarray], **kwargs: Any) -> Call:
    return (lambda *a: getattr(F, name)(*a, **kwargs), lambda *a: getattr(T, name)(*a, **kwargs), arrays)


def test_losses_of_class_indices() -> None:
    weight = np.array([0.5, 2.0, 1.0, 0.1], np.float32)
    calls: dict[str, Call] = {}
    for reduction in REDUCTIONS:
        for shape in ((6, 4), (2, 4, 3, 2)):
            x, t = data(*shape), classes(4, shape[0], *shape[2:])
            for smooth in (0.0, 0.2):
                for ignore in (None, 2):
                    for weighted in (False, True):
                        if weighted and reduction == "sum" and smooth and ignore:
                            continue
                        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": smooth}
                        options |= {} if ignore is None else {"ignore_index": ignore}
                        arrays = [x, t, weight] if weighted else [x, t]
                        calls[f"{shape} {options} {weighted}"] = (
                            lambda x, t, w=None, o=options: F.cross_entropy(x, t, w, **o),
                            lambda x, t, w=None, o=options: T.cross_entropy(x, t, None if w is None else w.detach(), **o),
                            [*arrays[:2]] if not weighted else arrays,
                        )
    fixed = {k: v for i, (k, v) in enumerate(calls.items()) if not INTERPRETED or i % 6 == 0}
    compare({k: _detached(v) for k, v in fixed.items()}, 24)


def _detached(call: Call) -> Call:
    """The class weights get no gradient in torch, so none is asked of ours."""
    ours, theirs, arrays = call
    if len(arrays) < 3:
        return call
    w = arrays[2]
    return (
        lambda x, t: ours(x, t, x.graph.constant(w)),
        lambda x, t: theirs(x, t, torch.from_numpy(w).double()),
        arrays[:2],
    )


def test_losses_of_classes_otherwise() -> None:
    x, t, soft = data(5, 4), classes(4, 5), np.exp(data(5, 4, seed=3))
    soft /= soft.sum(1, keepdims=True)
    weight = np.array([0.5, 2.0, 1.0, 0.1], np.float32)
    calls: dict[str, Call] = {}
    for r in REDUCTIONS:
        calls[f"soft {r}"] = pair("cross_entropy", [x, soft], reduction=r, label_smoothing=0.1)
        calls[f"nll {r}"] = _detached((
            lambda x, t, w, r=r: F.nll_loss(x, t, w, 1, r), lambda x, t, w, r=r: T.nll_loss(x, t, w, None, 1, None, r),
            [x, t, weight],
        ))  # fmt: skip
        for p in (1, 2):
            calls[f"margin {p} {r}"] = pair("multi_margin_loss", [x, t], p=p, margin=0.7, reduction=r)
        listed = np.array([[0, 3, -1, 1], [-1, 2, 2, 2], [2, 1, 0, 3], [1, 1, -1, -1], [3, -1, 0, -1]])
        calls[f"labels {r}"] = pair("multilabel_margin_loss", [x, listed], reduction=r)
    calls["one label"] = pair("multilabel_margin_loss", [data(4), np.array([2, 0, -1, 1])])
    calls["one"] = pair("cross_entropy", [data(4), classes(4)])
    calls["no rows"] = pair("cross_entropy", [data(0, 4), data(0, 4)])
    compare(calls, 20)


def test_losses_of_two_tensors() -> None:
    x, y, p = data(4, 5), data(4, 5, seed=1), 1 / (1 + np.exp(-data(4, 5)))
    bits, signs = (data(4, 5, seed=2) > 0).astype(np.float32), np.sign(data(4, 5, seed=4)).astype(np.int64)
    counts = classes(6, 4, 5).astype(np.float32)
    calls: dict[str, Call] = {}
    for r in REDUCTIONS:
        for name, options in {
            "mse_loss": {}, "l1_loss": {}, "smooth_l1_loss": {"beta": 0.6}, "huber_loss": {"delta": 0.8},
        }.items():  # fmt: skip
            calls[f"{name} {r}"] = pair(name, [x, y], reduction=r, **options)
        calls[f"bce {r}"] = pair("binary_cross_entropy", [p, bits], reduction=r)
        calls[f"logits {r}"] = pair("binary_cross_entropy_with_logits", [x * 20, bits], reduction=r)
        calls[f"soft margin {r}"] = pair("soft_margin_loss", [x, signs], reduction=r)
        calls[f"multilabel {r}"] = pair("multilabel_soft_margin_loss", [x, bits], reduction=r)
        calls[f"hinge embedding {r}"] = pair("hinge_embedding_loss", [x, signs], margin=0.5, reduction=r)
        for full in (False, True):
            for log in (False, True):
                rate = x if log else np.abs(x) + 0.1
                calls[f"poisson {full} {log} {r}"] = (
                    lambda x, t, f=full, g=log, r=r: F.poisson_nll_loss(x, t, g, f, reduction=r),
                    lambda x, t, f=full, g=log, r=r: T.poisson_nll_loss(x, t.detach(), g, f, reduction=r),
                    [rate, counts.astype(np.int64)],
                )
            calls[f"gauss {full} {r}"] = pair("gaussian_nll_loss", [x, y, np.abs(data(4, 5, seed=6))], full=full, reduction=r)
    for r in (*REDUCTIONS, "batchmean"):
        calls[f"kl {r}"] = pair("kl_div", [x, p], reduction=r)
        calls[f"kl log {r}"] = pair("kl_div", [x, y], reduction=r, log_target=True)
    for r in REDUCTIONS:
        calls[f"gauss a variance a row {r}"] = pair("gaussian_nll_loss", [x, y, np.abs(data(4, seed=6))], reduction=r)
        for name in ("mse_loss", "l1_loss", "huber_loss"):
            calls[f"{name} weighted {r}"] = (
                lambda x, t, n=name, r=r: getattr(F, n)(x, t, reduction=r, weight=x.graph.constant(p)),
                lambda x, t, n=name, r=r: getattr(T, n)(x, t, reduction=r, weight=torch.from_numpy(p).double()),
                [x, y],
            )
    calls["weights"] = (
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, x.graph.constant(p[0]), pos_weight=x.graph.constant(p[1] * 3)),
        lambda x, t: T.binary_cross_entropy_with_logits(
            x, t, torch.from_numpy(p[0]).double(), pos_weight=torch.from_numpy(p[1] * 3).double(),
        ),
        [x, bits],
    )  # fmt: skip
    compare({k: v for i, (k, v) in enumerate(calls.items()) if not INTERPRETED or i % 4 == 0}, 20)


OUTSIDE = np.array([0, 3, -100, -1, 2, 7])  # of 3 classes


@pytest.mark.parametrize("target", [TARGET, "reference"])
def test_targets_outside_the_classes(target: str) -> None:
    """-100 does not count by default, as in torch; any other index outside makes loss and gradient NaN, never a number."""
    x, listed = data(6, 3), np.array([[0, -1, 0], [2, 5, -1], [-1, 9, 9], [1, 3, 0], [0, 1, 2], [-7, 0, 0]])
    weight = np.array([0.5, 2.0, 1.0], np.float32)
    feeds = {"t": OUTSIDE, "u": listed, "x": x, "m": np.full((6, 3), -np.inf, "f")}
    graph = grt.Graph()
    xv, t, u = graph.input("x", (6, 3)), graph.input("t", (6,), "int64"), graph.input("u", (6, 3), "int64")
    w, m = graph.constant(weight), graph.input("m", (6, 3))
    losses = {
        "ce": F.cross_entropy(xv, t, reduction="none"),
        "smooth": F.cross_entropy(xv, t, w, label_smoothing=0.1, reduction="none"),
        "nll": F.nll_loss(xv, t, w, reduction="none"),
        "all": F.cross_entropy(xv, t, ignore_index=None, reduction="none"),
        "three": F.cross_entropy(xv, t, ignore_index=3, reduction="none"),
        "margin": F.multi_margin_loss(xv, t, weight=w, reduction="none"),
        "listed": F.multilabel_margin_loss(xv, u, reduction="none"),
        "mean": F.cross_entropy(xv, t),
        "rows": F.embedding(t, F.transpose(F.permute(xv, (1, 0)), 0, 1)),
        "masked": F.cross_entropy(m, F.where(F.eq(t, 0), -100, -100), reduction="none"),  # whatever the logits are
    }
    for name, loss in losses.items():
        graph.output(name, loss)
        if name not in ("rows", "masked"):
            graph.output(f"d {name}", grt.grad(F.sum(loss), [xv])[0])
    found = grt.compile(graph, target=target)(feeds)
    ignored = OUTSIDE == -100
    bad = (OUTSIDE < 0) | (OUTSIDE > 2)
    nan = {name: bad & ~ignored for name in ("ce", "smooth", "nll")}
    nan |= {"all": bad, "margin": bad, "three": bad & (OUTSIDE != 3)}
    nan["listed"] = np.array([False, True, False, True, False, False])
    for name, expected in nan.items():
        np.testing.assert_array_equal(np.isnan(found[name]), expected, err_msg=name)
        np.testing.assert_array_equal(np.isnan(found[f"d {name}"]).any(1), expected, err_msg=name)
    assert np.isnan(found["mean"]) and not found["masked"].any()
    assert not found["ce"][ignored].any() and not found["d ce"][ignored].any()
    np.testing.assert_array_equal(np.isnan(found["rows"]).all(1), OUTSIDE.clip(0, 5) != OUTSIDE)


def test_ignored_targets_as_in_torch() -> None:
    x, t = data(2, 4, 3, 2), classes(4, 2, 3, 2)
    t[0, :2] = -100
    rows, row = data(6, 4), np.array([0, -100, 3, -100, 1, 2])
    calls: dict[str, Call] = {"none counts": pair("cross_entropy", [rows, np.full(6, -100)])}
    for r in REDUCTIONS:
        calls |= {f"{n} {s} {r}": pair(n, [a, b], reduction=r, **({"label_smoothing": s} if s else {}))
                  for n in ("cross_entropy", "nll_loss") for a, b in ((x, t), (rows, row)) for s in (0.0, 0.1)
                  if not (s and n == "nll_loss")}  # fmt: skip
    compare(calls, 24)


def test_targets_of_other_integers() -> None:
    """No label of uint8 is -100, although 156 has its bits."""
    graph = grt.Graph()
    x, t = graph.input("x", (2, 200)), graph.input("t", (2,), "uint8")
    y = grt.compile(F.cross_entropy(x, t, reduction="none"), target=TARGET)(x=data(2, 200), t=np.array([156, 7], np.uint8))
    expected = T.cross_entropy(torch.from_numpy(data(2, 200)), torch.tensor([156, 7]), reduction="none")
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-5)


def test_losses_of_vectors() -> None:
    a, b, c, signs = data(6, 5), data(6, 5, seed=1), data(6, 5, seed=2), np.sign(data(6, seed=3)).astype(np.int64)
    calls: dict[str, Call] = {
        "cosine": pair("cosine_similarity", [a, b], dim=-1),
        "cosine 0": pair("cosine_similarity", [a, b], dim=0),
        "distance": pair("pairwise_distance", [a, b]),
        "distance 1": pair("pairwise_distance", [a, b], p=1.0, keepdim=True),
        "distance 3": pair("pairwise_distance", [a, b], p=3.0),
        "normalize": pair("normalize", [a], p=3.0, dim=0),
        "normalize zero": pair("normalize", [a * np.array([[1], [0], [1], [1], [0], [1]], np.float32)]),
    }
    for r in REDUCTIONS:
        calls[f"embedding {r}"] = pair("cosine_embedding_loss", [a, b, signs], margin=0.1, reduction=r)
        calls[f"ranking {r}"] = pair("margin_ranking_loss", [a[:, 0], b[:, 0], signs], margin=0.3, reduction=r)
        for swap in (False, True):
            calls[f"triplet {r} {swap}"] = pair("triplet_margin_loss", [a, b, c], swap=swap, reduction=r)
    for p in (0.0, 1.0, 2.0, 3.5, float("inf"), float("-inf")):
        calls[f"norm {p}"] = (lambda x, p=p: F.norm(x, p, 1), lambda x, p=p: torch.linalg.vector_norm(x, p, 1), [a])
    calls["frobenius"] = (F.norm, torch.linalg.matrix_norm, [a])
    for name in ("max", "min"):
        f, t = getattr(F, name), getattr(torch, name)
        calls[name] = (f, t, [a])
        for part in (0, 1):
            calls[f"{name} {part}"] = (lambda x, f=f, i=part: f(x, 1, True)[i], lambda x, f=t, i=part: f(x, 1, True)[i], [a])
    compare(calls, 10)


def test_binary_cross_entropy_at_certainty() -> None:
    graph = grt.Graph()
    p, t = graph.input("p", (4,)), graph.input("t", (4,))
    graph.output("y", F.binary_cross_entropy(p, t, reduction="none"))
    y = grt.compile(graph, target=TARGET)(p=np.array([0, 1, 0, 1], np.float32), t=np.array([1, 0, 0, 1], np.float32))["y"]
    np.testing.assert_array_equal(y, [100, 100, 0, 0])


def test_special_values_of_binary_cross_entropy() -> None:
    """NaN stays, and infinities do what they do in torch."""
    x, t = np.array([np.inf, -np.inf, np.nan, 200, -200], np.float32), np.array([0, 1, 1, 1, 0], np.float32)
    graph = grt.Graph()
    a, b = graph.input("a", x.shape), graph.input("b", t.shape)
    graph.output("logits", F.binary_cross_entropy_with_logits(a, b, reduction="none"))
    graph.output("nan", F.binary_cross_entropy(F.where(F.ne(a, a), a, 0.5), b, reduction="none"))
    outputs = grt.compile(graph, target=TARGET)(a=x, b=t)
    expected = T.binary_cross_entropy_with_logits(torch.from_numpy(x), torch.from_numpy(t), reduction="none")
    np.testing.assert_array_equal(outputs["logits"], expected.numpy())
    assert np.isnan(outputs["nan"]).tolist() == [False, False, True, False, False]


def test_log_softmax_and_nll_are_one_kernel_forward_and_backward() -> None:
    """Rows in front of the loss: all of it is one pass over them, and the mean; both count the targets."""
    graph = grt.Graph()
    x, t = graph.input("x", (64, 100)), graph.input("t", (64,), "int64")
    loss = F.cross_entropy(x, t)
    graph.output("loss", loss)
    graph.output("dx", grt.grad(loss, [x])[0])
    program = grt.compile(graph, target=TARGET)
    assert program.launches <= 2, program.plan_text()
    unconditional = F.cross_entropy(x, t, ignore_index=None)
    program = grt.compile([unconditional, *grt.grad(unconditional, [x])], target=TARGET)
    assert program.launches <= 2, program.plan_text()
    rows = grt.compile({"y": F.cross_entropy(x, t, reduction="none")}, target=TARGET)
    assert rows.launches == 1, rows.plan_text()
    each = F.nll_loss(F.log_softmax(x, 1), t, reduction="none")
    both = grt.compile({"y": each, "dx": grt.grad(F.sum(each), [x])[0]}, target=TARGET)
    assert both.launches == 1, both.plan_text()


def test_ctc() -> None:
    """Beside torch: lengths that differ, classes that repeat, another blank, one sequence, and one that is too short."""
    logits, t = data(7, 3, 5), np.array([[1, 2, 2, 4], [3, 3, 9, 9], [1, 0, 9, 9]])
    sizes, ends = np.array([4, 2, 1]), np.array([7, 5, 3])

    def both(**options: Any) -> Call:
        known = np.where(t == 4, 4 - options.get("blank", 0), t)

        def ours(x: Any) -> Any:
            return F.ctc_loss(F.log_softmax(x, 2), x.graph.constant(known), ends.tolist(), sizes.tolist(), **options)

        def theirs(x: Any) -> Any:
            inside = torch.from_numpy(np.where(known == 9, 0, known))
            return T.ctc_loss(T.log_softmax(x, 2), inside, torch.from_numpy(ends), torch.from_numpy(sizes), **options)

        return ours, theirs, [logits]

    def alone(x: Any) -> Any:
        return F.ctc_loss(F.log_softmax(x, 1), x.graph.constant(t[0]), x.graph.constant(7), x.graph.constant(4))

    def alone_there(x: Any) -> Any:
        return T.ctc_loss(T.log_softmax(x, 1), torch.from_numpy(t[0]), torch.tensor(7), torch.tensor(4))

    calls = {"mean": both(), "blank": both(blank=4, reduction="none"), "alone": (alone, alone_there, [logits[:, 0]])}
    compare(calls, 8)


@pytest.mark.skipif(INTERPRETED, reason="is about what is computed, not on which target")
@pytest.mark.parametrize("zero", [False, True])
def test_a_target_of_ctc_that_does_not_fit(zero: bool) -> None:
    """Three classes of which two are alike need four steps. There is no gradient, where torch's is NaN unless ``zero``."""
    g = grt.Graph()
    x = g.input("x", (3, 2, 4))
    loss = F.ctc_loss(F.log_softmax(x, 2), g.constant(np.array([[1, 1, 2], [1, 2, 3]])), [3, 3], [3, 3], 0, "none", zero)
    found = grt.compile({"loss": loss, "slope": grt.grad(F.sum(loss), [x])[0]}, target="reference")(x=data(3, 2, 4))
    assert found["loss"][0] == (0.0 if zero else np.inf) and np.isfinite(found["loss"][1])
    assert (found["slope"][:, 0] == 0).all() and np.abs(found["slope"][:, 1]).max() > 0.01


@pytest.mark.skipif(INTERPRETED, reason="is about what is computed, not on which target")
def test_the_gradient_of_ctc_is_that_of_any_numbers() -> None:
    """By differences; torch adds the probabilities of the steps that count."""
    logits, t, ends, sizes = data(5, 2, 4), np.array([[1, 2], [3, 3]]), [5, 4], [2, 2]
    g = grt.Graph()
    x = g.input("x", (5, 2, 4), "float64")
    loss = g.output("loss", F.ctc_loss(x, g.constant(t), ends, sizes, reduction="sum"))
    g.output("dx", grt.grad(loss, [x])[0])
    program = grt.compile(g, target="reference:float64")
    theirs = torch.log_softmax(torch.from_numpy(logits).double(), 2).requires_grad_()
    T.ctc_loss(theirs, torch.from_numpy(t), torch.tensor(ends), torch.tensor(sizes), reduction="sum").backward()
    there, known = theirs.detach().numpy(), (np.arange(5)[:, None] < ends)[..., None]
    found = program(x=there)["dx"]
    np.testing.assert_allclose(found, theirs.grad.numpy() - np.exp(there) * known, atol=1e-12)
    along, step = np.random.default_rng(0).standard_normal(there.shape), 1e-5
    ahead, behind = (float(program(x=there + sign * step * along)["loss"]) for sign in (1, -1))
    np.testing.assert_allclose((found * along).sum(), (ahead - behind) / (2 * step), rtol=1e-7)


def test_modules() -> None:
    graph = grt.Graph()
    x, t, y = graph.input("x", (5, 4)), graph.input("t", (5,), "int64"), graph.input("y", (5, 4))
    feeds = {"x": data(5, 4), "t": classes(4, 5), "y": (data(5, 4, seed=1) > 0).astype(np.float32)}
    weight = np.array([0.5, 2.0, 1.0, 0.1], np.float32)
    w = torch.from_numpy(weight)
    cases: dict[str, tuple[nn.Module, Any, str]] = {
        "ce": (nn.CrossEntropyLoss(weight, label_smoothing=0.1), torch.nn.CrossEntropyLoss(w, label_smoothing=0.1), "t"),
        "nll": (nn.NLLLoss(weight, ignore_index=1), torch.nn.NLLLoss(w, ignore_index=1), "t"),
        "margin": (nn.MultiMarginLoss(2, 0.5), torch.nn.MultiMarginLoss(2, 0.5), "t"),
        "logits": (nn.BCEWithLogitsLoss(pos_weight=weight), torch.nn.BCEWithLogitsLoss(pos_weight=w), "y"),
        "huber": (nn.HuberLoss(delta=0.5), torch.nn.HuberLoss(delta=0.5), "y"),
        "smooth": (nn.SmoothL1Loss(beta=0.5), torch.nn.SmoothL1Loss(beta=0.5), "y"),
        "kl": (nn.KLDivLoss(reduction="batchmean"), torch.nn.KLDivLoss(reduction="batchmean"), "y"),
        "poisson": (nn.PoissonNLLLoss(full=True), torch.nn.PoissonNLLLoss(full=True), "y"),
        "hinge": (nn.HingeEmbeddingLoss(0.5), torch.nn.HingeEmbeddingLoss(0.5), "y"),
        "multi": (nn.MultiLabelSoftMarginLoss(), torch.nn.MultiLabelSoftMarginLoss(), "y"),
        "cosine": (nn.CosineSimilarity(), torch.nn.CosineSimilarity(), "y"),
        "pairs": (nn.PairwiseDistance(1.0), torch.nn.PairwiseDistance(1.0), "y"),
    }
    holder = nn.Sequential({n: m for n, (m, _, _) in cases.items()})
    holder.state_dict()  # names the buffers
    for n, (ours, _, to) in cases.items():
        own = grt.Graph()
        own.output(n, ours(own.input("x", (5, 4)), own.input(to, feeds[to].shape, feeds[to].dtype)))
        found = grt.compile(own, target=TARGET)({"x": feeds["x"], to: feeds[to]})[n]
        expected = cases[n][1](torch.from_numpy(feeds["x"]), torch.from_numpy(feeds[to]))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6, err_msg=n)
    assert x.graph is t.graph is y.graph


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (3, 4))


def _bad(name: str, *calls: Any) -> list[tuple[str, Any]]:
    return [(name, lambda g, c=c: getattr(F, name)(*c(g))) for c in calls]


_SAME = ("mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss "
         "multilabel_soft_margin_loss hinge_loss hinge_embedding_loss kl_div poisson_nll_loss").split()  # fmt: skip
BAD: list[tuple[str, Any]] = [
    *[b for n in _SAME for b in _bad(n, lambda g: (_x(g), g.input("t", (3, 5))), lambda g: (_x(g), None), lambda g: (_x(g),))],
    *[b for n in ("cross_entropy", "nll_loss") for b in _bad(
        n, lambda g: (_x(g), g.input("t", (4,), "int64")), lambda g: (g.input("s", ()), g.input("t", (), "int64")),
        lambda g: (_x(g), g.input("t", (3,), "int64"), g.input("w", (3,))), lambda g: (_x(g), g.input("t", (3,), "bool")))],
    ("cross_entropy", lambda g: F.cross_entropy(_x(g), g.input("t", (3,), "int64"), label_smoothing=1.5)),
    ("cross_entropy", lambda g: F.cross_entropy(_x(g), g.input("t", (3,), "int64"), reduction="average")),
    ("cross_entropy", lambda g: F.cross_entropy(_x(g), _x(g), ignore_index=3)),
    *_bad("multi_margin_loss", lambda g: (_x(g), g.input("t", (3,), "int64"), 3),
          lambda g: (_x(g), g.input("t", (4,), "int64")),
          lambda g: (g.input("m", (1, 2, 3)), g.input("t", (1, 3), "int64"))),
    *_bad("multilabel_margin_loss", lambda g: (_x(g), g.input("t", (3, 4))), lambda g: (_x(g), g.input("t", (3,), "int64")),
          lambda g: (g.input("e", (3, 0)), g.input("t", (3, 0), "int64"))),
    *[b for n in ("cross_entropy", "nll_loss", "multi_margin_loss") for b in _bad(
        n, lambda g: (g.input("e", (3, 0)), g.input("t", (3,), "int64")))],
    ("cross_entropy", lambda g: F.cross_entropy(g.input("e", (3, 0)), g.input("p", (3, 0)))),
    *[b for n in ("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss") for b in _bad(
        n, lambda g: (_x(g), g.input("t", (3, 4)), g.input("w", (2, 3, 4))))],
    *_bad("binary_cross_entropy_with_logits",
          lambda g: (_x(g), g.input("t", (3, 4)), None, "mean", g.input("w", (2, 3, 4)))),
    *_bad("gaussian_nll_loss", lambda g: (_x(g), g.input("t", (3, 4)), -1.0),
          lambda g: (_x(g), g.input("t", (3, 4)), g.input("v", (4,))),
          lambda g: (_x(g), g.input("t", (3, 4)), g.input("v", (1, 1))),
          lambda g: (_x(g), g.input("t", (3, 4)), g.input("v", (2, 3, 4))),
          lambda g: (_x(g), g.input("t", (3, 5)), 1.0), lambda g: (_x(g), _x(g)),
          lambda g: (_x(g), _x(g), 1.0, False, -1.0)),
    *_bad("ctc_loss", lambda g: (g.input("p", (5, 2, 3)), g.input("t", (4,), "int64"), [5, 5], [2, 2]),
          lambda g: (g.input("p", (5, 2, 3)), g.input("t", (2, 2)), [5, 5], [2, 2]),
          lambda g: (g.input("p", (5, 2, 3)), g.input("t", (2, 2), "int64"), [5], [2, 2]),
          lambda g: (g.input("p", (5, 2, 3)), g.input("t", (2, 2), "int64"), [5, 5], g.input("n", (2,))),
          lambda g: (g.input("p", (5, 2, 3)), g.input("t", (2, 2), "int64"), [5, 5], [2, 2], 3)),
    *_bad("pairwise_distance", lambda g: (_x(g), g.input("t", (3, 5))), lambda g: (_x(g), None), lambda g: (_x(g), _x(g), "a")),
    *_bad("cosine_similarity", lambda g: (_x(g), g.input("t", (3, 5))), lambda g: (_x(g), g.input("y", (3, 4)), 5),
          lambda g: (_x(g), None)),
    *_bad("cosine_embedding_loss", lambda g: (_x(g), g.input("y", (3, 4)), g.input("t", (4,))),
          lambda g: (_x(g), g.input("y", (3, 5)), g.input("t", (3,))), lambda g: (_x(g), None, None)),
    *_bad("margin_ranking_loss", lambda g: (_x(g), g.input("y", (5,)), g.input("t", (3,))), lambda g: (_x(g), None, None),
          lambda g: (_x(g), g.input("y", (3, 4)), g.input("t", (3, 4)), "a")),
    *_bad("triplet_margin_loss", lambda g: (_x(g), g.input("y", (3, 4)), g.input("z", (3, 5))), lambda g: (_x(g), None, None),
          lambda g: (_x(g), g.input("y", (3, 4)), g.input("z", (3, 4)), -1.0)),
    *_bad("norm", lambda g: (_x(g), "nuc"), lambda g: (_x(g), 2.0, 5), lambda g: (g.input("i", (3,), "int64"),)),
    *[b for n in ("max", "min") for b in _bad(
        n, lambda g: (_x(g), 2), lambda g: (_x(g), "a"), lambda g: (g.input("e", (3, 0)), 1))],
    *_bad("normalize", lambda g: (_x(g), 2.0, 2), lambda g: (g.input("i", (3, 3), "int64"),), lambda g: (_x(g), None)),
]  # fmt: skip
