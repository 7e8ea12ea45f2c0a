#include "bench/sim/step_times.h"

#include "base/assert.h"
#include "base/file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "spin-step-times 1"
#define LINE_BYTES_MAX 512u
#define TOKENS_LIMIT (UINT64_C(1) << 24)
#define WORDS_MAX 4u
#define UNITS_MAX 65536u
#define GUESS_NS_MAX 1e15 /* eleven days: a line that goes on has an end */

struct point {
    double x;
    double ns;
};

/* Points by rising x; a group of decode points has one number of sequences. */
struct line {
    uint32_t sequences; /* decode lines only */
    uint32_t first;
    uint32_t count;
};

struct spin_step_times {
    struct spin_step_engine engine;
    uint64_t first_ns;
    bool has_first;
    uint32_t prompt_count;
    struct point prompts[SPIN_STEP_TIMES_ROWS_MAX];
    uint32_t decode_count;
    struct point decodes[SPIN_STEP_TIMES_ROWS_MAX];
    uint32_t line_count;
    struct line lines[SPIN_STEP_TIMES_ROWS_MAX];
    uint64_t least_decode_ns;
    double chunk_ns; /* U(c) */
    /* Of the whole chunks at multiples of chunk_tokens: nearly every unit is one of them. */
    uint32_t units_count;
    uint64_t *units_ns;
};

/* --- reading --- */

struct field {
    const char *name;
    size_t offset;
    uint64_t min;
    uint64_t max;
};

#define NUMBER(name, min, max) \
    { \
#name, offsetof(struct spin_step_engine, name), (min), (max) \
    }

static const struct field numbers[] = {
    NUMBER(layers, 1, 1024),
    NUMBER(kv_heads, 1, 1024),
    NUMBER(chunk_tokens, 1, TOKENS_LIMIT),
    NUMBER(super_chunk_tokens, 1, TOKENS_LIMIT),
    NUMBER(max_model_len, 1, TOKENS_LIMIT),
    NUMBER(max_num_seqs, 1, 1024),
    NUMBER(max_num_batched_tokens, 1, 1u << 20),
    NUMBER(max_waiting, 1, 65536),
    NUMBER(prefill_slots, 1, 16),
    NUMBER(output_expected_tokens, 0, TOKENS_LIMIT),
    NUMBER(budget_tokens, 0, TOKENS_LIMIT),
    NUMBER(min_context, 0, TOKENS_LIMIT),
    NUMBER(replay, 0, 1),
    NUMBER(kv_blocks, 1, UINT32_MAX),
    NUMBER(kv_slabs, 1, UINT32_MAX),
    NUMBER(workers, 1, 1024),
    NUMBER(threads, 1, 1024),
};
static const struct {
    const char *name;
    size_t offset;
    size_t bytes;
} texts[] = {
    {"model", offsetof(struct spin_step_engine, model), 128},
    {"machine", offsetof(struct spin_step_engine, machine), 128},
    {"algorithm", offsetof(struct spin_step_engine, algorithm), 32},
};
#define NUMBERS SPIN_ARRAY_COUNT(numbers)
#define TEXTS SPIN_ARRAY_COUNT(texts)

struct reader {
    struct spin_step_times *times;
    uint32_t line; /* from 1 */
    bool number_seen[NUMBERS];
    bool text_seen[TEXTS];
    struct spin_error *err;
};

static spin_status read_number(const struct reader *reader, const struct field *field,
                               const char *word, uint64_t *out)
{
    uint64_t value = 0;
    const size_t length = strlen(word);
    bool is_number = length >= 1 && length <= 15;
    for (size_t i = 0; is_number && i < length; i++) {
        is_number = word[i] >= '0' && word[i] <= '9';
        value = value * 10 + (uint64_t)(word[i] - '0');
    }
    if (!is_number || value < field->min || value > field->max) {
        return spin_fail(reader->err, SPIN_ERR_INVALID,
                         "line %u: %s %.32s: must be a whole number, %" PRIu64 " to %" PRIu64,
                         reader->line, field->name, word, field->min, field->max);
    }
    *out = value;
    return SPIN_OK;
}

