/* One option table, loaded from every source: what wins, what an error says, what is printed. Cases
 * are tables; what goes to standard output is compared with text written by hand. */
#include "base/config.h"

#include "base/version.h"
#include "tests/spin_test.h"

#include <unistd.h>

struct settings {
    bool echo;
    uint32_t sequences;
    uint64_t seed;
    uint64_t host_bytes;
    uint64_t timeout_ns;
    double ratio;
    const char *model;
    const char *api_key;
    uint32_t ops;
};

#define FIELD(member) ((uint32_t)offsetof(struct settings, member))

static const struct spin_option options[] = {
    {.name = "echo",
     .type = SPIN_OPTION_BOOL,
     .offset = FIELD(echo),
     .help = "Repeats the prompt."},
    {.name = "max-num-seqs",
     .type = SPIN_OPTION_U32,
     .offset = FIELD(sequences),
     .default_value = "32",
     .min = 1,
     .max = 1024,
     .unit = "sequences",
     .help =
         "Sequences that decode together, which bounds the memory of a step and the wait of each."},
    {.name = "seed",
     .type = SPIN_OPTION_U64,
     .offset = FIELD(seed),
     .default_value = "0",
     .help = "Of the random numbers."},
    {.name = "kv-host-bytes",
     .type = SPIN_OPTION_BYTES,
     .offset = FIELD(host_bytes),
     .default_value = "4GiB",
     .min = 1048576,
     .max = 0x1p50,
     .help = "Host memory of the KV."},
    {.name = "timeout",
     .type = SPIN_OPTION_DURATION,
     .offset = FIELD(timeout_ns),
     .default_value = "30s",
     .min = 1e6,
     .max = 3.6e12,
     .help = "How long to wait."},
    {.name = "ratio",
     .type = SPIN_OPTION_DOUBLE,
     .offset = FIELD(ratio),
     .default_value = "0.9",
     .min = 0,
     .max = 1,
     .help = "A part of the whole."},
    {.name = "model",
     .type = SPIN_OPTION_STRING,
     .offset = FIELD(model),
     .required = true,
     .help = "The model file."},
    {.name = "api-key",
     .type = SPIN_OPTION_STRING,
     .offset = FIELD(api_key),
     .secret = true,
     .help = "What clients must show."},
    {.name = "ops",
     .type = SPIN_OPTION_CHOICE,
     .offset = FIELD(ops),
     .default_value = "auto",
     .choices = "ref,cpu,cuda,auto",
     .help = "The op table."},
};

static const struct spin_config_spec spec = {
    .program = "spin-test",
    .synopsis = "[PROMPT]",
    .about = "Shows options.\nIn two lines.",
    .options = options,
    .option_count = SPIN_ARRAY_COUNT(options),
    .positional_max = 1,
};

#define WORDS_MAX 12

/* What a run is given: NULL-terminated lists, and the text of the file that %FILE% stands for. */
struct given {
    const char *arguments[WORDS_MAX];
    const char *environment[WORDS_MAX];
    const char *file;
};

static char file_path[256];

struct loaded {
    struct settings settings;
    struct spin_config_values *values;
    bool exit;
    struct spin_error err;
    spin_status status;
};

