"""Losses of detectors and of masks, in which few elements of many are positive."""

from __future__ import annotations

from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.ops.base import cast, full_precision, function, require_float, tensor
from graphrt.ops.elementwise import pow, sigmoid
from graphrt.ops.loss import binary_cross_entropy_with_logits, reduced, same_shape
from graphrt.ops.reduction import sum
from graphrt.ops.view import reshape


@function
@full_precision
def sigmoid_focal_loss(input: Value, target: Value, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none") -> Value:
    """Focal loss of ``sigmoid(input)`` with ``target`` in [0, 1] of one shape (Lin et al., ICCV 2017).

    Binary cross-entropy times ``(1 - p)**gamma``, p the probability of what is true, and ``alpha`` for positives, ``1 - alpha``
    for negatives; -1 leaves that out.
    """
    if not (0.0 <= alpha <= 1.0 or alpha == -1) or gamma < 0:
        raise ArgumentError(f"alpha must lie in [0, 1] or be -1 and gamma be at least 0, got {alpha} and {gamma}")
    same_shape(input, target)
    require_float(input.dtype, "input")
    goal = cast(target, input.dtype)
    p = sigmoid(input)
    wrong = p * (1.0 - goal) + (1.0 - p) * goal
    loss = binary_cross_entropy_with_logits(input, goal, reduction="none")
    if gamma:
        loss = loss * (wrong * wrong if gamma == 2 else pow(wrong, float(gamma)))
    if alpha >= 0:
        loss = loss * (goal * alpha + (1.0 - goal) * (1.0 - alpha))
    return reduced(loss, reduction)


@function
@full_precision
def dice_loss(input: Value, target: Value, smooth: float = 1e-5, reduction: str = "mean") -> Value:
    """One less the Dice coefficient of each example's probabilities [N, ...] and ``target`` in [0, 1] of one shape, [N].

    ``1 - (2 * sum(p * t) + smooth) / (sum(p**2) + sum(t**2) + smooth)`` (Milletari et al., "V-Net", 2016).
    """
    same_shape(tensor(input), tensor(target, "target"))
    require_float(input.dtype, "input")
    p = reshape(input, (input.shape[0], -1) if input.ndim else (1, 1))
    t = reshape(cast(target, input.dtype), p.shape)
    return reduced(1.0 - (2.0 * sum(p * t, 1) + smooth) / (sum(p * p, 1) + sum(t * t, 1) + smooth), reduction)
