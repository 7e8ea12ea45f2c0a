/* kv_internal: what the files of the manager share: the control plane's state, slabs, the gradient.
 *
 * Why        kv.c makes and frees; kv_memory.c takes the arrays and sends what has changed in them,
 *            kv_host.c has the blocks, kv_slabs.c the slabs of one sequence, kv_gradient.c decides
 *            between sequences, kv_pass.c runs passes, kv_stats.c counts, kv_check.c asserts.
 * Ownership  struct spin_kv owns all of it. Arrays of the view come from spin_device_alloc, what is
 *            copied in the background from spin_host_alloc, the rest from calloc; all at create.
 * Threading  The engine's thread.
 * Units      Slabs and slots of a row, or of all rows where it says so; pages; tokens. */
#pragma once

#include "base/assert.h"
#include "kvstore/manager/kv.h"

SPIN_BEGIN_DECLS

#define SPIN_KV_NOBODY UINT32_MAX /* owner of a free slab, holder of a free block */
#define SPIN_KV_LAYER_NONE UINT32_MAX

/*      open        activate              last unit or first step
 * CLOSED --> IDLE ----------> PREFILL ----------------------------> DECODE
 *             ^ ^----- suspend ---+  activate, all written ------------^ |
 *             +---------------------- suspend ---------------------------+      close: from any */
enum spin_kv_phase {
    SPIN_KV_CLOSED,
    SPIN_KV_IDLE,    /* no slots: new, or suspended */
    SPIN_KV_PREFILL, /* RESIDENT, or BUFFERED with an arena and no rows */
    SPIN_KV_DECODE   /* rows of its own */
};

struct spin_kv_sequence {
    enum spin_kv_phase phase;
    uint32_t blocks;
    uint32_t slabs;       /* all rows; of the arena while it has one */
    uint32_t arena_row;   /* slabs of a row of the arena; 0: it has none */
    uint32_t arena_layer; /* whose pages [0, arena_tokens) the arena holds, or LAYER_NONE */
    uint32_t arena_tokens;
    uint32_t tokens;         /* of its last pass */
    uint32_t goal;           /* tokens that it was activated for */
    uint32_t planned;        /* tokens that its budget is judged by: of the pass that comes */
    uint32_t steps;          /* decode steps behind it */
    uint32_t steps_buffered; /* of those, since its rows have tables */
    bool open_page_dirty;    /* the open page is in its slots alone */
    uint32_t dropped;        /* sum of the rows' counters.dropped when last read, modulo 2^32 */
    bool dropping;           /* its rows have shrunk since then */
    uint64_t plan;           /* the last step_begin that named it */
    /* For people. */
    uint32_t working_set; /* sum over rows */
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
};

/* What the operations of a pass read, of `count` sequences: one block of memory. */
struct spin_kv_inputs {
    uint32_t *sequence;
    uint32_t *tokens;
    uint32_t *step;
    struct spin_kv_range *sealed;
    struct spin_kv_range *offloaded;
};

enum spin_kv_pass { SPIN_KV_PASS_NONE, SPIN_KV_PASS_STEP, SPIN_KV_PASS_PREFILL };

struct spin_kv {
    struct spin_kv_config config;
    struct spin_kv_budget budget;
    struct spin_kv_view view;
    struct spin_stream *stream;
    struct spin_owner owner; /* the first thread that opens a sequence */
    bool poison;

    uint32_t rows;      /* of a sequence: layers * kv_heads */
    uint32_t pages_max; /* of a row */
    uint64_t page_bytes;
    uint64_t block_bytes;
    uint64_t summary_bytes; /* of a block */

    /* Host tier. */
    uint32_t blocks;
    uint32_t blocks_free;
    uint32_t *free_blocks;  /* [blocks], a stack: what was used last is in the caches */
    uint32_t *block_holder; /* [blocks]: sequence */

    /* HBM. */
    uint32_t slabs; /* whole groups */
    uint32_t slabs_free;
    uint32_t *free_groups; /* [slabs / kv_heads], a stack */
    uint32_t *group_owner; /* [slabs / kv_heads]: sequence */

    uint32_t sequences_open;
    uint32_t *free_sequences; /* [sequences_max], a stack */
    struct spin_kv_sequence *sequences;
    uint32_t *working_set;  /* [sequences_max][layers]: of a row, the largest; 0: not known */
    uint32_t *layer_tokens; /* [sequences_max][layers]: tokens whose KV is there */

