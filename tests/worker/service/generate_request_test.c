/* Every field that a client can get wrong, one row each: the status and what the text must name.
 * Good requests are compared field by field with what was asked. */
#include "worker/service/generate_request.h"

#include "tests/spin_test.h"

#define VOCAB 1000u

struct wire { /* a whole good request, to be spoiled in one place */
    Spin__V1__GenerateRequest message;
    Spin__V1__Sampling sampling;
    Spin__V1__Algorithm algorithm;
    Spin__V1__Peer peer;
    Spin__V1__LogitBias bias[SPIN_LOGIT_BIAS_MAX + 1];
    Spin__V1__LogitBias *bias_list[SPIN_LOGIT_BIAS_MAX + 1];
    int32_t prompt[4];
    int32_t resumed[2];
    int32_t stops[SPIN_STOP_TOKENS_MAX + 1];
    uint8_t salt[33];
    char id[80];
    char name[40];
};

static const int32_t end_tokens[] = {2, 7};
static const struct spin_sparse_algorithm dense = {.name = "dense", .page_tokens = 32};
static const struct spin_sparse_algorithm chosen = {
    .name = "chosen", .page_tokens = 8, .summary = SPIN_SUMMARY_MEAN};
static const struct spin_generate_limits limits = {.vocab = VOCAB,
                                                   .end_tokens = end_tokens,
                                                   .end_token_count = SPIN_ARRAY_COUNT(end_tokens),
                                                   .sparse = {.algorithm = &dense}};
static const struct spin_generate_limits sparse_limits = {
    .vocab = VOCAB, .sparse = {.algorithm = &chosen, .budget_tokens = 512, .min_context = 4096}};

static void set_text(char *target, size_t capacity, const char *text)
{
    (void)snprintf(target, capacity, "%s", text);
}

static void make_good(struct wire *wire)
{
    *wire = (struct wire){.prompt = {1, 0, 999, 5}, .resumed = {3, 4}};
    spin__v1__generate_request__init(&wire->message);
    spin__v1__sampling__init(&wire->sampling);
    spin__v1__algorithm__init(&wire->algorithm);
    spin__v1__peer__init(&wire->peer);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wire->bias); i++) {
        spin__v1__logit_bias__init(&wire->bias[i]);
        wire->bias_list[i] = &wire->bias[i];
    }
    set_text(wire->id, sizeof wire->id, "req-1");
    wire->message.request_id = wire->id;
    wire->message.prompt_tokens = wire->prompt;
    wire->message.n_prompt_tokens = 4;
    wire->message.resumed_tokens = wire->resumed;
    wire->message.n_resumed_tokens = 2;
    wire->message.sampling = &wire->sampling;
    wire->message.salt.data = wire->salt;
    wire->sampling.max_tokens = 16;
    wire->sampling.logit_bias = wire->bias_list;
    wire->sampling.stop_token_ids = wire->stops;
}

static spin_status read_wire(const struct wire *wire, struct spin_generate_request *out,
                             struct spin_error *err)
{
    return spin_generate_request_read(&wire->message, &limits, out, err);
}