static const struct field tokens_field = {"tokens", 0, 1, TOKENS_LIMIT};
static const struct field sequences_field = {"sequences", 0, 1, 1024};
static const struct field time_field = {"nanoseconds", 0, 1, SPIN_STEP_NS_MAX};

static spin_status add_prompt(const struct reader *reader, char *const *words)
{
    struct spin_step_times *times = reader->times;
    uint64_t tokens = 0;
    uint64_t ns = 0;
    SPIN_TRY(read_number(reader, &tokens_field, words[1], &tokens));
    SPIN_TRY(read_number(reader, &time_field, words[2], &ns));
    if (times->prompt_count == SPIN_STEP_TIMES_ROWS_MAX) {
        return spin_fail(reader->err, SPIN_ERR_INVALID, "line %u: more than %u prompts",
                         reader->line, SPIN_STEP_TIMES_ROWS_MAX);
    }
    if (times->prompt_count > 0) {
        const struct point *before = &times->prompts[times->prompt_count - 1];
        if ((double)tokens <= before->x || (double)ns < before->ns) {
            return spin_fail(reader->err, SPIN_ERR_INVALID,
                             "line %u: prompt of %" PRIu64 " tokens: prompts come by rising "
                             "tokens, and a longer one takes no less time",
                             reader->line, tokens);
        }
    }
    times->prompts[times->prompt_count++] = (struct point){(double)tokens, (double)ns};
    return SPIN_OK;
}

static spin_status add_decode(const struct reader *reader, char *const *words)
{
    struct spin_step_times *times = reader->times;
    uint64_t sequences = 0;
    uint64_t context = 0;
    uint64_t ns = 0;
    SPIN_TRY(read_number(reader, &sequences_field, words[1], &sequences));
    SPIN_TRY(read_number(reader, &tokens_field, words[2], &context));
    SPIN_TRY(read_number(reader, &time_field, words[3], &ns));
    if (times->decode_count == SPIN_STEP_TIMES_ROWS_MAX) {
        return spin_fail(reader->err, SPIN_ERR_INVALID, "line %u: more than %u decode steps",
                         reader->line, SPIN_STEP_TIMES_ROWS_MAX);
    }
    struct line *last = times->line_count == 0 ? NULL : &times->lines[times->line_count - 1];
    if (last == NULL || sequences > last->sequences) {
        last = &times->lines[times->line_count++];
        *last = (struct line){(uint32_t)sequences, times->decode_count, 0};
    } else if (sequences < last->sequences ||
               (double)context <= times->decodes[times->decode_count - 1].x) {
        return spin_fail(reader->err, SPIN_ERR_INVALID,
                         "line %u: decode %" PRIu64 " %" PRIu64 ": steps come by rising sequences, "
                         "those of as many by rising context",
                         reader->line, sequences, context);
    }
    last->count++;
    times->decodes[times->decode_count++] = (struct point){(double)context, (double)ns};
    times->least_decode_ns =
        times->least_decode_ns == 0 ? ns : SPIN_MIN(times->least_decode_ns, ns);
    return SPIN_OK;
}

static spin_status set_first(const struct reader *reader, char *const *words)
{
    if (reader->times->has_first) {
        return spin_fail(reader->err, SPIN_ERR_INVALID, "line %u: first: given twice",
                         reader->line);
    }
    reader->times->has_first = true;
    return read_number(reader, &time_field, words[1], &reader->times->first_ns);
}

