/* fields: the flat parts of a summary as tables, one row for each key of a file.
 *
 * Why        What writes a file and what reads it share a row, so neither can forget a key or take
 *            another unit; docs/bench-schema.md is compared with them by a test.
 * Threading  Constants.
 * Units      A row says what the file has; the summary's unit stands at its field. */
#pragma once

#include "bench/report/summary.h"

SPIN_BEGIN_DECLS

/* Integers of a file are exact in JavaScript, too. */
#define SPIN_BENCH_INTEGER_MAX ((UINT64_C(1) << 53) - 1)

enum spin_bench_field_kind {
    SPIN_BENCH_FIELD_TEXT,    /* char[bytes] */
    SPIN_BENCH_FIELD_BOOL,    /* bool */
    SPIN_BENCH_FIELD_U32,     /* uint32_t */
    SPIN_BENCH_FIELD_U64,     /* uint64_t, at most SPIN_BENCH_INTEGER_MAX */
    SPIN_BENCH_FIELD_DECIMAL, /* uint64_t of any size: decimal digits in a string */
    SPIN_BENCH_FIELD_MS,      /* uint64_t in ns: milliseconds in the file */
    SPIN_BENCH_FIELD_WALL,    /* uint64_t in ns since 1970: whole milliseconds in the file */
    SPIN_BENCH_FIELD_REAL,    /* double, finite, not below 0 */
};

struct spin_bench_field {
    const char *key;
    enum spin_bench_field_kind kind;
    uint32_t offset; /* in the object's struct */
    uint32_t bytes;  /* TEXT: of the array */
};

struct spin_bench_object {
    const char *key;
    const struct spin_bench_field *fields;
    uint32_t count;
    uint32_t offset; /* in struct spin_bench_summary */
};

/* "setup", "slo", "generator", "counts", "rates", "run": the parts of a run that are flat. */
uint32_t spin_bench_object_count(void);
const struct spin_bench_object *spin_bench_object_at(uint32_t index);
/* Of struct spin_bench_spread; its `key` and `offset` say nothing. */
const struct spin_bench_object *spin_bench_object_spread(void);

SPIN_END_DECLS
