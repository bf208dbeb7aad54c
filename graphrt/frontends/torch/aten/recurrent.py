"""ATen operators that are whole recurrent networks over a sequence of static length."""

from __future__ import annotations

import graphrt.ops as F
from graphrt.frontends.torch.table import same

same((F.lstm, F.gru, F.rnn_tanh, F.rnn_relu), "input")
