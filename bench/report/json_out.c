#include "bench/report/json_out.h"

#include "base/assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void begin_member(struct spin_json_out *out, const char *key)
{
    const uint32_t depth = out->depth;
    if (out->used[depth]) {
        SPIN_JSON_LITERAL(&out->writer, ",");
    }
    if (depth > 0 && !out->flat[depth]) {
        SPIN_JSON_LITERAL(&out->writer, "\n");
        for (uint32_t i = 0; i < depth; i++) {
            SPIN_JSON_LITERAL(&out->writer, " ");
        }
    } else if (out->used[depth]) {
        SPIN_JSON_LITERAL(&out->writer, " ");
    }
    out->used[depth] = true;
    if (key != NULL) {
        spin_json_put_text(&out->writer, key);
        SPIN_JSON_LITERAL(&out->writer, ": ");
    }
}

static void open_member(struct spin_json_out *out, const char *key, char bracket, bool flat)
{
    begin_member(out, key);
    spin_json_put_raw(&out->writer, &bracket, 1);
    flat |= out->flat[out->depth];
    out->depth++;
    SPIN_ASSERT(out->depth < SPIN_JSON_OUT_DEPTH_MAX);
    out->flat[out->depth] = flat;
    out->used[out->depth] = false;
}

void spin_json_out_open(struct spin_json_out *out, const char *key, char bracket)
{
    open_member(out, key, bracket, false);
}

void spin_json_out_open_flat(struct spin_json_out *out, const char *key, char bracket)
{
    open_member(out, key, bracket, true);
}

void spin_json_out_close(struct spin_json_out *out, char bracket)
{
    SPIN_ASSERT(out->depth > 0);
    const bool break_line = out->used[out->depth] && !out->flat[out->depth];
    out->depth--;
    if (break_line) {
        SPIN_JSON_LITERAL(&out->writer, "\n");
        for (uint32_t i = 0; i < out->depth; i++) {
            SPIN_JSON_LITERAL(&out->writer, " ");
        }
    }
    spin_json_put_raw(&out->writer, &bracket, 1);
}

void spin_json_out_text(struct spin_json_out *out, const char *key, const char *text)
{
    begin_member(out, key);
    SPIN_JSON_LITERAL(&out->writer, "\"");
    while (*text != '\0') {
        const uint64_t count = strcspn(text, "<");
        spin_json_put_escaped(&out->writer, text, count);
        text += count;
        if (*text == '<') { /* a page would end its script at a closing tag */
            SPIN_JSON_LITERAL(&out->writer, "\\u003c");
            text++;
        }
    }
    SPIN_JSON_LITERAL(&out->writer, "\"");
}

void spin_json_out_integer(struct spin_json_out *out, const char *key, uint64_t value)
{
    begin_member(out, key);
    spin_json_put_u64(&out->writer, value);
}

void spin_json_out_real(struct spin_json_out *out, const char *key, double value)
{
    SPIN_ASSERT(isfinite(value));
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        const int bytes = snprintf(text, sizeof text, "%.*g", digits, value);
        SPIN_ASSERT(bytes > 0 && (size_t)bytes < sizeof text);
        if (strtod(text, NULL) == value) { /* always so with 17 */
            break;
        }
    }
    begin_member(out, key);
    spin_json_put_raw(&out->writer, text, strlen(text));
}

void spin_json_out_bool(struct spin_json_out *out, const char *key, bool value)
{
    begin_member(out, key);
    spin_json_put_raw(&out->writer, value ? "true" : "false", value ? 4 : 5);
}

void spin_json_out_null(struct spin_json_out *out, const char *key)
{
    begin_member(out, key);
    SPIN_JSON_LITERAL(&out->writer, "null");
}