/* "key value", where the value is the rest of the line. *out_known: the key is one. */
static spin_status set_field(struct reader *reader, const char *key, const char *value,
                             bool *out_known)
{
    char *engine = (char *)&reader->times->engine;
    bool *seen = NULL;
    for (uint32_t i = 0; i < TEXTS; i++) {
        if (strcmp(key, texts[i].name) == 0) {
            seen = &reader->text_seen[i];
            if (value[0] == '\0' || strlen(value) >= texts[i].bytes) {
                return spin_fail(reader->err, SPIN_ERR_INVALID,
                                 "line %u: %s: must have 1 to %zu bytes", reader->line, key,
                                 texts[i].bytes - 1);
            }
            memcpy(engine + texts[i].offset, value, strlen(value) + 1);
        }
    }
    for (uint32_t i = 0; i < NUMBERS; i++) {
        if (strcmp(key, numbers[i].name) == 0) {
            seen = &reader->number_seen[i];
            uint64_t number = 0;
            SPIN_TRY(read_number(reader, &numbers[i], value, &number));
            const uint32_t narrow = (uint32_t)number;
            memcpy(engine + numbers[i].offset, &narrow, sizeof narrow);
        }
    }
    *out_known = seen != NULL;
    if (seen != NULL && *seen) {
        return spin_fail(reader->err, SPIN_ERR_INVALID, "line %u: %s: given twice", reader->line,
                         key);
    }
    if (seen != NULL) {
        *seen = true;
    }
    return SPIN_OK;
}

/* Splits at spaces, in place; the last of `max` words keeps the rest. */
static uint32_t split(char *line, char **words, uint32_t max)
{
    uint32_t count = 0;
    for (char *at = line + strspn(line, " \t"); *at != '\0' && count < max;) {
        words[count++] = at;
        at += strcspn(at, " \t");
        if (*at != '\0') {
            *at++ = '\0';
            at += strspn(at, " \t");
        }
        if (count == max && *at != '\0') {
            return max + 1;
        }
    }
    return count;
}

static spin_status read_row(struct reader *reader, char *line)
{
    static const struct {
        const char *name;
        uint32_t words;
        spin_status (*add)(const struct reader *reader, char *const *words);
    } rows[] = {{"prompt", 3, add_prompt}, {"decode", 4, add_decode}, {"first", 2, set_first}};
    const size_t key_bytes = strcspn(line, " \t");
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        if (strlen(rows[i].name) != key_bytes || memcmp(line, rows[i].name, key_bytes) != 0) {
            continue;
        }
        char *words[WORDS_MAX + 1] = {NULL};
        if (split(line, words, rows[i].words) != rows[i].words) {
            return spin_fail(reader->err, SPIN_ERR_INVALID, "line %u: %s: %u numbers are wanted",
                             reader->line, rows[i].name, rows[i].words - 1);
        }
        return rows[i].add(reader, words);
    }
    char *value = line + key_bytes;
    value += strspn(value, " \t");
    line[key_bytes] = '\0';
    bool known = false;
    SPIN_TRY(set_field(reader, line, value, &known));
    if (!known) {
        return spin_fail(reader->err, SPIN_ERR_INVALID, "line %u: %.32s: no such field",
                         reader->line, line);
    }
    return SPIN_OK;
}

/* Copies a line without comment and the blanks at its end; an empty one stays empty. */
static spin_status take_line(const struct reader *reader, const char *text, uint64_t bytes,
                             char *out)
{
    if (bytes >= LINE_BYTES_MAX) {
        return spin_fail(reader->err, SPIN_ERR_INVALID, "line %u: at most %u bytes", reader->line,
                         LINE_BYTES_MAX - 1);
    }
    uint64_t length = 0;
    for (; length < bytes && text[length] != '#'; length++) {
        const char c = text[length];
        if ((c < ' ' || c > '~') && c != '\t') {
            return spin_fail(reader->err, SPIN_ERR_INVALID,
                             "line %u: byte %" PRIu64 " is not printable ASCII", reader->line,
                             length);
        }
        out[length] = c;
    }
    while (length > 0 && (out[length - 1] == ' ' || out[length - 1] == '\t')) {
        length--;
    }
    out[length] = '\0';
    return SPIN_OK;
}

static spin_status read_lines(struct reader *reader, const char *text, uint64_t bytes)
{
    bool has_magic = false;
    for (uint64_t at = 0; at < bytes;) {
        const char *newline = memchr(text + at, '\n', bytes - at);
        const uint64_t length = newline == NULL ? bytes - at : (uint64_t)(newline - (text + at));
        char line[LINE_BYTES_MAX];
        reader->line++;
        SPIN_TRY(take_line(reader, text + at, length, line));
        at += length + 1;
        char *begin = line + strspn(line, " \t");
        if (*begin == '\0') {
            continue;
        }
        if (!has_magic && strcmp(begin, MAGIC) != 0) {
            return spin_fail(reader->err, SPIN_ERR_INVALID,
                             "line %u: \"%.32s\": a table begins with \"%s\"", reader->line, begin,
                             MAGIC);
        }
        if (has_magic) {
            SPIN_TRY(read_row(reader, begin));
        }
        has_magic = true;
    }
    return has_magic ? SPIN_OK
                     : spin_fail(reader->err, SPIN_ERR_INVALID,
                                 "nothing in it: a table begins with \"%s\"", MAGIC);
}

