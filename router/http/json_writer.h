/* json_writer: JSON into a buffer that grows up to a cap.
 *
 * Why        A streamed token must cost no allocation and no tree of values; what is written is
 *            flat and its shape is known, so it is put down byte by byte.
 * Ownership  The writer owns its bytes until deinit. A reset keeps them for the next use.
 * Threading  One thread at a time.
 * Units      Bytes.
 * Errors     A writer that hit its cap, or got no memory, says `failed` and writes nothing more:
 *            the one place to look is where the bytes are sent. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

struct spin_json_writer {
    char *bytes; /* not NUL-terminated */
    uint64_t count;
    uint64_t capacity;
    uint64_t cap_bytes; /* `count` never goes beyond */
    bool failed;
};

void spin_json_writer_init(struct spin_json_writer *writer, uint64_t cap_bytes);
void spin_json_writer_deinit(struct spin_json_writer *writer); /* zeroed storage is allowed */
void spin_json_writer_reset(struct spin_json_writer *writer);

/* Place for `count` bytes behind what is written, which stays as it is: NULL when there is none.
 * Valid until the next call. */
char *spin_json_reserve(struct spin_json_writer *writer, uint64_t count);
/* Bytes that are JSON already. */
void spin_json_put_raw(struct spin_json_writer *writer, const char *bytes, uint64_t count);
#define SPIN_JSON_LITERAL(writer, literal) \
    spin_json_put_raw((writer), (literal), sizeof(literal) - 1)

/* A string's inside: what JSON wants escaped is escaped, bytes that are not UTF-8 become U+FFFD. */
void spin_json_put_escaped(struct spin_json_writer *writer, const char *text, uint64_t count);
void spin_json_put_string(struct spin_json_writer *writer, const char *text, uint64_t count);
/* A NUL-terminated string, or null. */
void spin_json_put_text(struct spin_json_writer *writer, const char *text);
void spin_json_put_u64(struct spin_json_writer *writer, uint64_t value);
/* Nine digits, enough to tell floats apart. Finite values only: JSON has no others. */
void spin_json_put_real(struct spin_json_writer *writer, double value);

SPIN_END_DECLS
