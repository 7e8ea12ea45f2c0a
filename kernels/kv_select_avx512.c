/* The fast Select's dot products with 512-bit vectors: a lane adds up what it adds up in the AVX2
 * variant, in its order. */
#include "kernels/kv_select_internal.h"
#include "kernels/simd_cpu.h"

#define INLINE static inline __attribute__((always_inline))

/* Summaries whose sums are in registers at the same time, with four heads each. */
#define PASS_SUMMARIES 4u

/* Sixteen words of a summary; behind the last, zeros. */
INLINE __m512i load_words(const uint16_t *summary, uint32_t first, uint32_t width)
{
    if (first + SPIN_SELECT_STEP <= width) {
        return _mm512_loadu_si512(summary + first);
    }
    const __mmask16 mask = (__mmask16)((1u << (width - first) / 2) - 1);
    return _mm512_maskz_loadu_epi32(mask, summary + first);
}

INLINE __m256 halve(__m512 v)
{
    const __m512d pairs = _mm512_castps_pd(v);
    return _mm256_add_ps(_mm512_castps512_ps256(v),
                         _mm256_castpd_ps(_mm512_extractf64x4_pd(pairs, 1)));
}

/* spin_sum8 of the halves of four vectors, in their order. */
INLINE __m128 sum_four(const __m512 v[4])
{
    const __m256 a = halve(v[0]);
    const __m256 b = halve(v[1]);
    const __m256 c = halve(v[2]);
    const __m256 d = halve(v[3]);
    const __m256 ac =
        _mm256_add_ps(_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31));
    const __m256 bd =
        _mm256_add_ps(_mm256_permute2f128_ps(b, d, 0x20), _mm256_permute2f128_ps(b, d, 0x31));
    const __m256 even_odd =
        _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee));
    const __m256 sums = _mm256_add_ps(even_odd, _mm256_shuffle_ps(even_odd, even_odd, 0xb1));
    return _mm_shuffle_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1), 0x88);
}

/* Scores of `count` summaries, 1 or 4, from place `at` on, for `heads` heads. */
INLINE void score_heads(const struct spin_select_run *run, uint32_t at, uint32_t first,
                        const uint32_t count, const uint32_t heads)
{
    const uint16_t *summary = run->summaries + (uint64_t)at * run->width;
    __m512 sum[SPIN_SELECT_PASS_HEADS][PASS_SUMMARIES];
    for (uint32_t g = 0; g < heads; g++) {
        for (uint32_t c = 0; c < PASS_SUMMARIES; c++) {
            sum[g][c] = _mm512_setzero_ps();
        }
    }
    for (uint32_t i = 0; i < run->width; i += SPIN_SELECT_STEP) {
        for (uint32_t c = 0; c < count; c++) {
            const __m512i words = load_words(summary + (uint64_t)c * run->width, i, run->width);
            const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
            const __m512 odd = _mm512_castsi512_ps(
                _mm512_and_si512(words, _mm512_set1_epi32((int32_t)0xffff0000)));
            for (uint32_t g = 0; g < heads; g++) {
                const float *q = run->query->q[first + g] + i;
                sum[g][c] = _mm512_fmadd_ps(even, _mm512_load_ps(q), sum[g][c]);
                sum[g][c] = _mm512_fmadd_ps(odd, _mm512_load_ps(q + 16), sum[g][c]);
            }
        }
    }
    for (uint32_t g = 0; g < heads; g++) {
        float *logits = run->logits + (first + g) * run->candidates_max + at;
        if (count == PASS_SUMMARIES) {
            _mm_storeu_ps(logits, sum_four(sum[g]));
        } else {
            *logits = spin_sum8(halve(sum[g][0]));
        }
    }
}

INLINE void score_pass(const struct spin_select_run *run, uint32_t first, const uint32_t heads)
{
    uint32_t at = 0;
    for (; at + PASS_SUMMARIES <= run->count; at += PASS_SUMMARIES) {
        score_heads(run, at, first, PASS_SUMMARIES, heads);
    }
    for (; at < run->count; at++) {
        score_heads(run, at, first, 1, heads);
    }
}

void spin_select_score_avx512(const struct spin_select_run *run)
{
    uint32_t first = 0;
    spin_select_prefetch(run);
    for (; first + SPIN_SELECT_PASS_HEADS <= run->group; first += SPIN_SELECT_PASS_HEADS) {
        score_pass(run, first, SPIN_SELECT_PASS_HEADS);
    }
    switch (run->group - first) {
    case 3:
        score_pass(run, first, 3);
        break;
    case 2:
        score_pass(run, first, 2);
        break;
    case 1:
        score_pass(run, first, 1);
        break;
    default:
        break;
    }
}
