/* A sequence lock. The fields are atomics too, released and acquired one by one: a reader that has
 * seen a field of the next set also sees the odd sequence number that was stored before it. */
#include "worker/engine/load.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define WORDS (sizeof(struct spin_engine_load) / sizeof(uint64_t))
_Static_assert(sizeof(struct spin_engine_load) % sizeof(uint64_t) == 0, "whole words");

struct spin_load_board {
    _Atomic uint64_t sequence; /* odd while a set is under way */
    _Atomic uint64_t words[WORDS];
};

spin_status spin_load_board_create(struct spin_load_board **out, struct spin_error *err)
{
    struct spin_load_board *board = calloc(1, sizeof *board);
    if (board == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "load board: %zu bytes", sizeof *board);
    }
    *out = board;
    return SPIN_OK;
}

void spin_load_board_destroy(struct spin_load_board *board)
{
    free(board);
}

void spin_load_board_set(struct spin_load_board *board, const struct spin_engine_load *load)
{
    uint64_t words[WORDS];
    memcpy(words, load, sizeof words);
    const uint64_t sequence = atomic_load_explicit(&board->sequence, memory_order_relaxed);
    atomic_store_explicit(&board->sequence, sequence + 1, memory_order_relaxed);
    for (uint32_t i = 0; i < WORDS; i++) {
        /* Release: after the odd number; pairs with the acquire of the same word in get. */
        atomic_store_explicit(&board->words[i], words[i], memory_order_release);
    }
    /* Release: after the words; pairs with the first load in get. */
    atomic_store_explicit(&board->sequence, sequence + 2, memory_order_release);
}

void spin_load_board_get(const struct spin_load_board *board, struct spin_engine_load *out)
{
    uint64_t words[WORDS];
    uint64_t before = 0;
    uint64_t after = 0;
    do {
        before = atomic_load_explicit(&board->sequence, memory_order_acquire);
        for (uint32_t i = 0; i < WORDS; i++) {
            words[i] = atomic_load_explicit(&board->words[i], memory_order_acquire);
        }
        after = atomic_load_explicit(&board->sequence, memory_order_relaxed);
    } while (before != after || before % 2 != 0);
    memcpy(out, words, sizeof words);
}
