#include "base/assert.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/config_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A suffix and what it multiplies by, largest first, so that formatting finds the shortest text. */
struct suffix {
    const char *text;
    uint64_t factor;
};

static const struct suffix byte_suffixes[] = {
    {"GiB", UINT64_C(1) << 30}, {"GB", UINT64_C(1000000000)}, {"MiB", UINT64_C(1) << 20},
    {"MB", UINT64_C(1000000)},  {"KiB", UINT64_C(1) << 10},   {"KB", UINT64_C(1000)},
    {"", UINT64_C(1)},
};

static const struct suffix duration_suffixes[] = {
    {"h", 3600 * SPIN_NS_PER_S}, {"m", 60 * SPIN_NS_PER_S}, {"s", SPIN_NS_PER_S},
    {"ms", SPIN_NS_PER_MS},      {"us", SPIN_NS_PER_US},    {"ns", UINT64_C(1)},
};

#define REASON_BYTES SPIN_CONFIG_TEXT_BYTES

static bool refuse(char *reason, const char *text)
{
    (void)snprintf(reason, REASON_BYTES, "%s", text);
    return false;
}

/* Decimal digits from *at on, which moves behind them. False without a digit or over 64 bits. */
static bool read_digits(const char **at, uint64_t *out)
{
    uint64_t value = 0;
    const char *start = *at;
    while (**at >= '0' && **at <= '9') {
        if (!spin_mul_u64(value, 10, &value) ||
            !spin_add_u64(value, (uint64_t)(**at - '0'), &value)) {
            return false;
        }
        (*at)++;
    }
    *out = value;
    return *at != start;
}

static bool parse_whole(const char *text, uint64_t *out, char *reason)
{
    const char *at = text;
    if (!read_digits(&at, out) || *at != '\0') {
        return refuse(reason, "not a whole number");
    }
    return true;
}

static const struct suffix *find_suffix(const struct suffix *suffixes, uint32_t count,
                                        const char *text)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(suffixes[i].text, text) == 0) {
            return &suffixes[i];
        }
    }
    return NULL;
}

/* The digits after a point as a part of `factor`, which they must divide: 1.5KiB, not 1.0001KiB. */
static bool read_fraction(const char **at, uint64_t *digits, uint64_t *divisor)
{
    const char *start = *at;
    if (!read_digits(at, digits) || *at - start > 9) {
        return false;
    }
    *divisor = 1;
    for (const char *c = start; c < *at; c++) {
        *divisor *= 10;
    }
    return true;
}

struct suffix_list {
    const struct suffix *items;
    uint32_t count;
    const char *expected; /* for the error text */
};

static const struct suffix_list byte_list = {
    byte_suffixes, SPIN_ARRAY_COUNT(byte_suffixes),
    "not a size: a whole number of bytes, or a number with KiB, MiB, GiB, KB, MB or GB"};
static const struct suffix_list duration_list = {
    duration_suffixes, SPIN_ARRAY_COUNT(duration_suffixes),
    "not a duration: a number with ns, us, ms, s, m or h"};

static bool parse_with_suffix(const struct suffix_list *list, const char *text, uint64_t *out,
                              char *reason)
{
    const char *at = text;
    uint64_t whole = 0;
    uint64_t fraction = 0;
    uint64_t divisor = 1;
    bool well_formed = read_digits(&at, &whole);
    if (well_formed && *at == '.') {
        at++;
        well_formed = read_fraction(&at, &fraction, &divisor);
    }
    const bool bare_zero = well_formed && *at == '\0' && whole == 0 && fraction == 0;
    const struct suffix *suffix = find_suffix(list->items, list->count, at);
    if (bare_zero) { /* no unit needed to say "none" */
        *out = 0;
        return true;
    }
    uint64_t part = 0;
    if (!well_formed || suffix == NULL || !spin_mul_u64(fraction, suffix->factor, &part) ||
        part % divisor != 0) {
        return refuse(reason, list->expected);
    }
    if (!spin_mul_u64(whole, suffix->factor, &whole) || !spin_add_u64(whole, part / divisor, out)) {
        return refuse(reason, "does not fit 64 bits");
    }
    return true;
}

static bool parse_real(const char *text, double *out, char *reason)
{
    /* strtod alone would take blanks, hexadecimal, "inf" and "nan". */
    char *end = NULL;
    const double value = strtod(text, &end);
    if (text[0] == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0' || *end != '\0' ||
        !isfinite(value)) {
        return refuse(reason, "not a number");
    }
    *out = value;
    return true;
}

