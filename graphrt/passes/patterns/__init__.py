"""Rewrite rules over several ops. What one op knows of itself is its ``OpDef.simplify``; only these rules name ops."""

from collections.abc import Mapping, Sequence

from graphrt.passes.patterns import max_pool, sums
from graphrt.passes.patterns.match import Rule

_ALL = (*max_pool.RULES, *sums.RULES)
RULES: Mapping[str, Sequence[Rule]] = {
    name: [rule for rule in _ALL if rule.pattern.name == name] for name in dict.fromkeys(rule.pattern.name for rule in _ALL)
}  # by the op at their root
