/* Method: the program is linked with wrappers around the allocator that count calls from any thread
 * but the test's own. After a warm-up with every feature the same traffic again must count
 * nothing. */
#include "base/rng.h"
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"

#include <pthread.h>
#include <stdatomic.h>

static pthread_t test_thread;
static _Atomic uint32_t armed;
static _Atomic uint32_t calls;

static void note_call(void)
{
    if (atomic_load(&armed) != 0 && pthread_equal(pthread_self(), test_thread) == 0) {
        (void)atomic_fetch_add(&calls, 1);
    }
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
int __real_posix_memalign(void **out, size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    note_call();
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    note_call();
    return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    note_call();
    return __real_realloc(memory, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    note_call();
    return __real_aligned_alloc(alignment, bytes);
}

int __wrap_posix_memalign(void **out, size_t alignment, size_t bytes)
{
    note_call();
    return __real_posix_memalign(out, alignment, bytes);
}

#define REQUESTS 12u

/* Long and short, sampled and greedy, scored, stopped, cancelled, and more KV than there is. */
static void run_traffic(struct harness *harness, struct answer *answers, bool preempt)
{
    static int32_t prompt[400];
    static const struct spin_logit_bias bias[1] = {{7, 1}};
    static const int32_t stops[2] = {3, 4};
    spin_harness_prompt(harness, 6, prompt, 400);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_init(&answers[i]);
        const bool grows = preempt && i < 3; /* two are admitted and do not fit to the end */
        const uint32_t length = grows ? 20 : 1 + i * 33;
        struct spin_request request =
            spin_harness_request(prompt, length, grows ? 900 : 30, &answers[i]);
        request.sampling.temperature = i % 2 == 0 ? 0 : 1;
        request.sampling.top_k = i % 3 == 0 ? 40 : 0;
        request.sampling.top_p = 0.9F;
        request.sampling.min_p = 0.01F;
        request.sampling.repetition_penalty = 1.1F;
        request.sampling.frequency_penalty = 0.1F;
        request.sampling.logit_bias = bias;
        request.sampling.logit_bias_count = 1;
        request.logprobs = true;
        request.top_logprobs = 5;
        request.prompt_logprobs = i % 4 == 0;
        request.stop_tokens = stops;
        request.stop_token_count = grows ? 0 : 2;
        request.min_tokens = 4;
        spin_harness_submit(harness, &request, &answers[i]);
    }
    spin_engine_cancel(harness->engine, answers[5].ticket);
    uint32_t preemptions = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        spin_answer_wait(&answers[i]);
        preemptions += answers[i].finish.usage.preemptions;
        spin_answer_deinit(&answers[i]);
    }
    assert_int_equal(preemptions > 0, preempt);
}

/* Bytes of KV of so many tokens of random:tiny. */
#define TOKEN_BYTES (UINT64_C(2) * 2 * 2 * 16 * 2)

struct shortage {
    const struct spin_sparse_algorithm *algorithm;
    uint64_t hbm_tokens;
    bool preempt;
};

static uint32_t count_calls(const struct spin_ops *ops, uint32_t threads, struct shortage shortage)
{
    struct spin_engine_config config = spin_harness_config();
    config.ops = ops;
    config.threads = threads;
    config.kv_host_bytes = UINT64_C(12) * SPIN_BLOCK_TOKENS * TOKEN_BYTES;
    config.kv_hbm_bytes = shortage.hbm_tokens * TOKEN_BYTES;
    config.sparse.algorithm = shortage.algorithm;
    config.sparse.budget_tokens = 64;
    config.sparse.min_context = 0;
    struct harness harness;
    spin_harness_open(&harness, "random:tiny", &config);
    struct answer *answers = calloc(REQUESTS, sizeof *answers);
    assert_non_null(answers);
    run_traffic(&harness, answers, shortage.preempt);
    spin_harness_wait_idle(&harness);
    atomic_store(&calls, 0);
    atomic_store(&armed, 1);
    run_traffic(&harness, answers, shortage.preempt);
    spin_harness_wait_idle(&harness);
    atomic_store(&armed, 0);
    free(answers);
    spin_harness_close(&harness);
    return atomic_load(&calls);
}

static void test_no_malloc_in_a_step(void **state)
{
    (void)state;
    const struct spin_ops *fast = spin_ops_best_cpu();
    const struct shortage none = {&spin_sparse_dense, 8192, false};
    const struct shortage blocks = {&spin_sparse_dense, 8192, true};
    const struct shortage slabs = {&spin_sparse_dense, 1024, false};
    const struct shortage both = {&spin_sparse_shadowkv, 1280, true};
    assert_int_equal(count_calls(&spin_ops_ref, 1, none), 0);
    assert_int_equal(count_calls(fast, 2, blocks), 0);
    assert_int_equal(count_calls(fast, 2, slabs), 0);
    assert_int_equal(count_calls(fast, 2, both), 0);
}

static spin_status leaking_swiglu(const struct spin_swiglu_args *args, struct spin_stream *stream)
{
    void *volatile memory = malloc(1);
    free(memory);
    return spin_ops_ref.swiglu(args, stream);
}

/* The wrappers are in place: an operation that allocates is noticed. */
static void test_wrappers_notice(void **state)
{
    (void)state;
    struct spin_ops ops = spin_ops_ref;
    ops.swiglu = leaking_swiglu;
    const struct shortage none = {&spin_sparse_dense, 8192, false};
    assert_true(count_calls(&ops, 1, none) > 0);
}

int main(void)
{
    test_thread = pthread_self();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_malloc_in_a_step),
        cmocka_unit_test(test_wrappers_notice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
