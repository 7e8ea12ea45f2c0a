/* The host tier: blocks of 128 tokens, held by one sequence each, and what lies with them: the
 * summaries of their partitions. */
#include "kvstore/manager/kv_internal.h"

#include <string.h>

uint32_t spin_kv_blocks_for(uint32_t tokens)
{
    return tokens / SPIN_BLOCK_TOKENS + (tokens % SPIN_BLOCK_TOKENS != 0);
}

/* Block `block` becomes the next 128 tokens of every row of the sequence. */
static void append_block(struct spin_kv *kv, uint32_t seq, uint32_t block)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    SPIN_ASSERT_LT(sequence->blocks, kv->view.blocks_max);
    SPIN_ASSERT_LT(block, kv->blocks);
    SPIN_ASSERT_EQ(kv->block_holder[block], SPIN_KV_NOBODY);
    kv->block_holder[block] = seq;
    kv->block_list[(uint64_t)seq * kv->view.blocks_max + sequence->blocks] = block;
    sequence->blocks++;
    spin_kv_touch(kv, seq, SPIN_KV_DIRTY_BLOCKS);
}

spin_status spin_kv_reserve(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens)
{
    const struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, seq);
    if (tokens > kv->config.tokens_max) {
        return SPIN_ERR_LIMIT;
    }
    const uint32_t needed = spin_kv_blocks_for(tokens);
    if (needed > sequence->blocks && needed - sequence->blocks > kv->blocks_free) {
        return SPIN_ERR_AGAIN;
    }
    while (sequence->blocks < needed) {
        SPIN_ASSERT_GT(kv->blocks_free, 0);
        append_block(kv, seq.v, kv->free_blocks[--kv->blocks_free]);
    }
    return SPIN_OK;
}

static void release_block(struct spin_kv *kv, uint32_t seq, uint32_t block)
{
    SPIN_ASSERT_LT(block, kv->blocks);
    SPIN_ASSERT_EQ(kv->block_holder[block], seq);
    SPIN_ASSERT_LT(kv->blocks_free, kv->blocks);
    kv->block_holder[block] = SPIN_KV_NOBODY;
    kv->free_blocks[kv->blocks_free++] = block;
    if (kv->poison) {
        memset(kv->view.host + block * kv->block_bytes, 0xFF, kv->block_bytes); /* BF16 NaN */
        if (kv->summary_bytes > 0) {
            memset(kv->view.summaries + block * kv->summary_bytes, 0xFF, kv->summary_bytes);
        }
    }
}

void spin_kv_release_blocks(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    while (sequence->blocks > 0) {
        sequence->blocks--;
        release_block(kv, seq,
                      kv->block_list[(uint64_t)seq * kv->view.blocks_max + sequence->blocks]);
    }
}
