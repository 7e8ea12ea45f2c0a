/* Files by tables: text in, "key=value@line" pairs or the error's words out. */
#include "base/config_file.h"

#include "tests/spin_test.h"

static const struct {
    const char *text;
    const char *entries; /* "key=value@line;..."; - for null */
} good_files[] = {
    {"", ""},
    {"# only a comment\n", ""},
    {"---\n...\n", ""},
    {"~\n", ""},
    {"{}", ""},
    {"model: demo.gguf\nmax-num-seqs: 32 # comment\n", "model=demo.gguf@1;max-num-seqs=32@2;"},
    {"{\"model\": \"demo.gguf\",\n\t\"n\": 32, \"b\": true, \"x\": null}",
     "model=demo.gguf@1;n=32@2;b=true@2;x=-@2;"},
    {"{\"a\":1,\"b\":2.5e3}", "a=1@1;b=2.5e3@1;"},
    {"{\"a\": \"\\u00e9\\n\\\"\\/\"}", "a=\xC3\xA9\n\"/@1;"},
    {"'single': 'it''s'\n\"double\": \"a b\"\n", "single=it's@1;double=a b@2;"},
    {"empty:\ntilde: ~\nnone: null\nquoted: \"\"\nword: \"null\"\n",
     "empty=-@1;tilde=-@2;none=-@3;quoted=@4;word=null@5;"},
    {"text: |\n  one\n  two\n", "text=one\ntwo\n@1;"},
    {"folded: >-\n  one\n  two\n", "folded=one two@1;"},
    {"\xEF\xBB\xBF"
     "a: 1\n",
     "a=1@1;"},
    {"a: 1\r\nb: 2\r\n", "a=1@1;b=2@2;"},
    {"host: a:1,b:2\n", "host=a:1,b:2@1;"},
};

static void describe(const struct spin_config_file *file, char *out, size_t capacity)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < file->count; i++) {
        const struct spin_config_file_entry *entry = &file->entries[i];
        used += (size_t)snprintf(out + used, capacity - used, "%s=%s@%u;", entry->key,
                                 entry->value == NULL ? "-" : entry->value, entry->line);
        assert_true(used < capacity);
    }
}

static void test_reads(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(good_files); i++) {
        struct spin_config_file file;
        struct spin_error err;
        char said[512];
        SPIN_EXPECT_OK(spin_config_file_parse(good_files[i].text, strlen(good_files[i].text), "f",
                                              &file, &err),
                       &err);
        describe(&file, said, sizeof said);
        assert_string_equal(said, good_files[i].entries);
        spin_config_file_deinit(&file);
    }
}

static const struct {
    const char *text;
    const char *words;
} bad_files[] = {
    {"a: 1\nb: [1, 2]\n", "f.yaml line 2: key \"b\" must be a single value, not a list"},
    {"a:\n  b: 1\n", "f.yaml line 2: key \"a\" must be a single value, not a mapping"},
    {"{\"a\": {\"b\": 1}}", "line 1: key \"a\" must be a single value, not a mapping"},
    {"? [x]\n: 1\n", "line 1: a key must be a single value, not a list"},
    {"- a\n- b\n", "line 1: the file must be one mapping of option names to values, not a list"},
    {"just words\n",
     "line 1: the file must be one mapping of option names to values, not a single"},
    {"a: 1\n---\nb: 2\n",
     "line 2: the file must be one mapping of option names to values, not a sec"},
    {"a: 1\nb: 2\na: 3\n", "line 3: key \"a\" again, first on line 1"},
    {"a: &x 1\n", "line 1: key \"a\": anchors and tags are not supported"},
    {"a: 1\nb: *x\n", "line 2: key \"b\" must be a single value, not an alias"},
    {"a: !!int 1\n", "line 1: key \"a\": anchors and tags are not supported"},
    {"a: 1\nb: \"\\0\"\n", "line 2: key \"b\" holds a NUL character"},
    {"a: \"unterminated\n", "line 2: "},
    {"{\"a\": 1", "line 2: "},
    {"a: 1\n\tb: 2\n", "line 2: "},
    {"a: \xC3\x28\n", "f.yaml line "},
    {"[[[[[[[[[[", "not a list"},
    {"{\"a\": 1} x", "line 1: "},
};

static void test_refuses_with_the_line(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad_files); i++) {
        struct spin_config_file file = {0};
        struct spin_error err;
        SPIN_EXPECT_STATUS(spin_config_file_parse(bad_files[i].text, strlen(bad_files[i].text),
                                                  "f.yaml", &file, &err),
                           SPIN_ERR_INVALID);
        if (strstr(err.text, bad_files[i].words) == NULL) {
            fail_msg("wanted \"%s\", got \"%s\"", bad_files[i].words, err.text);
        }
        assert_null(file.entries);
    }
}

static void test_limits(void **state)
{
    (void)state;
    const size_t capacity = SPIN_CONFIG_FILE_BYTES_MAX + 1;
    char *text = malloc(capacity + 1);
    assert_non_null(text);
    struct spin_config_file file;
    struct spin_error err;
    size_t used = 0;
    for (uint32_t i = 0; i < SPIN_CONFIG_FILE_KEYS_MAX; i++) {
        used += (size_t)snprintf(text + used, capacity - used, "key-%u: %u\n", i, i);
    }
    SPIN_EXPECT_OK(spin_config_file_parse(text, used, "f", &file, &err), &err);
    assert_int_equal(file.count, SPIN_CONFIG_FILE_KEYS_MAX);
    assert_string_equal(file.entries[1023].value, "1023");
    spin_config_file_deinit(&file);
    used += (size_t)snprintf(text + used, capacity - used, "one-more: 1\n");
    SPIN_EXPECT_STATUS(spin_config_file_parse(text, used, "f", &file, &err), SPIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "1024 keys"));

    memset(text, '#', capacity);
    SPIN_EXPECT_OK(spin_config_file_parse(text, capacity - 1, "f", &file, &err), &err);
    spin_config_file_deinit(&file);
    SPIN_EXPECT_STATUS(spin_config_file_parse(text, capacity, "f", &file, &err), SPIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "1048576 bytes"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_refuses_with_the_line),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
