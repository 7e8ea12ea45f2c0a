/* tokenizer_json: the parts of a tokenizer out of a parsed tokenizer.json.
 *
 * Why        tokenizer_json.c reads vocabulary and merges, tokenizer_json_pipeline.c the objects
 *            around them: each is recognised field by field or refused by name.
 * Ownership  The loader borrows the documents; parts borrow texts from them and rows from the
 *            arena.
 * Threading  One thread.
 * Errors     UNSUPPORTED names the object or field; CORRUPT what is wrong with it. */
#pragma once

#include "model/text/tokenizer_parts.h"

#include <jansson.h>

SPIN_BEGIN_DECLS

struct spin_json_loader {
    const json_t *root;   /* tokenizer.json */
    const json_t *config; /* tokenizer_config.json, or NULL */
    struct spin_arena *arena;
    struct spin_tokenizer_parts *parts;
    struct spin_error *err;
};

/* The bytes of a string value; bytes NULL when it is none. */
struct spin_string spin_json_text(const json_t *value);
bool spin_json_is(const json_t *value, const char *text);
/* A string for an error text: printable, at most 60 bytes. */
const char *spin_json_quote(const json_t *value);
/* The id of a token by its text, -1 when there is none. O(added tokens). */
int32_t spin_json_find_token(const struct spin_json_loader *loader, const json_t *text);

/* normalizer, pre_tokenizer, post_processor, decoder. The rows must be loaded. */
SPIN_MUST_USE spin_status spin_json_load_pipeline(struct spin_json_loader *loader);

SPIN_END_DECLS
