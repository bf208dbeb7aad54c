"""Data: arrays in memory and batches of them."""

from graphrt.data.mnist import Dataset, batches, load_mnist

__all__ = ["Dataset", "batches", "load_mnist"]
