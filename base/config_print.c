#include "base/assert.h"
#include "base/config_internal.h"

#include <string.h>

#define HELP_COLUMNS 100
#define HELP_INDENT 30 /* where the sentences start; a longer flag gets a line of its own */
#define NAME_BYTES_MAX 64

const struct spin_config_builtin spin_config_builtins[] = {
    {"config", "PATH", "Reads options from a YAML or JSON file, one key per option."},
    {"config-check", NULL, "Checks the configuration, prints what is in effect and exits."},
    {"help", NULL, "Prints this text and exits."},
    {"help-markdown", NULL, "Prints the options as a Markdown table and exits."},
    {"version", NULL, "Prints the version and exits."},
};
const uint32_t spin_config_builtins_count = SPIN_ARRAY_COUNT(spin_config_builtins);

/* The nearest name. */

/* Edits (insert, delete, replace) from a to b; both under NAME_BYTES_MAX. */
static uint32_t edit_distance(const char *a, const char *b)
{
    uint32_t row[NAME_BYTES_MAX + 1];
    const uint32_t columns = (uint32_t)strlen(b);
    for (uint32_t j = 0; j <= columns; j++) {
        row[j] = j;
    }
    for (uint32_t i = 1; a[i - 1] != '\0'; i++) {
        uint32_t diagonal = row[0];
        row[0] = i;
        for (uint32_t j = 1; j <= columns; j++) {
            const uint32_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = SPIN_MIN(replaced, SPIN_MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[columns];
}

struct nearest {
    const char *name;
    uint32_t distance;
};

static void consider(struct nearest *nearest, const char *candidate, const char *typed)
{
    if (strlen(candidate) > NAME_BYTES_MAX) {
        return;
    }
    /* A beginning that stops early is as good as one edit. */
    const size_t bytes = strlen(typed);
    const bool is_beginning = bytes >= 3 && strncmp(candidate, typed, bytes) == 0;
    const uint32_t distance = is_beginning ? 1 : edit_distance(typed, candidate);
    if (distance < nearest->distance) {
        *nearest = (struct nearest){candidate, distance};
    }
}

const char *spin_config_nearest(const struct spin_config_spec *spec, const char *name)
{
    const size_t bytes = strlen(name);
    if (bytes > NAME_BYTES_MAX) {
        return NULL;
    }
    /* Beyond a third of the letters it is another word. */
    struct nearest nearest = {.name = NULL, .distance = (uint32_t)bytes / 3 + 2};
    for (uint32_t i = 0; i < spec->option_count; i++) {
        consider(&nearest, spec->options[i].name, name);
    }
    for (uint32_t i = 0; i < spin_config_builtins_count; i++) {
        consider(&nearest, spin_config_builtins[i].name, name);
    }
    return nearest.name;
}

/* --help. */

/* Text broken at blanks where a line is full, and at its own line feeds. `column` is where the
 * cursor stands, `indent` where lines start. */
static void print_wrapped(FILE *out, const char *text, uint32_t indent, uint32_t column)
{
    bool at_start = true;
    const char *at = text;
    while (*at != '\0') {
        const uint32_t bytes = (uint32_t)strcspn(at, " \n");
        const bool is_full = !at_start && column + 1 + bytes > HELP_COLUMNS;
        if (is_full || (at > text && at[-1] == '\n')) {
            (void)fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
            at_start = true;
        }
        column += bytes + (at_start ? 0 : 1);
        (void)fprintf(out, "%s%.*s", at_start ? "" : " ", (int)bytes, at);
        at_start = false;
        at += bytes;
        at += *at == '\n' ? 1 : strspn(at, " ");
    }
    (void)fputc('\n', out);
}

static void print_flag(FILE *out, const char *flag, const char *help)
{
    const int written = fprintf(out, "  %s", flag);
    if (written + 2 > HELP_INDENT) {
        (void)fprintf(out, "\n%*s", HELP_INDENT, "");
    } else {
        (void)fprintf(out, "%*s", HELP_INDENT - written, "");
    }
    print_wrapped(out, help, HELP_INDENT, HELP_INDENT);
}

static const char *placeholder(const struct spin_option *option)
{
    switch (option->type) {
    case SPIN_OPTION_BOOL:
        return "";
    case SPIN_OPTION_U32:
    case SPIN_OPTION_U64:
        return " N";
    case SPIN_OPTION_BYTES:
        return " BYTES";
    case SPIN_OPTION_DURATION:
        return " TIME";
    case SPIN_OPTION_DOUBLE:
        return " X";
    case SPIN_OPTION_STRING:
        return " TEXT";
    case SPIN_OPTION_CHOICE:
        return " WORD";
    }
    return "";
}

/* "32 tokens", "none", "required": what is in effect when nobody says anything. */
static void format_default(const struct spin_option *option, char out[SPIN_CONFIG_TEXT_BYTES])
{
    if (option->required) {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "required");
    } else if (option->default_value == NULL) {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES,
                       option->type == SPIN_OPTION_BOOL ? "false" : "none");
    } else if (option->default_value[0] == '\0') {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "empty");
    } else {
        (void)snprintf(out, SPIN_CONFIG_TEXT_BYTES, "%s", option->default_value);
    }
}

