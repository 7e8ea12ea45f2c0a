/* A real loop, driven by what it offers: messages from other threads, work, timers, names, and
 * signals sent to a child process of its own. */
#include "net/loop.h"

#include "base/clock.h"
#include "base/list.h"
#include "tests/spin_test.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#define PRODUCERS 4u
#define MESSAGES 20000u

static struct spin_loop *make_loop(void)
{
    struct spin_loop *loop = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_loop_create(&loop, &err), &err);
    return loop;
}

/* --- messages --- */

struct numbered {
    struct spin_loop_message message;
    struct tally *tally;
    uint32_t producer;
    uint32_t number;
};

struct tally {
    struct spin_loop *loop;
    struct numbered *messages[PRODUCERS];
    uint32_t next[PRODUCERS]; /* the number expected from each */
    uint32_t count;
    bool in_order;
};

static void count_message(struct spin_loop_message *message)
{
    struct numbered *self = SPIN_CONTAINER_OF(message, struct numbered, message);
    struct tally *tally = self->tally;
    spin_loop_assert_thread(tally->loop);
    tally->in_order = tally->in_order && self->number == tally->next[self->producer];
    tally->next[self->producer]++;
    tally->count++;
    if (tally->count == PRODUCERS * MESSAGES) {
        spin_loop_stop(tally->loop);
    }
}

struct producer {
    struct tally *tally;
    uint32_t index;
};

static void *produce(void *argument)
{
    const struct producer *producer = argument;
    struct numbered *messages = producer->tally->messages[producer->index];
    for (uint32_t i = 0; i < MESSAGES; i++) {
        messages[i] = (struct numbered){
            .message = {.run = count_message},
            .tally = producer->tally,
            .producer = producer->index,
            .number = i,
        };
        spin_loop_post(producer->tally->loop, &messages[i].message);
    }
    return NULL;
}

static void ignore(void *context)
{
    (void)context;
}

static void test_each_producers_order_holds(void **state)
{
    (void)state;
    struct tally tally = {.loop = make_loop(), .in_order = true};
    struct producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    struct spin_timer *forever = NULL; /* the loop has something to wait for */
    SPIN_EXPECT_STATUS(spin_timer_create(tally.loop, ignore, NULL, &forever), SPIN_OK);
    spin_timer_start(forever, SPIN_NO_DEADLINE, false);
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        tally.messages[i] = calloc(MESSAGES, sizeof **tally.messages);
        assert_non_null(tally.messages[i]);
        producers[i] = (struct producer){.tally = &tally, .index = i};
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }
    spin_loop_run(tally.loop);
    assert_int_equal(tally.count, PRODUCERS * MESSAGES);
    assert_true(tally.in_order);
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        free(tally.messages[i]);
    }
    spin_timer_destroy(forever);
    spin_loop_destroy(tally.loop);
}

struct echo {
    struct spin_loop_message message;
    struct spin_loop *loop;
    uint32_t left; /* posts itself again so often */
    uint32_t ran;
    uint32_t ran_at_timer;
};

static void echo_again(struct spin_loop_message *message)
{
    struct echo *echo = SPIN_CONTAINER_OF(message, struct echo, message);
    echo->ran++;
    if (echo->left != 0) {
        echo->left--;
        spin_loop_post(echo->loop, message);
    }
}

static void note_echo(void *context)
{
    struct echo *echo = context;
    echo->ran_at_timer = echo->ran;
}

/* What a message posts is run in the next turn: a timer that is due gets its turn in between. */
static void test_messages_do_not_starve_timers(void **state)
{
    (void)state;
    struct echo echo = {.message = {.run = echo_again}, .loop = make_loop(), .left = 1000};
    struct spin_timer *timer = NULL;
    SPIN_EXPECT_STATUS(spin_timer_create(echo.loop, note_echo, &echo, &timer), SPIN_OK);
    spin_timer_start(timer, 0, false);
    spin_loop_post(echo.loop, &echo.message);
    spin_loop_run(echo.loop);
    assert_int_equal(echo.ran, 1001);
    assert_true(echo.ran_at_timer >= 1);
    assert_true(echo.ran_at_timer < 10);
    spin_timer_destroy(timer);
    spin_loop_destroy(echo.loop);
}

