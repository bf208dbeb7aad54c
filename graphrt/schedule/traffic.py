"""The bytes that a group moves, counted without writing its kernel: as many as ``launch_cost`` counts in what ``lower`` writes.

The ledger asks for them after each of thousands of decisions. A group is walked as lowering walks it, block by block, but no
scalar code comes of it, and how a view is followed, or what a load may reach, is found out once for all the groups. Most
kernels read whole tensors, and need no walk (``Whole``). Networks repeat their blocks: groups that differ in names alone are
counted once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from graphrt.index import Expr, axes, axis
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.schedule.cost import reach
from graphrt.schedule.group import Group, Guard, Index
from graphrt.schedule.lower import closures, result_index, rows_of
from graphrt.schedule.policy import ROW_LIMIT, SchedulePolicy
from graphrt.schedule.schedule import Place, Schedule, Slot
from graphrt.schedule.whole import Whole

Guards = tuple[Guard, ...]
Request = tuple[Value, Index, Guards]  # an element, by its index over the domain, and under which guards
Known = set[tuple[object, ...]]  # (value, index): whatever the guards; (value, index, guards); and the loads
ANY = 1 << 63


class Traffic:
    """Counts bytes of groups, and remembers what groups have in common."""

    def __init__(self, policy: SchedulePolicy) -> None:
        self.policy, self.whole = policy, Whole(policy.row_limit)
        self._pieces: dict[tuple[Value, Index], list[Request]] = {}
        self._loads: dict[tuple[Node | None, Place, Index, Guards], tuple[Slot, Expr, Guards, int]] = {}
        self._closures: dict[Node, tuple[list[Request], dict[str, Expr]]] = {}
        self._bytes: dict[object, int] = {}
        self._numbers: dict[object, int] = {}
        self._nodes: dict[Node, tuple[int, list[Value], list[Value]]] = {}
        self._indices: dict[tuple[Group, Value], int] = {}
        self._slots: dict[Slot, int] = {}
        self.alone: dict[object, int] = {}  # the bytes of kernels of one node, by ``kernel``

    def kernel(self, node: Node, places: tuple[int, ...]) -> object:
        """A key that kernels of one node share which move as many bytes, where each value has a buffer of its own.

        Each result of ``node`` is stored to so many ``places``.
        """
        number, leaves, _ = self._structure(node)
        return number, places, tuple(map(leaves.index, leaves)) if len(leaves) > 1 else ()

    def bytes(self, schedule: Schedule, group: Group) -> int:
        """Bytes that the kernel of ``group`` reads and writes: those of ``launch_cost([lower(schedule, group, policy)])``."""
        if (found := self.whole.group(schedule, group)) is not None:
            return found
        key = self._alike(schedule, group)
        if key is None:
            return _Count(self, schedule, group).total()
        if key not in self._bytes:
            self._bytes[key] = _Count(self, schedule, group).total()
        return self._bytes[key]

    def _alike(self, schedule: Schedule, group: Group) -> object:
        """A key that groups which move as many bytes share; None of one that copies views, or reads a stored view."""
        if any(v not in group.inputs for v in group.copies):
            return None
        values, slots, outputs = dict[Value, int](), dict[Slot, int](), {*group.outputs}
        key: list[object] = [group.shape, len(group.inlined)]

        def lies(place: Place) -> None:
            slot = place.slot
            if slot not in self._slots:
                self._slots[slot] = self._number(slot.type)
            key.extend((slots.setdefault(slot, len(slots)), place.start, self._slots[slot]))

        for v in group.copies:
            for place in (schedule.home[v], *schedule.stores[group, v]):
                lies(place)
        for node in (*group.inlined, *group.nodes):
            number, leaves, views = self._structure(node)
            if schedule.buffered and not schedule.buffered.isdisjoint(views):
                return None
            key += [number, node is group.anchor]
            for v in leaves:
                if v not in values:
                    values[v] = len(values)
                    lies(schedule.home[v])
                key.append(values[v])
            for v in node.outputs:
                key += [values.setdefault(v, len(values)), self._index(group, v)]
                for place in schedule.stores[group, v] if v in outputs else ():
                    lies(place)
            if node in group.segments:
                key.append(group.segments[node])
        return tuple(key)

    def _number(self, thing: object) -> int:
        return self._numbers.setdefault(thing, len(self._numbers))

    def _index(self, group: Group, v: Value) -> int:
        """The number of the index of ``v`` in ``group``, which it keeps."""
        key = (group, v)
        if key not in self._indices:
            self._indices[key] = self._number(group.index.get(v))
        return self._indices[key]

    def _structure(self, node: Node) -> tuple[int, list[Value], list[Value]]:
        """A number for what ``node`` computes, of what kinds of operands, seen through which views; the operands; the views."""
        if node not in self._nodes:
            leaves, views = list[Value](), list[Value]()

            def seen(v: Value) -> object:
                if v.node.op.kind is not Kind.VIEW:
                    leaves.append(v)
                    return v.type, v.node.op.kind
                views.append(v)
                return v.node.op.name, repr(v.node.attrs), v.type, tuple(map(seen, v.node.inputs))

            of = node.op.name, repr(node.attrs), node.types, tuple(map(seen, node.inputs))
            self._nodes[node] = self._number(of), leaves, views
        return self._nodes[node]

    def pieces(self, v: Value, index: Index) -> list[Request]:
        """The reads that element ``index`` of the view ``v`` may be, one step on."""
        key = (v, index)
        if key not in self._pieces:
            pull = v.node.op.pull
            assert pull is not None
            self._pieces[key] = [(v.node.inputs[p.operand], p.index, p.mask) for p in pull(v.node, index)]
        return self._pieces[key]

    def load(self, anchor: Node | None, to: dict[str, Expr], request: Request, place: Place) -> tuple[Slot, Expr, Guards, int]:
        """The buffer, offset and guards of a load, with axes written as ``to`` says, and the elements that it may reach.

        ``to`` is that of the epilogue of ``anchor``, or empty.
        """
        _, index, guards = request
        key = (anchor, place, index, guards)
        if key not in self._loads:
            if to:
                index = tuple(e.substitute(to) for e in index)
                guards = tuple((e.substitute(to), low, high) for e, low, high in guards)
            offset = place.offset(index)
            self._loads[key] = place.slot, offset, guards, min(reach(offset, guards), place.slot.type.size)
        return self._loads[key]

    def closures(self, anchor: Node) -> tuple[list[Request], dict[str, Expr]]:
        """The reads of a template's loaders, each in a block of its own; and the epilogue's axes."""
        if anchor not in self._closures:
            first: list[Request] = [(v, at, ()) for _, _, v, at in closures(anchor)]
            self._closures[anchor] = first, {f"i{d}": e for d, e in enumerate(result_index(anchor))}
        return self._closures[anchor]


class _Count:
    """The count of one group: bytes read by pass over the rows and by buffer."""

    def __init__(self, traffic: Traffic, schedule: Schedule, group: Group) -> None:
        self.traffic, self.schedule, self.group = traffic, schedule, group
        self.members, self.inputs = {*group.nodes, *group.inlined}, {*group.inputs}
        self.domain = ANY if group.kind in ("template", "loop", "collective") else math.prod(group.shape)
        self.read: dict[tuple[int, Slot], int] = {}

    def total(self) -> int:
        """Bytes read and written."""
        group, given = self.group, Known()
        if group.kind == "template":
            self._template()
        elif group.kind in ("loop", "collective"):
            assert group.anchor is not None
            self._block(0, [(v, axes("i", v.shape), ()) for v in group.anchor.inputs], given)
            kept = [v for v in group.anchor.outputs if not self.schedule.stores.get((group, v))]  # states that nobody reads
            return self._moved() + sum(v.type.nbytes for v in kept)
        else:
            for node in group.inlined:
                if node.op.kind is Kind.REDUCTION:  # a total, which is found beforehand
                    self._block(0, [(node.inputs[0], axes("i", node.inputs[0].shape), ())], Known())
                    given.add((node.outputs[0], ()))
            if group.kind == "reduction":
                self._rows(given)
            else:
                stored = [n.outputs[0] for n in group.nodes if n.outputs[0] in group.outputs]
                roots = [(v, group.index[v], ()) for v in stored]
                self._block(0, [*roots, *((v, group.domain, ()) for v in group.copies)], given)
        return self._moved()

    def _moved(self) -> int:
        """The bytes that were found to be read, and those that are written."""
        written = {
            (p.slot, p.start): v.type.size * p.slot.type.dtype.itemsize
            for v in (*self.group.outputs, *self.group.copies)
            for p in self.schedule.stores.get((self.group, v), ())
        }
        return sum(self.read.values()) + sum(written.values())

    def _template(self) -> None:
        group = self.group
        assert group.anchor is not None
        loaders, to = self.traffic.closures(group.anchor)
        for first in loaders:
            self._block(0, [first], Known())
        known = Known((v, group.index[v]) for v in group.anchor.outputs)
        self._block(0, [(v, group.index[v], ()) for v in group.values() if v in group.outputs], known, to)

    def _rows(self, of_row: Known) -> None:
        """Counts the passes over the rows of a reduction; ``of_row`` is what is known of a row as a whole."""
        group = self.group
        _, columns, keep = rows_of(group, self.schedule, self.traffic.policy.row_limit)
        apart = not keep and (columns or group.reduced_size > ROW_LIMIT)
        full = group.full(group.values())
        if not apart and self._whole(full, of_row):
            return
        level, rows = group.levels(), group.folded()
        known = Known(of_row)
        for number in range(max(level[n] for n in group.nodes) + 1):
            known = known if keep else Known(of_row)
            inside = [(n.inputs[0], group.domain, ()) for n in rows if level[n] == number]
            inside += [(v, group.index[v], ()) for v in group.outputs if level[v.node] == number and v in full]
            turn = (number if inside else number - 1) if apart else 0  # nothing in the last loop: no loop
            self._block(turn, inside, known)
            of_row.update((v, group.index[v]) for n in rows if level[n] == number for v in n.outputs)
            after = Known(of_row)
            for v in group.values():
                ready = level[v.node] + (v.node.op.kind is Kind.REDUCTION)
                if v not in full and (ready == number + 1 or ready == number == 0) and (v, group.index[v]) not in of_row:
                    self._block(turn, [(v, group.index[v], ())], after)
                    of_row.add((v, group.index[v]))
                    after.add((v, group.index[v]))
            known |= of_row

    def _whole(self, full: set[Value], of_row: Known) -> bool:
        """Counts all passes over the rows at once, where each buffer is read whole: once, then, however many passes do."""
        group = self.group
        rows, known = group.folded(), Known(of_row)
        known.update((v, group.index[v]) for n in rows for v in n.outputs)
        first: list[Request] = [(n.inputs[0], group.domain, ()) for n in rows]
        first += [(v, group.index[v], ()) for v in group.values() if v in group.outputs or v not in full]
        before = dict(self.read)
        self._block(0, first, known)
        if all(size == slot.type.nbytes for (_, slot), size in self.read.items()):
            return True
        self.read = before
        return False

    def _block(self, turn: int, first: Iterable[Request], known: Known, to: dict[str, Expr] | None = None) -> None:
        """Adds what the requests ``first`` load in a turn of reading memory, beyond what is ``known``, and adds it to that."""
        pending = list(first)
        while pending:
            request = pending.pop()
            v, index, guards = request
            if request in known or (v, index) in known or not v.type.size or v.node.op.kind is Kind.GENERATED:
                continue
            known.add(request)
            needs = self._needs(v, index, guards)
            if needs is not None:
                pending += needs
                continue
            load = self.traffic.load(self.group.anchor if to else None, to or {}, request, self.schedule.home[v])
            slot, reached = load[0], load[3]
            if load not in known:
                known.add(load)
                found = self.read.get((turn, slot), 0) + min(reached, self.domain) * slot.type.dtype.itemsize
                self.read[turn, slot] = min(found, slot.type.nbytes)

    def _needs(self, v: Value, index: Index, guards: Guards) -> list[Request] | None:
        """The reads that make an element of ``v`` in this kernel; None if it is loaded."""
        node, group = v.node, self.group
        kind = node.op.kind
        if kind is Kind.VIEW:
            if v in self.inputs or v in self.schedule.buffered:
                return None
            pieces = self.traffic.pieces(v, index)
            return [(x, at, guards + mask) for x, at, mask in pieces] if guards else pieces
        if node in group.segments:
            return [(node.inputs[0], group.segments[node], ())]
        if kind is Kind.REDUCTION or node not in self.members or node is group.anchor:
            return None
        if kind is Kind.GATHER:
            data, position = node.inputs
            dim = node.attrs["dim"]
            at = (*index[:dim], axis(position.name, data.shape[dim]), *index[dim + 1 :])
            return [(position, index, guards), (data, at, ())]
        return [(x, index if x.ndim == len(index) else (), guards) for x in node.inputs]
