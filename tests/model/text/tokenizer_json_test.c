/* Each part of tokenizer.json: what is accepted, and by which words the rest is refused. */
#include "tests/model/text/small_json.h"
#include "tests/spin_test.h"

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define QWEN2 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| " \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

struct refused {
    struct small_json json;
    const char *config;
    spin_status status;
    const char *text;
};

static const struct refused refusals[] = {
    {{.model = "\"dropout\":0.1,"}, NULL, SPIN_ERR_UNSUPPORTED, "model.dropout"},
    {{.model = "\"byte_fallback\":true,"}, NULL, SPIN_ERR_UNSUPPORTED, "model.byte_fallback"},
    {{.model = "\"end_of_word_suffix\":\"</w>\","}, NULL, SPIN_ERR_UNSUPPORTED, "end_of_word"},
    {{.model = "\"unk_token\":\"[UNK]\","}, NULL, SPIN_ERR_CORRUPT, "[UNK]"},
    {{.vocab = "\"x\":-1"}, NULL, SPIN_ERR_CORRUPT, "JSON"},
    {{.vocab = "\"xx\":-1"}, NULL, SPIN_ERR_CORRUPT, "model.vocab"},
    {{.vocab = "\"xx\":1048576"}, NULL, SPIN_ERR_CORRUPT, "1048575"},
    {{.vocab = "\"xx\":\"1\""}, NULL, SPIN_ERR_CORRUPT, "model.vocab"},
    {{.vocab = "\"xx\":5"}, NULL, SPIN_ERR_CORRUPT, "id 5"},
    {{.merges = "\"he\""}, NULL, SPIN_ERR_CORRUPT, "merges[0]"},
    {{.merges = "\"h e\",[\"l\"]"}, NULL, SPIN_ERR_CORRUPT, "merges[1]"},
    {{.merges = "\"h e\",\"e h\""}, NULL, SPIN_ERR_CORRUPT, "merge 1"},
    {{.merges = "\"h zz\""}, NULL, SPIN_ERR_CORRUPT, "right"},
    {{.added = "{\"id\":300,\"content\":\"<x>\",\"lstrip\":true}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "added token 300: lstrip"},
    {{.added = "{\"id\":300,\"content\":\"<x>\",\"single_word\":true}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "single_word"},
    {{.added = "{\"id\":5,\"content\":\"<x>\"}"}, NULL, SPIN_ERR_CORRUPT, "taken"},
    {{.added = "{\"id\":300,\"content\":7}"}, NULL, SPIN_ERR_CORRUPT, "(no string)"},
    {{.added = "{\"id\":300,\"content\":\"<x>\"},{\"id\":301,\"content\":\"<x>\"}"},
     NULL,
     SPIN_ERR_CORRUPT,
     "300 and 301"},
    {{.added = "{\"id\":300,\"content\":\"<x>\",\"normalized\":true}",
      .normalizer = "{\"type\":\"NFC\"}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "NFC"},
    {{.normalizer = "{\"type\":\"NFKC\"}"}, NULL, SPIN_ERR_UNSUPPORTED, "normalizer 'NFKC'"},
    {{.normalizer = "{\"type\":\"Sequence\"}"}, NULL, SPIN_ERR_CORRUPT, "Sequence"},
    {{.pre_tokenizer = "null"}, NULL, SPIN_ERR_UNSUPPORTED, "ByteLevel"},
    {{.pre_tokenizer = "{\"type\":\"Metaspace\"}"}, NULL, SPIN_ERR_UNSUPPORTED, "'Metaspace'"},
    {{.pre_tokenizer = "{\"type\":\"ByteLevel\"}"}, NULL, SPIN_ERR_UNSUPPORTED, "add_prefix_space"},
    {{.pre_tokenizer = "{\"type\":\"Digits\"}"}, NULL, SPIN_ERR_UNSUPPORTED, "ByteLevel"},
    {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL "," BYTE_LEVEL "]}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "once and last"},
    {{.pre_tokenizer =
          "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
          "\"pattern\":{\"Regex\":\"a+b\"},\"behavior\":\"Isolated\"}," BYTE_LEVEL "]}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "a+b"},
    {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                       "\"pattern\":{\"Regex\":\"" QWEN2
                       "\"},\"behavior\":\"MergedWithNext\"}," BYTE_LEVEL "]}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "MergedWithNext"},
    {{.post_processor = "{\"type\":\"BertProcessing\"}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "'BertProcessing'"},
    {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{}},"
                        "{\"SpecialToken\":{\"id\":\"<|end|>\"}}]}"},
     NULL,
     SPIN_ERR_UNSUPPORTED,
     "TemplateProcessing"},
    {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                        "\"<s>\"}},{\"Sequence\":{}}]}"},
     NULL,
     SPIN_ERR_CORRUPT,
     "<s>"},
    {{.decoder = "{\"type\":\"WordPiece\"}"}, NULL, SPIN_ERR_UNSUPPORTED, "decoder 'WordPiece'"},
    {{0}, "{\"eos_token\":\"</s>\"}", SPIN_ERR_CORRUPT, "eos_token '</s>'"},
    {{0}, "[", SPIN_ERR_CORRUPT, "tokenizer_config.json"},
};

static void test_refusals_name_what_is_wrong(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(refusals); i++) {
        const struct refused *refused = &refusals[i];
        struct spin_tokenizer *tokenizer = NULL;
        struct spin_error err = {.status = SPIN_OK};
        const spin_status status =
            spin_small_json_open(&refused->json, refused->config, &tokenizer, &err);
        if (strcmp(refused->text, "JSON") == 0) { /* a key twice is no JSON: the parser says so */
            assert_int_equal(status, SPIN_ERR_CORRUPT);
            continue;
        }
        if (status != refused->status || strstr(err.text, refused->text) == NULL) {
            fail_msg("case %u: %s: %s; wanted %s with '%s'", i, spin_status_name(status), err.text,
                     spin_status_name(refused->status), refused->text);
        }
        assert_null(tokenizer);
    }
}

static void test_config_names_the_tokens(void **state)
{
    (void)state;
    static const char config[] =
        "{\"bos_token\":{\"content\":\"<tool>\"},\"eos_token\":\"<|end|>\",\"add_bos_token\":true,"
        "\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"t\"},"
        "{\"name\":\"default\",\"template\":\"{{ d }}\"}]}";
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_small_json_open(&(struct small_json){0}, config, &tokenizer, &err), &err);
    assert_int_equal(spin_tokenizer_bos(tokenizer), SMALL_TOOL);
    assert_int_equal(spin_tokenizer_eos(tokenizer), SMALL_END);
    assert_true(spin_tokenizer_is_end(tokenizer, SMALL_END));
    assert_string_equal(spin_tokenizer_chat_template(tokenizer), "{{ d }}");
    int32_t tokens[4];
    uint64_t count;
    SPIN_EXPECT_OK(
        spin_tokenizer_encode(tokenizer, "a", 1, SPIN_ENCODE_ADD_BOS, tokens, 4, &count, &err),
        &err);
    assert_int_equal(count, 2);
    assert_int_equal(tokens[0], SMALL_TOOL);
    spin_tokenizer_close(tokenizer);
}

static void test_accepted_pipelines(void **state)
{
    (void)state;
    static const struct small_json accepted[] = {
        {.normalizer = "{\"type\":\"NFC\"}"},
        {.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[]}"},
        {.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
                          "\"individual_digits\":true}," BYTE_LEVEL "]}"},
        {.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                          "\"pattern\":{\"Regex\":\"" QWEN2
                          "\"},\"behavior\":\"Removed\",\"invert\":true}," BYTE_LEVEL "]}"},
        {.pre_tokenizer = BYTE_LEVEL},
        {.post_processor = "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}]}"},
        {.added = "", .vocab = "\"he\":256,\"hole\":900", .merges = "\"h e\""},
        {.model = "\"unk_token\":\"he\",\"fuse_unk\":true,\"byte_fallback\":false,"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(accepted); i++) {
        struct spin_tokenizer *tokenizer = NULL;
        struct spin_error err;
        int32_t tokens[64];
        uint64_t count = 0;
        SPIN_EXPECT_OK(spin_small_json_open(&accepted[i], NULL, &tokenizer, &err), &err);
        SPIN_EXPECT_OK(spin_tokenizer_encode(tokenizer, "he 12", 5, SPIN_ENCODE_PLAIN, tokens, 64,
                                             &count, &err),
                       &err);
        assert_int_equal(count, 4); /* he, space, 1, 2 */
        assert_int_equal(tokens[0], SMALL_HE);
        spin_tokenizer_close(tokenizer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_name_what_is_wrong),
        cmocka_unit_test(test_config_names_the_tokens),
        cmocka_unit_test(test_accepted_pipelines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
