#include "model/text/bpe.h"

#include "base/assert.h"

#include <string.h>

/* Up to here a scan over all pairs per merge beats a heap; nearly every word is shorter. */
#define SHORT_PIECE_BYTES 48u
#define EMPTY_KEY UINT64_MAX
#define NO_SYMBOL UINT32_MAX
#define NO_RANK UINT32_MAX
/* See vocab.c: a table made to collide is refused. */
#define PROBES_MAX 1024u

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint32_t pair_slot(const struct spin_bpe *bpe, uint64_t key)
{
    uint64_t hash = (key ^ key >> 29) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(hash >> 32) & bpe->slot_mask;
}

/* NULL when the two do not merge. */
static const struct spin_merge *find_merge(const struct spin_bpe *bpe, int32_t left, int32_t right)
{
    const uint64_t key = pair_key(left, right);
    uint32_t at = pair_slot(bpe, key);
    while (bpe->slots[at].key != key) {
        if (bpe->slots[at].key == EMPTY_KEY) {
            return NULL;
        }
        at = (at + 1) & bpe->slot_mask;
    }
    return &bpe->slots[at];
}

/* --- building --------------------------------------------------------------------------------- */

struct builder {
    const struct spin_vocab *vocab;
    struct spin_merge *slots;
    struct spin_bpe *bpe;
    char joined[2 * SPIN_TOKEN_BYTES_MAX];
};

static spin_status resolve(struct builder *builder, const struct spin_merge_row *row,
                           uint64_t index, struct spin_merge *out, struct spin_error *err)
{
    uint32_t left_bytes = 0;
    uint32_t right_bytes = 0;
    const bool spelled =
        row->left.count <= SPIN_TOKEN_BYTES_MAX && row->right.count <= SPIN_TOKEN_BYTES_MAX &&
        spin_vocab_bytes_of(row->left, builder->joined, &left_bytes) &&
        spin_vocab_bytes_of(row->right, builder->joined + left_bytes, &right_bytes);
    if (!spelled || left_bytes == 0 || right_bytes == 0) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "merge %llu: not two byte-level tokens",
                         (unsigned long long)index);
    }
    const struct spin_vocab *vocab = builder->vocab;
    const int32_t left = spin_vocab_find(vocab, builder->joined, left_bytes);
    const int32_t right = spin_vocab_find(vocab, builder->joined + left_bytes, right_bytes);
    const int32_t merged =
        spin_vocab_find(vocab, builder->joined, (uint64_t)left_bytes + right_bytes);
    if (left < 0 || right < 0 || merged < 0) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "merge %llu: its %s token is not in the vocabulary",
                         (unsigned long long)index,
                         left < 0    ? "left"
                         : right < 0 ? "right"
                                     : "merged");
    }
    *out = (struct spin_merge){pair_key(left, right), (uint32_t)index, merged};
    return SPIN_OK;
}

static spin_status insert(struct builder *builder, struct spin_merge merge, struct spin_error *err)
{
    uint32_t at = pair_slot(builder->bpe, merge.key);
    for (uint32_t probes = 0; probes < PROBES_MAX; probes++) {
        if (builder->slots[at].key == EMPTY_KEY || builder->slots[at].key == merge.key) {
            builder->slots[at] = merge;
            return SPIN_OK;
        }
        at = (at + 1) & builder->bpe->slot_mask;
    }
    return spin_fail(err, SPIN_ERR_CORRUPT, "merge %u collides with %u others", merge.rank,
                     PROBES_MAX);
}

spin_status spin_bpe_build(const struct spin_merge_list *merges, const struct spin_vocab *vocab,
                           struct spin_arena *arena, struct spin_bpe *out, struct spin_error *err)
{
    const uint64_t count = merges->count;
    if (count > SPIN_MERGES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%llu merges, limit %u", (unsigned long long)count,
                         SPIN_MERGES_MAX);
    }
    uint32_t slot_count = 16;
    while (slot_count < 2 * count) {
        slot_count *= 2;
    }
    struct spin_merge *slots = spin_arena_take(arena, slot_count * sizeof *slots);
    if (slots == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%llu merges", (unsigned long long)count);
    }
    for (uint32_t i = 0; i < slot_count; i++) {
        slots[i] = (struct spin_merge){.key = EMPTY_KEY};
    }
    struct builder builder; /* its buffer is written before it is read */
    builder.vocab = vocab;
    builder.slots = slots;
    builder.bpe = out;
    out->slots = slots;
    out->slot_mask = slot_count - 1;
    for (uint64_t i = 0; i < count; i++) {
        struct spin_merge merge = {0};
        SPIN_TRY(resolve(&builder, &merges->rows[i], i, &merge, err));
        SPIN_TRY(insert(&builder, merge, err));
    }
    return SPIN_OK;
}

