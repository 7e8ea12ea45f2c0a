#include "tests/bench/sim/small_table.h"

#include "tests/spin_test.h"

const char spin_small_table[] = "spin-step-times 1\n"
                                "# what a test measured\n"
                                "model random:tiny\n"
                                "machine paper and pencil\n"
                                "algorithm dense\n"
                                "layers 2\n"
                                "kv_heads 2\n"
                                "chunk_tokens 100\n"
                                "super_chunk_tokens 1000\n"
                                "max_model_len 8000\n"
                                "max_num_seqs 8\n"
                                "max_num_batched_tokens 200\n"
                                "max_waiting 64\n"
                                "prefill_slots 4\n"
                                "output_expected_tokens 512\n"
                                "budget_tokens 0\n"
                                "min_context 4096\n"
                                "replay 0\n"
                                "kv_blocks 504\n"
                                "kv_slabs 16000\n"
                                "workers 1\n"
                                "threads 1\n"
                                "first 1000000\n"
                                "prompt 1 2000000\n"
                                "prompt 100 101000000\n"
                                "prompt 1000 1001000000\n"
                                "prompt 2000 3001000000\n"
                                "decode 1 1000 11000000\n"
                                "decode 1 3000 13000000\n"
                                "decode 8 1000 25000000\n"
                                "decode 8 2000 33000000\n";

char *spin_small_table_with(const char *table, const char *key, const char *line)
{
    const size_t bytes = strlen(table) + 1024;
    char *text = calloc(1, bytes);
    assert_non_null(text);
    const char *from = key == NULL ? table + strlen(table) : strstr(table, key);
    assert_non_null(from);
    const char *end = key == NULL ? from : strchr(from, '\n') + 1;
    (void)snprintf(text, bytes, "%.*s%s%s%s", (int)(from - table), table, line == NULL ? "" : line,
                   line == NULL ? "" : "\n", end);
    return text;
}

struct spin_small_engine spin_small_engine_create(const char *text)
{
    struct spin_small_engine engine = {NULL, NULL};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_step_times_parse(text, strlen(text), &engine.times, &err), &err);
    SPIN_EXPECT_OK(spin_sim_engine_create(engine.times, &engine.engine, &err), &err);
    return engine;
}

void spin_small_engine_destroy(struct spin_small_engine *engine)
{
    spin_sim_engine_destroy(engine->engine);
    spin_step_times_destroy(engine->times);
}

static bool peek(void *context, struct spin_sim_arrival *out)
{
    const struct spin_small_source *state = context;
    if (state->next == state->count) {
        return false;
    }
    *out = state->arrivals[state->next];
    return true;
}

static void pop(void *context)
{
    struct spin_small_source *state = context;
    state->next++;
}

static void ended(void *context, uint64_t at_ns, bool answered)
{
    struct spin_small_source *state = context;
    (void)answered;
    (void)at_ns;
    state->ended++;
}

struct spin_sim_source spin_small_source(struct spin_small_source *state)
{
    return (struct spin_sim_source){.context = state, .peek = peek, .pop = pop, .ended = ended};
}