    /* What the host writes of the view. Where device memory is the host's, the view's own arrays;
     * else the view's are copies, which spin_kv_flush makes right. */
    uint8_t *residency;
    uint32_t *slab_list;
    uint32_t *slab_count;
    uint32_t *block_list;
    uint8_t *dirty; /* [sequences_max]: SPIN_KV_DIRTY_*: what has changed since it was sent */
    bool any_dirty;
    /* What the host reads of the view's counters: they themselves, or what the last step's read
     * brought. */
    struct spin_kv_counters *counters;     /* [sequences_max * rows] */
    struct spin_kv_counters *no_counters;  /* [rows]: zeros */
    struct spin_kv_counters *row_counters; /* [rows]: of spin_kv_wait_for_counters */
    uint32_t *before; /* [layers]: slabs of a row, of the sequence whose rows are growing */

    /* Of the pass at hand. */
    enum spin_kv_pass pass;
    uint64_t plan; /* number of the last step_begin */
    uint32_t pass_count;
    uint32_t pass_layer;              /* the lists are this layer's, or LAYER_NONE */
    uint32_t sealed_pages;            /* of a row, all sequences */
    uint32_t offloaded_pages;         /* of a row, all sequences */
    bool may_miss;                    /* somebody is not RESIDENT */
    struct spin_kv_inputs staged;     /* host memory, [sequences_max]; copied when a pass begins */
    struct spin_kv_inputs inputs;     /* device memory, [sequences_max] */
    struct spin_kv_inputs one;        /* device memory, [1]: of a sequence between passes */
    struct spin_kv_inputs one_staged; /* host memory that copies wait for, [1] */
    struct spin_kv_lists lists;       /* device memory */
    uint64_t *row_offset;             /* device memory, [sequences_max * kv_heads]: row * stride */

    /* spin_kv_check's scratch. */
    uint16_t *check_pages; /* [pages_max] */
    uint16_t *check_slots; /* [slabs_max * SPIN_SLAB_SLOTS] */
    uint8_t *check_marks;  /* [the larger of slabs and blocks] */

    /* Since create; spin_kv_get_stats fills in the rest. */
    struct spin_kv_stats stats;
};

/* The open sequence, on the right thread. */
struct spin_kv_sequence *spin_kv_sequence_of(const struct spin_kv *kv, spin_kv_seq seq);

static inline bool spin_kv_is_active(const struct spin_kv_sequence *sequence)
{
    return sequence->phase == SPIN_KV_PREFILL || sequence->phase == SPIN_KV_DECODE;
}

static inline bool spin_kv_is_resident_now(const struct spin_kv *kv, uint32_t seq)
{
    return kv->residency[seq] == SPIN_KV_RESIDENT;
}

/* Slabs of each row of a layer. */
static inline uint32_t *spin_kv_count_of(const struct spin_kv *kv, uint32_t seq, uint32_t layer)
{
    return kv->slab_count + (uint64_t)seq * kv->config.layout.layers + layer;
}

static inline uint32_t *spin_kv_layer_tokens_of(const struct spin_kv *kv, uint32_t seq,
                                                uint32_t layer)
{
    return kv->layer_tokens + (uint64_t)seq * kv->config.layout.layers + layer;
}

static inline uint32_t spin_kv_pages_of(const struct spin_kv *kv, uint32_t tokens)
{
    return tokens / kv->config.page_tokens + (tokens % kv->config.page_tokens != 0);
}

/* Its budget is judged by the step that comes, not by the one that was: others, too, count with
 * what it will need. */
static inline void spin_kv_plan_next(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    sequence->planned = SPIN_MIN(sequence->tokens + 1, kv->config.tokens_max);
}

/* --- kv_memory.c --- */

spin_status spin_kv_alloc_memory(struct spin_kv *kv, struct spin_error *err);
void spin_kv_free_memory(struct spin_kv *kv);
#define SPIN_KV_DIRTY_SLABS 1u  /* residency, slab lists and counts */
#define SPIN_KV_DIRTY_BLOCKS 2u /* the list of blocks */
/* Of this sequence they have changed. */
static inline void spin_kv_touch(struct spin_kv *kv, uint32_t seq, uint32_t what)
{
    kv->dirty[seq] |= (uint8_t)what;
    kv->any_dirty = true;
}
/* What has changed is what operations read from now on. Before each operation, but for those of a
 * pass, whose beginning does it. */
