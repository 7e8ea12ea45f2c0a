/* small_json: a small tokenizer.json with any part replaced.
 *
 * Why        Hostile and odd files are easier to write as one change to a good file.
 * Ownership  Fields are borrowed, NULL means the default; the text is owned by the caller (free).
 * Threading  The test's thread. */
#pragma once

#include "model/text/tokenizer_parts.h"

SPIN_BEGIN_DECLS

/* Ids 0..255 are the bytes; 256 "he", 257 "ll", 258 "hell", 259 "hello"; 260 "<|end|>" special,
 * 261 "<tool>" added. */
enum { SMALL_HE = 256, SMALL_LL, SMALL_HELL, SMALL_HELLO, SMALL_END, SMALL_TOOL, SMALL_COUNT };

struct small_json {
    const char *model;      /* fields of the model object after its type */
    const char *vocab;      /* entries behind the bytes */
    const char *merges;     /* elements */
    const char *added;      /* elements */
    const char *normalizer; /* this and the rest: values */
    const char *pre_tokenizer;
    const char *post_processor;
    const char *decoder;
};

char *spin_small_json(const struct small_json *json);
/* Parses it with a tokenizer_config.json (NULL: none). */
SPIN_MUST_USE spin_status spin_small_json_open(const struct small_json *json, const char *config,
                                               struct spin_tokenizer **out, struct spin_error *err);

SPIN_END_DECLS
