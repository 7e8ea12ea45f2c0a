/* Every range of spin_generation_check: a good request, spoiled in one place per row; the error
 * must name the field. Both ends of each range are good. */
#include "router/generation.h"

#include "tests/spin_test.h"

#define VOCAB 1000u
#define MAX_MODEL_LEN 100u

struct good { /* a whole good request */
    struct spin_generation_request request;
    Spin__V1__Sampling sampling;
    Spin__V1__LogitBias bias[SPIN_LOGIT_BIASES_MAX + 1];
    Spin__V1__LogitBias *biases[SPIN_LOGIT_BIASES_MAX + 1];
    int32_t prompt[MAX_MODEL_LEN + 1];
    int32_t stops[SPIN_STOP_TOKEN_IDS_MAX + 1];
};

static const struct spin_generation_limits limits = {VOCAB, MAX_MODEL_LEN};
static char long_text[SPIN_STOP_STRING_BYTES_MAX + 2];

static void make_good(struct good *good)
{
    memset(good, 0, sizeof *good);
    spin__v1__sampling__init(&good->sampling);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(good->bias); i++) {
        spin__v1__logit_bias__init(&good->bias[i]);
        good->biases[i] = &good->bias[i];
    }
    good->prompt[1] = VOCAB - 1;
    good->sampling.max_tokens = 10;
    good->sampling.logit_bias = good->biases;
    good->sampling.stop_token_ids = good->stops;
    good->request.id = "req-1";
    good->request.prompt = good->prompt;
    good->request.prompt_count = 4;
    good->request.sampling = &good->sampling;
    good->request.deadline_ns = UINT64_MAX;
    memset(long_text, 'x', sizeof long_text - 1);
}

typedef void spoil_fn(struct good *good);

#define SPOIL(name, statement) \
    static void name(struct good *good) \
    { \
        statement; \
    }

SPOIL(id_empty, good->request.id = "")
SPOIL(id_long, good->request.id = long_text)
SPOIL(id_blank, good->request.id = "a b")
SPOIL(no_prompt, good->request.prompt_count = 0)
SPOIL(prompt_negative, good->prompt[3] = -1)
SPOIL(prompt_vocab, good->prompt[2] = VOCAB)
SPOIL(prompt_long, good->request.prompt_count = MAX_MODEL_LEN + 1)
SPOIL(together_long, good->sampling.max_tokens = MAX_MODEL_LEN - 3)
SPOIL(most_tokens, good->sampling.max_tokens = UINT32_MAX)
SPOIL(cold, good->sampling.temperature = -0.001F)
SPOIL(hot, good->sampling.temperature = 100.1F)
SPOIL(nan_heat, good->sampling.temperature = NAN)
SPOIL(top_p, good->sampling.top_p = 1.01F)
SPOIL(min_p, good->sampling.min_p = -0.01F)
SPOIL(presence, good->sampling.presence_penalty = 2.1F)
SPOIL(frequency, good->sampling.frequency_penalty = -2.1F)
SPOIL(repetition, good->sampling.repetition_penalty = 10.1F)
SPOIL(many_top, (good->sampling.logprobs = true, good->sampling.top_logprobs = 21))
SPOIL(top_alone, good->sampling.top_logprobs = 1)
SPOIL(nothing, good->sampling.max_tokens = 0)
SPOIL(min_tokens, good->sampling.min_tokens = 11)
SPOIL(many_biases, good->sampling.n_logit_bias = SPIN_LOGIT_BIASES_MAX + 1)
SPOIL(bias_token, (good->sampling.n_logit_bias = 1, good->bias[0].token = VOCAB))
SPOIL(bias_value, (good->sampling.n_logit_bias = 2, good->bias[1].bias = 100.5F))
SPOIL(many_stops, good->request.stop.count = SPIN_STOP_STRINGS_MAX + 1)
SPOIL(stop_empty, (good->request.stop.count = 1, good->request.stop.texts[0] = ""))
SPOIL(stop_long, (good->request.stop.count = 1, good->request.stop.texts[0] = long_text))
SPOIL(many_stop_ids, good->sampling.n_stop_token_ids = SPIN_STOP_TOKEN_IDS_MAX + 1)
SPOIL(stop_id, (good->sampling.n_stop_token_ids = 1, good->stops[0] = -5))

