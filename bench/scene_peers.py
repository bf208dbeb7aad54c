"""The networks of ``graphrt.train.tasks`` as a user of torch writes them, batched as ours are, with their losses.

Parameters come in the order of graphrt's, so that weights are copied from one side to the other, and losses compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as T
from torch import Tensor, nn

from graphrt.models import anchor_boxes, default_boxes

LARGEST = math.log(1000 / 16)
Truth = dict[str, Tensor]


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes [N, K, 4] and [N, A, 4], [N, K, A]; 0 where there is no area."""
    a, b = a[:, :, None], b[:, None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return torch.where(union > 0, shared / union, 0.0)


def centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encoded(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    (to, size), (by, own) = centred(boxes), centred(anchors)
    return torch.cat([(to - by) / own, torch.log(size / own)], -1) * boxes.new_tensor(weights)


def decoded(deltas: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    by, own = centred(anchors)
    deltas = deltas / deltas.new_tensor(weights)
    centre, size = by + deltas[..., :2] * own, own * torch.exp(deltas[..., 2:].clamp(max=LARGEST))
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def matched(iou: Tensor, present: Tensor, above: float, below: float, rescue: str | None = None) -> Tensor:
    """The truth of each anchor [N, A], -1 for background, -2 for neither."""
    iou = torch.where(present[:, :, None], iou, -1.0)
    best, own = iou.max(1)
    found = torch.where(best >= above, own, torch.where(best < below, -1, -2))
    if rescue == "ties":
        top = (iou == iou.amax(2, keepdim=True)) & (iou >= 0)
        found = torch.where(top.any(1), own, found)
    if rescue == "best":
        n, k = present.nonzero(as_tuple=True)
        found[n, iou.argmax(2)[n, k]] = k
    return found


def rows(input: Tensor, index: Tensor) -> Tensor:
    """Rows of ``input`` [N, K, D] at ``index`` [N, A]."""
    return input.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, input.shape[-1]))


def box_loss(
    deltas: Tensor, anchors: Tensor, boxes: Tensor, found: Tensor, weights: Sequence[float], beta: float | None
) -> Tensor:
    positive = found >= 0
    wanted = encoded(rows(boxes, found)[positive], anchors.expand(*found.shape, 4)[positive], weights)
    if beta is None:
        return T.mse_loss(deltas[positive], wanted, reduction="sum")
    return T.smooth_l1_loss(deltas[positive], wanted, beta=beta, reduction="sum")


def by_place(map: Tensor, boxes: int) -> Tensor:
    n, c, h, w = map.shape
    return map.view(n, boxes, c // boxes, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, c // boxes)


class SmallMaps(nn.Module):
    def __init__(self, widths: Sequence[int], count: int) -> None:
        super().__init__()
        self.count = count
        self.stages = nn.ModuleList(stage(a, b) for a, b in zip((3, *widths), widths, strict=False))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for one in self.stages:
            x = one(x)
            maps.append(x)
        return maps[-self.count :]


def stage(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


class Pyramid(nn.Module):
    """A trunk of two maps of 32 and 64 channels, and the pyramid over them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = SmallMaps((16, 32, 64), 2)
        self.inner = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (32, 64))
        self.outer = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine, coarse = self.body(x)
        top = self.inner[1](coarse)
        low = self.inner[0](fine) + T.interpolate(top, fine.shape[2:], mode="nearest")
        return [self.outer[0](low), self.outer[1](top)]


class YOLO(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, kernel, pool in ((16, 3, True), (32, 3, True), (64, 3, True), (96, 3, False), (64, 1, False)):
            conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.LeakyReLU(0.1), *([nn.MaxPool2d(2)] if pool else [])]
            channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * 49, 256), nn.LeakyReLU(0.1), nn.Dropout(0.2), nn.Linear(256, 49 * 13)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).view(-1, 49, 13)

    def loss(self, x: Tensor, truth: Truth, size: int = 56, s: int = 7) -> Tensor:
        output = self(x)
        n = len(x)
        five, classes = output[..., :10].reshape(n, 49, 2, 5), output[..., 10:]
        place = torch.arange(49)
        corner = torch.stack([place % s, place // s], -1)[:, None]
        centre, sides = (corner + five[..., :2]) * (size / s), five[..., 2:4] ** 2 * size
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], -1)
        middle, true = centred(truth["box"] * (s / size))
        at = middle.long().clamp(0, s - 1)
        owner = torch.full((n, 49), -1)
        for k in range(true.shape[1]):  # the last one of a cell stays
            here = truth["present"][:, k].nonzero()[:, 0]
            owner[here, at[here, k, 1] * s + at[here, k, 0]] = k
        there = owner >= 0
        own, wide = rows(middle, owner), rows(true, owner) / s
        iou = overlaps(rows(truth["box"], owner).view(-1, 1, 4), boxes.view(-1, 2, 4)).view(n, 49, 2).detach()
        answers = (T.one_hot(iou.argmax(-1), 2) * there[..., None]).float()
        wanted = torch.cat([own - own.floor(), wide.sqrt()], -1)[:, :, None]
        apart = ((five[..., :4] - wanted) ** 2 * answers[..., None]).sum((0, 1, 2))
        known = T.one_hot(rows(truth["class"][..., None], owner)[..., 0].clamp(min=0), 3)
        wrong = ((classes - known) ** 2 * there[..., None]).sum()
        object = ((five[..., 4] - iou) ** 2 * answers).sum()
        return (5 * apart.sum() + object + 0.5 * (five[..., 4] ** 2 * (1 - answers)).sum() + wrong) / n


class SSD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = SmallMaps((16, 32, 64, 96), 2)
        self.classes = nn.ModuleList(nn.Conv2d(c, 16, 3, padding=1) for c in (64, 96))
        self.deltas = nn.ModuleList(nn.Conv2d(c, 16, 3, padding=1) for c in (64, 96))
        self.register_buffer(
            "anchors", torch.from_numpy(default_boxes((64, 64), ((8, 8), (4, 4)), ((2,), (2,)), (0.2, 0.38, 0.6)))
        )

    def loss(self, x: Tensor, truth: Truth) -> Tensor:
        maps = self.backbone(x)
        logits, deltas = (
            torch.cat([by_place(head(m), 4) for head, m in zip(heads, maps, strict=True)], 1)
            for heads in (self.classes, self.deltas)
        )
        found = matched(overlaps(truth["box"], self.anchors[None]), truth["present"], 0.5, 0.5, "best")
        positive = found >= 0
        label = torch.where(positive, truth["class"].gather(1, found.clamp(min=0)) + 1, 0)
        each = T.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none").view(label.shape)
        count = positive.sum(1, keepdim=True)
        rank = torch.where(positive, -1.0, each.detach()).argsort(1, descending=True).argsort(1)
        counts = positive | (rank < 3 * count)
        total = each[counts].sum() + box_loss(deltas, self.anchors, truth["box"], found, (10, 10, 5, 5), 1.0)
        return total / count.sum().clamp(min=1)


SIZES = ((10.0, 14.0), (20.0, 28.0))


class RetinaNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pyramid(48)
        self.classes = nn.Sequential(nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 18, 3, padding=1))
        self.deltas = nn.Sequential(nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 24, 3, padding=1))
        self.register_buffer("anchors", torch.from_numpy(anchor_boxes((64, 64), ((16, 16), (8, 8)), SIZES)))

    def loss(self, x: Tensor, truth: Truth) -> Tensor:
        maps = self.backbone(x)
        logits, deltas = (torch.cat([by_place(head(m), 6) for m in maps], 1) for head in (self.classes, self.deltas))
        found = matched(overlaps(truth["box"], self.anchors[None]), truth["present"], 0.5, 0.4, "ties")
        positive = found >= 0
        label = torch.where(positive, truth["class"].gather(1, found.clamp(min=0)), 3)
        known = T.one_hot(label, 4)[..., :3].float()
        p = logits.sigmoid()
        wrong = p * (1 - known) + (1 - p) * known
        each = T.binary_cross_entropy_with_logits(logits, known, reduction="none") * wrong**2 * (0.75 - 0.5 * known)
        total = each[found != -2].sum() + box_loss(deltas, self.anchors, truth["box"], found, (1, 1, 1, 1), 1 / 9)
        return total / positive.sum().clamp(min=1)


# --- regions -------------------------------------------------------------------------------------------------------


def sampled(found: Tensor, count: int, share: float) -> Tensor:
    positive, negative = found >= 0, found == -1
    drawn = torch.rand(found.shape)

    def rank(of: Tensor) -> Tensor:
        return torch.where(of, drawn, 2.0).argsort(-1).argsort(-1)

    chosen = positive & (rank(positive) < int(count * share))
    return chosen | (negative & (rank(negative) < count - chosen.sum(-1, keepdim=True)))


def cut(map: Tensor, boxes: Tensor, size: int, samples: int, low: Tensor, span: Tensor, zeros: bool = False) -> Tensor:
    """Bilinear samples of ``map`` [N, C, H, W], size * samples of a side from ``low`` over ``span`` [N, P, 2], then means.

    Beyond the outer pixels they are those, or zeros.
    """
    n, p = boxes.shape[:2]
    count = size * samples
    at = low[:, :, None] + (torch.arange(count)[:, None] + 0.5) / count * span[:, :, None]  # [N, P, count, 2]
    limit = torch.tensor([map.shape[3] - 1.0, map.shape[2] - 1.0])
    at = 2 * (at if zeros else torch.minimum(at.clamp(min=0), limit)) / limit - 1
    x = at[:, :, None, :, 0].expand(n, p, count, count)
    y = at[:, :, :, None, 1].expand(n, p, count, count)
    grid = torch.stack([x, y], -1).view(n, p * count, count, 2)
    found = T.grid_sample(map, grid, align_corners=True)
    found = T.avg_pool2d(found, samples) if samples > 1 else found
    return found.view(n, -1, p, size, size).transpose(1, 2).flatten(0, 1)


def aligned(map: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    boxes = boxes * scale
    return cut(map, boxes, size, 2, boxes[..., :2], (boxes[..., 2:] - boxes[..., :2]).clamp(min=1))


class Regions(nn.Module):
    """Base: ``judged(seen, boxes)`` of a sample of proposals and truths, and its losses."""

    count, lowest, beta = 16, 0.0, 1.0
    weights = (10.0, 10.0, 5.0, 5.0)
    judged: Callable[..., tuple[Tensor, Tensor]]

    def sample(self, boxes: Tensor, truth: Truth) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        boxes = torch.cat([boxes, truth["box"]], 1)
        iou = overlaps(truth["box"], boxes)
        found = matched(iou, truth["present"], 0.5, 0.5)
        best = torch.where(truth["present"][..., None], iou, 0.0).amax(1)
        found = torch.where(((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1) & (best >= self.lowest), found, -2)
        chosen = sampled(found, self.count, 0.25)
        order = (chosen.int() + (chosen & (found >= 0)).int()).argsort(1, descending=True)[:, : self.count]
        counts = chosen.gather(1, order)
        return rows(boxes, order) * counts[..., None], found.gather(1, order), counts, best.gather(1, order)

    def region_loss(self, seen: Any, sample: Any, truth: Truth) -> Tensor:
        boxes, own, counts, best = sample
        label = torch.where(own >= 0, truth["class"].gather(1, own.clamp(min=0)) + 1, 0)
        logits, deltas = self.judged(seen, boxes)
        deltas = deltas.gather(2, label[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        own = torch.where(counts & (own >= 0), own, -1)
        own = own if self.beta is not None else torch.where(best >= 0.6, own, -1)
        total = T.cross_entropy(logits[counts], label[counts], reduction="sum")
        return (total + box_loss(deltas, boxes, truth["box"], own, self.weights, self.beta)) / counts.sum().clamp(min=1)


def said(n: int, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    return logits.view(n, -1, 4), deltas.view(n, -1, 4, 4)


class RCNN(Regions):
    beta = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.trunk = SmallMaps((16, 32, 64), 1)
        self.head = nn.Sequential(nn.Linear(576, 64), nn.ReLU())
        self.cls_score, self.bbox_pred = nn.Linear(64, 4), nn.Linear(576, 16)

    def judged(self, seen: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        sides = (boxes[..., 2:] - boxes[..., :2]) * (24 / 20)
        low = (boxes[..., :2] + boxes[..., 2:]) / 2 - sides / 2
        step = (sides - 1) / 23
        pooled = self.trunk(cut(seen, boxes, 24, 1, low - step / 2, step * 24, True))[0].flatten(1)
        return said(len(boxes), self.cls_score(self.head(pooled)), self.bbox_pred(pooled.detach()))

    def loss(self, x: Tensor, truth: Truth) -> Tensor:
        return self.region_loss(x, self.sample(truth["proposals"], truth), truth)


class FastRCNN(Regions):
    lowest = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.conv = SmallMaps((16, 32), 1), nn.Conv2d(32, 48, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(48 * 49, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.cls_score, self.bbox_pred = nn.Linear(64, 4), nn.Linear(64, 16)

    def judged(self, seen: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        pooled = []
        limit = seen.shape[2] - 1
        for map, own in zip(seen, (boxes / 4 + 0.5).floor().long().clamp(0, limit).tolist(), strict=True):
            pooled += [T.adaptive_max_pool2d(map[:, y1 : max(y1, y2) + 1, x1 : max(x1, x2) + 1], 7) for x1, y1, x2, y2 in own]
        hidden = self.head(torch.stack(pooled).flatten(1))
        return said(len(boxes), self.cls_score(hidden), self.bbox_pred(hidden))

    def loss(self, x: Tensor, truth: Truth) -> Tensor:
        seen = T.relu(self.conv(self.backbone(x)[0]))
        return self.region_loss(seen, self.sample(truth["proposals"], truth), truth)


class FasterRCNN(Regions):
    beta = 1 / 9

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Pyramid(48)
        self.rpn = nn.Sequential(nn.Conv2d(48, 48, 3, padding=1), nn.ReLU())
        self.objectness, self.deltas = nn.Conv2d(48, 2, 1), nn.Conv2d(48, 8, 1)
        self.head = nn.Sequential(nn.Linear(48 * 49, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.cls_score, self.bbox_pred = nn.Linear(64, 4), nn.Linear(64, 16)
        self.register_buffer("anchors", torch.from_numpy(anchor_boxes((64, 64), ((16, 16), (8, 8)), SIZES, (1.0,))))

    @torch.no_grad()
    def proposed(self, objectness: Tensor, deltas: Tensor) -> Tensor:
        best, scores, start = [], [], 0
        for count in (512, 128):
            boxes = decoded(deltas[:, start : start + count], self.anchors[start : start + count], (1, 1, 1, 1)).clamp(0, 64)
            score, at = objectness[:, start : start + count].topk(min(64, count), 1)
            boxes = rows(boxes, at)
            against = overlaps(boxes, boxes) > 0.7
            keep = ((boxes[..., 2:] - boxes[..., :2]) >= 1e-3).all(-1)
            for i in range(boxes.shape[1] - 1):
                keep[:, i + 1 :] &= ~(against[:, i, i + 1 :] & keep[:, i : i + 1])
            best.append(boxes)
            scores.append(torch.where(keep, score, -math.inf))
            start += count
        score, at = torch.cat(scores, 1).topk(16, 1)
        return torch.where(torch.isfinite(score)[..., None], rows(torch.cat(best, 1), at), 0.0)

    def judged(self, seen: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.head(aligned(seen, boxes, 7, 0.25).flatten(1))
        return said(len(boxes), self.cls_score(hidden), self.bbox_pred(hidden))

    def loss(self, x: Tensor, truth: Truth) -> Tensor:
        maps = self.backbone(x)
        shared = [self.rpn(m) for m in maps]
        objectness, deltas = (torch.cat([by_place(f(m), 2) for m in shared], 1) for f in (self.objectness, self.deltas))
        objectness = objectness[..., 0]
        found = matched(overlaps(truth["box"], self.anchors[None]), truth["present"], 0.7, 0.3, "ties")
        sample = sampled(found, 64, 0.5)
        known = (found >= 0).float()
        total = T.binary_cross_entropy_with_logits(objectness[sample], known[sample], reduction="sum")
        total = total + box_loss(deltas, self.anchors, truth["box"], torch.where(sample, found, -1), (1, 1, 1, 1), 1 / 9)
        regions = self.sample(self.proposed(objectness, deltas), truth)
        return total / sample.sum() + self.region_loss(maps[0], regions, truth) + self.more(maps[0], regions, truth)

    def more(self, seen: Tensor, sample: Any, truth: Truth) -> Tensor | float:
        return 0.0


class MaskRCNN(FasterRCNN):
    def __init__(self) -> None:
        super().__init__()
        self.masks = nn.Sequential(
            *(nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(48, 48, 2, 2), nn.ReLU(), nn.Conv2d(48, 4, 1)),
        )

    def more(self, seen: Tensor, sample: Any, truth: Truth) -> Tensor:
        boxes, own, counts, _ = (part[:, :4] for part in sample)
        counts = (counts & (own >= 0)).flatten()
        logits = self.masks(aligned(seen, boxes, 14, 0.25))[counts]
        label = truth["class"].gather(1, own.clamp(min=0)).flatten()[counts] + 1
        n, k, h, w = truth["mask"].shape
        number = (torch.arange(n)[:, None] * k + own.clamp(min=0)).flatten()[counts]
        masks, flat = truth["mask"].view(n * k, 1, h, w)[number].float(), boxes.flatten(0, 1)[counts][:, None]
        wanted = cut(masks, flat, 28, 1, flat[..., :2], (flat[..., 2:] - flat[..., :2]).clamp(min=1))[:, 0]
        return T.binary_cross_entropy_with_logits(logits[torch.arange(len(label)), label], wanted)


PEERS: dict[str, Callable[[], Any]] = {
    "yolo": YOLO,
    "ssd": SSD,
    "retinanet": RetinaNet,
    "rcnn": RCNN,
    "fast_rcnn": FastRCNN,
    "faster_rcnn": FasterRCNN,
    "mask_rcnn": MaskRCNN,
}
