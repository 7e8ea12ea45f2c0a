#include "base/config.h"

#include "base/assert.h"
#include "base/config_file.h"
#include "base/config_internal.h"
#include "base/file.h"
#include "base/version.h"

#include <stdlib.h>
#include <string.h>

enum source { SOURCE_NONE, SOURCE_FLAG, SOURCE_ENVIRONMENT, SOURCE_FILE, SOURCE_DEFAULT };

/* What a run is for, when it is not for running. */
enum mode { MODE_RUN, MODE_HELP, MODE_MARKDOWN, MODE_VERSION, MODE_CHECK };

/* The text of one option and where it stands; borrowed from argv, the environment or the file. */
struct found {
    const char *text;
    enum source source;
    uint32_t line; /* SOURCE_FILE */
};

struct spin_config_values {
    const struct spin_config_spec *spec;
    enum source *sources; /* per option */
    char **strings;       /* per option: the copy of a STRING, or NULL */
    const char **positionals;
    uint32_t positional_count;
};

struct loader {
    const struct spin_config_spec *spec;
    int argc;
    char *const *argv;
    char *const *environment;
    struct spin_config_values *values;
    struct found *found; /* per option */
    struct found config_path;
    struct spin_config_file file;
    enum mode mode;
    struct spin_error *err;
};

static const struct spin_option *find_option(const struct spin_config_spec *spec, const char *name,
                                             size_t bytes)
{
    for (uint32_t i = 0; i < spec->option_count; i++) {
        const char *candidate = spec->options[i].name;
        if (strlen(candidate) == bytes && memcmp(candidate, name, bytes) == 0) {
            return &spec->options[i];
        }
    }
    return NULL;
}

static bool is_option_name(const char *name)
{
    return name[0] >= 'a' && name[0] <= 'z' && strncmp(name, "no-", 3) != 0 &&
           name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-")] == '\0';
}

/* The table is ours: a bad row is a bug, found by the first run of the program. */
static void assert_spec(const struct spin_config_spec *spec)
{
    for (uint32_t i = 0; i < spec->option_count; i++) {
        const struct spin_option *option = &spec->options[i];
        SPIN_ASSERT(is_option_name(option->name));
        SPIN_ASSERT(option->help != NULL);
        SPIN_ASSERT((option->choices != NULL) == (option->type == SPIN_OPTION_CHOICE));
        SPIN_ASSERT(find_option(spec, option->name, strlen(option->name)) == option);
        for (uint32_t builtin = 0; builtin < spin_config_builtins_count; builtin++) {
            SPIN_ASSERT(strcmp(option->name, spin_config_builtins[builtin].name) != 0);
        }
        if (option->default_value != NULL) {
            union spin_config_scalar value;
            char reason[SPIN_CONFIG_TEXT_BYTES];
            SPIN_ASSERT(spin_config_scalar_parse(option, option->default_value, &value, reason));
        }
    }
}

/* Flags. */

static spin_status fail_unknown(struct loader *loader, const char *where, const char *name)
{
    const char *nearest = spin_config_nearest(loader->spec, name);
    if (nearest == NULL) {
        return spin_fail(loader->err, SPIN_ERR_INVALID, "%s: unknown option \"%.64s\"", where,
                         name);
    }
    return spin_fail(loader->err, SPIN_ERR_INVALID,
                     "%s: unknown option \"%.64s\"; did you mean \"%.64s\"?", where, name, nearest);
}

/* --name [value] or --name=value, the name being known to take one. Moves *index to the last
 * argument used. */
static spin_status take_value(struct loader *loader, const char *equals, int *index,
                              const char **out)
{
    if (equals != NULL) {
        *out = equals + 1;
        return SPIN_OK;
    }
    const char *flag = loader->argv[*index];
    if (*index + 1 >= loader->argc || strncmp(loader->argv[*index + 1], "--", 2) == 0) {
        return spin_fail(
            loader->err, SPIN_ERR_INVALID,
            "%.64s: needs a value (one that starts with \"--\" is written %.64s=VALUE)", flag,
            flag);
    }
    *index += 1;
    *out = loader->argv[*index];
    return SPIN_OK;
}

static bool is_name(const char *name, size_t bytes, const char *wanted)
{
    return strlen(wanted) == bytes && memcmp(name, wanted, bytes) == 0;
}

