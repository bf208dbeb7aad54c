"""Uniform random numbers from a counter: Philox4x32-10.

The generator is that of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11. ``uniform(seed, counter,
stream, index)`` takes two int64 scalars, a non-negative int and an int32 tensor of element numbers and returns float32
in [0, 1) of the index's shape. The key is the seed's low and high 32 bits; the counter words are (index, low 32 bits of
counter, stream, 0); the result is the top 24 bits of the first output word times 2**-24. It is thus a pure function of
its four arguments, equal bit for bit on every target, so a mask can be recomputed instead of stored.
"""

import triton
import triton.language as tl


@triton.jit
def uniform(seed, counter, stream, index):
    zero = (index * 0).to(tl.uint32)
    c1 = ((index * 0).to(tl.int64) + counter).to(tl.uint32)
    c2 = zero + stream
    word, _, _, _ = tl.philox(seed, index.to(tl.uint32), c1, c2.to(tl.uint32), zero)
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08
