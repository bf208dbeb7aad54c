"""The passes in order: what happens to a graph between the builder and the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from graphrt.ir import Graph, Node
from graphrt.op import Order
from graphrt.passes.bucket import fill_buckets
from graphrt.passes.bucket_size import Pace
from graphrt.passes.channels import pad_channels
from graphrt.passes.checkpoints import keep_checkpoints
from graphrt.passes.columns import cut_column_sums
from graphrt.passes.decision import Decision
from graphrt.passes.gates import pair_products, part_pairs
from graphrt.passes.half_copies import keep_half_copies
from graphrt.passes.layout import assign_layouts
from graphrt.passes.loops import place_operands, tidy_loops
from graphrt.passes.partial import Segments, partial_sums
from graphrt.passes.patterns.addends import merge_addends
from graphrt.passes.patterns.combinations import fuse_combinations
from graphrt.passes.patterns.tables import multiply_tables
from graphrt.passes.pieces import store_pieces
from graphrt.passes.remat import rematerialise
from graphrt.passes.row_chunks import chunk_rows
from graphrt.passes.siblings import Times, merge_siblings
from graphrt.passes.simplify import dead_code, simplify
from graphrt.passes.snapshot_updates import snapshot_updates
from graphrt.passes.split import split_reductions
from graphrt.passes.stages import ALL, STAGES, Fusion


@dataclass(frozen=True)
class PassPolicy:
    """A target's policy for the passes.

    ``splits`` says into how many partial sums a node is cut, ``segments`` in what segments a sum over pixels takes them,
    ``times`` what is predicted for convolutions that are merged or padded (None: none is). Convolutions of at least
    ``min_channels`` lie channels-last. With ``half_copies`` halves of weights are kept from run to run, with
    ``fused_products`` a product is added to a sum without being rounded, where a graph can say so. The steps of loops are
    written out unless ``loops``. Sums over processes are sent in buckets of ``bucket_bytes``, or where that is None of the size
    that is best by ``pace``. Of ``stretches`` of the forward pass all but the last are computed again for the backward pass.
    Products of more than twice ``row_bytes`` are made in chunks of rows. ``columns`` says, of so many rows of so many elements,
    how many at a time are added up where the rows are reduced too (0: none).
    """

    splits: Callable[[Node], int]
    segments: Callable[[Node, Node | None], Segments | None] = lambda node, producer: None
    times: Times | None = None
    min_channels: int = 1
    half_copies: bool = False
    fused_products: bool = False
    loops: bool = False
    bucket_bytes: int | None = None
    pace: Pace | None = None
    stretches: int = 1
    row_bytes: int = 64 << 20
    columns: Callable[[int, int], int] = lambda rows, size: 0


def run_passes(
    graph: Graph,
    policy: PassPolicy,
    state_orders: Mapping[str, Order],
    fusion: Fusion = ALL,
    check: bool = False,
    begin: str = "dead_code",
    skip: Collection[str] = (),
) -> tuple[list[tuple[str, Graph]], list[Decision]]:
    """The graph after each pass, by name, last one final, and what was decided.

    ``state_orders`` fixes layouts of state that exists already. Passes that are stages of fusion run if ``fusion`` has them.
    ``graph`` is what the pass ``begin`` takes: those before it have run. Passes of the names ``skip`` do not run.
    """
    decisions: list[Decision] = []

    def siblings(graph: Graph) -> Graph:
        return merge_siblings(pair_products(graph, policy.times, decisions), policy.times, decisions)

    steps: list[tuple[str, Callable[[Graph], Graph]]] = [
        ("dead_code", dead_code),  # what no output and no update needs
        ("loops", lambda g: tidy_loops(g, policy.loops)),  # less in them, or their steps one by one
        ("simplify", simplify),  # fold, identities, common subexpressions
        ("addends", merge_addends),  # sums of products, and of slices' gradients
        ("tables", multiply_tables),  # products of rows that are looked up in a table of fewer
        ("gates", lambda g: part_pairs(g, policy.times)),  # two products of a pair that has no template
        ("siblings", siblings),  # a pair of products that meet, one convolution of several
        ("channels", lambda g: pad_channels(g, policy.times, decisions)),  # images of few channels are given more
        ("remat", rematerialise),  # parts of concatenations, again for the backward pass
        (
            "chunks",
            lambda g: chunk_rows(g, policy.row_bytes, policy.loops, decisions),
        ),  # of rows of large products
        ("checkpoints", lambda g: keep_checkpoints(g, policy.stretches, decisions)),  # the forward pass again, to save memory
        ("snapshot_updates", snapshot_updates),  # updates read old values
        ("partial", lambda g: partial_sums(cut_column_sums(g, policy.columns), policy.segments)),  # from sums of segments
        ("split", lambda g: split_reductions(g, policy.splits)),  # long reductions in parallel parts
        ("pieces", store_pieces),  # concatenations of many parts get a buffer
        ("layout", lambda g: assign_layouts(g, policy.min_channels, state_orders, decisions)),  # channels-last inside
    ]
    if policy.fused_products:
        steps.insert(-1, ("combinations", fuse_combinations))  # norms of halves as fused multiply-adds
    if graph.mesh is not None:
        steps.append(
            ("bucket", lambda g: fill_buckets(g, policy.bucket_bytes, decisions, policy.pace))
        )  # gradients of one message
    if policy.loops or graph.mesh is not None:
        steps.append(("loop_operands", place_operands))  # each step's part, and what is sent, in one piece
    if policy.half_copies:
        steps.append(("half_copies", lambda g: keep_half_copies(g, state_orders)))  # updates write weights and their halves
    first = [name for name, _ in steps].index(begin)
    steps = [(name, step) for name, step in steps[first:] if (name not in STAGES or name in fusion) and name not in skip]
    done = [("build", graph)]
    for name, step in steps:
        graph = step(graph)
        if check:
            graph.verify()
        done.append((name, graph))
    return done, decisions