static bool parse_boolean(const char *text, bool *out, char *reason)
{
    static const char *const words[2][4] = {{"false", "no", "off", "0"},
                                            {"true", "yes", "on", "1"}};
    for (int value = 0; value < 2; value++) {
        for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(words[value]); i++) {
            if (strcmp(text, words[value][i]) == 0) {
                *out = value == 1;
                return true;
            }
        }
    }
    return refuse(reason, "not true or false");
}

/* Index of `text` in "a,b,c". */
static bool parse_choice(const char *choices, const char *text, uint32_t *out)
{
    const size_t bytes = strlen(text);
    const char *at = choices;
    for (uint32_t index = 0;; index++) {
        const size_t choice_bytes = strcspn(at, ",");
        if (choice_bytes == bytes && memcmp(at, text, bytes) == 0) {
            *out = index;
            return true;
        }
        if (at[choice_bytes] == '\0') {
            return false;
        }
        at += choice_bytes + 1;
    }
}

static bool is_number(enum spin_option_type type)
{
    return type == SPIN_OPTION_U32 || type == SPIN_OPTION_U64 || type == SPIN_OPTION_BYTES ||
           type == SPIN_OPTION_DURATION || type == SPIN_OPTION_DOUBLE;
}

static bool has_range(const struct spin_option *option)
{
    return is_number(option->type) && option->max > option->min;
}

static double as_real(const struct spin_option *option, union spin_config_scalar value)
{
    if (option->type == SPIN_OPTION_DOUBLE) {
        return value.real;
    }
    return option->type == SPIN_OPTION_U32 ? (double)value.u32 : (double)value.u64;
}

static bool check_range(const struct spin_option *option, union spin_config_scalar value,
                        char *reason)
{
    if (!has_range(option)) {
        return true;
    }
    const double number = as_real(option, value);
    return (number >= option->min && number <= option->max) || refuse(reason, "out of range");
}

static bool parse_u32(const char *text, uint32_t *out, char *reason)
{
    uint64_t wide = 0;
    if (!parse_whole(text, &wide, reason)) {
        return false;
    }
    if (wide > UINT32_MAX) {
        return refuse(reason, "does not fit 32 bits");
    }
    *out = (uint32_t)wide;
    return true;
}

static bool parse_untested(const struct spin_option *option, const char *text,
                           union spin_config_scalar *out, char *reason)
{
    switch (option->type) {
    case SPIN_OPTION_BOOL:
        return parse_boolean(text, &out->boolean, reason);
    case SPIN_OPTION_U32:
        return parse_u32(text, &out->u32, reason);
    case SPIN_OPTION_U64:
        return parse_whole(text, &out->u64, reason);
    case SPIN_OPTION_BYTES:
        return parse_with_suffix(&byte_list, text, &out->u64, reason);
    case SPIN_OPTION_DURATION:
        return parse_with_suffix(&duration_list, text, &out->u64, reason);
    case SPIN_OPTION_DOUBLE:
        return parse_real(text, &out->real, reason);
    case SPIN_OPTION_STRING:
        out->string = text;
        return true;
    case SPIN_OPTION_CHOICE:
        return parse_choice(option->choices, text, &out->u32) ||
               refuse(reason, "not one of the choices");
    }
    return refuse(reason, "of an unknown type");
}

bool spin_config_scalar_parse(const struct spin_option *option, const char *text,
                              union spin_config_scalar *out, char reason[SPIN_CONFIG_TEXT_BYTES])
{
    union spin_config_scalar value = {.u64 = 0};
    if (!parse_untested(option, text, &value, reason) || !check_range(option, value, reason)) {
        return false;
    }
    *out = value;
    return true;
}

/* The bytes of an option's field. */
static uint32_t field_bytes(enum spin_option_type type)
{
    switch (type) {
    case SPIN_OPTION_BOOL:
        return sizeof(bool);
    case SPIN_OPTION_U32:
    case SPIN_OPTION_CHOICE:
        return sizeof(uint32_t);
    case SPIN_OPTION_U64:
    case SPIN_OPTION_BYTES:
    case SPIN_OPTION_DURATION:
        return sizeof(uint64_t);
    case SPIN_OPTION_DOUBLE:
        return sizeof(double);
    case SPIN_OPTION_STRING:
        return sizeof(const char *);
    }
    return 0;
}