static spin_status check_complete(const struct reader *reader)
{
    const struct spin_step_times *times = reader->times;
    for (uint32_t i = 0; i < NUMBERS; i++) {
        if (!reader->number_seen[i]) {
            return spin_fail(reader->err, SPIN_ERR_INVALID, "%s: missing", numbers[i].name);
        }
    }
    for (uint32_t i = 0; i < TEXTS; i++) {
        if (!reader->text_seen[i]) {
            return spin_fail(reader->err, SPIN_ERR_INVALID, "%s: missing", texts[i].name);
        }
    }
    if (!times->has_first || times->prompt_count < 2 || times->decode_count < 1) {
        return spin_fail(reader->err, SPIN_ERR_INVALID,
                         "rows are missing: first 1 (has %d), prompt 2 or more (has %u), "
                         "decode 1 or more (has %u)",
                         times->has_first, times->prompt_count, times->decode_count);
    }
    if ((double)times->first_ns > times->prompts[0].ns) {
        return spin_fail(reader->err, SPIN_ERR_INVALID,
                         "first %" PRIu64 ": is part of every prompt, and the shortest takes %.0f",
                         times->first_ns, times->prompts[0].ns);
    }
    const struct spin_step_engine *engine = &times->engine;
    if (engine->chunk_tokens > engine->super_chunk_tokens) {
        return spin_fail(reader->err, SPIN_ERR_INVALID,
                         "chunk_tokens %u: at most super_chunk_tokens, %u", engine->chunk_tokens,
                         engine->super_chunk_tokens);
    }
    return SPIN_OK;
}

/* --- between the points --- */

/* At x: below the first point its value, behind the last the last line, falling never. */
static double value_at(const struct point *points, uint32_t count, double x)
{
    SPIN_ASSERT_GE(count, 1);
    if (count == 1 || x <= points[0].x) {
        return points[0].ns;
    }
    uint32_t above = 1; /* the end of the piece: a few dozen points */
    while (above + 1 < count && points[above].x < x) {
        above++;
    }
    const struct point *a = &points[above - 1];
    const struct point *b = &points[above];
    const double slope = (b->ns - a->ns) / (b->x - a->x);
    return x > b->x ? b->ns + SPIN_MAX(slope, 0) * (x - b->x) : a->ns + slope * (x - a->x);
}

static double prompt_ns(const struct spin_step_times *times, double tokens)
{
    return value_at(times->prompts, times->prompt_count, tokens);
}

static double line_ns(const struct spin_step_times *times, const struct line *line, double context)
{
    return value_at(&times->decodes[line->first], line->count, context);
}

static uint64_t whole_ns(double ns)
{
    return (uint64_t)fmin(fmax(ns, 1), GUESS_NS_MAX);
}

static uint64_t unit_ns(const struct spin_step_times *times, uint32_t begin, uint32_t end)
{
    const double chunk = times->engine.chunk_tokens;
    const double tokens = (double)(end - begin);
    double ns = prompt_ns(times, tokens) - (double)times->first_ns;
    if (begin >= times->engine.chunk_tokens) {
        const double here = prompt_ns(times, begin + chunk) - prompt_ns(times, begin);
        ns += tokens / chunk * (here - times->chunk_ns);
    }
    return whole_ns(ns / times->engine.layers);
}

