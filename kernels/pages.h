/* pages: how operations see the paged KV of a batch: page lists, one per row.
 *
 * Why        Dense and sparse attention, prefill and decode, resident and retrieved pages all look
 *            the same to an operation: a list of slots in ascending logical order, and how many of
 *            the list's tokens may be seen.
 * Words      slot: a page's place in the pool, slot s at pool + s * page_bytes. row: (sequence, kv
 *            head) of the layer at hand; its index is sequence * kv_heads + head.
 * Rule       Tokens of a list are numbered from 0 in list order; page i of the list holds list
 *            tokens [i P, i P + P). The last query of a sequence sees list tokens
 *            [0, visible[row]); the query j places before the last sees j fewer. A dense list is
 *            every page, so this is causality.
 * Ownership  Borrowed for the duration of the operation.
 * Threading  Any thread; read-only while an operation runs.
 * Units      tokens; slots; offsets in slot entries. */
#pragma once

#include "kvstore/block/layout.h"

SPIN_BEGIN_DECLS

/* Which tokens of the batch are whose: sequence s has tokens [first[s], first[s + 1]). */
struct spin_spans {
    const uint32_t *first; /* [count + 1], ascending, first[0] == 0 */
    uint32_t count;
};

struct spin_page_lists {
    struct spin_kv_layout layout;
    uint8_t *pool;              /* slot 0 */
    const uint32_t *slots;      /* the layer's lists; row r starts at slots[row_offset[r]] */
    const uint64_t *row_offset; /* [sequences * kv_heads]; the same for every layer */
    const uint32_t *visible;    /* [sequences * kv_heads] */
    uint32_t page_tokens;       /* P: 8 or 32 */
};

SPIN_END_DECLS