/* How many write calls this process has made, by the kernel's count. */
static uint64_t write_calls(void)
{
    unsigned long long calls = 0;
    char line[64];
    FILE *file = fopen("/proc/self/io", "re");
    if (file == NULL) {
        skip(); /* a kernel without this count */
    }
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "syscw: ", 7) == 0) {
            calls = strtoull(line + 7, NULL, 10);
        }
    }
    (void)fclose(file);
    return calls;
}

static void test_many_messages_wake_once(void **state)
{
    (void)state;
    struct tally tally = {.loop = make_loop(), .in_order = true};
    static struct numbered messages[MESSAGES];
    struct producer producer = {.tally = &tally};
    tally.messages[0] = messages;
    const uint64_t before = write_calls();
    (void)produce(&producer);
    assert_int_equal(write_calls() - before, 1);
    spin_loop_run(tally.loop);
    assert_int_equal(tally.count, MESSAGES);
    assert_true(tally.in_order);
    spin_loop_destroy(tally.loop);
}

static void test_run_ends_when_nothing_is_left(void **state)
{
    (void)state;
    struct spin_loop *loop = make_loop();
    spin_loop_run(loop);
    spin_loop_stop(loop);
    struct echo echo = {.message = {.run = echo_again}, .loop = loop, .left = 3};
    spin_loop_post(loop, &echo.message);
    spin_loop_run(loop); /* stopped before it began */
    assert_int_equal(echo.ran, 0);
    spin_loop_run(loop);
    assert_int_equal(echo.ran, 4);
    spin_loop_destroy(loop);
}

static void test_destroy_runs_what_was_posted(void **state)
{
    (void)state;
    struct echo echo = {.message = {.run = echo_again}, .loop = make_loop(), .left = 5};
    spin_loop_post(echo.loop, &echo.message);
    spin_loop_destroy(echo.loop);
    assert_int_equal(echo.ran, 6);
    spin_loop_destroy(NULL);
}

/* --- work --- */

#define WORKS 64u

struct job {
    struct spin_loop_work work;
    struct spin_loop *loop;
    pthread_t ran_on;
    atomic_uint *runs;
    uint32_t *dones;
};

static void run_job(struct spin_loop_work *work)
{
    struct job *job = SPIN_CONTAINER_OF(work, struct job, work);
    job->ran_on = pthread_self();
    (void)atomic_fetch_add(job->runs, 1);
}

static void job_done(struct spin_loop_work *work)
{
    struct job *job = SPIN_CONTAINER_OF(work, struct job, work);
    spin_loop_assert_thread(job->loop);
    (*job->dones)++;
}

static void test_work_runs_elsewhere_and_is_done_here(void **state)
{
    (void)state;
    struct spin_loop *loop = make_loop();
    struct job jobs[WORKS];
    atomic_uint runs = 0;
    uint32_t dones = 0;
    for (uint32_t i = 0; i < WORKS; i++) {
        jobs[i] = (struct job){
            .work = {.run = run_job, .done = job_done},
            .loop = loop,
            .runs = &runs,
            .dones = &dones,
        };
        SPIN_EXPECT_STATUS(spin_loop_work(loop, &jobs[i].work), SPIN_OK);
    }
    assert_int_equal(dones, 0); /* never from inside submit */
    spin_loop_run(loop);
    assert_int_equal(atomic_load(&runs), WORKS);
    assert_int_equal(dones, WORKS);
    for (uint32_t i = 0; i < WORKS; i++) {
        assert_false(pthread_equal(jobs[i].ran_on, pthread_self()));
    }
    SPIN_EXPECT_STATUS(spin_loop_work(loop, &jobs[0].work), SPIN_OK);
    spin_loop_destroy(loop); /* waits for it */
    assert_int_equal(dones, WORKS + 1);
}

/* --- timers --- */

struct ticks {
    struct spin_loop *loop;
    struct spin_timer *timer;
    uint64_t started_ns;
    uint64_t fired_ns;
    uint32_t count;
    uint32_t stop_at;
};

