"""Training: the loop, metrics, callbacks, checkpoints, progress and curves."""

from graphrt.train.average_precision import MeanAveragePrecision
from graphrt.train.callbacks import Callback, CSVLogger, EarlyStopping, ModelCheckpoint, SamplePictures
from graphrt.train.checkpoint import read_metadata, save_checkpoint
from graphrt.train.counted import AUC, F1, R2, ConfusionMatrix, MeanIoU, Metric, Precision, Recall
from graphrt.train.curves import save_curves
from graphrt.train.history import History
from graphrt.train.metrics import TopK
from graphrt.train.progress import TrainingProgress
from graphrt.train.range_test import RangeTest, lr_range_test
from graphrt.train.tensorboard import TensorBoard
from graphrt.train.trainer import Trainer

__all__ = [
    "AUC", "F1", "R2", "CSVLogger", "Callback", "ConfusionMatrix", "EarlyStopping", "History", "MeanAveragePrecision",
    "MeanIoU", "Metric", "ModelCheckpoint", "Precision", "RangeTest", "Recall", "SamplePictures", "TensorBoard", "TopK",
    "Trainer", "TrainingProgress",
    "lr_range_test", "read_metadata", "save_checkpoint", "save_curves",
]  # fmt: skip