static void print_option(FILE *out, const struct spin_option *option)
{
    char flag[SPIN_CONFIG_TEXT_BYTES];
    char standard[SPIN_CONFIG_TEXT_BYTES];
    char range[SPIN_CONFIG_TEXT_BYTES];
    (void)snprintf(flag, sizeof flag, option->type == SPIN_OPTION_BOOL ? "--[no-]%s%s" : "--%s%s",
                   option->name, placeholder(option));
    format_default(option, standard);
    spin_config_range_format(option, range);
    char text[1024];
    (void)snprintf(
        text, sizeof text, "%s [%s%s%s%s%s%s]", option->help,
        option->required ? "" : "default: ", standard, range[0] == '\0' ? "" : "; range: ", range,
        option->unit == NULL ? "" : "; unit: ", option->unit == NULL ? "" : option->unit);
    print_flag(out, flag, text);
}

void spin_config_print_help(const struct spin_config_spec *spec, FILE *out)
{
    (void)fprintf(out, "usage: %s [options]%s%s\n\n", spec->program,
                  spec->synopsis == NULL || spec->synopsis[0] == '\0' ? "" : " ",
                  spec->synopsis == NULL ? "" : spec->synopsis);
    if (spec->about != NULL) {
        print_wrapped(out, spec->about, 0, 0);
        (void)fputc('\n', out);
    }
    (void)fprintf(out, "Options:\n");
    for (uint32_t i = 0; i < spec->option_count; i++) {
        print_option(out, &spec->options[i]);
    }
    for (uint32_t i = 0; i < spin_config_builtins_count; i++) {
        const struct spin_config_builtin *builtin = &spin_config_builtins[i];
        char flag[SPIN_CONFIG_TEXT_BYTES];
        (void)snprintf(flag, sizeof flag, "--%s%s%s", builtin->name,
                       builtin->value == NULL ? "" : " ",
                       builtin->value == NULL ? "" : builtin->value);
        print_flag(out, flag, builtin->help);
    }
    (void)fputc('\n', out);
    print_wrapped(out,
                  "Every option is also an environment variable (SPIN_ and the name in upper case "
                  "with _ for -) and a key of the file of --config. A flag goes before the "
                  "environment, the environment before the file, the file before the default.",
                  0, 0);
}

/* Markdown. */

/* One cell: a bar would end it. */
static void print_cell(FILE *out, const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        if (*at == '|') {
            (void)fputc('\\', out);
        }
        (void)fputc(*at, out);
    }
    (void)fputs(" | ", out);
}

static void print_code_cell(FILE *out, const char *prefix, const char *text)
{
    (void)fprintf(out, "`%s%s` | ", prefix, text);
}

static void print_markdown_row(FILE *out, const struct spin_option *option)
{
    char text[SPIN_CONFIG_TEXT_BYTES];
    (void)fputs("| ", out);
    print_code_cell(out, "--", option->name);
    spin_config_environment_name(option->name, text);
    print_code_cell(out, "", text);
    format_default(option, text);
    print_cell(out, text);
    print_cell(out, option->unit == NULL ? "" : option->unit);
    spin_config_range_format(option, text);
    print_cell(out, text);
    for (const char *at = option->help; *at != '\0'; at++) {
        (void)fputs(*at == '|' ? "\\|" : (char[]){*at, '\0'}, out);
    }
    (void)fputs(" |\n", out);
}

void spin_config_print_markdown(const struct spin_config_spec *spec, FILE *out)
{
    (void)fprintf(out, "## %s\n\n", spec->program);
    if (spec->about != NULL) {
        (void)fprintf(out, "%s\n\n", spec->about);
    }
    (void)fputs("| option | environment | default | unit | range | meaning |\n", out);
    (void)fputs("|---|---|---|---|---|---|\n", out);
    for (uint32_t i = 0; i < spec->option_count; i++) {
        print_markdown_row(out, &spec->options[i]);
    }
}

/* The effective configuration. */

/* A double-quoted scalar means the same in YAML and in JSON. */
static void print_quoted(FILE *out, const char *text)
{
    (void)fputc('"', out);
    for (const char *at = text; *at != '\0'; at++) {
        const unsigned char byte = (unsigned char)*at;
        if (byte == '"' || byte == '\\') {
            (void)fprintf(out, "\\%c", byte);
        } else if (byte < 0x20 || byte == 0x7F) {
            (void)fprintf(out, "\\u%04x", byte);
        } else {
            (void)fputc(byte, out);
        }
    }
    (void)fputc('"', out);
}

void spin_config_print_effective(const struct spin_config_spec *spec, const void *config,
                                 const struct spin_config_values *values, FILE *out)
{
    for (uint32_t i = 0; i < spec->option_count; i++) {
        const struct spin_option *option = &spec->options[i];
        const union spin_config_scalar value = spin_config_scalar_load(option, config);
        (void)fprintf(out, "%s: ", option->name);
        if (option->type == SPIN_OPTION_STRING && value.string == NULL) {
            (void)fputs("null", out);
        } else if (option->secret) {
            (void)fputs("\"***\"", out);
        } else if (option->type == SPIN_OPTION_STRING) {
            print_quoted(out, value.string);
        } else {
            char text[SPIN_CONFIG_TEXT_BYTES];
            spin_config_scalar_format(option, value, text);
            (void)fputs(text, out);
        }
        (void)fprintf(out, " # %s\n", spin_config_source(values, option->name));
    }
}
