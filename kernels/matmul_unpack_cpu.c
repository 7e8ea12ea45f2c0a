/* Weights into panels, x into int8: what the tile kernels read. */
#include "kernels/matmul_tile.h"
#include "kernels/simd_cpu.h"

#include <float.h>
#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 8u

bool spin_dtype_is_plain(enum spin_dtype dtype)
{
    return dtype == SPIN_DTYPE_F32 || dtype == SPIN_DTYPE_F16 || dtype == SPIN_DTYPE_BF16;
}

enum spin_panel_kind spin_panel_kind(enum spin_dtype dtype)
{
    SPIN_ASSERT(!spin_dtype_is_plain(dtype));
    switch (dtype) {
    case SPIN_DTYPE_Q4_0:
        return SPIN_PANEL_NIBBLE_OFFSET;
    case SPIN_DTYPE_Q4_1:
    case SPIN_DTYPE_Q4_K:
        return SPIN_PANEL_NIBBLE_MIN;
    case SPIN_DTYPE_Q6_K:
        return SPIN_PANEL_HALVES;
    case SPIN_DTYPE_Q8_0:
    case SPIN_DTYPE_F32:
    case SPIN_DTYPE_F16:
    case SPIN_DTYPE_BF16:
    case SPIN_DTYPE_COUNT:
        break;
    }
    return SPIN_PANEL_SIGNED;
}

/* Eight rows of eight 32-bit words into eight words of eight rows, `stride` bytes apart. */
INLINE void store_transposed(__m256i v[LANES], uint8_t *target, uint64_t stride)
{
    __m256 words[LANES];
    for (uint32_t i = 0; i < LANES; i++) {
        words[i] = _mm256_castsi256_ps(v[i]);
    }
    spin_transpose8(words);
    for (uint32_t i = 0; i < LANES; i++) {
        _mm256_store_ps((float *)(void *)(target + i * stride), words[i]);
    }
}

INLINE __m256i load32(const uint8_t *bytes)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

/* 16 bytes of two values each: low nibbles first. */
INLINE __m256i nibbles(const uint8_t *qs)
{
    const __m128i low = _mm_loadu_si128((const __m128i *)(const void *)qs);
    const __m256i both = _mm256_set_m128i(_mm_srli_epi16(low, 4), low);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

INLINE __m256i q4_k_values(const uint8_t *block, uint64_t group)
{
    const __m256i bytes = load32(block + 16 + group / 2 * 32);
    const __m256i wanted = group % 2 == 0 ? bytes : _mm256_srli_epi16(bytes, 4);
    return _mm256_and_si256(wanted, _mm256_set1_epi8(15));
}

INLINE __m256i q6_k_values(const uint8_t *block, uint64_t group)
{
    const uint64_t i = group % 4;
    const __m256i ql = load32(block + group / 4 * 64 + i % 2 * 32);
    const __m256i qh = load32(block + 128 + group / 4 * 32);
    const __m256i low = i < 2 ? ql : _mm256_srli_epi16(ql, 4);
    const __m256i high = _mm256_srl_epi16(qh, _mm_cvtsi32_si128((int32_t)(2 * i)));
    return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)),
                           _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4));
}

/* Where group g of a row lies: `block` holds it, as its group `group`. */
struct place {
    const uint8_t *block;
    uint64_t group;
};

INLINE struct place place_of(const uint8_t *row, uint64_t g, const enum spin_dtype dtype)
{
    const uint64_t block_groups = dtype == SPIN_DTYPE_Q4_K || dtype == SPIN_DTYPE_Q6_K ? 8 : 1;
    const uint64_t block_bytes = dtype == SPIN_DTYPE_Q4_K   ? 144
                                 : dtype == SPIN_DTYPE_Q6_K ? 210
                                 : dtype == SPIN_DTYPE_Q8_0 ? 34
                                 : dtype == SPIN_DTYPE_Q4_1 ? 20
                                                            : 18;
    return (struct place){row + g / block_groups * block_bytes, g % block_groups};
}

INLINE __m256i group_values(struct place place, const enum spin_dtype dtype)
{
    if (dtype == SPIN_DTYPE_Q4_K) {
        return q4_k_values(place.block, place.group);
    }
    if (dtype == SPIN_DTYPE_Q6_K) {
        return q6_k_values(place.block, place.group);
    }
    if (dtype == SPIN_DTYPE_Q8_0) {
        return load32(place.block + 2);
    }
    return nibbles(place.block + (dtype == SPIN_DTYPE_Q4_1 ? 4 : 2));
}

