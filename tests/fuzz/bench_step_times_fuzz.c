/* Any bytes as a table of step times: what is taken answers every question with a time that goes on
 * and never falls below the least, and an engine is made of it or refused. */
#include "base/assert.h"
#include "bench/sim/engine.h"
#include "tests/fuzz/fuzz.h"

#define MODEL_LEN_MAX 65536u /* of the engines that are made: their tables grow with it */

static void ask(const struct spin_step_times *times)
{
    const struct spin_step_engine *engine = spin_step_times_engine(times);
    const uint32_t places[] = {0, 1, engine->chunk_tokens, engine->max_model_len, UINT32_MAX / 2};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(places); i++) {
        const uint32_t chunk = engine->chunk_tokens;
        SPIN_ASSERT_GE(spin_step_times_unit_ns(times, places[i], places[i] + 1), 1);
        SPIN_ASSERT_GE(spin_step_times_unit_ns(times, places[i], places[i] + chunk), 1);
        const uint64_t context = (uint64_t)places[i] * places[i];
        SPIN_ASSERT_GE(spin_step_times_decode_ns(times, 1 + i * i, context),
                       spin_step_times_least_decode_ns(times));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct spin_step_times *times = NULL;
    struct spin_sim_engine *engine = NULL;
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status = spin_step_times_parse((const char *)bytes, count, &times, &err);
    if (status != SPIN_OK) {
        SPIN_ASSERT_EQ(status, SPIN_ERR_INVALID);
        SPIN_ASSERT_EQ(err.status, status);
        return 0;
    }
    ask(times);
    if (spin_step_times_engine(times)->max_model_len <= MODEL_LEN_MAX &&
        spin_sim_engine_create(times, &engine, &err) == SPIN_OK) {
        spin_sim_engine_destroy(engine);
    }
    spin_step_times_destroy(times);
    return 0;
}
