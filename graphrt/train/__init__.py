"""Training: the loop, checkpoints, progress and curves."""

from graphrt.train.checkpoint import read_metadata, save_checkpoint
from graphrt.train.curves import save_curves
from graphrt.train.history import History
from graphrt.train.progress import TrainingProgress
from graphrt.train.trainer import Trainer

__all__ = ["History", "Trainer", "TrainingProgress", "read_metadata", "save_checkpoint", "save_curves"]