static spin_status fill_units(struct spin_step_times *times, struct spin_error *err)
{
    const uint32_t chunk = times->engine.chunk_tokens;
    const uint32_t count = SPIN_MIN(times->engine.max_model_len / chunk, UNITS_MAX);
    times->units_ns = calloc((size_t)count + 1, sizeof *times->units_ns);
    if (times->units_ns == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "step times: %u units", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        times->units_ns[i] = unit_ns(times, i * chunk, (i + 1) * chunk);
    }
    times->units_count = count;
    return SPIN_OK;
}

spin_status spin_step_times_parse(const char *text, uint64_t bytes, struct spin_step_times **out,
                                  struct spin_error *err)
{
    if (bytes > SPIN_STEP_TIMES_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "%" PRIu64 " bytes: at most %" PRIu64, bytes,
                         SPIN_STEP_TIMES_BYTES_MAX);
    }
    struct spin_step_times *times = calloc(1, sizeof *times);
    if (times == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "step times: %zu bytes", sizeof *times);
    }
    struct reader reader = {.times = times, .err = err};
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, read_lines(&reader, text, bytes), fail);
    SPIN_TRY_GOTO(status, check_complete(&reader), fail);
    times->chunk_ns = prompt_ns(times, times->engine.chunk_tokens) - (double)times->first_ns;
    SPIN_TRY_GOTO(status, fill_units(times, err), fail);
    *out = times;
    return SPIN_OK;
fail:
    spin_step_times_destroy(times);
    return status;
}

spin_status spin_step_times_read(const char *path, struct spin_step_times **out,
                                 struct spin_error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    SPIN_TRY(spin_file_read(path, SPIN_STEP_TIMES_BYTES_MAX, &text, &bytes, err));
    struct spin_error why = {0};
    const spin_status status = spin_step_times_parse(text, bytes, out, &why);
    free(text);
    return status == SPIN_OK ? SPIN_OK : spin_fail(err, status, "%s: %s", path, why.text);
}

void spin_step_times_destroy(struct spin_step_times *times)
{
    if (times != NULL) {
        free(times->units_ns);
        free(times);
    }
}

const struct spin_step_engine *spin_step_times_engine(const struct spin_step_times *times)
{
    return &times->engine;
}

uint64_t spin_step_times_unit_ns(const struct spin_step_times *times, uint32_t begin, uint32_t end)
{
    const uint32_t chunk = times->engine.chunk_tokens;
    SPIN_ASSERT_LT(begin, end);
    SPIN_ASSERT_LE(end - begin, chunk);
    const uint32_t index = begin / chunk;
    const bool is_whole = end - begin == chunk && begin % chunk == 0;
    return is_whole && index < times->units_count ? times->units_ns[index]
                                                  : unit_ns(times, begin, end);
}

uint64_t spin_step_times_first_ns(const struct spin_step_times *times)
{
    return times->first_ns;
}

uint64_t spin_step_times_decode_ns(const struct spin_step_times *times, uint32_t sequences,
                                   uint64_t context_tokens)
{
    SPIN_ASSERT_GE(sequences, 1);
    const double context = (double)context_tokens / sequences;
    const struct line *lines = times->lines;
    if (times->line_count == 1 || sequences <= lines[0].sequences) {
        return whole_ns(line_ns(times, &lines[0], context));
    }
    uint32_t above = 1;
    while (above + 1 < times->line_count && lines[above].sequences < sequences) {
        above++;
    }
    const struct point ends[2] = {
        {lines[above - 1].sequences, line_ns(times, &lines[above - 1], context)},
        {lines[above].sequences, line_ns(times, &lines[above], context)}};
    return whole_ns(value_at(ends, 2, sequences));
}

uint64_t spin_step_times_least_decode_ns(const struct spin_step_times *times)
{
    return times->least_decode_ns;
}

uint32_t spin_step_times_prompt_max(const struct spin_step_times *times)
{
    return (uint32_t)times->prompts[times->prompt_count - 1].x;
}

uint32_t spin_step_times_sequences_max(const struct spin_step_times *times)
{
    return times->lines[times->line_count - 1].sequences;
}

uint32_t spin_step_times_context_max(const struct spin_step_times *times)
{
    double most = 0;
    for (uint32_t i = 0; i < times->decode_count; i++) {
        most = fmax(most, times->decodes[i].x);
    }
    return (uint32_t)most;
}
