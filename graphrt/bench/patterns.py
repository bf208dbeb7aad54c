"""The patterns of ``graphrt bench fusion`` by name, in the order of their families."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from graphrt.bench.builder import FAMILIES, SIZES, Builder, Pattern, graph
from graphrt.bench.families import attention, conv, elementwise, linear, loss, norm, optimizer, recurrent, softmax

__all__ = ["FAMILIES", "PATTERNS", "SIZES", "Builder", "Pattern", "graph"]

PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {
        pattern.name: pattern
        for family in (conv, linear, norm, softmax, loss, attention, recurrent, optimizer, elementwise)
        for pattern in family.PATTERNS
    }
)
