/* The outbox against a naive model: a seeded run of pushes and takes, checked message by message,
 * and merged bytes parsed by protobuf-c, which we did not write. */
#include "proto/rpc_outbox.h"

#include "base/rng.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "tests/spin_test.h"

#define MODEL_MAX 4096u
#define CAPACITY 1000u
#define LENGTH_BYTES UINT64_C(4)

static void make_message(Spin__V1__GenerateResponse *message, Spin__V1__Token *token,
                         Spin__V1__Token **list, int32_t value)
{
    spin__v1__token__init(token);
    spin__v1__generate_response__init(message);
    token->token = value;
    *list = token;
    message->tokens = list;
    message->n_tokens = 1;
}

static uint64_t packed_bytes(int32_t value)
{
    Spin__V1__GenerateResponse message;
    Spin__V1__Token token;
    Spin__V1__Token *list;
    make_message(&message, &token, &list, value);
    return protobuf_c_message_get_packed_size(&message.base);
}

static spin_status push(struct spin_rpc_outbox *outbox, int32_t value, uint64_t reserve)
{
    Spin__V1__GenerateResponse message;
    Spin__V1__Token token;
    Spin__V1__Token *list;
    make_message(&message, &token, &list, value);
    return spin_rpc_outbox_push(outbox, &message.base, reserve);
}

struct model {
    int32_t values[MODEL_MAX];
    uint32_t first;
    uint32_t end;
    uint64_t bytes; /* with length fields */
};

static void take_and_compare(struct spin_rpc_outbox *outbox, struct model *model, bool merge)
{
    uint8_t bytes[CAPACITY];
    const uint64_t count = spin_rpc_outbox_next_bytes(outbox, merge);
    assert_true(count <= sizeof bytes);
    spin_rpc_outbox_take(outbox, merge, bytes);
    Spin__V1__GenerateResponse *parsed = spin__v1__generate_response__unpack(NULL, count, bytes);
    assert_non_null(parsed);
    assert_int_equal(parsed->n_tokens, merge ? model->end - model->first : 1);
    for (size_t i = 0; i < parsed->n_tokens; i++) {
        const int32_t value = model->values[model->first++];
        assert_int_equal(parsed->tokens[i]->token, value);
        model->bytes -= packed_bytes(value) + LENGTH_BYTES;
    }
    spin__v1__generate_response__free_unpacked(parsed, NULL);
}

static void run_against_model(uint64_t seed, bool merge)
{
    struct spin_rpc_outbox outbox = {0};
    struct model model = {0};
    struct spin_rng rng = {.seed = seed};
    uint32_t refused = 0;
    SPIN_EXPECT_STATUS(spin_rpc_outbox_init(&outbox, CAPACITY), SPIN_OK);
    while (model.end < MODEL_MAX) {
        const int32_t value = (int32_t)(spin_rng_u32(&rng) >> spin_rng_below(&rng, 32));
        const uint64_t needed = packed_bytes(value) + LENGTH_BYTES;
        const uint64_t reserve = spin_rng_below(&rng, 2) == 0 ? 0 : spin_rng_below(&rng, CAPACITY);
        const bool fits = model.bytes + needed + reserve <= CAPACITY;
        SPIN_EXPECT_STATUS(push(&outbox, value, reserve), fits ? SPIN_OK : SPIN_ERR_EXHAUSTED);
        refused += !fits;
        if (fits) {
            model.values[model.end++] = value;
            model.bytes += needed;
        }
        assert_int_equal(outbox.count, model.end - model.first);
        /* Bursts of takes: the outbox runs full, runs empty and slides in between. */
        uint32_t takes = spin_rng_below(&rng, 100) < 4 ? spin_rng_below(&rng, 80) : 0;
        for (; takes > 0 && outbox.count > 0; takes--) {
            take_and_compare(&outbox, &model, merge);
        }
    }
    assert_true(refused > 0);
    spin_rpc_outbox_deinit(&outbox);
}

static void test_equals_a_naive_queue(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        run_against_model(seed, false);
        run_against_model(seed, true);
    }
}

static void test_empty_messages_count(void **state)
{
    (void)state;
    struct spin_rpc_outbox outbox = {0};
    SPIN_EXPECT_STATUS(spin_rpc_outbox_init(&outbox, 3 * LENGTH_BYTES), SPIN_OK);
    Spin__V1__GenerateResponse empty;
    spin__v1__generate_response__init(&empty);
    for (uint32_t i = 0; i < 3; i++) {
        SPIN_EXPECT_STATUS(spin_rpc_outbox_push(&outbox, &empty.base, 0), SPIN_OK);
    }
    SPIN_EXPECT_STATUS(spin_rpc_outbox_push(&outbox, &empty.base, 0), SPIN_ERR_EXHAUSTED);
    uint8_t nothing[1];
    assert_int_equal(spin_rpc_outbox_next_bytes(&outbox, false), 0);
    spin_rpc_outbox_take(&outbox, false, nothing);
    assert_int_equal(outbox.count, 2);
    spin_rpc_outbox_take(&outbox, true, nothing);
    assert_int_equal(outbox.count, 0);
    spin_rpc_outbox_clear(&outbox);
    spin_rpc_outbox_deinit(&outbox);
}

static void test_a_message_over_the_capacity_is_refused(void **state)
{
    (void)state;
    struct spin_rpc_outbox outbox = {0};
    const uint64_t bytes = packed_bytes(300);
    SPIN_EXPECT_STATUS(spin_rpc_outbox_init(&outbox, bytes + LENGTH_BYTES - 1), SPIN_OK);
    SPIN_EXPECT_STATUS(push(&outbox, 300, 0), SPIN_ERR_EXHAUSTED);
    spin_rpc_outbox_deinit(&outbox);
    SPIN_EXPECT_STATUS(spin_rpc_outbox_init(&outbox, bytes + LENGTH_BYTES), SPIN_OK);
    SPIN_EXPECT_STATUS(push(&outbox, 300, 0), SPIN_OK);
    spin_rpc_outbox_deinit(&outbox);
}

static void test_what_is_reserved_stays_free(void **state)
{
    (void)state;
    struct spin_rpc_outbox outbox = {0};
    const uint64_t bytes = packed_bytes(300) + LENGTH_BYTES;
    SPIN_EXPECT_STATUS(spin_rpc_outbox_init(&outbox, 2 * bytes), SPIN_OK);
    SPIN_EXPECT_STATUS(push(&outbox, 300, bytes + 1), SPIN_ERR_EXHAUSTED);
    SPIN_EXPECT_STATUS(push(&outbox, 300, UINT32_MAX), SPIN_ERR_EXHAUSTED);
    SPIN_EXPECT_STATUS(push(&outbox, 300, bytes), SPIN_OK);
    SPIN_EXPECT_STATUS(push(&outbox, 300, bytes), SPIN_ERR_EXHAUSTED);
    SPIN_EXPECT_STATUS(push(&outbox, 300, 0), SPIN_OK);
    spin_rpc_outbox_deinit(&outbox);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_a_naive_queue),
        cmocka_unit_test(test_empty_messages_count),
        cmocka_unit_test(test_a_message_over_the_capacity_is_refused),
        cmocka_unit_test(test_what_is_reserved_stays_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