/* Eight F16 numbers, one from each row, as floats. */
INLINE __m256 gather_f16(const struct place places[LANES], uint64_t offset)
{
    uint16_t bits[LANES];
    for (uint32_t r = 0; r < LANES; r++) {
        memcpy(&bits[r], places[r].block + offset, sizeof bits[r]);
    }
    return _mm256_cvtph_ps(_mm_setr_epi16((int16_t)bits[0], (int16_t)bits[1], (int16_t)bits[2],
                                          (int16_t)bits[3], (int16_t)bits[4], (int16_t)bits[5],
                                          (int16_t)bits[6], (int16_t)bits[7]));
}

/* Q4_1: scale and minimum lie side by side. */
INLINE void gather_f16_pairs(const struct place places[LANES], __m256 *scale, __m256 *min)
{
    int32_t pair[LANES];
    for (uint32_t r = 0; r < LANES; r++) {
        memcpy(&pair[r], places[r].block, sizeof pair[r]);
    }
    const __m256i pairs =
        _mm256_setr_epi32(pair[0], pair[1], pair[2], pair[3], pair[4], pair[5], pair[6], pair[7]);
    /* Scales to the low and minima to the high 64 bits of each half, then halves together. */
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0,
                                           1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m256i sorted = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(pairs, order), 0xd8);
    *scale = _mm256_cvtph_ps(_mm256_castsi256_si128(sorted));
    *min = _mm256_cvtph_ps(_mm256_extracti128_si256(sorted, 1));
}

/* Q4_K: the eight 6-bit scales of a block as bytes, and its eight minima. */
INLINE void q4_k_scales(const uint8_t *packed, uint64_t *scales, uint64_t *mins)
{
    uint32_t word[3];
    memcpy(word, packed, sizeof word);
    const uint32_t high_scales = (word[2] & 0x0f0f0f0fu) | ((word[0] >> 2) & 0x30303030u);
    const uint32_t high_mins = ((word[2] >> 4) & 0x0f0f0f0fu) | ((word[1] >> 2) & 0x30303030u);
    *scales = (word[0] & 0x3f3f3f3fu) | (uint64_t)high_scales << 32;
    *mins = (word[1] & 0x3f3f3f3fu) | (uint64_t)high_mins << 32;
}

/* Rows of eight small integers, times the row's factor, to `target` as [integer][row]. */
INLINE void store_scaled(__m256i integers[LANES], __m256 factor, float *target, uint64_t stride)
{
    __m256 words[LANES];
    for (uint32_t r = 0; r < LANES; r++) {
        words[r] = _mm256_cvtepi32_ps(integers[r]);
    }
    spin_transpose8(words);
    for (uint32_t i = 0; i < LANES; i++) {
        _mm256_store_ps(target + i * stride, _mm256_mul_ps(words[i], factor));
    }
}

/* The scales of all eight groups of a Q4_K block, for eight rows. */
INLINE void q4_k_block_scales(const struct place places[LANES], struct spin_panel *panel,
                              uint64_t g, uint32_t first_row)
{
    __m256i scales[LANES];
    __m256i mins[LANES];
    for (uint32_t r = 0; r < LANES; r++) {
        uint64_t scale_bytes;
        uint64_t min_bytes;
        q4_k_scales(places[r].block + 4, &scale_bytes, &min_bytes);
        scales[r] = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)scale_bytes));
        mins[r] = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)min_bytes));
    }
    const __m256 negative_dmin = _mm256_xor_ps(gather_f16(places, 2), _mm256_set1_ps(-0.0F));
    store_scaled(scales, gather_f16(places, 0), panel->scale[g][0] + first_row,
                 2 * (uint64_t)SPIN_PANEL_ROWS);
    store_scaled(mins, negative_dmin, panel->min[g] + first_row, SPIN_PANEL_ROWS);
}

/* The sixteen scales of a Q6_K block, two a group, for eight rows. */
INLINE void q6_k_block_scales(const struct place places[LANES], struct spin_panel *panel,
                              uint64_t g, uint32_t first_row)
{
    const __m256 d = gather_f16(places, 208);
    for (uint64_t part = 0; part < 2; part++) {
        __m256i scales[LANES];
        for (uint32_t r = 0; r < LANES; r++) {
            scales[r] = _mm256_cvtepi8_epi32(_mm_loadl_epi64(
                (const __m128i *)(const void *)(places[r].block + 192 + part * LANES)));
        }
        store_scaled(scales, d, panel->scale[g + part * 4][0] + first_row, SPIN_PANEL_ROWS);
    }
}