/* --- encoding --------------------------------------------------------------------------------- */

/* The first symbols: a token per byte. Returns how many; `ids` has room for piece.count. */
static uint32_t first_symbols(const struct spin_bpe *bpe, const struct spin_vocab *vocab,
                              struct spin_string piece, int32_t *ids)
{
    uint32_t count = 0;
    bool in_unknown = false;
    for (uint64_t i = 0; i < piece.count; i++) {
        const int32_t token = vocab->byte_tokens[(uint8_t)piece.bytes[i]];
        if (token >= 0) {
            ids[count++] = token;
            in_unknown = false;
        } else if (bpe->unknown >= 0 && !(in_unknown && bpe->fuse_unknown)) {
            ids[count++] = bpe->unknown;
            in_unknown = true;
        }
    }
    return count;
}

static uint32_t lowest_rank(const uint32_t *ranks, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++) {
        best = ranks[i] < ranks[best] ? i : best;
    }
    return best;
}

static void encode_short(const struct spin_bpe *bpe, int32_t *ids, uint32_t count,
                         struct spin_token_sink *sink)
{
    uint32_t ranks[SHORT_PIECE_BYTES]; /* of the pair (i, i + 1) */
    int32_t merged[SHORT_PIECE_BYTES];
    for (uint32_t i = 0; i + 1 < count; i++) {
        const struct spin_merge *merge = find_merge(bpe, ids[i], ids[i + 1]);
        ranks[i] = merge == NULL ? NO_RANK : merge->rank;
        merged[i] = merge == NULL ? -1 : merge->merged;
    }
    while (count > 1) {
        const uint32_t best = lowest_rank(ranks, count - 1);
        if (ranks[best] == NO_RANK) {
            break;
        }
        ids[best] = merged[best];
        count--;
        memmove(ids + best + 1, ids + best + 2, (count - best - 1) * sizeof *ids);
        memmove(ranks + best, ranks + best + 1, (count - best - 1) * sizeof *ranks);
        memmove(merged + best, merged + best + 1, (count - best - 1) * sizeof *merged);
        const uint32_t first = best > 0 ? best - 1 : 0;
        for (uint32_t i = first; i <= best && i + 1 < count; i++) {
            const struct spin_merge *merge = find_merge(bpe, ids[i], ids[i + 1]);
            ranks[i] = merge == NULL ? NO_RANK : merge->rank;
            merged[i] = merge == NULL ? -1 : merge->merged;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        spin_token_sink_put(sink, ids[i]);
    }
}

/* A binary heap of rank << 32 | position: lowest rank first, leftmost first among equals. */
struct heap {
    uint64_t *entries;
    uint64_t count;
};

static void sift_down(struct heap *heap, uint64_t from)
{
    const uint64_t entry = heap->entries[from];
    uint64_t at = from;
    for (;;) {
        uint64_t child = 2 * at + 1;
        if (child >= heap->count) {
            break;
        }
        if (child + 1 < heap->count && heap->entries[child + 1] < heap->entries[child]) {
            child++;
        }
        if (heap->entries[child] >= entry) {
            break;
        }
        heap->entries[at] = heap->entries[child];
        at = child;
    }
    heap->entries[at] = entry;
}

static void heap_push(struct heap *heap, uint64_t entry)
{
    uint64_t at = heap->count++;
    while (at > 0 && heap->entries[(at - 1) / 2] > entry) {
        heap->entries[at] = heap->entries[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->entries[at] = entry;
}

static uint64_t heap_pop(struct heap *heap)
{
    const uint64_t top = heap->entries[0];
    heap->entries[0] = heap->entries[--heap->count];
    if (heap->count > 0) {
        sift_down(heap, 0);
    }
    return top;
}

static const struct spin_merge *merge_at(const struct spin_bpe *bpe,
                                         const struct spin_bpe_workspace *workspace, uint32_t at)
{
    const uint32_t next = workspace->next[at];
    return next == NO_SYMBOL ? NULL : find_merge(bpe, workspace->ids[at], workspace->ids[next]);
}

static void push_pair(const struct spin_bpe *bpe, const struct spin_bpe_workspace *workspace,
                      struct heap *heap, uint32_t at)
{
    const struct spin_merge *merge = merge_at(bpe, workspace, at);
    if (merge != NULL) {
        heap_push(heap, (uint64_t)merge->rank << 32 | at);
    }
}

/* Merges symbol `at` with the next one, which dies. */
static void join(struct spin_bpe_workspace *workspace, uint32_t at, int32_t merged)
{
    const uint32_t dead = workspace->next[at];
    const uint32_t after = workspace->next[dead];
    workspace->ids[at] = merged;
    workspace->ids[dead] = -1;
    workspace->next[at] = after;
    workspace->next[dead] = NO_SYMBOL;
    if (after != NO_SYMBOL) {
        workspace->previous[after] = at;
    }
}

/* Entries are never removed: one whose symbol died or whose pair has changed since is recognised by
 * its rank when it comes up. Each merge takes one entry out and puts at most two in, so 2 n
 * suffice. */
static void merge_all(const struct spin_bpe *bpe, struct spin_bpe_workspace *workspace,
                      uint32_t count)
{
    struct heap heap = {workspace->heap, 0};
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_merge *merge = merge_at(bpe, workspace, i);
        if (merge != NULL) {
            heap.entries[heap.count++] = (uint64_t)merge->rank << 32 | i;
        }
    }
    for (uint64_t i = heap.count / 2; i > 0; i--) {
        sift_down(&heap, i - 1);
    }
    while (heap.count > 0) {
        const uint64_t entry = heap_pop(&heap);
        const uint32_t at = (uint32_t)entry;
        const struct spin_merge *merge = merge_at(bpe, workspace, at);
        if (merge == NULL || merge->rank != entry >> 32) {
            continue;
        }
        join(workspace, at, merge->merged);
        push_pair(bpe, workspace, &heap, at);
        if (workspace->previous[at] != NO_SYMBOL) {
            push_pair(bpe, workspace, &heap, workspace->previous[at]);
        }
        SPIN_DASSERT(heap.count <= 2 * workspace->capacity);
    }
}

static spin_status reserve(struct spin_bpe_workspace *workspace, uint64_t symbols)
{
    if (symbols <= workspace->capacity) {
        return SPIN_OK;
    }
    /* Doubling bounds what the arena holds of outgrown arrays by what it holds of these. */
    const uint64_t capacity = SPIN_MAX(symbols, 2 * workspace->capacity);
    struct spin_bpe_workspace grown = {
        .arena = workspace->arena,
        .ids = spin_arena_take(workspace->arena, capacity * sizeof *grown.ids),
        .next = spin_arena_take(workspace->arena, capacity * sizeof *grown.next),
        .previous = spin_arena_take(workspace->arena, capacity * sizeof *grown.previous),
        .heap = spin_arena_take(workspace->arena, 2 * capacity * sizeof *grown.heap),
        .capacity = capacity,
    };
    if (grown.ids == NULL || grown.next == NULL || grown.previous == NULL || grown.heap == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    *workspace = grown;
    return SPIN_OK;
}

static spin_status encode_long(const struct spin_bpe *bpe, const struct spin_vocab *vocab,
                               struct spin_string piece, struct spin_bpe_workspace *workspace,
                               struct spin_token_sink *sink)
{
    SPIN_TRY(reserve(workspace, piece.count));
    const uint32_t count = first_symbols(bpe, vocab, piece, workspace->ids);
    for (uint32_t i = 0; i < count; i++) {
        workspace->previous[i] = i > 0 ? i - 1 : NO_SYMBOL;
        workspace->next[i] = i + 1 < count ? i + 1 : NO_SYMBOL;
    }
    merge_all(bpe, workspace, count);
    for (uint32_t at = count > 0 ? 0 : NO_SYMBOL; at != NO_SYMBOL; at = workspace->next[at]) {
        spin_token_sink_put(sink, workspace->ids[at]);
    }
    return SPIN_OK;
}

spin_status spin_bpe_encode(const struct spin_bpe *bpe, const struct spin_vocab *vocab,
                            struct spin_string piece, struct spin_bpe_workspace *workspace,
                            struct spin_token_sink *sink)
{
    SPIN_ASSERT(piece.count > 0 && piece.count < NO_SYMBOL);
    if (bpe->ignore_merges) {
        const int32_t whole = spin_vocab_find(vocab, piece.bytes, piece.count);
        if (whole >= 0) {
            spin_token_sink_put(sink, whole);
            return SPIN_OK;
        }
    }
    if (piece.count > SHORT_PIECE_BYTES) {
        return encode_long(bpe, vocab, piece, workspace, sink);
    }
    int32_t ids[SHORT_PIECE_BYTES];
    const uint32_t count = first_symbols(bpe, vocab, piece, ids);
    encode_short(bpe, ids, count, sink);
    return SPIN_OK;
}
