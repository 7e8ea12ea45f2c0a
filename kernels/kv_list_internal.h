/* kv_list_internal: the limits of kv_list, for all its versions.
 *
 * Why        What kv_list.h promises is asserted in one place.
 * Ownership  Borrows the operation's arguments.
 * Threading  Any thread; pure.
 * Units      Pages, slots, tokens. */
#pragma once

#include "base/assert.h"
#include "kernels/kv_list.h"

SPIN_BEGIN_DECLS

static inline void spin_kv_list_check(const struct spin_kv_list_args *args)
{
    const struct spin_kv_view *view = args->view;
    const uint64_t end = (uint64_t)args->pages.first + args->pages.count;
    SPIN_ASSERT_GE(args->pages.count, 1);
    SPIN_ASSERT_LE(args->pages.count, args->lists.stride);
    SPIN_ASSERT_LE(end, SPIN_ROW_PAGES_MAX);
    if (args->kind == SPIN_KV_LIST_SLOTS) {
        SPIN_ASSERT_GE(args->tokens, 1);
        SPIN_ASSERT_EQ((args->tokens - 1) / view->page_tokens + 1, end);
    }
    if (args->kind != SPIN_KV_LIST_PAGES) {
        SPIN_ASSERT_LT(args->slot_layer, view->layout.layers);
        SPIN_ASSERT_LE(end, (uint64_t)view->slabs_max * SPIN_SLAB_SLOTS);
    }
}

SPIN_END_DECLS
