#include "client/json_text.h"

/* The bytes of the well-formed character at `at`, or 0 (Unicode 15, table 3-7). */
static uint32_t character_bytes(const uint8_t *at, uint64_t left)
{
    static const struct {
        uint8_t first_min;
        uint8_t first_max;
        uint8_t second_min;
        uint8_t second_max;
        uint32_t bytes;
    } rows[] = {
        {0x00, 0x7F, 0x00, 0xFF, 1}, {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        if (at[0] < rows[i].first_min || at[0] > rows[i].first_max || rows[i].bytes > left) {
            continue;
        }
        bool good =
            rows[i].bytes == 1 || (at[1] >= rows[i].second_min && at[1] <= rows[i].second_max);
        for (uint32_t b = 2; b < rows[i].bytes; b++) {
            good = good && (at[b] & 0xC0) == 0x80;
        }
        return good ? rows[i].bytes : 0;
    }
    return 0;
}

static void write_ascii(FILE *out, uint8_t byte)
{
    if (byte == '"' || byte == '\\') {
        (void)fprintf(out, "\\%c", byte);
    } else if (byte == '\n') {
        (void)fputs("\\n", out);
    } else if (byte < 0x20 || byte == 0x7F) {
        (void)fprintf(out, "\\u%04x", byte);
    } else {
        (void)fputc(byte, out);
    }
}

void spin_json_write_string(FILE *out, const char *bytes, uint64_t count)
{
    (void)fputc('"', out);
    uint64_t i = 0;
    while (i < count) {
        const uint8_t *at = (const uint8_t *)bytes + i;
        const uint32_t length = character_bytes(at, count - i);
        if (length == 0) {
            (void)fputs("\\ufffd", out);
        } else if (length == 1) {
            write_ascii(out, *at);
        } else {
            (void)fwrite(at, 1, length, out);
        }
        i += length == 0 ? 1 : length;
    }
    (void)fputc('"', out);
}
