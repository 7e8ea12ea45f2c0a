/* trace: which pages every row of every decode step attended to, recorded once, replayed often.
 *
 * Why        Recording costs minutes of forward passes, a replay costs seconds; and a comparison of
 *            policies is one of the same choices only when they come from the same file.
 * Words      private: pages that the algorithm takes whatever the query says (sink, local window,
 *            open page). chosen: the others of a selection. row: layer * kv_heads + head, counted
 *            from the first layer that chooses.
 * Format     Little endian: struct spin_trace_shape; for each document struct spin_trace_document;
 *            then, document by document and step by step, varints (LEB128): private_end,
 *            local_begin, and for every row the number of runs and each run as (gap, pages), the
 *            gap being counted from the end of the run before. A choice of 37 pages is some 60
 *            bytes.
 * Ownership  A trace owns its decoded pages; a writer its file.
 * Threading  One thread writes; any number read.
 * Units      Pages, tokens, decode steps.
 * Errors     IO; CORRUPT from open, with the place: every list is ascending, ends with the page of
 *            the newest token and has no page behind it. LIMIT: more of something than MAX says. */
#pragma once

#include "base/status.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

#define SPIN_TRACE_VERSION 1u
#define SPIN_TRACE_DOCUMENTS_MAX 64u
#define SPIN_TRACE_STEPS_MAX 65536u
#define SPIN_TRACE_ROWS_MAX 4096u
#define SPIN_TRACE_NAME_BYTES 32u

struct spin_trace_shape {
    char magic[8]; /* "SPINTRC" */
    uint32_t version;
    uint32_t page_tokens;
    uint32_t first_layer; /* earlier ones attend to everything and are left out */
    uint32_t layers;      /* recorded */
    uint32_t kv_heads;
    uint32_t documents;
    uint32_t steps; /* of each document */
    uint32_t unused;
    char algorithm[SPIN_TRACE_NAME_BYTES];
};

struct spin_trace_document {
    char name[SPIN_TRACE_NAME_BYTES];
    uint32_t prompt_tokens; /* step s is the query of token prompt_tokens + s */
    uint32_t unused;
};

/* Private pages of a step: [0, sink_end) and [local_begin, newest]. */
struct spin_trace_window {
    uint32_t sink_end;
    uint32_t local_begin;
};

struct spin_trace_list {
    const uint16_t *pages; /* ascending; the last one holds the newest token */
    uint32_t count;
};

/* --- reading --- */

struct spin_trace {
    struct spin_trace_shape shape;
    struct spin_trace_document *documents; /* [shape.documents] */
    struct spin_trace_window *windows;     /* [documents][steps] */
    uint64_t *first; /* [documents][steps][rows] and one more: where a list begins in pages */
    uint16_t *pages;
    uint64_t file_bytes;
};

SPIN_MUST_USE spin_status spin_trace_open(const char *path, struct spin_trace *out,
                                          struct spin_error *err);
void spin_trace_close(struct spin_trace *trace);

static inline uint32_t spin_trace_rows(const struct spin_trace_shape *shape)
{
    return shape->layers * shape->kv_heads;
}

/* Tokens that the query of a step sees, its own included. */
static inline uint32_t spin_trace_tokens(const struct spin_trace *trace, uint32_t document,
                                         uint32_t step)
{
    return trace->documents[document].prompt_tokens + step + 1;
}

static inline const struct spin_trace_window *spin_trace_get_window(const struct spin_trace *trace,
                                                                    uint32_t document,
                                                                    uint32_t step)
{
    return &trace->windows[(uint64_t)document * trace->shape.steps + step];
}

struct spin_trace_list spin_trace_get_list(const struct spin_trace *trace, uint32_t document,
                                           uint32_t step, uint32_t row);
/* The longest list of a document: what its rows must have room for (mandatory). */
uint32_t spin_trace_mandatory(const struct spin_trace *trace, uint32_t document);

static inline bool spin_trace_is_private(const struct spin_trace_window *window, uint32_t page)
{
    return page < window->sink_end || page >= window->local_begin;
}

/* --- writing --- */

struct spin_trace_writer {
    FILE *file;
    bool failed;
};

/* magic and version are filled in. The documents' descriptions follow at once, then steps. */
SPIN_MUST_USE spin_status spin_trace_create(const char *path, const struct spin_trace_shape *shape,
                                            const struct spin_trace_document *documents,
                                            struct spin_trace_writer *out, struct spin_error *err);
void spin_trace_put_window(struct spin_trace_writer *writer, struct spin_trace_window window);
void spin_trace_put_list(struct spin_trace_writer *writer, struct spin_trace_list list);
/* IO when this or any earlier write failed. */
SPIN_MUST_USE spin_status spin_trace_finish(struct spin_trace_writer *writer,
                                            struct spin_error *err);

SPIN_END_DECLS
