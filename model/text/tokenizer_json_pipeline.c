#include "base/assert.h"
#include "model/text/tokenizer_json.h"

/* A Sequence may hold others; files have two levels at most. */
#define DEPTH_MAX 4u

typedef spin_status (*visit_fn)(struct spin_json_loader *loader, const json_t *object);

static spin_status unsupported(const struct spin_json_loader *loader, const char *where,
                               const json_t *object)
{
    return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED, "tokenizer.json: %s '%s'", where,
                     spin_json_quote(json_object_get(object, "type")));
}

/* Visits an object, or each of a Sequence in order: its members are under `list`. */
static spin_status walk(struct spin_json_loader *loader, const json_t *object, const char *list,
                        visit_fn visit, uint32_t depth)
{
    if (object == NULL || json_is_null(object)) {
        return SPIN_OK;
    }
    if (!spin_json_is(json_object_get(object, "type"), "Sequence")) {
        return visit(loader, object);
    }
    const json_t *members = json_object_get(object, list);
    if (!json_is_array(members) || depth == DEPTH_MAX) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                         "tokenizer.json: a Sequence without %s, or over %u deep", list, DEPTH_MAX);
    }
    for (size_t i = 0; i < json_array_size(members); i++) {
        SPIN_TRY(walk(loader, json_array_get(members, i), list, visit, depth + 1));
    }
    return SPIN_OK;
}

static spin_status visit_normalizer(struct spin_json_loader *loader, const json_t *object)
{
    if (!spin_json_is(json_object_get(object, "type"), "NFC")) {
        return unsupported(loader, "normalizer", object);
    }
    loader->parts->nfc = true;
    return SPIN_OK;
}

/* --- pre-tokenizers --------------------------------------------------------------------------- */

static spin_status add_stage(struct spin_json_loader *loader, enum spin_split split)
{
    struct spin_tokenizer_parts *parts = loader->parts;
    if (parts->stage_count == SPIN_SPLIT_STAGES_MAX) {
        return spin_fail(loader->err, SPIN_ERR_LIMIT, "tokenizer.json: over %u pre_tokenizers",
                         SPIN_SPLIT_STAGES_MAX);
    }
    parts->stages[parts->stage_count++] = split;
    return SPIN_OK;
}

/* The known expressions match all text, so that keeping the matches alone ("Removed" and inverted)
 * is the same as cutting at them. */
static spin_status visit_split(struct spin_json_loader *loader, const json_t *object)
{
    const json_t *pattern = json_object_get(json_object_get(object, "pattern"), "Regex");
    const json_t *behavior = json_object_get(object, "behavior");
    const bool inverted = json_is_true(json_object_get(object, "invert"));
    enum spin_split split;
    if (!json_is_string(pattern) || !spin_split_find(spin_json_text(pattern), &split)) {
        return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                         "tokenizer.json: pre_tokenizer Split: unknown pattern %s",
                         spin_json_quote(pattern));
    }
    if (!spin_json_is(behavior, inverted ? "Removed" : "Isolated")) {
        return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                         "tokenizer.json: pre_tokenizer Split: behavior '%s'%s",
                         spin_json_quote(behavior), inverted ? ", inverted" : "");
    }
    return add_stage(loader, split);
}

static spin_status visit_byte_level(struct spin_json_loader *loader, const json_t *object)
{
    const json_t *prefix = json_object_get(object, "add_prefix_space");
    const json_t *use_regex = json_object_get(object, "use_regex");
    if (!json_is_false(prefix)) { /* absent means true */
        return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                         "tokenizer.json: pre_tokenizer ByteLevel: add_prefix_space");
    }
    return json_is_false(use_regex) ? SPIN_OK : add_stage(loader, SPIN_SPLIT_GPT2);
}

