"""The torch front end: models of torch as graphs, and graphrt as a backend of torch.compile.

Importing it makes ``torch.compile(model, backend="graphrt")`` known where the package's entry point is not installed.
"""

import torch

from graphrt.frontends.torch.dynamo import backend
from graphrt.frontends.torch.export import from_torch
from graphrt.frontends.torch.module import to_torch

__all__ = ["backend", "from_torch", "to_torch"]

if "graphrt" not in torch._dynamo.list_backends(exclude_tags=()):
    torch._dynamo.register_backend(backend, "graphrt")
