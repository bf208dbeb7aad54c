"""A barrier of all programs of a launch, which must run at once: as many as fit on the GPU (a cooperative launch).

``meet(word)`` waits until every program has come to it; what any of them stored before is there for all of them behind it.
The int32 at ``word`` begins as 0 and needs no reset: the first program adds 2**31 less the others, each of which adds 1, so
the sign changes when the last has come and only then (as in CUDA's cooperative groups). The other bits are 0 again after each
meeting, so any number of programs may meet there the next time.
"""

import triton
import triton.language as tl


@triton.jit
def meet(word):
    tl.debug_barrier()  # all threads have stored what they store
    others = tl.num_programs(0) - 1
    before = tl.atomic_add(word, tl.where(tl.program_id(0) == 0, -2147483648 - others, 1), sem="release", scope="gpu")
    now = before
    while (now ^ before) >= 0:
        now = tl.atomic_add(word, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()