/* Every member of the union starts at its first byte, so the field's bytes are the value's. */
union spin_config_scalar spin_config_scalar_load(const struct spin_option *option,
                                                 const void *config)
{
    union spin_config_scalar value = {.u64 = 0};
    memcpy(&value, (const char *)config + option->offset, field_bytes(option->type));
    return value;
}

void spin_config_scalar_store(const struct spin_option *option, union spin_config_scalar value,
                              void *config)
{
    memcpy((char *)config + option->offset, &value, field_bytes(option->type));
}

static void format_suffixed(const struct suffix_list *list, uint64_t value, char *out)
{
    if (value == 0) {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "0");
        return;
    }
    const struct suffix *best = &list->items[list->count - 1];
    for (uint32_t i = 0; i < list->count; i++) {
        if (value % list->items[i].factor == 0 &&
            value / list->items[i].factor < value / best->factor) {
            best = &list->items[i];
        }
    }
    (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%" PRIu64 "%s", value / best->factor, best->text);
}

/* The shortest of 15, 16 or 17 digits that reads back as the same double. */
static void format_real(double value, char *out)
{
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%.*g", digits, value);
        if (strtod(out, NULL) == value) {
            return;
        }
    }
}

static void format_choice(const char *choices, uint32_t index, char *out)
{
    const char *at = choices;
    for (uint32_t i = 0; i < index; i++) {
        at += strcspn(at, ",");
        SPIN_ASSERT(*at == ',');
        at++;
    }
    (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%.*s", (int)strcspn(at, ","), at);
}

void spin_config_scalar_format(const struct spin_option *option, union spin_config_scalar value,
                               char out[SPIN_CONFIG_TEXT_BYTES])
{
    switch (option->type) {
    case SPIN_OPTION_BOOL:
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%s", value.boolean ? "true" : "false");
        return;
    case SPIN_OPTION_U32:
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%" PRIu32, value.u32);
        return;
    case SPIN_OPTION_U64:
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%" PRIu64, value.u64);
        return;
    case SPIN_OPTION_BYTES:
        format_suffixed(&byte_list, value.u64, out);
        return;
    case SPIN_OPTION_DURATION:
        format_suffixed(&duration_list, value.u64, out);
        return;
    case SPIN_OPTION_DOUBLE:
        format_real(value.real, out);
        return;
    case SPIN_OPTION_CHOICE:
        format_choice(option->choices, value.u32, out);
        return;
    case SPIN_OPTION_STRING:
        break;
    }
    SPIN_ASSERT(option->type != SPIN_OPTION_STRING); /* strings need quoting: config_print.c */
}

static void format_bound(const struct spin_option *option, double bound, char *out)
{
    union spin_config_scalar value = {.u64 = 0};
    if (option->type == SPIN_OPTION_DOUBLE) {
        value.real = bound;
    } else if (option->type == SPIN_OPTION_U32) {
        value.u32 = bound >= 0x1p32 ? UINT32_MAX : (uint32_t)bound;
    } else {
        value.u64 = bound >= 0x1p64 ? UINT64_MAX : (uint64_t)bound;
    }
    spin_config_scalar_format(option, value, out);
}

void spin_config_range_format(const struct spin_option *option, char out[SPIN_CONFIG_TEXT_BYTES])
{
    out[0] = '\0';
    if (option->type == SPIN_OPTION_CHOICE) {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%s", option->choices);
        for (char *comma = strchr(out, ','); comma != NULL; comma = strchr(comma, ',')) {
            *comma = '|';
        }
    } else if (has_range(option)) {
        char min[SPIN_CONFIG_TEXT_BYTES];
        char max[SPIN_CONFIG_TEXT_BYTES];
        format_bound(option, option->min, min);
        format_bound(option, option->max, max);
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%.70s..%.70s", min, max);
    }
}

void spin_config_environment_name(const char *option, char out[SPIN_CONFIG_TEXT_BYTES])
{
    const int bytes = snprintf(out, SPIN_CONFIG_TEXT_BYTES, "SPIN_%s", option);
    SPIN_ASSERT(bytes > 0 && bytes < SPIN_CONFIG_TEXT_BYTES);
    for (char *at = out; *at != '\0'; at++) {
        if (*at == '-') {
            *at = '_';
        } else if (*at >= 'a' && *at <= 'z') {
            *at = (char)(*at - 'a' + 'A');
        }
    }
}