/* --help and its kind: none takes a value, and the first one decides. */
static bool take_mode(struct loader *loader, const char *name)
{
    static const struct {
        const char *name;
        enum mode mode;
    } modes[] = {{"help", MODE_HELP},
                 {"help-markdown", MODE_MARKDOWN},
                 {"version", MODE_VERSION},
                 {"config-check", MODE_CHECK}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(modes); i++) {
        if (strcmp(name, modes[i].name) == 0) {
            loader->mode = loader->mode == MODE_RUN ? modes[i].mode : loader->mode;
            return true;
        }
    }
    return false;
}

/* argv[*index] starts with "--" and has more. */
static spin_status read_flag(struct loader *loader, int *index)
{
    const struct spin_config_spec *spec = loader->spec;
    const char *name = loader->argv[*index] + 2;
    const char *equals = strchr(name, '=');
    const size_t bytes = equals == NULL ? strlen(name) : (size_t)(equals - name);
    if (take_mode(loader, name)) {
        return SPIN_OK;
    }
    if (is_name(name, bytes, "config")) {
        loader->config_path.source = SOURCE_FLAG;
        return take_value(loader, equals, index, &loader->config_path.text);
    }
    const struct spin_option *option = find_option(spec, name, bytes);
    bool negated = false;
    if (option == NULL && equals == NULL && strncmp(name, "no-", 3) == 0) {
        option = find_option(spec, name + 3, bytes - 3);
        negated = option != NULL && option->type == SPIN_OPTION_BOOL;
    }
    if (option == NULL || (strncmp(name, "no-", 3) == 0 && !negated)) {
        char copy[80];
        (void)snprintf(copy, sizeof copy, "%.*s", (int)SPIN_MIN(bytes, 64), name);
        return fail_unknown(loader, "command line", copy);
    }
    struct found *found = &loader->found[option - spec->options];
    found->source = SOURCE_FLAG;
    if (option->type == SPIN_OPTION_BOOL && equals == NULL) {
        found->text = negated ? "false" : "true";
        return SPIN_OK;
    }
    return take_value(loader, equals, index, &found->text);
}

static spin_status take_positional(struct loader *loader, const char *text)
{
    struct spin_config_values *values = loader->values;
    if (values->positional_count == loader->spec->positional_max) {
        return spin_fail(loader->err, SPIN_ERR_INVALID,
                         "command line: unexpected argument \"%.64s\" (at most %u)", text,
                         loader->spec->positional_max);
    }
    values->positionals[values->positional_count++] = text;
    return SPIN_OK;
}

static spin_status read_flags(struct loader *loader)
{
    bool only_positionals = false;
    for (int i = 1; i < loader->argc; i++) {
        const char *text = loader->argv[i];
        if (only_positionals || text[0] != '-' || text[1] == '\0') { /* "-": standard input */
            SPIN_TRY(take_positional(loader, text));
        } else if (strcmp(text, "--") == 0) {
            only_positionals = true;
        } else if (strcmp(text, "-h") == 0) {
            (void)take_mode(loader, "help");
        } else if (text[1] == '-') {
            SPIN_TRY(read_flag(loader, &i));
        } else {
            SPIN_TRY(fail_unknown(loader, "command line", text));
        }
    }
    return SPIN_OK;
}

/* Environment and file: they fill what is still open. */

/* An empty variable counts as absent: that is how deployment tools leave one out. */
static const char *environment_value(const struct loader *loader, const char *option)
{
    char name[SPIN_CONFIG_TEXT_BYTES];
    spin_config_environment_name(option, name);
    const size_t bytes = strlen(name);
    for (char *const *at = loader->environment; at != NULL && *at != NULL; at++) {
        if (strncmp(*at, name, bytes) == 0 && (*at)[bytes] == '=' && (*at)[bytes + 1] != '\0') {
            return *at + bytes + 1;
        }
    }
    return NULL;
}

static void fill_from_environment(struct loader *loader, const char *name, struct found *found)
{
    if (found->source == SOURCE_NONE) {
        const char *text = environment_value(loader, name);
        if (text != NULL) {
            *found = (struct found){.text = text, .source = SOURCE_ENVIRONMENT};
        }
    }
}

static void read_environment(struct loader *loader)
{
    for (uint32_t i = 0; i < loader->spec->option_count; i++) {
        fill_from_environment(loader, loader->spec->options[i].name, &loader->found[i]);
    }
    fill_from_environment(loader, "config", &loader->config_path);
}

