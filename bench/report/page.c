#include "bench/report/page.h"

#include "base/assert.h"
#include "base/file.h"
#include "bench/report/json_out.h"
#include "bench/report/page_parts.h"

#include <stdlib.h>
#include <string.h>

static void put_optional(struct spin_json_out *out, const char *key, bool has, double value)
{
    if (has) {
        spin_json_out_real(out, key, value);
    } else {
        spin_json_out_null(out, key);
    }
}

static void put_compared(struct spin_json_out *out, const struct spin_bench_compared *compared)
{
    spin_json_out_open_flat(out, NULL, '{');
    spin_json_out_text(out, "name", compared->figure.name);
    spin_json_out_text(out, "unit", compared->figure.unit);
    spin_json_out_real(out, "base", compared->base);
    spin_json_out_real(out, "other", compared->other);
    put_optional(out, "ratio", compared->has_ratio, compared->ratio);
    put_optional(out, "low", compared->has_interval, compared->low);
    put_optional(out, "high", compared->has_interval, compared->high);
    spin_json_out_text(out, "verdict", spin_bench_verdict_name(compared->verdict));
    spin_json_out_close(out, '}');
}

static void put_comparison(struct spin_json_out *out, const char *key,
                           const struct spin_bench_comparison *comparison)
{
    spin_json_out_open(out, key, '{');
    spin_json_out_text(out, "base_name", comparison->base_name);
    spin_json_out_text(out, "other_name", comparison->other_name);
    spin_json_out_integer(out, "base_runs", comparison->base_runs);
    spin_json_out_integer(out, "other_runs", comparison->other_runs);
    spin_json_out_real(out, "confidence", comparison->confidence);
    spin_json_out_text(out, "method", comparison->paired ? "pairs" : "welch");
    spin_json_out_text(out, "unlike", comparison->unlike);
    spin_json_out_open(out, "figures", '[');
    for (uint32_t i = 0; i < comparison->figures_count; i++) {
        put_compared(out, &comparison->figures[i]);
    }
    spin_json_out_close(out, ']');
    spin_json_out_close(out, '}');
}

static void put_view(struct spin_json_out *out, const struct spin_bench_page *page)
{
    spin_json_out_open(out, NULL, '{');
    spin_json_out_text(out, "title", page->title);
    if (page->comparison == NULL) {
        spin_json_out_null(out, "sides");
        spin_json_out_null(out, "comparison");
    } else {
        spin_json_out_open_flat(out, "sides", '[');
        spin_json_out_integer(out, NULL, page->comparison->base_runs);
        spin_json_out_integer(out, NULL, page->comparison->other_runs);
        spin_json_out_close(out, ']');
        put_comparison(out, "comparison", page->comparison);
    }
    spin_json_out_close(out, '}');
}

/* NUL-terminates and hands over the text; NULL: there was no room for it. */
static char *finish_text(struct spin_json_writer *writer)
{
    spin_json_put_raw(writer, "", 1);
    if (writer->failed) {
        spin_json_writer_deinit(writer);
        return NULL;
    }
    return writer->bytes;
}

/* What stands for each name between two '@' in page.html. */
struct part {
    const char *name;
    const char *text;
    uint64_t bytes;
};

static void put_part(struct spin_json_writer *writer, const struct part *parts, uint32_t count,
                     const char *name)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t bytes = strlen(parts[i].name);
        if (strncmp(parts[i].name, name, bytes) == 0 && name[bytes] == '@') {
            spin_json_put_raw(writer, parts[i].text, parts[i].bytes);
            return;
        }
    }
    SPIN_ASSERT(false); /* page.html is ours */
}

static void put_page(struct spin_json_writer *writer, const struct part *parts, uint32_t count)
{
    const char *at = (const char *)spin_bench_page_html;
    const char *end = at + spin_bench_page_html_bytes;
    while (at < end) {
        const char *mark = memchr(at, '@', (size_t)(end - at));
        if (mark == NULL) {
            spin_json_put_raw(writer, at, (uint64_t)(end - at));
            return;
        }
        spin_json_put_raw(writer, at, (uint64_t)(mark - at));
        put_part(writer, parts, count, mark + 1);
        const char *close = memchr(mark + 1, '@', (size_t)(end - mark - 1));
        SPIN_ASSERT(close != NULL);
        at = close + 1;
    }
}

static spin_status write_page(const char *path, const char *view, const char *file,
                              struct spin_error *err)
{
    const struct part parts[] = {
        {"css", (const char *)spin_bench_page_css, spin_bench_page_css_bytes},
        {"script", (const char *)spin_bench_page_script, spin_bench_page_script_bytes},
        {"view", view, strlen(view)},
        {"file", file, strlen(file)},
    };
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, 2 * SPIN_BENCH_FILE_BYTES_MAX);
    put_page(&writer, parts, SPIN_ARRAY_COUNT(parts));
    char *text = finish_text(&writer);
    if (text == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: no memory for the page", path);
    }
    const spin_status status = spin_file_replace(path, text, err);
    free(text);
    return status;
}

spin_status spin_bench_page_write(const char *path, const struct spin_bench_page *page,
                                  struct spin_error *err)
{
    char *file = NULL;
    SPIN_TRY(spin_bench_runs_text(page->runs, &file, err));
    struct spin_json_out out = {0};
    spin_json_writer_init(&out.writer, SPIN_BENCH_FILE_BYTES_MAX);
    put_view(&out, page);
    char *view = finish_text(&out.writer);
    const spin_status status =
        view == NULL ? spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: no memory for the page", path)
                     : write_page(path, view, file, err);
    free(view);
    free(file);
    return status;
}

spin_status spin_bench_comparison_write(const char *path,
                                        const struct spin_bench_comparison *comparison,
                                        struct spin_error *err)
{
    struct spin_json_out out = {0};
    spin_json_writer_init(&out.writer, SPIN_BENCH_FILE_BYTES_MAX);
    put_comparison(&out, NULL, comparison);
    SPIN_JSON_LITERAL(&out.writer, "\n");
    char *text = finish_text(&out.writer);
    if (text == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: no memory for the comparison", path);
    }
    const spin_status status = spin_file_replace(path, text, err);
    free(text);
    return status;
}