static void test_a_good_request_arrives_field_by_field(void **state)
{
    (void)state;
    static struct wire wire;
    make_good(&wire);
    wire.sampling.temperature = 0.7f;
    wire.sampling.top_p = 0.9f;
    wire.sampling.top_k = 40;
    wire.sampling.min_p = 0.05f;
    wire.sampling.presence_penalty = -2;
    wire.sampling.frequency_penalty = 2;
    wire.sampling.repetition_penalty = 1.1f;
    wire.sampling.seed = UINT64_MAX;
    wire.sampling.min_tokens = 16;
    wire.sampling.n_stop_token_ids = 2;
    wire.stops[0] = 9;
    wire.stops[1] = 999;
    wire.sampling.n_logit_bias = 1;
    wire.bias[0].token = 5;
    wire.bias[0].bias = -100;
    wire.sampling.logprobs = 1;
    wire.sampling.top_logprobs = 20;
    wire.sampling.prompt_logprobs = 1;
    wire.message.salt.len = 32;
    struct spin_generate_request read;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(read_wire(&wire, &read, &err), &err);
    const struct spin_request *request = &read.request;
    assert_string_equal(request->id, "req-1");
    assert_int_equal(request->prompt_count, 4);
    assert_memory_equal(request->prompt, wire.prompt, sizeof wire.prompt);
    assert_int_equal(request->resumed_count, 2);
    assert_memory_equal(request->resumed, wire.resumed, sizeof wire.resumed);
    assert_true(request->sampling.temperature == 0.7f && request->sampling.top_p == 0.9f);
    assert_true(request->sampling.min_p == 0.05f && request->sampling.top_k == 40);
    assert_true(request->sampling.presence_penalty == -2);
    assert_true(request->sampling.frequency_penalty == 2);
    assert_true(request->sampling.repetition_penalty == 1.1f);
    assert_true(request->sampling.seed == UINT64_MAX);
    assert_int_equal(request->max_tokens, 16);
    assert_int_equal(request->min_tokens, 16);
    const int32_t stops[] = {2, 7, 9, 999};
    assert_int_equal(request->stop_token_count, 4);
    assert_memory_equal(request->stop_tokens, stops, sizeof stops);
    assert_int_equal(request->sampling.logit_bias_count, 1);
    assert_int_equal(request->sampling.logit_bias[0].token, 5);
    assert_true(request->sampling.logit_bias[0].bias == -100);
    assert_true(request->logprobs && request->prompt_logprobs);
    assert_int_equal(request->top_logprobs, 20);
}

static void test_absent_fields_are_off(void **state)
{
    (void)state;
    static struct wire wire;
    make_good(&wire);
    wire.sampling.ignore_eos = 1;
    struct spin_generate_request read;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(read_wire(&wire, &read, &err), &err);
    assert_true(read.request.sampling.temperature == 0);
    assert_true(read.request.sampling.top_p == 1);
    assert_true(read.request.sampling.repetition_penalty == 1);
    assert_int_equal(read.request.stop_token_count, 0);
    wire.message.algorithm = &wire.algorithm; /* present and empty, or dense: the worker's own */
    SPIN_EXPECT_OK(read_wire(&wire, &read, &err), &err);
    set_text(wire.name, sizeof wire.name, "dense");
    wire.algorithm.name = wire.name;
    SPIN_EXPECT_OK(read_wire(&wire, &read, &err), &err);
    wire.sampling.max_tokens = 0; /* only scores the prompt */
    wire.sampling.prompt_logprobs = 1;
    SPIN_EXPECT_OK(read_wire(&wire, &read, &err), &err);
}

