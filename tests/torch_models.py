"""Small networks as torchvision and timm build them, written in plain torch.nn."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.downsample: nn.Module | None = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += identity
        return F.relu(y)


class ResNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class VGG(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (8, "M", 16, "M", 16, 16, "M"):
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(nn.Linear(16 * 9, 32), nn.ReLU(True), nn.Dropout(0.0), nn.Linear(32, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, squeezed: int, scale: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.scale = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.fc2(F.silu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return x * self.scale(s)


class InvertedResidual(nn.Module):
    """MobileNetV2's and V3's block, and EfficientNet's MBConv."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int, act: type[nn.Module], scale: nn.Module | None) -> None:
        super().__init__()
        mid = cin * expand
        layers: list[nn.Module] = [nn.Conv2d(cin, mid, 1, bias=False), nn.BatchNorm2d(mid), act()] if expand > 1 else []
        layers += [nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False), nn.BatchNorm2d(mid), act()]
        layers += [] if scale is None else [SqueezeExcitation(mid, max(1, mid // 4), scale)]
        self.conv = nn.Sequential(*layers, nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout))
        self.use_res_connect = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class Inception(nn.Module):
    """GoogLeNet's block: 1x1, 3x3, 3x3 and pooled branches."""

    def __init__(self, cin: int, one: int, three_in: int, three: int, five_in: int, five: int, pooled: int) -> None:
        super().__init__()

        def unit(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
            return [conv, nn.BatchNorm2d(outputs, eps=0.001), nn.ReLU()]

        self.branches = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                unit(cin, one, 1),
                unit(cin, three_in, 1) + unit(three_in, three, 3),
                unit(cin, five_in, 1) + unit(five_in, five, 3),
                [nn.MaxPool2d(3, 1, 1), *unit(cin, pooled, 1)],
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def mobilenet(classes: int = 10) -> nn.Module:
    blocks = [InvertedResidual(8, 8, 1, 1, nn.ReLU6, None), InvertedResidual(8, 12, 2, 4, nn.Hardswish, nn.Hardsigmoid())]
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
    head = nn.Sequential(nn.Linear(12, 16), nn.Hardswish(), nn.Linear(16, classes))
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def efficientnet(classes: int = 10) -> nn.Module:
    blocks = [InvertedResidual(8, 8, 1, 1, nn.SiLU, nn.Sigmoid()), InvertedResidual(8, 12, 2, 4, nn.SiLU, nn.Sigmoid())]
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes))


class Block(nn.Module):
    """A timm-style transformer block: pre-norm, fused qkv, scaled dot product attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.gamma = nn.Parameter(torch.full((dim,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.gamma * self.proj(y)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, classes: int = 10, dim: int = 16) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.1)
        self.pos_embed = nn.Parameter(torch.randn(1, 17, dim) * 0.1)
        self.blocks, self.norm, self.head = (
            nn.Sequential(Block(dim, 2), Block(dim, 2)),
            nn.LayerNorm(dim),
            nn.Linear(dim, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def _double(cin: int, cout: int) -> nn.Module:
    first = [nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = _double(3, 4), _double(4, 8), _double(8, 8)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.turn, self.up2, self.up1 = nn.ConvTranspose2d(8, 8, 2, 2), _double(16, 8), _double(12, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        c = self.up2(torch.cat([self.turn(c), b], 1))
        return self.out(self.up1(torch.cat([self.up(c), a], 1)))


MODELS = {
    "ResNet": ResNet,
    "VGG": VGG,
    "MobileNet": mobilenet,
    "EfficientNet": efficientnet,
    "ViT": ViT,
    "U-Net": UNet,
}