INLINE void store_scales(const struct place places[LANES], struct spin_panel *panel, uint64_t g,
                         uint32_t first_row, const enum spin_dtype dtype)
{
    if (dtype == SPIN_DTYPE_Q4_K) {
        if (places[0].group == 0) {
            q4_k_block_scales(places, panel, g, first_row);
        }
    } else if (dtype == SPIN_DTYPE_Q6_K) {
        if (places[0].group == 0) {
            q6_k_block_scales(places, panel, g, first_row);
        }
    } else if (dtype == SPIN_DTYPE_Q4_1) {
        __m256 scale;
        __m256 min;
        gather_f16_pairs(places, &scale, &min);
        _mm256_store_ps(panel->scale[g][0] + first_row, scale);
        _mm256_store_ps(panel->min[g] + first_row, min);
    } else {
        _mm256_store_ps(panel->scale[g][0] + first_row, gather_f16(places, 0));
    }
}

/* The next panel's rows follow this one's: ask for as many bytes there as are read here, in order,
 * so that sixteen rows read side by side look like one stream to memory. */
struct ahead {
    const uint8_t *next;
    uint64_t bytes_per_step;
};

INLINE void prefetch_step(struct ahead *ahead)
{
    for (uint64_t i = 0; i < ahead->bytes_per_step; i += 64) {
        _mm_prefetch((const char *)ahead->next + i, _MM_HINT_T0);
    }
    ahead->next += ahead->bytes_per_step;
}

INLINE void unpack_rows(const uint8_t *const rows[SPIN_PANEL_ROWS], struct ahead ahead,
                        struct spin_range groups, struct spin_panel *panel,
                        const enum spin_dtype dtype)
{
    for (uint64_t g = 0; g < groups.end - groups.begin; g++) {
        prefetch_step(&ahead);
        for (uint32_t first_row = 0; first_row < SPIN_PANEL_ROWS; first_row += LANES) {
            __m256i v[LANES];
            struct place places[LANES];
            for (uint32_t r = 0; r < LANES; r++) {
                places[r] = place_of(rows[first_row + r], groups.begin + g, dtype);
                v[r] = group_values(places[r], dtype);
            }
            store_scales(places, panel, g, first_row, dtype);
            store_transposed(v, panel->q[g][0][first_row], sizeof panel->q[g][0]);
        }
    }
}

/* The last row is repeated, so that a tail runs the same code; nobody reads its sums. */
static void find_rows(const struct spin_panel_source *source, const uint8_t *rows[SPIN_PANEL_ROWS])
{
    const uint64_t last = source->weight->rows - 1;
    for (uint64_t r = 0; r < SPIN_PANEL_ROWS; r++) {
        rows[r] = spin_weight_row(source->weight, SPIN_MIN(source->first_row + r, last));
    }
}

static struct ahead find_ahead(const struct spin_panel_source *source, uint64_t step_values)
{
    const struct spin_weight *weight = source->weight;
    const uint64_t row_bytes = spin_dtype_row_bytes(weight->dtype, weight->cols);
    const uint64_t step_bytes =
        SPIN_PANEL_ROWS * step_values * row_bytes / weight->cols; /* of all sixteen rows */
    const uint64_t panel_offset = (source->first_row + SPIN_PANEL_ROWS) * row_bytes;
    const uint8_t *data = weight->data;
    return (struct ahead){data + panel_offset + source->first_value / step_values * step_bytes,
                          step_bytes};
}

void spin_panel_unpack(const struct spin_panel_source *source, uint32_t groups,
                       struct spin_panel *panel)
{
    const uint8_t *rows[SPIN_PANEL_ROWS];
    find_rows(source, rows);
    const uint64_t first = source->first_value / SPIN_GROUP;
    const struct spin_range range = {first, first + groups};
    const struct ahead ahead = find_ahead(source, SPIN_GROUP);
    switch (source->weight->dtype) {
    case SPIN_DTYPE_Q8_0:
        unpack_rows(rows, ahead, range, panel, SPIN_DTYPE_Q8_0);
        break;
    case SPIN_DTYPE_Q4_0:
        unpack_rows(rows, ahead, range, panel, SPIN_DTYPE_Q4_0);
        break;
    case SPIN_DTYPE_Q4_1:
        unpack_rows(rows, ahead, range, panel, SPIN_DTYPE_Q4_1);
        break;
    case SPIN_DTYPE_Q4_K:
        unpack_rows(rows, ahead, range, panel, SPIN_DTYPE_Q4_K);
        break;
    case SPIN_DTYPE_Q6_K:
        unpack_rows(rows, ahead, range, panel, SPIN_DTYPE_Q6_K);
        break;
    case SPIN_DTYPE_F32:
    case SPIN_DTYPE_F16:
    case SPIN_DTYPE_BF16:
    case SPIN_DTYPE_COUNT:
        SPIN_ASSERT(source->weight->dtype >= SPIN_DTYPE_Q8_0);
        break;
    }
}