/* Absent, or the worker's own in every number: taken; else refused, and both are named. */
static void test_algorithms(void **state)
{
    (void)state;
    static const struct {
        const struct spin_generate_limits *limits;
        Spin__V1__Algorithm asked; /* the name apart */
        const char *name;
        const char *refusal; /* NULL: taken */
    } rows[] = {
        {&limits, {.page_tokens = 32}, "dense", NULL},
        {&limits, {.budget_tokens = 7, .min_context = 9}, "dense", NULL}, /* it has neither */
        {&limits, {.page_tokens = 8}, "dense", "page_tokens 8; this worker runs \"dense\""},
        {&limits, {.budget_tokens = 512}, "", "algorithm.name: empty"},
        {&limits, {.page_tokens = 0}, "chosen", "\"chosen\" with budget_tokens 0"},
        {&sparse_limits, {.budget_tokens = 512, .min_context = 4096}, "chosen", NULL},
        {&sparse_limits,
         {.budget_tokens = 512, .min_context = 4096, .page_tokens = 8},
         "chosen",
         NULL},
        {&sparse_limits, {.page_tokens = 0}, "", NULL},
        {&sparse_limits, {.min_context = 4096}, "chosen", "budget_tokens 0, min_context 4096"},
        {&sparse_limits, {.budget_tokens = 512}, "chosen", "runs \"chosen\" with 512, 4096, 8"},
        {&sparse_limits,
         {.budget_tokens = 512, .min_context = 4096, .page_tokens = 32},
         "chosen",
         "page_tokens 32"},
        {&sparse_limits, {.page_tokens = 0}, "dense", "\"dense\" with"},
    };
    static struct wire wire;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        make_good(&wire);
        wire.algorithm.budget_tokens = rows[i].asked.budget_tokens;
        wire.algorithm.min_context = rows[i].asked.min_context;
        wire.algorithm.page_tokens = rows[i].asked.page_tokens;
        set_text(wire.name, sizeof wire.name, rows[i].name);
        wire.algorithm.name = wire.name;
        wire.message.algorithm = &wire.algorithm;
        struct spin_generate_request read;
        struct spin_error err = {0};
        const spin_status status =
            spin_generate_request_read(&wire.message, rows[i].limits, &read, &err);
        if (rows[i].refusal == NULL
                ? status != SPIN_OK
                : status == SPIN_OK || strstr(err.text, rows[i].refusal) == NULL) {
            fail_msg("row %u: %s: %s", i, spin_status_name(status), err.text);
        }
    }
}

/* Each spoils one thing of a good request. */
static void no_prompt(struct wire *w)
{
    w->message.n_prompt_tokens = 0;
}
static void negative_token(struct wire *w)
{
    w->prompt[2] = -3;
}
static void foreign_token(struct wire *w)
{
    w->prompt[3] = VOCAB;
}
static void resumed_token(struct wire *w)
{
    w->resumed[1] = INT32_MIN;
}
static void no_sampling(struct wire *w)
{
    w->message.sampling = NULL;
}
static void nan_temperature(struct wire *w)
{
    w->sampling.temperature = NAN;
}
static void negative_temperature(struct wire *w)
{
    w->sampling.temperature = -0.1f;
}
static void infinite_temperature(struct wire *w)
{
    w->sampling.temperature = INFINITY;
}
static void large_top_p(struct wire *w)
{
    w->sampling.top_p = 1.5f;
}
static void nan_min_p(struct wire *w)
{
    w->sampling.min_p = NAN;
}
static void presence(struct wire *w)
{
    w->sampling.presence_penalty = 2.5f;
}
static void frequency(struct wire *w)
{
    w->sampling.frequency_penalty = -3;
}
static void repetition(struct wire *w)
{
    w->sampling.repetition_penalty = -1;
}
static void no_tokens(struct wire *w)
{
    w->sampling.max_tokens = 0;
}
static void min_over_max(struct wire *w)
{
    w->sampling.min_tokens = 17;
}
static void many_logprobs(struct wire *w)
{
    w->sampling.top_logprobs = 21;
}
static void many_stops(struct wire *w)
{
    w->sampling.n_stop_token_ids = 31;
} /* and 2 of the model */
static void bad_stop(struct wire *w)
{
    w->sampling.n_stop_token_ids = 1;
    w->stops[0] = -1;
}
static void many_biases(struct wire *w)
{
    w->sampling.n_logit_bias = SPIN_LOGIT_BIAS_MAX + 1;
}
static void bias_token(struct wire *w)
{
    w->sampling.n_logit_bias = 1;
    w->bias[0].token = VOCAB;
}
static void bias_value(struct wire *w)
{
    w->sampling.n_logit_bias = 1;
    w->bias[0].bias = NAN;
}
static void long_id(struct wire *w)
{
    memset(w->id, 'x', 64);
}
static void control_id(struct wire *w)
{
    set_text(w->id, sizeof w->id, "a\nb");
}
static void short_salt(struct wire *w)
{
    w->message.salt.len = 31;
}
static void long_salt(struct wire *w)
{
    w->message.salt.len = 33;
}
static void peer(struct wire *w)
{
    w->message.prefill_peer = &w->peer;
}
static void sparse(struct wire *w)
{
    set_text(w->name, sizeof w->name, "quest");
    w->algorithm.name = w->name;
    w->message.algorithm = &w->algorithm;
}

