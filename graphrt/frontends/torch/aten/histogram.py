"""ATen operators that count elements by their size."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.torch.table import aten, same

same([F.histc, F.bincount])
aten("histogram.bin_ct", "histogram.bins_tensor")(F.histogram)
