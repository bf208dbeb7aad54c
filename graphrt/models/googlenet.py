"""GoogLeNet (Szegedy et al., "Going deeper with convolutions", CVPR 2015), as torchvision has it: batch norm, and 3x3
convolutions where the paper has 5x5."""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


class BasicConv2d(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, input: Value) -> Value:
        return F.relu(self.bn(self.conv(input)))


class Inception(nn.Module):
    """1x1, 3x3, 3x3 and pooled branches, concatenated."""

    def __init__(self, inputs: int, one: int, three_in: int, three: int, five_in: int, five: int, pooled: int) -> None:
        self.branch1 = BasicConv2d(inputs, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(inputs, three_in, 1), BasicConv2d(three_in, three, 3))
        self.branch3 = nn.Sequential(BasicConv2d(inputs, five_in, 1), BasicConv2d(five_in, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), BasicConv2d(inputs, pooled, 1))

    def forward(self, input: Value) -> Value:
        return F.concat([branch(input) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)], 1)


class Auxiliary(nn.Module):
    """A classifier on the way, which brings gradients to the layers before it."""

    def __init__(self, inputs: int, num_classes: int, dropout: float) -> None:
        self.conv = BasicConv2d(inputs, 128, 1)
        self.fc1, self.fc2, self.dropout = nn.Linear(2048, 1024), nn.Linear(1024, num_classes), nn.Dropout(dropout)

    def forward(self, input: Value) -> Value:
        x = F.flatten(self.conv(F.adaptive_avg_pool2d(input, 4)), 1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    """[N, 3, H, W] -> logits [N, num_classes]; names of parameters as torchvision has them."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2, aux_logits: bool = False) -> None:
        self.conv1, self.conv2, self.conv3 = BasicConv2d(3, 64, 7, 2), BasicConv2d(64, 64, 1), BasicConv2d(64, 192, 3)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.aux1 = Auxiliary(512, num_classes, 0.7) if aux_logits else None
        self.aux2 = Auxiliary(528, num_classes, 0.7) if aux_logits else None
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(1024, num_classes)

    def forward(self, input: Value) -> Value | tuple[Value, ...]:
        x = F.max_pool2d(self.conv1(input), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.inception3b(self.inception3a(x)), 3, 2, ceil_mode=True)
        early = x = self.inception4a(x)
        late = x = self.inception4d(self.inception4c(self.inception4b(x)))
        x = F.max_pool2d(self.inception4e(x), 2, 2, ceil_mode=True)
        logits = self.fc(self.dropout(F.mean(self.inception5b(self.inception5a(x)), (2, 3))))
        if self.aux1 is None or self.aux2 is None or not self.training:
            return logits
        return logits, self.aux2(late), self.aux1(early)


def googlenet(num_classes: int = 1000, dropout: float = 0.2, aux_logits: bool = False) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes]; 6,624,904 parameters with 1000 classes, 13,004,888 with ``aux_logits``.

    Szegedy et al., "Going deeper with convolutions", CVPR 2015. ``dropout`` is before the last layer. ``aux_logits`` adds the
    two auxiliary classifiers, whose logits are returned behind the others in training mode, the later one first:
    ``Trainer(net, [loss, (loss, 0.3), (loss, 0.3)], ...)``.
    """
    return GoogLeNet(num_classes, dropout, aux_logits)
