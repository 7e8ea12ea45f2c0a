#include "base/config_file.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* Entries grow by this factor from this count; SPIN_CONFIG_FILE_KEYS_MAX bounds them. */
#define FIRST_ENTRIES 16u

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    bool has_event;
    const char *path;
    struct spin_config_file file;
    uint32_t capacity;
    struct spin_error *err;
};

static uint32_t line_of(const yaml_mark_t *mark)
{
    return (uint32_t)mark->line + 1; /* the file is under 1 MiB */
}

static spin_status next_event(struct reader *reader)
{
    if (reader->has_event) {
        yaml_event_delete(&reader->event);
        reader->has_event = false;
    }
    if (yaml_parser_parse(&reader->parser, &reader->event) == 0) {
        if (reader->parser.error == YAML_MEMORY_ERROR) {
            return spin_fail(reader->err, SPIN_ERR_NO_MEMORY, "%s: parser", reader->path);
        }
        const char *problem = reader->parser.problem;
        return spin_fail(reader->err, SPIN_ERR_INVALID, "%s line %u: %s", reader->path,
                         line_of(&reader->parser.problem_mark),
                         problem == NULL ? "not YAML or JSON" : problem);
    }
    reader->has_event = true;
    return SPIN_OK;
}

static const char *event_kind(yaml_event_type_t type)
{
    switch (type) {
    case YAML_SCALAR_EVENT:
        return "a single value";
    case YAML_SEQUENCE_START_EVENT:
        return "a list";
    case YAML_MAPPING_START_EVENT:
        return "a mapping";
    case YAML_ALIAS_EVENT:
        return "an alias";
    case YAML_DOCUMENT_START_EVENT:
        return "a second document";
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        break;
    }
    return "the end";
}

/* A scalar that C can hold and that no tag or anchor gives another meaning. */
static spin_status check_scalar(const struct reader *reader, const char *what)
{
    const uint32_t line = line_of(&reader->event.start_mark);
    if (reader->event.type != YAML_SCALAR_EVENT) {
        return spin_fail(reader->err, SPIN_ERR_INVALID,
                         "%s line %u: %s must be a single value, not %s", reader->path, line, what,
                         event_kind(reader->event.type));
    }
    if (reader->event.data.scalar.anchor != NULL || reader->event.data.scalar.tag != NULL) {
        return spin_fail(reader->err, SPIN_ERR_INVALID,
                         "%s line %u: %s: anchors and tags are not supported", reader->path, line,
                         what);
    }
    const char *text = (const char *)reader->event.data.scalar.value;
    if (memchr(text, '\0', reader->event.data.scalar.length) != NULL) {
        return spin_fail(reader->err, SPIN_ERR_INVALID, "%s line %u: %s holds a NUL character",
                         reader->path, line, what);
    }
    return SPIN_OK;
}

static bool is_null(const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0 ||
            strcmp(text, "Null") == 0 || strcmp(text, "NULL") == 0);
}

static spin_status add_entry(struct reader *reader, struct spin_config_file_entry **out)
{
    struct spin_config_file *file = &reader->file;
    if (file->count == SPIN_CONFIG_FILE_KEYS_MAX) {
        return spin_fail(reader->err, SPIN_ERR_LIMIT, "%s: more than %u keys", reader->path,
                         SPIN_CONFIG_FILE_KEYS_MAX);
    }
    if (file->count == reader->capacity) {
        const uint32_t capacity = SPIN_MAX(FIRST_ENTRIES, reader->capacity * 2);
        struct spin_config_file_entry *entries = realloc(file->entries, capacity * sizeof *entries);
        if (entries == NULL) {
            return spin_fail(reader->err, SPIN_ERR_NO_MEMORY, "%s: %u keys", reader->path,
                             capacity);
        }
        file->entries = entries;
        reader->capacity = capacity;
    }
    SPIN_ASSERT(file->entries != NULL);
    struct spin_config_file_entry *entry = &file->entries[file->count++];
    *entry = (struct spin_config_file_entry){.line = line_of(&reader->event.start_mark)};
    *out = entry;
    return SPIN_OK;
}

