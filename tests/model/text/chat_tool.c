/* chat_tool: chat formats behind a pipe, for comparisons in Python.
 *
 *   chat_tool SOURCE      SOURCE is the tokenizer for the ids
 *
 * A request is fields, each a little-endian u32 and that many bytes: template, format name, BOS
 * text, date text (each empty: none), "1" or "0" for the generation prompt, then the number of
 * messages as a bare u32, and role and content of each. An answer is four u32-counted fields: the
 * format's name, the rendered text, the ids (count of i32) of spin_chat_encode, and an error text
 * (empty: none). */
#include "base/assert.h"
#include "model/text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD_MAX (1u << 20)
#define MESSAGES_MAX 64u

struct field {
    char *bytes; /* NUL-terminated */
    uint32_t count;
};

static bool read_u32(uint32_t *out)
{
    return fread(out, sizeof *out, 1, stdin) == 1;
}

static struct field read_field(void)
{
    struct field field = {0};
    SPIN_ASSERT(read_u32(&field.count) && field.count <= FIELD_MAX);
    field.bytes = calloc(1, (size_t)field.count + 1);
    SPIN_ASSERT(field.bytes != NULL);
    SPIN_ASSERT_EQ(fread(field.bytes, 1, field.count, stdin), field.count);
    return field;
}

static void write_counted(const void *elements, uint64_t count, size_t size)
{
    const uint32_t written = (uint32_t)count;
    SPIN_ASSERT_EQ(fwrite(&written, sizeof written, 1, stdout), 1);
    SPIN_ASSERT_EQ(fwrite(elements, size, written, stdout), written);
}

static const char *text_or_null(const struct field *field)
{
    return field->count == 0 ? NULL : field->bytes;
}

static void answer(const struct spin_tokenizer *tokenizer, const struct spin_chat_prompt *prompt,
                   spin_status status, struct spin_error *err)
{
    static char bytes[FIELD_MAX];
    static int32_t ids[FIELD_MAX];
    uint64_t count = 0;
    struct spin_token_sink sink = {ids, FIELD_MAX, 0};
    if (status == SPIN_OK) {
        status = spin_chat_render(prompt->format, prompt->messages, prompt->message_count,
                                  &prompt->options, bytes, sizeof bytes, &count, err);
    }
    if (status == SPIN_OK) {
        status = spin_chat_encode(tokenizer, prompt, &sink, err);
    }
    const char *name = status == SPIN_OK ? spin_chat_format_name(prompt->format) : "";
    write_counted(name, strlen(name), 1);
    write_counted(bytes, count, 1);
    write_counted(ids, sink.count, sizeof *ids);
    write_counted(err->text, status == SPIN_OK ? 0 : strlen(err->text), 1);
    fflush(stdout);
}

static void serve(const struct spin_tokenizer *tokenizer, const struct field *template_text)
{
    struct field head[4]; /* name, BOS, date, generation prompt */
    struct field roles[MESSAGES_MAX];
    struct field contents[MESSAGES_MAX];
    struct spin_chat_message messages[MESSAGES_MAX];
    struct spin_chat_prompt prompt = {.messages = messages};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(head); i++) {
        head[i] = read_field();
    }
    SPIN_ASSERT(read_u32(&prompt.message_count) && prompt.message_count <= MESSAGES_MAX);
    for (uint32_t i = 0; i < prompt.message_count; i++) {
        roles[i] = read_field();
        contents[i] = read_field();
        messages[i] =
            (struct spin_chat_message){roles[i].bytes, contents[i].bytes, contents[i].count};
    }
    prompt.options = (struct spin_chat_options){
        .add_generation_prompt = head[3].bytes[0] == '1',
        .bos_text = text_or_null(&head[1]),
        .date_text = text_or_null(&head[2]),
    };
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status = spin_chat_format_find(text_or_null(template_text),
                                                     text_or_null(&head[0]), &prompt.format, &err);
    answer(tokenizer, &prompt, status, &err);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(head); i++) {
        free(head[i].bytes);
    }
    for (uint32_t i = 0; i < prompt.message_count; i++) {
        free(roles[i].bytes);
        free(contents[i].bytes);
    }
}

int main(int argc, char **argv)
{
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    if (argc != 2 || spin_tokenizer_open(argv[1], &tokenizer, &err) != SPIN_OK) {
        fprintf(stderr, "%s\n", argc != 2 ? "usage: chat_tool SOURCE" : err.text);
        return 1;
    }
    int next = getchar();
    while (next != EOF) {
        SPIN_ASSERT_EQ(ungetc(next, stdin), next);
        const struct field template_text = read_field();
        serve(tokenizer, &template_text);
        free(template_text.bytes);
        next = getchar();
    }
    spin_tokenizer_close(tokenizer);
    return 0;
}
