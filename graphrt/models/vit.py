"""Networks on patches: the vision transformer, and the MLP-Mixer."""

from __future__ import annotations

import numpy as np

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


class EncoderBlock(nn.Module):
    """Self-attention and two layers, each behind a norm and beside a shortcut."""

    def __init__(self, size: int, heads: int, inner: int, dropout: float) -> None:
        self.ln_1, self.self_attention = nn.LayerNorm(size, 1e-6), nn.MultiheadAttention(size, heads, dropout, batch_first=True)
        self.ln_2, self.dropout = nn.LayerNorm(size, 1e-6), nn.Dropout(dropout)
        layers = (nn.Linear(size, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, size), nn.Dropout(dropout))
        self.mlp = nn.Sequential(*layers)

    def forward(self, input: Value) -> Value:
        x = self.ln_1(input)
        attended, _ = self.self_attention(x, x, x, need_weights=False)
        x = input + self.dropout(attended)
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Blocks behind the sum of tokens and their positions."""

    def __init__(self, tokens: int, size: int, depth: int, heads: int, inner: int, dropout: float) -> None:
        self.pos_embedding = nn.init.normal_(nn.Parameter(np.empty((1, tokens, size), np.float32)), std=0.02)
        blocks = {f"encoder_layer_{i}": EncoderBlock(size, heads, inner, dropout) for i in range(depth)}
        self.dropout, self.layers, self.ln = nn.Dropout(dropout), nn.Sequential(blocks), nn.LayerNorm(size, 1e-6)

    def forward(self, input: Value) -> Value:
        return self.ln(self.layers(self.dropout(input + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """[N, 3, image, image] -> logits [N, num_classes]; names of parameters as torchvision has them."""

    def __init__(
        self, image: int, patch: int, size: int, depth: int, heads: int, num_classes: int = 1000, dropout: float = 0.0
    ) -> None:
        self.conv_proj = nn.Conv2d(3, size, patch, patch)
        self.class_token = nn.Parameter(np.zeros((1, 1, size), np.float32))
        self.encoder = Encoder((image // patch) ** 2 + 1, size, depth, heads, 4 * size, dropout)
        self.heads = nn.Sequential({"head": nn.Linear(size, num_classes)})

    def forward(self, input: Value) -> Value:
        x = F.transpose(F.flatten(self.conv_proj(input), 2), 1, 2)
        token = F.expand(self.class_token.value(input.graph), (x.shape[0], 1, x.shape[2]))
        return self.heads(self.encoder(F.concat([token, x], 1))[:, 0])


def vit_b_16(num_classes: int = 1000, dropout: float = 0.0) -> nn.Module:
    """[N, 3, 224, 224] -> logits [N, num_classes]; 86,567,656 parameters with 1000 classes.

    Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021: ViT-B/16. ``dropout`` is that of the encoder. Names of
    parameters are torchvision's.
    """
    return VisionTransformer(224, 16, 768, 12, 12, num_classes, dropout)


def vit_tiny(num_classes: int = 10, image: int = 32, patch: int = 4, dropout: float = 0.0) -> nn.Module:
    """[N, 3, image, image] -> logits [N, num_classes]: a ``vit_b_16`` of 6 layers, 3 heads and 192 channels.

    ``image`` is the side of a picture, ``patch`` that of a patch; 2,693,578 parameters by default; ``dropout`` as there.
    """
    return VisionTransformer(image, patch, 192, 6, 3, num_classes, dropout)


class _Mlp(nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        self.fc1, self.fc2 = nn.Linear(size, inner), nn.Linear(inner, size)

    def forward(self, input: Value) -> Value:
        return self.fc2(F.gelu(self.fc1(input)))


class MixerBlock(nn.Module):
    """Two layers across the tokens and two across the channels, each behind a norm and beside a shortcut."""

    def __init__(self, tokens: int, size: int) -> None:
        self.norm1, self.mlp_tokens = nn.LayerNorm(size, 1e-6), _Mlp(tokens, size // 2)
        self.norm2, self.mlp_channels = nn.LayerNorm(size, 1e-6), _Mlp(size, 4 * size)

    def forward(self, input: Value) -> Value:
        x = input + F.transpose(self.mlp_tokens(F.transpose(self.norm1(input), 1, 2)), 1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Mixer(nn.Module):
    """[N, 3, image, image] -> logits [N, num_classes]; names of parameters as timm has them."""

    def __init__(self, image: int, patch: int, size: int, depth: int, num_classes: int) -> None:
        self.stem = nn.Sequential({"proj": nn.Conv2d(3, size, patch, patch)})
        self.blocks = nn.Sequential(*(MixerBlock((image // patch) ** 2, size) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(size, 1e-6), nn.Linear(size, num_classes)

    def forward(self, input: Value) -> Value:
        x = F.transpose(F.flatten(self.stem(input), 2), 1, 2)
        return self.head(F.mean(self.norm(self.blocks(x)), 1))


def mixer_s16(num_classes: int = 1000) -> nn.Module:
    """[N, 3, 224, 224] -> logits [N, num_classes]; 18,528,264 parameters with 1000 classes: Mixer-S/16.

    Tolstikhin et al., "MLP-Mixer: an all-MLP architecture for vision", NeurIPS 2021. Names of parameters are timm's.
    """
    return Mixer(224, 16, 512, 8, num_classes)


def mixer_b16(num_classes: int = 1000) -> nn.Module:
    """``mixer_s16`` of 12 layers and 768 channels, Mixer-B/16; 59,880,472 parameters; ``num_classes`` as there."""
    return Mixer(224, 16, 768, 12, num_classes)