SPIN_MUST_USE spin_status spin_kv_flush(struct spin_kv *kv);
/* Submits a read of all counters: of whoever is in a batch, so that a recording of one step's does
 * for others. */
SPIN_MUST_USE spin_status spin_kv_read_counters(struct spin_kv *kv);
/* Those of one sequence, at once; as they were when the device does not answer. */
void spin_kv_wait_for_counters(struct spin_kv *kv, uint32_t seq);

/* --- kv_host.c --- */

void spin_kv_release_blocks(struct spin_kv *kv, uint32_t seq);

/* --- kv_slabs.c: slabs of one sequence; whoever calls knows that they are free --- */

enum spin_kv_level {
    SPIN_KV_LEVEL_NONE,
    SPIN_KV_MANDATORY,
    SPIN_KV_FLOOR,
    SPIN_KV_TARGET,
    SPIN_KV_FULL
};

/* Slabs of a row of `layer` at a level of the sequence's planned tokens. */
uint32_t spin_kv_level_row(const struct spin_kv *kv, uint32_t seq, uint32_t layer,
                           enum spin_kv_level level);
void spin_kv_set_residency(struct spin_kv *kv, uint32_t seq, enum spin_kv_residency residency);
/* Becomes RESIDENT, with slots for `tokens`. */
void spin_kv_grant_resident(struct spin_kv *kv, uint32_t seq, uint32_t tokens);
/* A RESIDENT one grows with its tokens. */
void spin_kv_grow_resident(struct spin_kv *kv, uint32_t seq, uint32_t tokens);
void spin_kv_grant_arena(struct spin_kv *kv, uint32_t seq, uint32_t tokens);
/* Rows of a BUFFERED one grow to the level as far as slabs are free. */
SPIN_MUST_USE spin_status spin_kv_grow_rows(struct spin_kv *kv, uint32_t seq,
                                            enum spin_kv_level level);
/* Layers shrink to the level until `wanted` slabs are free, or all have. */
SPIN_MUST_USE spin_status spin_kv_shrink(struct spin_kv *kv, uint32_t seq, enum spin_kv_level level,
                                         uint32_t wanted);
/* All slabs of an active one: rows and arena. */
void spin_kv_release_slabs(struct spin_kv *kv, uint32_t seq);

/* --- kv_gradient.c --- */

/* Slabs for the step of everybody named, or AGAIN. `planned` is set. */
SPIN_MUST_USE spin_status spin_kv_grant_step(struct spin_kv *kv, const struct spin_kv_step *steps,
                                             uint32_t count);
/* A BUFFERED one grows towards its target where slabs are free. */
SPIN_MUST_USE spin_status spin_kv_follow(struct spin_kv *kv, uint32_t seq);

/* --- kv_pass.c --- */

/* Bytes of the block, and where its parts lie. */
uint64_t spin_kv_inputs_bytes(uint32_t sequences);
struct spin_kv_inputs spin_kv_inputs_at(void *memory, uint32_t sequences);
/* Pages [0, pages) of a layer: from their frames into the slots of `slot_layer`'s rows. */
SPIN_MUST_USE spin_status spin_kv_read_back(struct spin_kv *kv, uint32_t seq, uint32_t layer,
                                            uint32_t slot_layer, uint32_t pages);
/* The open page goes to the host if it is in its slots alone. Between passes. */
SPIN_MUST_USE spin_status spin_kv_write_open_page(struct spin_kv *kv, uint32_t seq);

/* --- kv_stats.c --- */

/* Of a sequence that is opened. */
SPIN_MUST_USE spin_status spin_kv_zero_counters(struct spin_kv *kv, uint32_t seq);
/* Sums up the counters of a sequence whose step is over. */
void spin_kv_count_step(struct spin_kv *kv, uint32_t seq);
void spin_kv_count_dropped(struct spin_kv *kv, uint32_t seq);
/* The working set that its rows counted is what its target follows from now on. */
void spin_kv_note_working_set(struct spin_kv *kv, uint32_t seq);

SPIN_END_DECLS