static spin_status read_file(struct loader *loader)
{
    const char *path = loader->config_path.text;
    if (path == NULL) {
        return SPIN_OK;
    }
    char *text = NULL;
    uint64_t bytes = 0;
    struct spin_error read_error;
    spin_status status =
        spin_file_read(path, SPIN_CONFIG_FILE_BYTES_MAX, &text, &bytes, &read_error);
    if (status != SPIN_OK) {
        return spin_fail(loader->err, status, "--config: %.200s", read_error.text);
    }
    status = spin_config_file_parse(text, bytes, path, &loader->file, loader->err);
    free(text);
    SPIN_TRY(status);
    for (uint32_t i = 0; i < loader->file.count; i++) {
        const struct spin_config_file_entry *entry = &loader->file.entries[i];
        const struct spin_option *option =
            find_option(loader->spec, entry->key, strlen(entry->key));
        if (option == NULL) {
            char where[120];
            (void)snprintf(where, sizeof where, "%.80s line %u", path, entry->line);
            return fail_unknown(loader, where, entry->key);
        }
        struct found *found = &loader->found[option - loader->spec->options];
        if (found->source == SOURCE_NONE && entry->value != NULL) {
            *found = (struct found){entry->value, SOURCE_FILE, entry->line};
        }
    }
    return SPIN_OK;
}

/* Values. */

static void format_source(const struct loader *loader, const struct spin_option *option,
                          const struct found *found, char out[SPIN_CONFIG_TEXT_BYTES])
{
    if (found->source == SOURCE_ENVIRONMENT) {
        char name[SPIN_CONFIG_TEXT_BYTES];
        spin_config_environment_name(option->name, name);
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "environment %.64s", name);
    } else if (found->source == SOURCE_FILE) {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "file %.64s line %u", loader->config_path.text,
                       found->line);
    } else {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "flag");
    }
}

static spin_status fail_value(const struct loader *loader, const struct spin_option *option,
                              const struct found *found, const char *reason)
{
    char source[SPIN_CONFIG_TEXT_BYTES];
    char range[SPIN_CONFIG_TEXT_BYTES];
    char shown[48];
    format_source(loader, option, found, source);
    spin_config_range_format(option, range);
    (void)snprintf(shown, sizeof shown, "%s", option->secret ? "***" : found->text);
    for (char *at = shown; *at != '\0'; at++) { /* terminals obey control bytes */
        const unsigned char byte = (unsigned char)*at;
        if (byte < 0x20 || byte == 0x7F) {
            *at = '?';
        }
    }
    return spin_fail(loader->err, SPIN_ERR_INVALID, "--%s (%s): \"%s\": %s%s%s%s%s", option->name,
                     source, shown, reason, range[0] == '\0' ? "" : "; allowed: ", range,
                     range[0] == '\0' || option->unit == NULL ? "" : " ",
                     range[0] == '\0' || option->unit == NULL ? "" : option->unit);
}

static spin_status resolve_option(struct loader *loader, uint32_t index,
                                  union spin_config_scalar *out)
{
    const struct spin_option *option = &loader->spec->options[index];
    struct found *found = &loader->found[index];
    if (found->source == SOURCE_NONE) {
        if (option->required) {
            char name[SPIN_CONFIG_TEXT_BYTES];
            spin_config_environment_name(option->name, name);
            return spin_fail(loader->err, SPIN_ERR_INVALID,
                             "--%s is required (or %s, or \"%s\" in the file of --config)",
                             option->name, name, option->name);
        }
        *found = (struct found){.text = option->default_value, .source = SOURCE_DEFAULT};
    }
    loader->values->sources[index] = found->source;
    if (found->text == NULL) {
        *out = (union spin_config_scalar){.u64 = 0}; /* NULL, false or 0 */
        return SPIN_OK;
    }
    char reason[SPIN_CONFIG_TEXT_BYTES];
    if (!spin_config_scalar_parse(option, found->text, out, reason)) {
        return fail_value(loader, option, found, reason);
    }
    if (option->type == SPIN_OPTION_STRING) {
        char *copy = strdup(found->text);
        if (copy == NULL) {
            return spin_fail(loader->err, SPIN_ERR_NO_MEMORY, "--%s", option->name);
        }
        loader->values->strings[index] = copy;
        out->string = copy;
    }
    return SPIN_OK;
}

