/* tokenizer_parts: what a loader found in a file, before it becomes a tokenizer.
 *
 * Why        GGUF, tokenizer.json and the random source differ in spelling only; everything is
 *            checked and built in one place, spin_tokenizer_build.
 * Ownership  Parts borrow from the loader's file; build copies what it keeps.
 * Threading  One thread.
 * Errors     See tokenizer.h. */
#pragma once

#include "model/text/bpe.h"
#include "model/text/pretokenize.h"
#include "model/text/tokenizer.h"

SPIN_BEGIN_DECLS

/* A model file says one or two; the rest are found by their text. */
#define SPIN_TOKENIZER_ENDS_MAX 16u
/* Chat templates of published models are below 32 KiB. */
#define SPIN_TEMPLATE_BYTES_MAX (UINT64_C(1) << 20)

struct spin_tokenizer_parts {
    const struct spin_token_row *rows; /* [row_count], by id */
    uint32_t row_count;
    uint32_t vocab; /* at least row_count; ids beyond have no text */
    struct spin_merge_list merges;
    enum spin_split stages[SPIN_SPLIT_STAGES_MAX];
    uint32_t stage_count;
    bool nfc;
    bool ignore_merges;
    bool fuse_unknown;
    bool add_bos;
    int32_t unknown; /* ids: -1 is none */
    int32_t bos;
    int32_t eos;
    int32_t ends[SPIN_TOKENIZER_ENDS_MAX]; /* besides eos and those known by text */
    uint32_t end_count;
    struct spin_string chat_template; /* bytes NULL: none */
};

struct spin_tokenizer_parts spin_tokenizer_parts_default(void);

SPIN_MUST_USE spin_status spin_tokenizer_build(const struct spin_tokenizer_parts *parts,
                                               struct spin_tokenizer **out, struct spin_error *err);

/* The loaders. `path` names a file. */
SPIN_MUST_USE spin_status spin_tokenizer_open_gguf(const char *path, struct spin_tokenizer **out,
                                                   struct spin_error *err);
SPIN_MUST_USE spin_status spin_tokenizer_open_json(const char *path, struct spin_tokenizer **out,
                                                   struct spin_error *err);
SPIN_MUST_USE spin_status spin_tokenizer_open_random(struct spin_tokenizer **out,
                                                     struct spin_error *err);
/* What open_json does after reading files; for tests and fuzzing. `config` (tokenizer_config.json)
 * and `chat_template` may be NULL. */
struct spin_tokenizer_json {
    struct spin_string tokenizer;
    struct spin_string config;
    struct spin_string chat_template;
};
SPIN_MUST_USE spin_status spin_tokenizer_parse_json(const struct spin_tokenizer_json *json,
                                                    struct spin_tokenizer **out,
                                                    struct spin_error *err);

SPIN_END_DECLS
