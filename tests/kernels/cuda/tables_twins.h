/* tables_twins: what the files of the area "tables" share: one memory seen from two sides.
 *
 * Why        An operation on tables reads and writes a dozen arrays. They lie in one memory, with
 *            gaps of 0xff between them, laid out alike for the reference and for the GPU: what one
 *            side has and the other has not, a stray byte included, is one comparison.
 * Ownership  spin_twin_memory_create allocates, destroy frees.
 * Threading  The main thread.
 * Units      Bytes. */
#pragma once

#include "tests/kernels/cuda/twins.h"

SPIN_BEGIN_DECLS

struct spin_twin_memory {
    struct spin_twins *twins;
    uint64_t bytes;
    uint8_t *ref;  /* the reference's; what the host writes goes here */
    uint8_t *gpu;  /* device memory */
    uint8_t *back; /* what was read back */
};

/* Hands out the arrays of one side; base NULL: only counts. */
struct spin_twin_cursor {
    uint8_t *base;
    uint64_t used;
};
void *spin_twin_take(struct spin_twin_cursor *cursor, uint64_t count, uint64_t bytes);

/* All bytes are 0xff. */
struct spin_twin_memory spin_twin_memory_create(struct spin_twins *twins, uint64_t bytes);
void spin_twin_memory_destroy(struct spin_twin_memory *memory);
/* The GPU sees what the reference sees. */
void spin_twin_memory_write(struct spin_twin_memory *memory);
/* Bytes that differ, after everything submitted is done; the first one is printed. */
uint64_t spin_twin_memory_compare(struct spin_twin_memory *memory, const char *what);

void spin_twins_copies(struct spin_twins *twins);        /* gather, offload, list, append */
void spin_twins_tables_timing(struct spin_twins *twins); /* all of them */

SPIN_END_DECLS