static void write_file(const char *text)
{
    FILE *file = fopen(file_path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* Copies, so that the test sees every read of a string that did not live long enough. */
static char *copy_word(const char *word)
{
    const char *mark = strstr(word, "%FILE%");
    char text[512];
    (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(mark == NULL ? 0 : mark - word), word,
                   mark == NULL ? "" : file_path, mark == NULL ? word : mark + 6);
    char *copy = strdup(text);
    assert_non_null(copy);
    return copy;
}

static struct loaded load(const struct given *given)
{
    char *argv[WORDS_MAX + 2] = {copy_word("spin-test")};
    char *environment[WORDS_MAX + 1] = {0};
    int argc = 1;
    for (int i = 0; given->arguments[i] != NULL; i++) {
        argv[argc++] = copy_word(given->arguments[i]);
    }
    for (int i = 0; given->environment[i] != NULL; i++) {
        environment[i] = copy_word(given->environment[i]);
    }
    write_file(given->file == NULL ? "" : given->file);
    struct loaded loaded = {.exit = true};
    memset(&loaded.settings, 0xA5, sizeof loaded.settings);
    loaded.status = spin_config_load(&spec, argc, argv, environment, &loaded.settings,
                                     &loaded.values, &loaded.exit, &loaded.err);
    for (int i = 0; environment[i] != NULL; i++) {
        free(environment[i]);
    }
    for (int i = 0; i < argc; i++) {
        /* Positional arguments are main's; the test keeps them until its end. */
        if (loaded.status == SPIN_OK && spin_config_positional_count(loaded.values) == 1 &&
            spin_config_positional(loaded.values, 0) == argv[i]) {
            continue;
        }
        free(argv[i]);
    }
    return loaded;
}

static void release(struct loaded *loaded)
{
    if (loaded->values != NULL && spin_config_positional_count(loaded->values) == 1) {
        char *word = NULL;
        const char *positional = spin_config_positional(loaded->values, 0);
        memcpy(&word, &positional, sizeof word);
        free(word);
    }
    spin_config_values_destroy(loaded->values);
}

static struct loaded load_good(const struct given *given)
{
    struct loaded loaded = load(given);
    SPIN_EXPECT_OK(loaded.status, &loaded.err);
    assert_false(loaded.exit);
    return loaded;
}

static void test_defaults(void **state)
{
    (void)state;
    struct loaded got = load_good(&(struct given){.arguments = {"--model", "m"}});
    assert_false(got.settings.echo);
    assert_int_equal(got.settings.sequences, 32);
    assert_int_equal(got.settings.seed, 0);
    assert_int_equal(got.settings.host_bytes, UINT64_C(4) << 30);
    assert_int_equal(got.settings.timeout_ns, UINT64_C(30000000000));
    assert_true(got.settings.ratio == 0.9);
    assert_string_equal(got.settings.model, "m");
    assert_null(got.settings.api_key);
    assert_int_equal(got.settings.ops, 3);
    assert_string_equal(spin_config_source(got.values, "ops"), "default");
    assert_string_equal(spin_config_source(got.values, "model"), "flag");
    assert_int_equal(spin_config_positional_count(got.values), 0);
    release(&got);
}

static void test_every_spelling_of_a_flag(void **state)
{
    (void)state;
    struct loaded got = load_good(
        &(struct given){.arguments = {"--model=a=b", "--echo", "--max-num-seqs=7", "--seed",
                                      "18446744073709551615", "--kv-host-bytes", "1.5GiB",
                                      "--timeout=250ms", "--ratio", "1e-1", "--ops=cuda"}});
    assert_string_equal(got.settings.model, "a=b");
    assert_true(got.settings.echo);
    assert_int_equal(got.settings.sequences, 7);
    assert_true(got.settings.seed == UINT64_MAX);
    assert_int_equal(got.settings.host_bytes, UINT64_C(3) << 29);
    assert_int_equal(got.settings.timeout_ns, 250000000);
    assert_true(got.settings.ratio == 0.1);
    assert_int_equal(got.settings.ops, 2);
    release(&got);
    got = load_good(&(struct given){.arguments = {"--model", "m", "--echo", "--no-echo"}});
    assert_false(got.settings.echo); /* the last one counts */
    release(&got);
    got = load_good(&(struct given){.arguments = {"--model=--odd", "--echo=yes", "prompt"}});
    assert_true(got.settings.echo);
    assert_string_equal(got.settings.model, "--odd");
    assert_string_equal(spin_config_positional(got.values, 0), "prompt");
    release(&got);
    got = load_good(&(struct given){.arguments = {"--model", "m", "--", "--echo"}});
    assert_false(got.settings.echo);
    assert_string_equal(spin_config_positional(got.values, 0), "--echo");
    release(&got);
    got = load_good(&(struct given){.arguments = {"--model", "m", "-"}});
    assert_string_equal(spin_config_positional(got.values, 0), "-");
    release(&got);
    got = load_good(&(struct given){.arguments = {"--model="}});
    assert_string_equal(got.settings.model, "");
    release(&got);
}

/* The same option in all places; taking the strongest away lets the next one through. */
static void test_precedence(void **state)
{
    (void)state;
    struct given given = {
        .arguments = {"--model", "m", "--config", "%FILE%", "--max-num-seqs", "4"},
        .environment = {"SPIN_MAX_NUM_SEQS=3", "OTHER=1", "SPIN_MAX_NUM_SEQSX=9"},
        .file = "max-num-seqs: 2\n",
    };
    static const struct {
        uint32_t value;
        const char *source;
    } wanted[] = {{4, "flag"}, {3, "environment"}, {2, "file"}, {32, "default"}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wanted); i++) {
        struct loaded got = load_good(&given);
        assert_int_equal(got.settings.sequences, wanted[i].value);
        assert_string_equal(spin_config_source(got.values, "max-num-seqs"), wanted[i].source);
        release(&got);
        if (i == 0) {
            given.arguments[4] = NULL;
        } else if (i == 1) {
            given.environment[0] = "SPIN_MAX_NUM_SEQS="; /* empty: absent */
        } else {
            given.file = "max-num-seqs: null\n";
        }
    }
}

static void test_file_is_named_by_flag_or_environment(void **state)
{
    (void)state;
    struct given given = {.arguments = {"--config=%FILE%"},
                          .file = "{\"model\": \"m\", \"echo\": true, \"api-key\": \"k\"}"};
    struct loaded got = load_good(&given);
    assert_string_equal(got.settings.model, "m");
    assert_string_equal(got.settings.api_key, "k");
    assert_true(got.settings.echo);
    release(&got);
    got = load_good(&(struct given){.environment = {"SPIN_CONFIG=%FILE%"}, .file = "model: n\n"});
    assert_string_equal(got.settings.model, "n");
    release(&got);
}

static const struct {
    struct given given;
    const char *text;
} bad_runs[] = {
    {{.arguments = {"--max-num-seq", "3"}},
     "command line: unknown option \"max-num-seq\"; did you mean \"max-num-seqs\"?"},
    {{.arguments = {"--modle=x"}}, "unknown option \"modle\"; did you mean \"model\"?"},
    {{.arguments = {"--max_num_seqs=3"}}, "did you mean \"max-num-seqs\"?"},
    {{.arguments = {"--confg=x"}}, "did you mean \"config\"?"},
    {{.arguments = {"--kv"}}, "command line: unknown option \"kv\""},
    {{.arguments = {"--frobnicate"}}, "command line: unknown option \"frobnicate\""},
    {{.arguments = {"-x"}}, "command line: unknown option \"-x\""},
    {{.arguments = {"--no-model"}}, "unknown option \"no-model\""},
    {{.arguments = {"--no-echo=1"}}, "unknown option \"no-echo\""},
    {{.arguments = {"--help=x"}}, "unknown option \"help\""},
    {{.arguments = {"--model"}}, "--model: needs a value"},
    {{.arguments = {"--model", "--echo"}}, "--model: needs a value"},
    {{.arguments = {"--config"}}, "--config: needs a value"},
    {{.arguments = {"--model", "m", "a", "b"}}, "unexpected argument \"b\" (at most 1)"},
    {{.arguments = {NULL}},
     "--model is required (or SPIN_MODEL, or \"model\" in the file of --config)"},
    {{.arguments = {"--model", "m", "--max-num-seqs", "0"}},
     "--max-num-seqs (flag): \"0\": out of range; allowed: 1..1024 sequences"},
    {{.arguments = {"--model", "m"}, .environment = {"SPIN_MAX_NUM_SEQS=many"}},
     "--max-num-seqs (environment SPIN_MAX_NUM_SEQS): \"many\": not a whole number; allowed: "
     "1..1024 sequences"},
    {{.arguments = {"--model", "m", "--config=%FILE%"}, .file = "# first\nmax-num-seqs: 2000\n"},
     " line 2): \"2000\": out of range; allowed: 1..1024 sequences"},
    {{.arguments = {"--config=%FILE%"}, .file = "model: m\nmax-num-sqs: 1\n"},
     " line 2: unknown option \"max-num-sqs\"; did you mean \"max-num-seqs\"?"},
    {{.arguments = {"--config=%FILE%"}, .file = "model: [m]\n"}, " line 1: key \"model\" must be"},
    {{.arguments = {"--config=/nowhere/x.yaml"}}, "--config: /nowhere/x.yaml: "},
    {{.arguments = {"--model=m", "--ops=gpu"}},
     "--ops (flag): \"gpu\": not one of the choices; allowed: ref|cpu|cuda|auto"},
    {{.arguments = {"--model=m", "--kv-host-bytes=1KiB"}},
     "--kv-host-bytes (flag): \"1KiB\": out of range; allowed: 1MiB..1048576GiB"},
    {{.arguments = {"--model=m", "--timeout=10"}},
     "--timeout (flag): \"10\": not a duration: a number with ns, us, ms, s, m or h; allowed: "
     "1ms..1h"},
    {{.arguments = {"--model=m", "--ratio=1.01"}},
     "--ratio (flag): \"1.01\": out of range; allowed: 0..1"},
    {{.arguments = {"--model=m", "--ratio=\x1B[31m\n"}},
     "--ratio (flag): \"?[31m?\": not a number"},
};

static void test_errors_say_where_what_and_which(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad_runs); i++) {
        struct loaded got = load(&bad_runs[i].given);
        assert_int_not_equal(got.status, SPIN_OK);
        if (strstr(got.err.text, bad_runs[i].text) == NULL) {
            fail_msg("wanted \"%s\", got \"%s\"", bad_runs[i].text, got.err.text);
        }
        assert_null(got.values);
        for (size_t k = 0; k < sizeof got.settings; k++) { /* nothing is stored by halves */
            assert_int_equal(((const uint8_t *)&got.settings)[k], 0xA5);
        }
    }
}

