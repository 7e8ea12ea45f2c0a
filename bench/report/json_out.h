/* json_out: JSON with commas and line ends where they belong, over the bytes of json_writer.
 *
 * Why        A file that people open is indented, and arrays of numbers stay on a line.
 * Ownership  The caller owns the writer below.
 * Threading  One thread at a time.
 * Errors     json_writer's: look at writer.failed at the end. */
#pragma once

#include "router/http/json_writer.h"

SPIN_BEGIN_DECLS

#define SPIN_JSON_OUT_DEPTH_MAX 16u

struct spin_json_out {
    struct spin_json_writer writer;
    uint32_t depth;
    bool flat[SPIN_JSON_OUT_DEPTH_MAX]; /* no line ends inside */
    bool used[SPIN_JSON_OUT_DEPTH_MAX]; /* has a member already */
};

/* `key` NULL: a member of an array, or the whole. */
void spin_json_out_open(struct spin_json_out *out, const char *key, char bracket); /* { or [ */
void spin_json_out_open_flat(struct spin_json_out *out, const char *key, char bracket);
void spin_json_out_close(struct spin_json_out *out, char bracket); /* } or ] */
/* Bytes that are not UTF-8 become U+FFFD, '<' becomes an escape. */
void spin_json_out_text(struct spin_json_out *out, const char *key, const char *text);
void spin_json_out_integer(struct spin_json_out *out, const char *key, uint64_t value);
/* The fewest digits that read back as the same double; finite. */
void spin_json_out_real(struct spin_json_out *out, const char *key, double value);
void spin_json_out_bool(struct spin_json_out *out, const char *key, bool value);
void spin_json_out_null(struct spin_json_out *out, const char *key);

SPIN_END_DECLS
