/* Results that are evicted before anybody reads them, written past the caches: whole lines at a time, which spares reading what
 * is overwritten. Without such instructions: a copy.
 */
#ifndef GRAPHRT_STREAM_H
#define GRAPHRT_STREAM_H
#include "tile.h"
#include <stdint.h>
#include <string.h>

typedef long long grt_words __attribute__((vector_size(GRT_VECTOR), may_alias));
#if defined(__clang__)
#define GRT_PAST_CACHES(to, line) __builtin_nontemporal_store(line, to)
#elif defined(__AVX512F__)
#define GRT_PAST_CACHES(to, line) __builtin_ia32_movntdq512(to, line)
#elif defined(__AVX__)
#define GRT_PAST_CACHES(to, line) __builtin_ia32_movntdq256(to, line)
#elif defined(__SSE2__)
#define GRT_PAST_CACHES(to, line) __builtin_ia32_movntdq(to, line)
#else
#define GRT_PAST_CACHES(to, line) (*(to) = (line))
#endif

/* As memcpy. What is written is seen by other threads after grt_fence. */
GRT_INLINE void grt_stream(void *restrict to, const void *restrict from, size_t bytes) {
  char *out = to;
  const char *in = from;
  size_t head = -(uintptr_t)out % 64;
  head = head < bytes ? head : bytes;
  memcpy(out, in, head);
  size_t at = head;
  for (; at + 64 <= bytes; at += 64) {
    for (size_t i = 0; i < 64; i += sizeof(grt_words)) {
      grt_words line;
      memcpy(&line, in + at + i, sizeof line);
      GRT_PAST_CACHES((grt_words *)(out + at + i), line);
    }
  }
  memcpy(out + at, in + at, bytes - at);
}
GRT_INLINE void grt_fence(void) {
#if defined(__SSE2__)
  __builtin_ia32_sfence();
#endif
}
#endif
