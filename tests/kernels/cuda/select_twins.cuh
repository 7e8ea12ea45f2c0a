/* select_twins: sequences in the KV manager's arrays, for the host and the GPU at once.
 *
 * Why        Select and Index need blocks and summaries that lie anywhere, in one of several
 *            layers, and NaN in every byte that belongs to nobody. Blocks that a sequence has not
 *            got are block 0, which is NaN, too.
 * Ownership  A world frees its memory with its life.
 * Threading  The main thread.
 * Units      Tokens, partitions; rows are (sequence of the batch, kv head). */
#pragma once

#include "tests/kernels/cuda/twin_array.cuh"

#include <memory>

struct spin_select_shape {
    enum spin_summary summary;
    uint32_t kv_heads;
    uint32_t group;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t partition_tokens;
    std::vector<uint32_t> tokens; /* of each sequence */
};

#define SPIN_SELECT_LAYERS 3u
#define SPIN_SELECT_LAYER 1u

template <typename T> struct spin_twin_pair {
    std::vector<T> host;
    std::unique_ptr<spin_twin_array<T>> gpu;

    void upload(struct spin_twins *twins)
    {
        if (gpu == nullptr || gpu->count != host.size()) {
            gpu = std::make_unique<spin_twin_array<T>>(twins, host);
        } else {
            gpu->write(host);
        }
    }
};

struct spin_select_world {
    struct spin_twins *twins;
    struct spin_select_shape shape;
    struct spin_rng rng;
    struct spin_kv_view view; /* of the host; its pointers are set by views() */
    uint32_t width;           /* elements of a summary */
    uint32_t block_count;
    spin_twin_pair<uint16_t> summaries;
    spin_twin_pair<uint32_t> blocks;
    spin_twin_pair<uint32_t> sequence;
    spin_twin_pair<uint32_t> tokens;

    spin_select_world(struct spin_twins *twins_, const struct spin_select_shape &shape_,
                      uint64_t stream)
        : twins(twins_), shape(shape_), rng{twins_->seed, stream, 0}, view{}
    {
        const uint32_t count = (uint32_t)shape.tokens.size();
        uint32_t longest = 1;
        for (uint32_t s = 0; s < count; s++) {
            longest = std::max(longest, shape.tokens[s]);
        }
        width = shape.head_dim * (shape.summary == SPIN_SUMMARY_BOUNDS ? 2 : 1);
        view.layout = {SPIN_SELECT_LAYERS, shape.kv_heads, shape.head_dim, SPIN_KV_BF16,
                       SPIN_SWIZZLE_NONE};
        view.page_tokens = shape.page_tokens;
        view.partition_tokens = shape.partition_tokens;
        view.summary_bytes = width * 2;
        view.blocks_max = (longest + SPIN_BLOCK_TOKENS - 1) / SPIN_BLOCK_TOKENS;
        deal_blocks();
        tokens.host = shape.tokens;
        summaries.host.assign((uint64_t)block_count * spin_kv_rows(&view) *
                                  (SPIN_BLOCK_TOKENS / shape.partition_tokens) * width,
                              0xffff);
    }
    /* Sequences and blocks have numbers in a random order. */
    void deal_blocks()
    {
        const uint32_t count = (uint32_t)shape.tokens.size();
        std::vector<uint32_t> numbers;
        block_count = 1;
        for (uint32_t s = 0; s < count; s++) {
            numbers.push_back(s + 1); /* nobody is number 0 */
            block_count += (shape.tokens[s] + SPIN_BLOCK_TOKENS - 1) / SPIN_BLOCK_TOKENS;
        }
        shuffle(&numbers);
        sequence.host = numbers;
        std::vector<uint32_t> places;
        for (uint32_t b = 1; b < block_count; b++) {
            places.push_back(b);
        }
        shuffle(&places);
        blocks.host.assign((uint64_t)(count + 1) * view.blocks_max, 0);
        for (uint32_t s = 0; s < count; s++) {
            for (uint32_t b = 0; b * SPIN_BLOCK_TOKENS < shape.tokens[s]; b++) {
                blocks.host[(uint64_t)numbers[s] * view.blocks_max + b] = places.back();
                places.pop_back();
            }
        }
    }
    void shuffle(std::vector<uint32_t> *values)
    {
        for (uint32_t i = (uint32_t)values->size(); i > 1; i--) {
            std::swap((*values)[i - 1], (*values)[spin_rng_below(&rng, i)]);
        }
    }
    uint32_t count() const
    {
        return (uint32_t)shape.tokens.size();
    }
    uint64_t rows() const
    {
        return (uint64_t)count() * shape.kv_heads;
    }
    uint32_t pages(uint32_t s) const
    {
        return (shape.tokens[s] - 1) / shape.page_tokens + 1;
    }
    uint32_t pages_max() const
    {
        uint32_t most = 0;
        for (uint32_t s = 0; s < count(); s++) {
            most = std::max(most, pages(s));
        }
        return most;
    }
    void set_host()
    {
        view.summaries = (uint8_t *)summaries.host.data();
        view.blocks = blocks.host.data();
    }
    uint16_t *summary(uint64_t row, uint32_t partition)
    {
        set_host();
        return (uint16_t *)(void *)spin_kv_summary(&view, sequence.host[row / shape.kv_heads],
                                                   SPIN_SELECT_LAYER,
                                                   (uint32_t)(row % shape.kv_heads), partition);
    }
    /* The sum of four bytes, roughly normal, of deviation 1: much faster than the exact one. */
    float noise()
    {
        const uint32_t r = spin_rng_u32(&rng);
        const int32_t sum = (int32_t)((r & 255) + (r >> 8 & 255) + (r >> 16 & 255) + (r >> 24));
        return (float)(sum - 510) / 147.8F;
    }
    /* Whole partitions: normal numbers, minima below maxima. */
    void fill_summaries()
    {
        for (uint64_t r = 0; r < rows(); r++) {
            const uint32_t whole = shape.tokens[r / shape.kv_heads] / shape.partition_tokens;
            for (uint32_t p = 0; p < whole; p++) {
                uint16_t *out = summary(r, p);
                for (uint32_t d = 0; d < shape.head_dim; d++) {
                    const float v = noise();
                    out[d] = spin_bf16_from_f32(v);
                    if (shape.summary == SPIN_SUMMARY_BOUNDS) {
                        out[shape.head_dim + d] = spin_bf16_from_f32(v + fabsf(noise()));
                    }
                }
            }
        }
    }
    void upload()
    {
        summaries.upload(twins);
        blocks.upload(twins);
        sequence.upload(twins);
        tokens.upload(twins);
    }
    /* Of the host, or of the GPU. */
    struct spin_kv_view views(bool gpu)
    {
        set_host();
        struct spin_kv_view out = view;
        if (gpu) {
            out.summaries = (uint8_t *)summaries.gpu->data();
            out.blocks = blocks.gpu->data();
        }
        return out;
    }
    struct spin_kv_batch batch(bool gpu, uint32_t first, uint32_t sequences)
    {
        return {SPIN_SELECT_LAYER, sequences,
                (gpu ? sequence.gpu->data() : sequence.host.data()) + first,
                (gpu ? tokens.gpu->data() : tokens.host.data()) + first, NULL};
    }
};

void spin_twins_index(struct spin_twins *twins);
void spin_twins_select_timing(struct spin_twins *twins);
