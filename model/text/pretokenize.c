#define PCRE2_CODE_UNIT_WIDTH 8

#include "model/text/pretokenize.h"

#include "base/assert.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* White_Space as the reference's engine has it: PCRE2's \s counts U+180E too, which Unicode took
 * out of the property in version 6.3. */
#define WS \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
    "\\x{205f}\\x{3000}"
#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"

struct split {
    const char *published; /* as tokenizer.json files spell it; NULL: it has a type of its own */
    const char *pattern;   /* the same language for PCRE2 in UTF and UCP mode */
};

static const struct split splits[SPIN_SPLIT_COUNT] = {
    [SPIN_SPLIT_GPT2] =
        {
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
            CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|[" WS "]+(?![^" WS "])|[" WS
                         "]+",
        },
    [SPIN_SPLIT_LLAMA3] =
        {
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
            "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
            "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^" WS
            "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+",
        },
    [SPIN_SPLIT_QWEN2] =
        {
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
            "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
            "(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS
            "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+",
        },
    [SPIN_SPLIT_DIGIT] = {NULL, "\\p{N}"},
    [SPIN_SPLIT_DIGITS] = {NULL, "\\p{N}+"},
};

/* Without a JIT compiler a run of n white-space characters costs the interpreter n steps, which its
 * default limit of ten million would refuse. The expressions are linear; this only ends a
 * surprise. */
#define MATCH_LIMIT (1u << 30)

struct spin_pretokenizer {
    pcre2_code *stages[SPIN_SPLIT_STAGES_MAX];
    uint32_t stage_count;
};

struct spin_pretokenizer_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

bool spin_split_find(struct spin_string pattern, enum spin_split *out)
{
    for (uint32_t i = 0; i < SPIN_SPLIT_COUNT; i++) {
        const char *published = splits[i].published;
        if (published != NULL && strlen(published) == pattern.count &&
            memcmp(published, pattern.bytes, pattern.count) == 0) {
            *out = (enum spin_split)i;
            return true;
        }
    }
    return false;
}

spin_status spin_pretokenizer_create(const enum spin_split *stages, uint32_t count,
                                     struct spin_pretokenizer **out, struct spin_error *err)
{
    SPIN_ASSERT_LE(count, SPIN_SPLIT_STAGES_MAX);
    struct spin_pretokenizer *pretokenizer = calloc(1, sizeof *pretokenizer);
    if (pretokenizer == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "pretokenizer");
    }
    for (uint32_t i = 0; i < count; i++) {
        int code = 0;
        PCRE2_SIZE offset = 0;
        pcre2_code *compiled =
            pcre2_compile((PCRE2_SPTR)splits[stages[i]].pattern, PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
        if (compiled == NULL) {
            spin_pretokenizer_destroy(pretokenizer);
            return spin_fail(err, SPIN_ERR_INTERNAL, "pretokenizer: expression %u, offset %zu: %d",
                             (uint32_t)stages[i], (size_t)offset, code);
        }
        /* A PCRE2 without JIT still matches, slower. */
        (void)pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
        pretokenizer->stages[pretokenizer->stage_count++] = compiled;
    }
    *out = pretokenizer;
    return SPIN_OK;
}

void spin_pretokenizer_destroy(struct spin_pretokenizer *pretokenizer)
{
    if (pretokenizer == NULL) {
        return;
    }
    for (uint32_t i = 0; i < pretokenizer->stage_count; i++) {
        pcre2_code_free(pretokenizer->stages[i]);
    }
    free(pretokenizer);
}

spin_status spin_pretokenizer_matcher_create(const struct spin_pretokenizer *pretokenizer,
                                             struct spin_pretokenizer_matcher **out)
{
    struct spin_pretokenizer_matcher *matcher = calloc(1, sizeof *matcher);
    if (matcher == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    SPIN_ASSERT_GT(pretokenizer->stage_count, 0);
    /* One pair of offsets: the whole match. */
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    if (matcher->data == NULL || matcher->context == NULL) {
        spin_pretokenizer_matcher_destroy(matcher);
        return SPIN_ERR_NO_MEMORY;
    }
    (void)pcre2_set_match_limit(matcher->context, MATCH_LIMIT);
    *out = matcher;
    return SPIN_OK;
}

void spin_pretokenizer_matcher_destroy(struct spin_pretokenizer_matcher *matcher)
{
    if (matcher == NULL) {
        return;
    }
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    free(matcher);
}

struct run {
    const struct spin_pretokenizer *pretokenizer;
    struct spin_pretokenizer_matcher *matcher;
    spin_piece_fn on_piece;
    void *context;
};

/* The next match at or after `from`. *found is false when there is none. */
static spin_status next_match(const struct run *run, uint32_t stage, struct spin_string text,
                              uint64_t from, struct spin_string *found)
{
    /* The expressions see one piece at a time: look-ahead stops at its end, as in the reference. */
    const int code =
        pcre2_match(run->pretokenizer->stages[stage], (PCRE2_SPTR)text.bytes, text.count, from,
                    PCRE2_NO_UTF_CHECK, run->matcher->data, run->matcher->context);
    if (code == PCRE2_ERROR_NOMATCH) {
        *found = (struct spin_string){text.bytes + text.count, 0};
        return SPIN_OK;
    }
    if (code < 0) {
        return code == PCRE2_ERROR_NOMEMORY ? SPIN_ERR_NO_MEMORY : SPIN_ERR_EXHAUSTED;
    }
    const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(run->matcher->data);
    SPIN_ASSERT_LT(offsets[0], offsets[1]);
    *found = (struct spin_string){text.bytes + offsets[0], offsets[1] - offsets[0]};
    return SPIN_OK;
}

/* The depth of recursion is the number of stages. */
static spin_status run_stage(const struct run *run, uint32_t stage, struct spin_string text)
{
    if (text.count == 0) {
        return SPIN_OK;
    }
    if (stage == run->pretokenizer->stage_count) {
        return run->on_piece(run->context, text);
    }
    uint64_t at = 0;
    while (at < text.count) {
        struct spin_string match;
        SPIN_TRY(next_match(run, stage, text, at, &match));
        const uint64_t begin = (uint64_t)(match.bytes - text.bytes);
        SPIN_TRY(run_stage(run, stage + 1, (struct spin_string){text.bytes + at, begin - at}));
        SPIN_TRY(run_stage(run, stage + 1, match));
        at = begin + match.count;
    }
    return SPIN_OK;
}

spin_status spin_pretokenizer_run(const struct spin_pretokenizer *pretokenizer,
                                  struct spin_pretokenizer_matcher *matcher,
                                  struct spin_string text, spin_piece_fn on_piece, void *context)
{
    const struct run run = {pretokenizer, matcher, on_piece, context};
    return run_stage(&run, 0, text);
}
