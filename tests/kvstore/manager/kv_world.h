/* kv_world: a KV manager under test, and a naive shadow of all K and V that went into it.
 *
 * Why        Whatever the manager does with slabs, blocks and tables, the lists it hands out must
 *            lead to the very bytes that were appended. The world plays the engine: it appends
 *            random K and V with the backend's own kv_append, selects random pages, and compares
 *            every byte that a list names with the shadow.
 * Late       On a fake device all of a pass, what the world selects, appends and compares included,
 *            runs when the pass is over.
 * Ownership  The world owns the stream, the manager and the shadow. All memory comes from set_up.
 * Threading  The test's thread.
 * Units      Tokens, pages, partitions; calls: of the manager's functions. */
#pragma once

#include "base/rng.h"
#include "kvstore/manager/kv.h"
#include "tests/spin_test.h"

SPIN_BEGIN_DECLS

#define WORLD_LAYERS_MAX 2u
#define WORLD_HEADS_MAX 8u
#define WORLD_WORKS 8u
#define WORLD_SEQUENCES 6u

/* A demand like an algorithm's: everything below `dense_below` tokens, then so many pages. */
struct world_demand {
    uint32_t page_tokens;
    uint32_t dense_below;
    uint32_t pages[WORLD_LAYERS_MAX];
};
uint32_t spin_world_mandatory(const void *context, uint32_t layer, uint32_t tokens);

struct world_options {
    const struct spin_ops *ops;
    uint32_t frame_blocks;
    bool fake;   /* on a fake device, with its operations: no poison, no spin_kv_check */
    bool record; /* fake: steps with the same count and work are one recording */
    uint32_t page_tokens;
    uint32_t partition_tokens;
    uint32_t layers;
    uint32_t heads;
    uint32_t head_dim;
    uint32_t tokens_max;
    uint32_t slabs;  /* 0: as few as create takes */
    uint32_t blocks; /* 0: as few as create takes */
    enum spin_kv_replacement replacement;
    uint32_t bucket_shift;
    bool buffered;
    struct world_demand demand;
};
/* 8-token pages, partitions of two, 2 layers, 2 heads, 16 dimensions, 640 tokens, ample pools. */
struct world_options spin_world_options_default(void);

/* A sequence as the engine knows it. */
struct world_seq {
    bool open;
    bool active;
    bool decoding;  /* its prompt is through */
    bool prefilled; /* has not stepped since it was activated with something to prefill */
    spin_kv_seq id;
    uint32_t reserved; /* tokens */
    uint32_t prompt;
    uint32_t tokens; /* whose KV is complete in all layers */
    /* Cursor of the prompt: super-chunk [super_begin, super_end), layer, next token. */
    uint32_t super_begin;
    uint32_t layer;
    uint32_t next;
    uint32_t indexed[WORLD_LAYERS_MAX]; /* pages */
};

/* The pass at hand: what the world's functions on the device read there, in host memory, after the
 * calls that submitted them and before the pass is over. By layer; of a unit, of its own alone. */
struct world_pass {
    uint32_t count; /* sequences */
    const struct world_seq *seqs[WORLD_SEQUENCES];
    uint32_t end[WORLD_SEQUENCES];     /* tokens that will be there */
    uint32_t tokens[WORLD_LAYERS_MAX]; /* that are appended */
    float *made[WORLD_LAYERS_MAX];     /* their k and v, one after the other */
    uint16_t *pages[WORLD_LAYERS_MAX]; /* [rows][pages_max]: selected by a step */
    uint32_t page_count[WORLD_LAYERS_MAX][WORLD_SEQUENCES * WORLD_HEADS_MAX];
    struct spin_kv_range sealed[WORLD_LAYERS_MAX][WORLD_SEQUENCES];
};

struct world {
    struct world_options options;
    struct world_demand demand; /* what the manager's configuration points to */
    struct spin_kv_config config;
    struct spin_stream *stream;
    struct spin_kv *kv;
    struct spin_rng rng;
    struct world_seq seqs[WORLD_SEQUENCES];
    uint8_t *shadow; /* [sequence][layer][head][tokens_max] in tiles */
    float *k;        /* device memory, [tokens_max][heads * head_dim] */
    float *v;
    uint32_t *first; /* device memory, [WORLD_SEQUENCES + 1] */
    struct world_pass pass;
    struct spin_graph *graphs[WORLD_SEQUENCES][WORLD_WORKS]; /* of (count - 1, work) */
    uint64_t recorded; /* steps that were launched as a recording made earlier */
    uint64_t calls;
    uint64_t pages_compared;
    uint64_t pages_read_back; /* by arenas, as the test counts them */
    bool keep_selection;      /* a step selects the oldest pages, always the same */
};

void spin_world_set_up(struct world *world, const struct world_options *options);
/* Closes what is open; every slab and block must be back. */
void spin_world_tear_down(struct world *world);

struct world_seq *spin_world_open(struct world *world, uint32_t index, uint32_t prompt);
/* Its prompt comes from elsewhere: random frames, which the sequence adopts. */
void spin_world_adopt(struct world *world, struct world_seq *seq);
/* Reserve and activate. False: no room; asserted that the claims allow that. */
bool spin_world_activate(struct world *world, struct world_seq *seq);
/* One unit of a prompt, at most `tokens` of it. */
void spin_world_unit(struct world *world, struct world_seq *seq, uint32_t tokens);
void spin_world_prefill(struct world *world, struct world_seq *seq);
/* One step of the sequences named; false as for spin_world_activate. They are reserved before. */
bool spin_world_step(struct world *world, struct world_seq *const *seqs, uint32_t count);
/* Reserves, steps, expects success; so many times. */
void spin_world_decode(struct world *world, struct world_seq *seq, uint32_t steps);
void spin_world_suspend(struct world *world, struct world_seq *seq);
void spin_world_close(struct world *world, struct world_seq *seq);

/* Waits for what was submitted, then checks what there is to check: between passes. */
void spin_world_check(const struct world *world);

struct spin_kv_stats spin_world_stats(const struct world *world);
struct spin_kv_seq_stats spin_world_seq_stats(const struct world *world,
                                              const struct world_seq *seq);

SPIN_END_DECLS