static const struct {
    spoil_fn *spoil;
    spin_status status;
    const char *text; /* that the error begins with */
} bad[] = {
    {id_empty, SPIN_ERR_INVALID, "request_id: 0 bytes, must be 1..63"},
    {id_long, SPIN_ERR_INVALID, "request_id: 257 bytes"},
    {id_blank, SPIN_ERR_INVALID, "request_id: byte 1"},
    {no_prompt, SPIN_ERR_INVALID, "prompt: empty"},
    {prompt_negative, SPIN_ERR_INVALID, "prompt[3]: token -1, the vocabulary is 0..999"},
    {prompt_vocab, SPIN_ERR_INVALID, "prompt[2]: token 1000"},
    {prompt_long, SPIN_ERR_LIMIT, "max_tokens: 10, with a prompt of 101 tokens that is 111"},
    {together_long, SPIN_ERR_LIMIT, "max_tokens: 97, with a prompt of 4 tokens that is 101"},
    {most_tokens, SPIN_ERR_LIMIT, "max_tokens: 4294967295, with a prompt of 4 tokens"},
    {cold, SPIN_ERR_INVALID, "temperature: -0.001, must be in 0..100"},
    {hot, SPIN_ERR_INVALID, "temperature: 100.1"},
    {nan_heat, SPIN_ERR_INVALID, "temperature: "},
    {top_p, SPIN_ERR_INVALID, "top_p: 1.01, must be in 0..1"},
    {min_p, SPIN_ERR_INVALID, "min_p: -0.01"},
    {presence, SPIN_ERR_INVALID, "presence_penalty: 2.1, must be in -2..2"},
    {frequency, SPIN_ERR_INVALID, "frequency_penalty: -2.1"},
    {repetition, SPIN_ERR_INVALID, "repetition_penalty: 10.1"},
    {many_top, SPIN_ERR_INVALID, "top_logprobs: 21, must be in 0..20"},
    {top_alone, SPIN_ERR_INVALID, "top_logprobs: 1, but logprobs is off"},
    {nothing, SPIN_ERR_INVALID, "max_tokens: 0"},
    {min_tokens, SPIN_ERR_INVALID, "min_tokens: 11, at most max_tokens, which is 10"},
    {many_biases, SPIN_ERR_INVALID, "logit_bias: 1025 entries, at most 1024"},
    {bias_token, SPIN_ERR_INVALID, "logit_bias: token 1000"},
    {bias_value, SPIN_ERR_INVALID, "logit_bias: 100.5, must be in -100..100"},
    {many_stops, SPIN_ERR_INVALID, "stop: 17 entries, at most 16"},
    {stop_empty, SPIN_ERR_INVALID, "stop[0]: 0 bytes"},
    {stop_long, SPIN_ERR_INVALID, "stop[0]: 257 bytes"},
    {many_stop_ids, SPIN_ERR_INVALID, "stop_token_ids: 17 entries, at most 16"},
    {stop_id, SPIN_ERR_INVALID, "stop_token_ids[0]: token -5"},
};

static void test_bad(void **state)
{
    (void)state;
    static struct good good;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        struct spin_error err = {.status = SPIN_OK};
        make_good(&good);
        bad[i].spoil(&good);
        const spin_status status = spin_generation_check(&good.request, &limits, &err);
        if (status != bad[i].status || strncmp(err.text, bad[i].text, strlen(bad[i].text)) != 0) {
            fail_msg("row %u: %s: %s", i, spin_status_name(status), err.text);
        }
    }
}

SPOIL(as_it_is, (void)good)
SPOIL(all_lowest,
      (good->sampling.presence_penalty = -2, good->sampling.frequency_penalty = -2,
       good->sampling.max_tokens = 1, good->request.prompt_count = 1, good->request.id = "x"))
SPOIL(all_highest,
      (good->sampling.temperature = 100, good->sampling.top_p = 1, good->sampling.min_p = 1,
       good->sampling.presence_penalty = 2, good->sampling.frequency_penalty = 2,
       good->sampling.repetition_penalty = 10, good->sampling.logprobs = true,
       good->sampling.top_logprobs = 20, good->sampling.max_tokens = MAX_MODEL_LEN - 4,
       good->sampling.min_tokens = MAX_MODEL_LEN - 4, good->sampling.top_k = UINT32_MAX,
       good->sampling.n_logit_bias = SPIN_LOGIT_BIASES_MAX,
       good->sampling.n_stop_token_ids = SPIN_STOP_TOKEN_IDS_MAX))
SPOIL(score_only, (good->sampling.max_tokens = 0, good->sampling.prompt_logprobs = true,
                   good->sampling.top_logprobs = 1, good->request.prompt_count = MAX_MODEL_LEN))
SPOIL(longest_stop, (long_text[SPIN_STOP_STRING_BYTES_MAX] = '\0', good->request.stop.count = 1,
                     good->request.stop.texts[0] = long_text))

static void test_good(void **state)
{
    (void)state;
    static struct good good;
    spoil_fn *const rows[] = {as_it_is, all_lowest, all_highest, score_only, longest_stop};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_error err = {.status = SPIN_OK};
        make_good(&good);
        rows[i](&good);
        SPIN_EXPECT_OK(spin_generation_check(&good.request, &limits, &err), &err);
    }
}

static void test_seeds_differ(void **state)
{
    (void)state;
    const uint64_t first = spin_generation_draw_seed();
    assert_true(first != 0);
    assert_true(first != spin_generation_draw_seed()); /* once in 2^64 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_seeds_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