static void test_every_mistake_is_named(void **state)
{
    (void)state;
    static const struct {
        void (*spoil)(struct wire *wire);
        spin_status status;
        const char *text;
    } rows[] = {
        {no_prompt, SPIN_ERR_INVALID, "prompt_tokens: empty"},
        {negative_token, SPIN_ERR_INVALID, "prompt_tokens[2]: token -3, the vocabulary is 0..999"},
        {foreign_token, SPIN_ERR_INVALID, "prompt_tokens[3]: token 1000"},
        {resumed_token, SPIN_ERR_INVALID, "resumed_tokens[1]"},
        {no_sampling, SPIN_ERR_INVALID, "sampling: missing"},
        {nan_temperature, SPIN_ERR_INVALID, "temperature: "},
        {negative_temperature, SPIN_ERR_INVALID, "temperature: -0.1, must be in 0..100"},
        {infinite_temperature, SPIN_ERR_INVALID, "temperature: inf"},
        {large_top_p, SPIN_ERR_INVALID, "top_p: 1.5, must be in 0..1"},
        {nan_min_p, SPIN_ERR_INVALID, "min_p: "},
        {presence, SPIN_ERR_INVALID, "presence_penalty: 2.5, must be in -2..2"},
        {frequency, SPIN_ERR_INVALID, "frequency_penalty: -3"},
        {repetition, SPIN_ERR_INVALID, "repetition_penalty: -1, must be in 0..10"},
        {no_tokens, SPIN_ERR_INVALID, "max_tokens: 0"},
        {min_over_max, SPIN_ERR_INVALID, "min_tokens: 17, at most max_tokens, which is 16"},
        {many_logprobs, SPIN_ERR_INVALID, "top_logprobs: 21, at most 20"},
        {many_stops, SPIN_ERR_INVALID, "stop_token_ids: 31 tokens, at most 30"},
        {bad_stop, SPIN_ERR_INVALID, "stop_token_ids[0]: token -1"},
        {many_biases, SPIN_ERR_INVALID, "logit_bias: 1025 entries, at most 1024"},
        {bias_token, SPIN_ERR_INVALID, "logit_bias.token"},
        {bias_value, SPIN_ERR_INVALID, "logit_bias.bias"},
        {long_id, SPIN_ERR_INVALID, "request_id: 64 bytes, at most 63"},
        {control_id, SPIN_ERR_INVALID, "request_id: byte 1 is not printable ASCII"},
        {short_salt, SPIN_ERR_INVALID, "salt: 31 bytes, must be 0 or 32"},
        {long_salt, SPIN_ERR_INVALID, "salt: 33 bytes"},
        {peer, SPIN_ERR_UNSUPPORTED, "prefill_peer"},
        {sparse, SPIN_ERR_PEER_MISMATCH, "algorithm: \"quest\""},
    };
    static struct wire wire;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        make_good(&wire);
        rows[i].spoil(&wire);
        struct spin_generate_request read;
        struct spin_error err = {0};
        SPIN_EXPECT_STATUS(read_wire(&wire, &read, &err), rows[i].status);
        if (strstr(err.text, rows[i].text) == NULL) {
            fail_msg("row %u: \"%s\" lacks \"%s\"", i, err.text, rows[i].text);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_good_request_arrives_field_by_field),
        cmocka_unit_test(test_absent_fields_are_off),
        cmocka_unit_test(test_algorithms),
        cmocka_unit_test(test_every_mistake_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
