"""Fixed filters as graphs: smoothing, edges, a Laplacian pyramid, and convolution as a matrix."""

from __future__ import annotations

import numpy as np

import graphrt as grt
from graphrt import ops as F


def gaussian(size: int, sigma: float) -> np.ndarray:
    """g(u, v) = exp(-(u^2 + v^2) / (2 sigma^2)) / (2 pi sigma^2)."""
    u = np.arange(size) - size // 2
    return (np.exp(-(u[:, None] ** 2 + u**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)).astype(np.float32)


def smooth(x: grt.Value, kernel: grt.Value) -> grt.Value:
    margin = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x, (margin,) * 4, mode="reflect"), kernel)


BANK = np.array(
    [
        [[0, 0, 0], [0, -1, 1], [0, 0, 0]],  # vertical edges
        [[0, 0, 0], [0, -1, 0], [0, 1, 0]],  # horizontal ones
        [[0, 1, 0], [1, -4, 1], [0, 1, 0]],  # spots
    ],
    np.float32,
)


def enlarge(x: grt.Value) -> grt.Value:
    """Every pixel becomes two by two."""
    n, c, h, w = x.shape
    return F.reshape(F.expand(F.reshape(x, (n, c, h, 1, w, 1)), (n, c, h, 2, w, 2)), (n, c, 2 * h, 2 * w))


def main(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    picture = rng.standard_normal((1, 1, 16, 16)).astype(np.float32)
    signal, taps = rng.standard_normal(12).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    g = grt.Graph()
    x, s = g.input("x", picture.shape), g.input("s", signal.shape)
    kernel = g.constant(gaussian(5, 1.0)[None, None])
    responses = F.conv2d(x, g.constant(BANK[:, None]))  # of each filter
    levels = [x]
    for _ in range(2):
        levels.append(smooth(levels[-1], kernel)[..., ::2, ::2])
    details = [a - enlarge(b) for a, b in zip(levels, levels[1:], strict=False)]
    back = levels[-1]
    for detail in reversed(details):
        back = enlarge(back) + detail
    # (f * g)[m] = sum_k f[k] g[m - k] flips the kernel; networks do not
    row = g.constant(taps[None, None, None])
    convolution = F.conv2d(F.reshape(s, (1, 1, 1, 12)), F.flip(row, 3), padding=((0, 0), (3, 3)))
    matrix = np.zeros((15, 12), np.float32)
    for column in range(12):
        matrix[column : column + 4, column] = taps
    # A picture that goes on at its other side: row k and column m of the filter say which circulant block has which number.
    filter = rng.standard_normal((3, 3)).astype(np.float32)
    blocks = np.zeros((16, 16, 16, 16), np.float32)  # [row, column] of the result, of the picture
    for i, j, k, m in np.ndindex(16, 16, 3, 3):
        blocks[(i + k) % 16, (j + m) % 16, i, j] += filter[k, m]
    around = F.conv2d(F.pad(x, (2, 0, 2, 0), mode="circular"), F.flip(g.constant(filter[None, None]), (2, 3)))
    results = grt.compile(
        {
            "edges": responses[:, :1],
            "smoothed": smooth(x, kernel),
            "back": back,
            "convolution": F.flatten(convolution),
            "toeplitz": F.matmul(g.constant(matrix), s),
            "around": F.flatten(around),
            "circulant": F.matmul(g.constant(blocks.reshape(256, 256)), F.flatten(x)),
            "texture": F.mean(F.abs(responses), (0, 2, 3)),
        }
    )(x=picture, s=signal)
    return {**results, "gaussian": gaussian(5, 1.0), "picture": picture, "signal": signal, "taps": taps, "filter": filter}


if __name__ == "__main__":
    found = main()
    print("the pyramid's levels add up to the picture within", np.abs(found["back"] - found["picture"]).max())
    print("convolution and Toeplitz matrix differ by", np.abs(found["convolution"] - found["toeplitz"]).max())
    print("in two dimensions they differ by", np.abs(found["around"] - found["circulant"]).max())
    print("texture, the mean absolute response of each filter of a bank:", found["texture"])