/* All values are good before the first one is stored. */
static spin_status resolve(struct loader *loader, void *config)
{
    const uint32_t count = loader->spec->option_count;
    union spin_config_scalar *scalars = calloc(count + 1u, sizeof *scalars);
    if (scalars == NULL) {
        return spin_fail(loader->err, SPIN_ERR_NO_MEMORY, "configuration");
    }
    spin_status status = SPIN_OK;
    for (uint32_t i = 0; i < count && status == SPIN_OK; i++) {
        status = resolve_option(loader, i, &scalars[i]);
    }
    for (uint32_t i = 0; i < count && status == SPIN_OK; i++) {
        spin_config_scalar_store(&loader->spec->options[i], scalars[i], config);
    }
    free(scalars);
    return status;
}

static bool allocate(struct loader *loader)
{
    const uint32_t count = loader->spec->option_count;
    loader->found = calloc(count + 1u, sizeof *loader->found);
    struct spin_config_values *values = calloc(1, sizeof *values);
    loader->values = values;
    if (loader->found == NULL || values == NULL) {
        return false;
    }
    values->spec = loader->spec;
    values->sources = calloc(count + 1u, sizeof *values->sources);
    values->strings = calloc(count + 1u, sizeof *values->strings);
    values->positionals = calloc(loader->spec->positional_max + 1u, sizeof *values->positionals);
    return values->sources != NULL && values->strings != NULL && values->positionals != NULL;
}

static bool print_and_exit(const struct loader *loader)
{
    switch (loader->mode) {
    case MODE_HELP:
        spin_config_print_help(loader->spec, stdout);
        return true;
    case MODE_MARKDOWN:
        spin_config_print_markdown(loader->spec, stdout);
        return true;
    case MODE_VERSION:
        (void)printf("%s %s\n", loader->spec->program, SPIN_VERSION);
        return true;
    case MODE_RUN:
    case MODE_CHECK:
        break;
    }
    return false;
}

static spin_status load(struct loader *loader, void *config, bool *out_exit)
{
    if (!allocate(loader)) {
        return spin_fail(loader->err, SPIN_ERR_NO_MEMORY, "configuration");
    }
    SPIN_TRY(read_flags(loader));
    if (print_and_exit(loader)) {
        *out_exit = true;
        return SPIN_OK;
    }
    read_environment(loader);
    SPIN_TRY(read_file(loader));
    SPIN_TRY(resolve(loader, config));
    *out_exit = loader->mode == MODE_CHECK;
    if (*out_exit) {
        spin_config_print_effective(loader->spec, config, loader->values, stdout);
    }
    return SPIN_OK;
}

/* Eight parameters: three are what main was given, three are what it gets. */
/* NOLINTNEXTLINE(readability-function-size) */
spin_status spin_config_load(const struct spin_config_spec *spec, int argc, char *const *argv,
                             char *const *environment, void *config,
                             struct spin_config_values **out, bool *out_exit,
                             struct spin_error *err)
{
    assert_spec(spec);
    struct loader loader = {
        .spec = spec, .argc = argc, .argv = argv, .environment = environment, .err = err};
    const spin_status status = load(&loader, config, out_exit);
    spin_config_file_deinit(&loader.file);
    free(loader.found);
    if (status != SPIN_OK) {
        spin_config_values_destroy(loader.values);
        return status;
    }
    *out = loader.values;
    return SPIN_OK;
}

void spin_config_values_destroy(struct spin_config_values *values)
{
    if (values == NULL) {
        return;
    }
    for (uint32_t i = 0; values->strings != NULL && i < values->spec->option_count; i++) {
        free(values->strings[i]);
    }
    free((void *)values->positionals);
    free((void *)values->strings);
    free(values->sources);
    free(values);
}

uint32_t spin_config_positional_count(const struct spin_config_values *values)
{
    return values->positional_count;
}

const char *spin_config_positional(const struct spin_config_values *values, uint32_t index)
{
    SPIN_ASSERT_LT(index, values->positional_count);
    return values->positionals[index];
}

const char *spin_config_source(const struct spin_config_values *values, const char *option)
{
    const struct spin_option *row = find_option(values->spec, option, strlen(option));
    SPIN_ASSERT(row != NULL);
    switch (values->sources[row - values->spec->options]) {
    case SOURCE_FLAG:
        return "flag";
    case SOURCE_ENVIRONMENT:
        return "environment";
    case SOURCE_FILE:
        return "file";
    case SOURCE_NONE:
    case SOURCE_DEFAULT:
        break;
    }
    return "default";
}