static void test_secrets_are_not_repeated(void **state)
{
    (void)state;
    static const struct spin_option secret[] = {{.name = "pin",
                                                 .type = SPIN_OPTION_U32,
                                                 .default_value = "1",
                                                 .secret = true,
                                                 .help = "A number."}};
    const struct spin_config_spec only = {.program = "x", .options = secret, .option_count = 1};
    char name[] = "x";
    char flag[] = "--pin=hunter2";
    char *const argv[] = {name, flag};
    uint32_t config = 0;
    struct spin_config_values *values = NULL;
    bool leave = false;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_config_load(&only, 2, argv, NULL, &config, &values, &leave, &err),
                       SPIN_ERR_INVALID);
    assert_null(strstr(err.text, "hunter2"));
    assert_non_null(strstr(err.text, "\"***\""));
}

/* What a function prints, as a string that the caller frees. */
static char *printed_help(void)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    spin_config_print_help(&spec, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void test_help(void **state)
{
    (void)state;
    static const char golden_start[] =
        "usage: spin-test [options] [PROMPT]\n"
        "\n"
        "Shows options.\n"
        "In two lines.\n"
        "\n"
        "Options:\n"
        "  --[no-]echo                 Repeats the prompt. [default: false]\n"
        "  --max-num-seqs N            Sequences that decode together, which bounds the memory of "
        "a "
        "step and\n"
        "                              the wait of each. [default: 32; range: 1..1024; unit: "
        "sequences]\n"
        "  --seed N                    Of the random numbers. [default: 0]\n"
        "  --kv-host-bytes BYTES       Host memory of the KV. [default: 4GiB; range: "
        "1MiB..1048576GiB]\n"
        "  --timeout TIME              How long to wait. [default: 30s; range: 1ms..1h]\n"
        "  --ratio X                   A part of the whole. [default: 0.9; range: 0..1]\n"
        "  --model TEXT                The model file. [required]\n"
        "  --api-key TEXT              What clients must show. [default: none]\n"
        "  --ops WORD                  The op table. [default: auto; range: ref|cpu|cuda|auto]\n"
        "  --config PATH               Reads options";
    char *text = printed_help();
    assert_true(strlen(text) > sizeof golden_start);
    text[sizeof golden_start - 1] = '\0';
    assert_string_equal(text, golden_start);
    free(text);
    text = printed_help();
    for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
        assert_true(strcspn(line, "\n") <= 100);
    }
    free(text);
}

