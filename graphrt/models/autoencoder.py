"""Networks that give their input back from fewer numbers: a convolutional autoencoder, and a variational one."""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


class Autoencoder(nn.Module):
    """``encoder`` makes the code, ``decoder`` the picture of it."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        self.encoder, self.decoder = encoder, decoder

    def forward(self, input: Value) -> Value:
        return self.decoder(self.encoder(input))


def conv_autoencoder(channels: int = 1, width: int = 16) -> nn.Module:
    """[N, channels, H, W] -> the same, H and W divisible by 4; 9,569 parameters by default.

    Two convolutions that halve the picture, to ``width`` and twice as many channels, and their transposes. Masci et al.,
    "Stacked convolutional auto-encoders", ICANN 2011. Train it with MSELoss and the pictures as targets.
    """
    encoder = [nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()]
    up = nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1)
    decoder = [up, nn.ReLU(), nn.ConvTranspose2d(width, channels, 3, 2, 1, output_padding=1)]
    return Autoencoder(nn.Sequential(*encoder), nn.Sequential(*decoder))


class VAE(nn.Module):
    """Pictures [N, 1, 28, 28] -> logits of their pixels, and mean and logarithm of the variance of the code, [N, latent]."""

    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU())
        self.mean, self.log_var = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def forward(self, input: Value) -> tuple[Value, Value, Value]:
        features = self.encoder(input)
        mean, log_var = self.mean(features), self.log_var(features)
        code = mean + F.exp(log_var * 0.5) * F.normal_like(mean) if self.training else mean
        return F.reshape(self.decoder(code), input.shape), mean, log_var


def vae(pixels: int = 784, hidden: int = 400, latent: int = 20) -> nn.Module:
    """[N, 1, 28, 28], or other pictures of so many ``pixels`` in [0, 1] -> logits of the pixels; 652,824 parameters.

    Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, with ``hidden`` units and ``latent`` numbers as the code.
    It returns (logits, mean, log_var) for ``vae_loss``, of a code that is drawn at every step in training, and of its mean in
    evaluation. ``vae().decoder`` makes [N, pixels] of codes.
    """
    return VAE(pixels, hidden, latent)


def vae_loss(output: tuple[Value, Value, Value], target: Value) -> Value:
    """The bound on the negative log-likelihood of the pictures ``target``, in nats a picture.

    ``output`` is what ``vae`` returned: the cross-entropy of all pixels of a picture plus the divergence of its code from the
    normal distribution, and the mean of that over the pictures.
    """
    logits, mean, log_var = output
    pixels = F.flatten(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), 1)
    divergence = 0.5 * F.sum(F.square(mean) + F.exp(log_var) - log_var - 1.0, 1)
    return F.mean(F.sum(pixels, 1) + divergence)