static void tick(void *context)
{
    struct ticks *ticks = context;
    ticks->fired_ns = spin_loop_now_ns(ticks->loop);
    ticks->count++;
    if (ticks->count == ticks->stop_at) {
        spin_timer_stop(ticks->timer);
    }
}

static void start_ticks(struct ticks *ticks, uint64_t delay_ns, bool repeat)
{
    SPIN_EXPECT_STATUS(spin_timer_create(ticks->loop, tick, ticks, &ticks->timer), SPIN_OK);
    ticks->started_ns = spin_loop_now_ns(ticks->loop);
    spin_timer_start(ticks->timer, delay_ns, repeat);
}

static void test_a_timer_is_never_early(void **state)
{
    (void)state;
    static const uint64_t delays_us[] = {0, 1, 999, 1000, 1001, 2500, 5000};
    struct spin_loop *loop = make_loop();
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(delays_us); i++) {
        struct ticks ticks = {.loop = loop};
        start_ticks(&ticks, delays_us[i] * SPIN_NS_PER_US, false);
        spin_loop_run(loop);
        assert_int_equal(ticks.count, 1);
        assert_true(ticks.fired_ns - ticks.started_ns >= delays_us[i] * SPIN_NS_PER_US);
        spin_timer_destroy(ticks.timer);
    }
    spin_loop_destroy(loop);
}

static void test_a_timer_repeats_until_stopped(void **state)
{
    (void)state;
    struct ticks ticks = {.loop = make_loop(), .stop_at = 5};
    start_ticks(&ticks, 2 * SPIN_NS_PER_MS, true);
    spin_loop_run(ticks.loop);
    assert_int_equal(ticks.count, 5);
    assert_true(ticks.fired_ns - ticks.started_ns >= 10 * SPIN_NS_PER_MS);
    spin_timer_destroy(ticks.timer);
    spin_loop_destroy(ticks.loop);
}

static void destroy_self(void *context)
{
    struct spin_timer **timer = context;
    spin_timer_destroy(*timer);
    *timer = NULL;
}

static void test_a_timer_may_destroy_itself_or_never_fire(void **state)
{
    (void)state;
    struct spin_loop *loop = make_loop();
    struct spin_timer *timer = NULL;
    SPIN_EXPECT_STATUS(spin_timer_create(loop, destroy_self, &timer, &timer), SPIN_OK);
    spin_timer_start(timer, 0, true);
    struct ticks replaced = {.loop = loop};
    start_ticks(&replaced, 0, true);
    spin_timer_start(replaced.timer, SPIN_NS_PER_MS, false); /* replaces what was set */
    struct ticks stopped = {.loop = loop};
    start_ticks(&stopped, 0, true);
    spin_timer_stop(stopped.timer);
    spin_loop_run(loop);
    assert_null(timer);
    assert_int_equal(replaced.count, 1);
    assert_int_equal(stopped.count, 0);
    spin_timer_destroy(replaced.timer);
    spin_timer_destroy(stopped.timer);
    spin_timer_destroy(NULL);
    spin_loop_destroy(loop);
}

/* --- signals --- */

struct shutdown {
    struct spin_loop *loop;
    int second; /* sent while the first is being handled */
};

static void on_shutdown(void *context, int number)
{
    struct shutdown *shutdown = context;
    if (shutdown->second != 0) {
        (void)raise(shutdown->second);
        _exit(99);
    }
    spin_loop_stop(shutdown->loop);
    shutdown->second = -number; /* what the child exits with */
}

/* The child's wait status after it got `first`, and `second` while it handled that. */
static int signalled_child(int first, int second)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct shutdown shutdown = {.loop = make_loop(), .second = second};
        if (spin_loop_on_shutdown(shutdown.loop, on_shutdown, &shutdown, NULL) != SPIN_OK) {
            _exit(98);
        }
        (void)raise(first);
        (void)alarm(10);
        spin_loop_run(shutdown.loop);
        spin_loop_destroy(shutdown.loop);
        _exit(-shutdown.second);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void test_the_first_signal_asks_the_second_ends(void **state)
{
    (void)state;
    int status = signalled_child(SIGTERM, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), SIGTERM);
    status = signalled_child(SIGINT, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), SIGINT);
    status = signalled_child(SIGTERM, SIGTERM);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGTERM);
    status = signalled_child(SIGTERM, SIGINT);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGINT);
}