static void test_markdown(void **state)
{
    (void)state;
    static const char wanted[] =
        "## spin-test\n\nShows options.\nIn two lines.\n\n"
        "| option | environment | default | unit | range | meaning |\n|---|---|---|---|---|---|\n"
        "| `--echo` | `SPIN_ECHO` | false |  |  | Repeats the prompt. |\n"
        "| `--max-num-seqs` | `SPIN_MAX_NUM_SEQS` | 32 | sequences | 1..1024 | Sequences that";
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    spin_config_print_markdown(&spec, out);
    assert_int_equal(fclose(out), 0);
    assert_memory_equal(text, wanted, sizeof wanted - 1);
    assert_non_null(strstr(text, "| auto |  | ref\\|cpu\\|cuda\\|auto | The op table. |\n"));
    free(text);
}

static char *print_effective(const struct loaded *loaded)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    spin_config_print_effective(&spec, &loaded->settings, loaded->values, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void test_effective_reads_back(void **state)
{
    (void)state;
    struct given given = {.arguments = {"--model", "a \"b\"\\ \xC3\xA9\n#: x", "--echo",
                                        "--ratio=0.30000000000000004", "--timeout=1.5s"},
                          .environment = {"SPIN_API_KEY=hunter2"}};
    struct loaded got = load_good(&given);
    char *text = print_effective(&got);
    assert_string_equal(text, "echo: true # flag\n"
                              "max-num-seqs: 32 # default\n"
                              "seed: 0 # default\n"
                              "kv-host-bytes: 4GiB # default\n"
                              "timeout: 1500ms # flag\n"
                              "ratio: 0.30000000000000004 # flag\n"
                              "model: \"a \\\"b\\\"\\\\ \xC3\xA9\\u000a#: x\" # flag\n"
                              "api-key: \"***\" # environment\n"
                              "ops: auto # default\n");
    struct loaded again =
        load_good(&(struct given){.arguments = {"--config=%FILE%"}, .file = text});
    assert_string_equal(again.settings.model, got.settings.model);
    assert_true(again.settings.ratio == got.settings.ratio);
    assert_int_equal(again.settings.timeout_ns, got.settings.timeout_ns);
    assert_true(again.settings.echo);
    assert_string_equal(spin_config_source(again.values, "seed"), "file");
    release(&again);
    release(&got);
    free(text);
}

static void test_absent_strings_read_back_as_absent(void **state)
{
    (void)state;
    struct loaded got = load_good(&(struct given){.arguments = {"--model=m"}});
    char *text = print_effective(&got);
    assert_non_null(strstr(text, "api-key: null # default\n"));
    struct loaded again =
        load_good(&(struct given){.arguments = {"--config=%FILE%"}, .file = text});
    assert_null(again.settings.api_key);
    release(&again);
    release(&got);
    free(text);
}

static int saved_stdout;

static void begin_stdout(void)
{
    (void)fflush(stdout);
    saved_stdout = dup(STDOUT_FILENO);
    assert_true(saved_stdout >= 0);
    assert_non_null(freopen(file_path, "we", stdout));
}

static const char *end_stdout(void)
{
    static char text[8192];
    (void)fflush(stdout);
    assert_true(dup2(saved_stdout, STDOUT_FILENO) >= 0);
    (void)close(saved_stdout);
    FILE *file = fopen(file_path, "re");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    assert_int_equal(fclose(file), 0);
    return text;
}

/* The run is written to the file that standard output goes to, so it must not name it. */
static const char *run_to_exit(const struct given *given)
{
    char own_path[sizeof file_path];
    memcpy(own_path, file_path, sizeof own_path);
    (void)snprintf(file_path, sizeof file_path, "%.240s.out", own_path);
    begin_stdout();
    memcpy(file_path, own_path, sizeof own_path);
    struct loaded got = load(given);
    (void)snprintf(file_path, sizeof file_path, "%.240s.out", own_path);
    const char *text = end_stdout();
    (void)unlink(file_path);
    memcpy(file_path, own_path, sizeof own_path);
    SPIN_EXPECT_OK(got.status, &got.err);
    assert_true(got.exit);
    release(&got);
    return text;
}

static void test_flags_that_end_the_run(void **state)
{
    (void)state;
    char *help = printed_help();
    assert_string_equal(run_to_exit(&(struct given){.arguments = {"--help"}}), help);
    assert_string_equal(run_to_exit(&(struct given){.arguments = {"-h"}}), help);
    assert_string_equal(run_to_exit(&(struct given){.arguments = {"--echo", "--help"}}), help);
    free(help);
    assert_string_equal(run_to_exit(&(struct given){.arguments = {"--version"}}),
                        "spin-test " SPIN_VERSION "\n");
    assert_memory_equal(run_to_exit(&(struct given){.arguments = {"--help-markdown"}}),
                        "## spin-test\n", 13);
    assert_memory_equal(
        run_to_exit(&(struct given){.arguments = {"--config-check", "--config=%FILE%"},
                                    .file = "model: m\necho: yes\n"}),
        "echo: true # file\n", 18);
    struct loaded got = load(&(struct given){.arguments = {"--config-check"}}); /* no model */
    assert_int_equal(got.status, SPIN_ERR_INVALID);
}

struct bad_spec {
    struct spin_option rows[2];
    const char *dies_with;
};

static void load_bad_spec(void *argument)
{
    struct bad_spec *bad = argument;
    const struct spin_config_spec wrong = {.program = "x", .options = bad->rows, .option_count = 2};
    char name[] = "x";
    char *const argv[] = {name};
    uint64_t config[4];
    struct spin_config_values *values = NULL;
    bool leave = false;
    const spin_status status =
        spin_config_load(&wrong, 1, argv, NULL, config, &values, &leave, NULL);
    (void)status;
}

static void test_mistakes_in_our_tables_are_asserted(void **state)
{
    (void)state;
    const struct spin_option fine = {.name = "fine", .type = SPIN_OPTION_BOOL, .help = "x"};
    struct bad_spec specs[] = {
        {{fine, fine}, "find_option"},
        {{fine, {.name = "No", .type = SPIN_OPTION_BOOL, .help = "x"}}, "is_option_name"},
        {{fine, {.name = "no-x", .type = SPIN_OPTION_BOOL, .help = "x"}}, "is_option_name"},
        {{fine, {.name = "help", .type = SPIN_OPTION_BOOL, .help = "x"}}, "strcmp(option->name"},
        {{fine, {.name = "x", .type = SPIN_OPTION_BOOL}}, "option->help"},
        {{fine, {.name = "x", .type = SPIN_OPTION_CHOICE, .help = "x"}}, "option->choices"},
        {{fine, {.name = "x", .type = SPIN_OPTION_U32, .default_value = "a", .help = "x"}},
         "spin_config_scalar_parse"},
        {{fine,
          {.name = "x", .type = SPIN_OPTION_U32, .default_value = "9", .max = 5, .help = "x"}},
         "spin_config_scalar_parse"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(specs); i++) {
        assert_true(spin_test_dies(load_bad_spec, &specs[i], specs[i].dies_with));
    }
}

static int name_file(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMPDIR");
    (void)snprintf(file_path, sizeof file_path, "%s/config_test_%d.yaml",
                   base == NULL ? "/tmp" : base, (int)getpid());
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(file_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_spelling_of_a_flag),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_file_is_named_by_flag_or_environment),
        cmocka_unit_test(test_errors_say_where_what_and_which),
        cmocka_unit_test(test_secrets_are_not_repeated),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_markdown),
        cmocka_unit_test(test_effective_reads_back),
        cmocka_unit_test(test_absent_strings_read_back_as_absent),
        cmocka_unit_test(test_flags_that_end_the_run),
        cmocka_unit_test(test_mistakes_in_our_tables_are_asserted),
    };
    return cmocka_run_group_tests(tests, name_file, remove_file);
}