INLINE __m256i load_plain8(const uint8_t *row, uint64_t k, const enum spin_dtype dtype)
{
    if (dtype == SPIN_DTYPE_F32) {
        return load32(row + 4 * k);
    }
    const __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)(row + 2 * k));
    if (dtype == SPIN_DTYPE_F16) {
        return _mm256_castps_si256(_mm256_cvtph_ps(bits));
    }
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
}

INLINE void unpack_plain(const uint8_t *const rows[SPIN_PANEL_ROWS], struct ahead ahead,
                         struct spin_range values, struct spin_float_panel *panel,
                         const enum spin_dtype dtype)
{
    for (uint64_t k = 0; k < values.end - values.begin; k += LANES) {
        prefetch_step(&ahead);
        for (uint32_t first_row = 0; first_row < SPIN_PANEL_ROWS; first_row += LANES) {
            __m256i v[LANES];
            for (uint32_t r = 0; r < LANES; r++) {
                v[r] = load_plain8(rows[first_row + r], values.begin + k, dtype);
            }
            store_transposed(v, (uint8_t *)(panel->w[k] + first_row), sizeof panel->w[k]);
        }
    }
}

void spin_float_panel_unpack(const struct spin_panel_source *source, uint32_t values,
                             struct spin_float_panel *panel)
{
    const uint8_t *rows[SPIN_PANEL_ROWS];
    find_rows(source, rows);
    const struct spin_range range = {source->first_value, source->first_value + values};
    const struct ahead ahead = find_ahead(source, LANES);
    if (source->weight->dtype == SPIN_DTYPE_F32) {
        unpack_plain(rows, ahead, range, panel, SPIN_DTYPE_F32);
    } else if (source->weight->dtype == SPIN_DTYPE_F16) {
        unpack_plain(rows, ahead, range, panel, SPIN_DTYPE_F16);
    } else {
        SPIN_ASSERT_EQ(source->weight->dtype, SPIN_DTYPE_BF16);
        unpack_plain(rows, ahead, range, panel, SPIN_DTYPE_BF16);
    }
}

/* Below this a group counts as zeros: 127 / max would overflow. */
#define GROUP_MAX_TINY 1e-30F

INLINE int32_t sum_i32(__m256i v)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
}

/* The largest magnitude, compared as integers so that a NaN wins and reaches the result. */
INLINE float largest(const __m256 v[4])
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i max = _mm256_setzero_si256();
    for (uint32_t i = 0; i < 4; i++) {
        max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_castps_si256(v[i]), mask));
    }
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

/* A group with an infinity or a NaN in it becomes zeros whose scale is no number: NaN sums. */
INLINE struct spin_x_group quantize_group(const float *x, int8_t *q)
{
    __m256 v[4];
    for (uint64_t i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + LANES * i);
    }
    const float max = largest(v);
    struct spin_x_group group = {.d = max < GROUP_MAX_TINY ? 0.0F : max / 127.0F};
    if (!(max >= GROUP_MAX_TINY && max <= FLT_MAX)) {
        memset(q, 0, SPIN_GROUP);
        return group;
    }
    const __m256 inverse = _mm256_set1_ps(127.0F / max);
    __m256i rounded[4];
    for (uint32_t i = 0; i < 4; i++) {
        rounded[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    }
    /* Packing works within 128-bit halves: put the 32-bit words back in order. */
    const __m256i bytes =
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(_mm256_packs_epi32(rounded[0], rounded[1]),
                                                       _mm256_packs_epi32(rounded[2], rounded[3])),
                                    _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)q, bytes);
    group.sum[0] = sum_i32(_mm256_add_epi32(rounded[0], rounded[1]));
    group.sum[1] = sum_i32(_mm256_add_epi32(rounded[2], rounded[3]));
    group.d_sum = group.d * (float)(group.sum[0] + group.sum[1]);
    return group;
}

void spin_x_quantize(const float *x, uint64_t groups, int8_t *q, struct spin_x_group *group)
{
    for (uint64_t g = 0; g < groups; g++) {
        group[g] = quantize_group(x + g * SPIN_GROUP, q + g * SPIN_GROUP);
    }
}