static spin_status copy_scalar(const struct reader *reader, char **out)
{
    *out = strdup((const char *)reader->event.data.scalar.value);
    return *out == NULL ? spin_fail(reader->err, SPIN_ERR_NO_MEMORY, "%s: a value", reader->path)
                        : SPIN_OK;
}

static spin_status check_new_key(const struct reader *reader,
                                 const struct spin_config_file_entry *entry)
{
    for (uint32_t i = 0; i + 1 < reader->file.count; i++) {
        if (strcmp(reader->file.entries[i].key, entry->key) == 0) {
            return spin_fail(reader->err, SPIN_ERR_INVALID,
                             "%s line %u: key \"%.64s\" again, first on line %u", reader->path,
                             entry->line, entry->key, reader->file.entries[i].line);
        }
    }
    return SPIN_OK;
}

/* One "key: value", the key being the current event. */
static spin_status read_entry(struct reader *reader)
{
    SPIN_TRY(check_scalar(reader, "a key"));
    struct spin_config_file_entry *entry = NULL;
    SPIN_TRY(add_entry(reader, &entry));
    SPIN_TRY(copy_scalar(reader, &entry->key));
    SPIN_TRY(check_new_key(reader, entry));
    SPIN_TRY(next_event(reader));
    char what[96];
    (void)snprintf(what, sizeof what, "key \"%.64s\"", entry->key);
    SPIN_TRY(check_scalar(reader, what));
    return is_null(&reader->event) ? SPIN_OK : copy_scalar(reader, &entry->value);
}

static spin_status read_mapping(struct reader *reader)
{
    for (;;) {
        SPIN_TRY(next_event(reader));
        if (reader->event.type == YAML_MAPPING_END_EVENT) {
            return SPIN_OK;
        }
        SPIN_TRY(read_entry(reader));
    }
}

static spin_status fail_shape(const struct reader *reader)
{
    return spin_fail(reader->err, SPIN_ERR_INVALID,
                     "%s line %u: the file must be one mapping of option names to values, not %s",
                     reader->path, line_of(&reader->event.start_mark),
                     event_kind(reader->event.type));
}

/* stream start, [document start, mapping, document end], stream end: an empty file sets nothing. */
static spin_status read_stream(struct reader *reader)
{
    SPIN_TRY(next_event(reader));
    SPIN_ASSERT_EQ(reader->event.type, YAML_STREAM_START_EVENT);
    SPIN_TRY(next_event(reader));
    if (reader->event.type == YAML_STREAM_END_EVENT) {
        return SPIN_OK;
    }
    SPIN_ASSERT_EQ(reader->event.type, YAML_DOCUMENT_START_EVENT);
    SPIN_TRY(next_event(reader));
    if (reader->event.type == YAML_MAPPING_START_EVENT) {
        SPIN_TRY(read_mapping(reader));
    } else if (reader->event.type != YAML_SCALAR_EVENT || !is_null(&reader->event)) {
        return fail_shape(reader);
    }
    SPIN_TRY(next_event(reader));
    SPIN_ASSERT_EQ(reader->event.type, YAML_DOCUMENT_END_EVENT);
    SPIN_TRY(next_event(reader));
    return reader->event.type == YAML_STREAM_END_EVENT ? SPIN_OK : fail_shape(reader);
}

spin_status spin_config_file_parse(const char *text, uint64_t bytes, const char *path,
                                   struct spin_config_file *out, struct spin_error *err)
{
    if (bytes > SPIN_CONFIG_FILE_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%s: more than %llu bytes", path,
                         (unsigned long long)SPIN_CONFIG_FILE_BYTES_MAX);
    }
    struct reader reader = {.path = path, .err = err};
    if (yaml_parser_initialize(&reader.parser) == 0) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: parser", path);
    }
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, bytes);
    const spin_status status = read_stream(&reader);
    if (reader.has_event) {
        yaml_event_delete(&reader.event);
    }
    yaml_parser_delete(&reader.parser);
    if (status != SPIN_OK) {
        spin_config_file_deinit(&reader.file);
        return status;
    }
    *out = reader.file;
    return SPIN_OK;
}

void spin_config_file_deinit(struct spin_config_file *file)
{
    for (uint32_t i = 0; i < file->count; i++) {
        free(file->entries[i].key);
        free(file->entries[i].value);
    }
    free(file->entries);
    *file = (struct spin_config_file){0};
}