static void test_destroy_gives_the_signals_back(void **state)
{
    (void)state;
    struct shutdown shutdown = {.loop = make_loop()};
    SPIN_EXPECT_STATUS(spin_loop_on_shutdown(shutdown.loop, on_shutdown, &shutdown, NULL), SPIN_OK);
    spin_loop_destroy(shutdown.loop);
    struct sigaction action;
    assert_int_equal(sigaction(SIGTERM, NULL, &action), 0);
    assert_true(action.sa_handler == SIG_DFL);
}

/* --- names --- */

struct answer {
    struct spin_loop *loop;
    spin_status status;
    uint32_t calls;
    uint32_t count;
    char first[64];
};

static void take_answer(void *context, spin_status status, const char *const *addresses,
                        uint32_t count)
{
    struct answer *answer = context;
    spin_loop_assert_thread(answer->loop);
    answer->calls++;
    answer->status = status;
    answer->count = count;
    if (count != 0) {
        (void)snprintf(answer->first, sizeof answer->first, "%s", addresses[0]);
    }
}

static void test_names_become_addresses(void **state)
{
    (void)state;
    struct spin_loop *loop = make_loop();
    static const char *const texts[] = {"127.0.0.1:80", "[::1]:9000", "10.1.2.3:0"};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(texts); i++) {
        struct answer answer = {.loop = loop};
        struct spin_error err;
        SPIN_EXPECT_OK(spin_loop_resolve(loop, texts[i], take_answer, &answer, &err), &err);
        assert_int_equal(answer.calls, 0);
        spin_loop_run(loop);
        assert_int_equal(answer.calls, 1);
        assert_int_equal(answer.status, SPIN_OK);
        assert_int_equal(answer.count, 1);
        assert_string_equal(answer.first, texts[i]);
    }
    struct answer unknown = {.loop = loop};
    SPIN_EXPECT_STATUS(
        spin_loop_resolve(loop, "no-such-host.invalid:1", take_answer, &unknown, NULL), SPIN_OK);
    spin_loop_destroy(loop); /* waits for it */
    assert_int_equal(unknown.calls, 1);
    assert_int_not_equal(unknown.status, SPIN_OK);
    assert_int_equal(unknown.count, 0);
}

static void test_bad_names_are_refused_at_once(void **state)
{
    (void)state;
    static const char *const bad[] = {"",           "host",   "host:",  ":80",
                                      "host:65536", "host:x", "::1:80", "host:-1",
                                      "[]:80",      "[::1]",  "a:1:2",  "h:123456"};
    struct spin_loop *loop = make_loop();
    struct answer answer = {.loop = loop};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        struct spin_error err = {.status = SPIN_OK};
        SPIN_EXPECT_STATUS(spin_loop_resolve(loop, bad[i], take_answer, &answer, &err),
                           SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
    }
    spin_loop_run(loop);
    assert_int_equal(answer.calls, 0);
    spin_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_producers_order_holds),
        cmocka_unit_test(test_messages_do_not_starve_timers),
        cmocka_unit_test(test_many_messages_wake_once),
        cmocka_unit_test(test_run_ends_when_nothing_is_left),
        cmocka_unit_test(test_destroy_runs_what_was_posted),
        cmocka_unit_test(test_work_runs_elsewhere_and_is_done_here),
        cmocka_unit_test(test_a_timer_is_never_early),
        cmocka_unit_test(test_a_timer_repeats_until_stopped),
        cmocka_unit_test(test_a_timer_may_destroy_itself_or_never_fire),
        cmocka_unit_test(test_the_first_signal_asks_the_second_ends),
        cmocka_unit_test(test_destroy_gives_the_signals_back),
        cmocka_unit_test(test_names_become_addresses),
        cmocka_unit_test(test_bad_names_are_refused_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
