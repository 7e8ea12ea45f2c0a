/* added: find the added tokens of a vocabulary in text: leftmost first, longest among those.
 *
 * Why        A sorted table is searched like a trie, one range per byte: nothing to build but the
 *            sort, and the cost per place is bounded by the longest added token
 *            (SPIN_ADDED_BYTES_MAX).
 * Ownership  The table belongs to the arena given to build; texts are borrowed from the vocabulary.
 * Threading  Built on one thread; read by all.
 * Units      Bytes.
 * Errors     CORRUPT: two tokens of one text. LIMIT: a text over SPIN_ADDED_BYTES_MAX. */
#pragma once

#include "base/arena.h"
#include "model/text/vocab.h"

SPIN_BEGIN_DECLS

/* Published ones stay below 64; a run of spaces can be longer. */
#define SPIN_ADDED_BYTES_MAX 512u

struct spin_added_token {
    struct spin_string text;
    int32_t token;
    bool special;
};

struct spin_added {
    const struct spin_added_token *tokens; /* sorted by bytes, a prefix before what it begins */
    uint32_t count;
    uint32_t first[257]; /* tokens that begin with byte b: [first[b], first[b + 1]) */
};

struct spin_added_source {
    const struct spin_token_row *rows; /* [vocab->count] */
    const struct spin_vocab *vocab;
    bool normalized; /* of the rows of kind ADDED and SPECIAL, those that say the same */
};

/* Empty tokens match nothing and are left out. */
SPIN_MUST_USE spin_status spin_added_build(const struct spin_added_source *source,
                                           struct spin_arena *arena, struct spin_added *out,
                                           struct spin_error *err);

/* The first match at or after `from`: its place goes to *begin. NULL when there is none. */
const struct spin_added_token *spin_added_find(const struct spin_added *added,
                                               struct spin_string text, uint64_t from,
                                               uint64_t *begin);

SPIN_END_DECLS
