"""The torch front end: models of torch as graphs, and graphrt as a backend of torch.compile."""

from graphrt.frontends.torch.export import from_torch

__all__ = ["from_torch"]
