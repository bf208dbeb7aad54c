"""ATen operators that are losses and whose decomposition in torch gives other numbers than eager mode."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.torch.table import aten
from graphrt.ir import Value


@aten("multilabel_margin_loss.default")
def multilabel_margin_loss(input: Value, target: Value, reduction: int = 1) -> Value:
    return F.multilabel_margin_loss(input, target, ("none", "mean", "sum")[reduction])
