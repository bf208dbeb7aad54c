"""Augmentation: pictures [N, C, H, W] changed at random in training, inside the compiled step; the identity in evaluation.

    trainer = grt.Trainer(net, loss, optimizer, augment=[augment.RandomCrop(32, padding=4), augment.RandomHorizontalFlip()])

Names and arguments are those of torchvision.transforms.v2, but each picture of a batch gets numbers of its own. They are drawn
from the graph's counter (``ops.random``), so a run that goes on from a checkpoint draws what it would have drawn.

    input ─▶ draw ─▶ numbers by name, [N] each ─┐
    input ──────────────────────────────────────┴▶ change ─▶ output
"""

from graphrt.nn.augment.base import Augmentation, Compose
from graphrt.nn.augment.geometry import (
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
)
from graphrt.nn.augment.mixing import CutMix, MixUp
from graphrt.nn.augment.pixels import ColorJitter, Cutout, GaussianNoise, RandomErasing

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "affine": RandomAffine,
    "color_jitter": ColorJitter,
    "crop": RandomCrop,
    "cutmix": CutMix,
    "cutout": Cutout,
    "erasing": RandomErasing,
    "gaussian_noise": GaussianNoise,
    "horizontal_flip": RandomHorizontalFlip,
    "mixup": MixUp,
    "resized_crop": RandomResizedCrop,
    "rotation": RandomRotation,
    "vertical_flip": RandomVerticalFlip,
}

__all__ = [
    "AUGMENTATIONS", "Augmentation", "ColorJitter", "Compose", "CutMix", "Cutout", "GaussianNoise", "MixUp", "RandomAffine",
    "RandomCrop", "RandomErasing", "RandomHorizontalFlip", "RandomResizedCrop", "RandomRotation", "RandomVerticalFlip",
]  # fmt: skip
