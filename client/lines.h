/* lines: standard input line by line, while signals are listened to.
 *
 * Why        getline would wait through Ctrl-C or lose what it had read; a conversation wants
 *            neither.
 * Ownership  Owns its buffer; a line is valid until the next call.
 * Threading  The main thread.
 * Units      Bytes. A terminal does the editing.
 * Errors     next: NOT_FOUND at the end of input, CANCELLED when a signal came first, LIMIT (the
 *            line was too long and is skipped), IO, NO_MEMORY. */
#pragma once

#include "client/interrupt.h"

SPIN_BEGIN_DECLS

#define SPIN_LINE_BYTES_MAX (UINT64_C(1) << 20)

struct spin_lines { /* zeroed but for fd: ready */
    int fd;
    char *bytes;
    uint64_t capacity;
    uint64_t count; /* read and not given out yet, from `begin` on */
    uint64_t begin;
    bool skips; /* the rest of a line that was too long */
    bool ended;
};

void spin_lines_deinit(struct spin_lines *lines);
/* *out without its line end. *out_signal: the number, with CANCELLED. */
SPIN_MUST_USE spin_status spin_lines_next(struct spin_lines *lines,
                                          struct spin_interrupt *interrupt, char **out,
                                          int *out_signal, struct spin_error *err);

SPIN_END_DECLS