static spin_status visit_pretokenizer(struct spin_json_loader *loader, const json_t *object)
{
    const json_t *type = json_object_get(object, "type");
    if (spin_json_is(type, "ByteLevel")) {
        return visit_byte_level(loader, object);
    }
    if (spin_json_is(type, "Split")) {
        return visit_split(loader, object);
    }
    if (spin_json_is(type, "Digits")) {
        const bool each = json_is_true(json_object_get(object, "individual_digits"));
        return add_stage(loader, each ? SPIN_SPLIT_DIGIT : SPIN_SPLIT_DIGITS);
    }
    return unsupported(loader, "pre_tokenizer", object);
}

/* ByteLevel is what makes text bytes: it must be there, once, and last. */
static bool ends_in_byte_level(const json_t *object)
{
    for (uint32_t depth = 0; depth <= DEPTH_MAX; depth++) {
        if (!spin_json_is(json_object_get(object, "type"), "Sequence")) {
            return spin_json_is(json_object_get(object, "type"), "ByteLevel");
        }
        const json_t *members = json_object_get(object, "pretokenizers");
        const size_t count = json_array_size(members);
        for (size_t i = 0; i + 1 < count; i++) {
            const json_t *type = json_object_get(json_array_get(members, i), "type");
            if (spin_json_is(type, "ByteLevel") || spin_json_is(type, "Sequence")) {
                return false;
            }
        }
        object = count == 0 ? NULL : json_array_get(members, count - 1);
    }
    return false;
}

/* --- post-processors -------------------------------------------------------------------------- */

/* "single": [<bos>, A] or [A]. */
static spin_status visit_template(struct spin_json_loader *loader, const json_t *object)
{
    const json_t *single = json_object_get(object, "single");
    const size_t count = json_array_size(single);
    const json_t *last = count == 0 ? NULL : json_array_get(single, count - 1);
    if (count < 1 || count > 2 || !json_is_object(json_object_get(last, "Sequence"))) {
        return unsupported(loader, "post_processor, 'single' other than [bos, A]:", object);
    }
    if (count == 1) {
        return SPIN_OK;
    }
    const json_t *special = json_object_get(json_array_get(single, 0), "SpecialToken");
    const json_t *text = json_object_get(special, "id");
    const int32_t token = spin_json_find_token(loader, text);
    if (token < 0) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                         "tokenizer.json: post_processor: token '%s' is not in the vocabulary",
                         spin_json_quote(text));
    }
    loader->parts->bos = token;
    loader->parts->add_bos = true;
    return SPIN_OK;
}

static spin_status visit_postprocessor(struct spin_json_loader *loader, const json_t *object)
{
    const json_t *type = json_object_get(object, "type");
    if (spin_json_is(type, "ByteLevel")) { /* about offsets only */
        return SPIN_OK;
    }
    if (spin_json_is(type, "TemplateProcessing")) {
        return visit_template(loader, object);
    }
    return unsupported(loader, "post_processor", object);
}

static spin_status visit_decoder(struct spin_json_loader *loader, const json_t *object)
{
    if (!spin_json_is(json_object_get(object, "type"), "ByteLevel")) {
        return unsupported(loader, "decoder", object);
    }
    return SPIN_OK;
}

spin_status spin_json_load_pipeline(struct spin_json_loader *loader)
{
    const json_t *root = loader->root;
    const json_t *pretokenizer = json_object_get(root, "pre_tokenizer");
    SPIN_TRY(walk(loader, json_object_get(root, "normalizer"), "normalizers", visit_normalizer, 0));
    SPIN_TRY(walk(loader, pretokenizer, "pretokenizers", visit_pretokenizer, 0));
    if (!ends_in_byte_level(pretokenizer)) {
        return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                         "tokenizer.json: pre_tokenizer: ByteLevel must be there, once and last");
    }
    SPIN_TRY(walk(loader, json_object_get(root, "post_processor"), "processors",
                  visit_postprocessor, 0));
    return walk(loader, json_object_get(root, "decoder"), "decoders", visit_decoder, 0);
}
