/* The fake has to be as strict as it says: each mistake that it is there for must end a test, and
 * what is right must come out right. */
#include "tests/kernels/fake_device.h"

#include "tests/spin_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_NS UINT64_C(1000000000)
#define VALUES 1000u
#define BYTES (VALUES * sizeof(uint32_t))

struct memory {
    struct spin_stream *stream;
    uint32_t *device;  /* [VALUES] */
    uint32_t *sent;    /* [VALUES], of spin_host_alloc */
    uint32_t *brought; /* [VALUES], as well */
};

static struct memory set_up(void)
{
    struct spin_error err;
    struct memory memory = {.stream = spin_fake_stream_create(1 << 20)};
    void *out = NULL;
    SPIN_EXPECT_OK(spin_device_alloc(memory.stream, VALUES * sizeof *memory.device, &out, &err),
                   &err);
    memory.device = out;
    SPIN_EXPECT_OK(spin_host_alloc(memory.stream, VALUES * sizeof *memory.sent, &out, &err), &err);
    memory.sent = out;
    SPIN_EXPECT_OK(spin_host_alloc(memory.stream, VALUES * sizeof *memory.brought, &out, &err),
                   &err);
    memory.brought = out;
    return memory;
}

static void tear_down(struct memory *memory)
{
    spin_device_free(memory->stream, memory->device);
    spin_host_free(memory->stream, memory->sent);
    spin_host_free(memory->stream, memory->brought);
    spin_stream_destroy(memory->stream);
}

static void fill(uint32_t *values, uint32_t first)
{
    for (uint32_t i = 0; i < VALUES; i++) {
        values[i] = first + i;
    }
}

static void expect_values(const uint32_t *values, uint32_t first)
{
    for (uint32_t i = 0; i < VALUES; i++) {
        assert_int_equal(values[i], first + i);
    }
}

/* What a test's function does on the device. */
static void add_one(const void *context)
{
    uint32_t *values = *(uint32_t *const *)context;
    for (uint32_t i = 0; i < VALUES; i++) {
        values[i]++;
    }
}

static void submit_add(const struct memory *memory)
{
    SPIN_EXPECT_OK(
        spin_fake_submit(memory->stream, add_one, &memory->device, sizeof memory->device), NULL);
}

static void send(const struct memory *memory)
{
    SPIN_EXPECT_OK(spin_device_write(memory->stream, memory->device, memory->sent, BYTES), NULL);
}

static void bring(const struct memory *memory)
{
    SPIN_EXPECT_OK(spin_device_read(memory->stream, memory->brought, memory->device, BYTES), NULL);
}

static void test_background(void **state)
{
    (void)state;
    struct memory memory = set_up();
    assert_false(spin_device_is_host(memory.stream));
    fill(memory.sent, 7);
    send(&memory);
    submit_add(&memory);
    assert_int_equal(spin_fake_waiting(memory.stream), 2);
    SPIN_EXPECT_OK(spin_stream_sync(memory.stream, WAIT_NS), NULL);
    assert_int_equal(spin_fake_waiting(memory.stream), 0);
    bring(&memory);
    assert_int_equal(memory.brought[0], 0xA5A5A5A5); /* not yet */
    SPIN_EXPECT_OK(spin_stream_sync(memory.stream, WAIT_NS), NULL);
    expect_values(memory.brought, 8);
    assert_int_equal(spin_fake_submissions(memory.stream), 3);
    tear_down(&memory);
}

/* Copies of other memory wait. */
static void test_waiting_copies(void **state)
{
    (void)state;
    struct memory memory = set_up();
    uint32_t values[VALUES];
    fill(values, 100);
    SPIN_EXPECT_OK(spin_device_write(memory.stream, memory.device, values, sizeof values), NULL);
    fill(values, 0);
    submit_add(&memory);
    SPIN_EXPECT_OK(spin_device_read(memory.stream, values, memory.device, sizeof values), NULL);
    expect_values(values, 101);
    tear_down(&memory);
}

/* The side lane is as late as it may be. */
static void test_side_lane(void **state)
{
    (void)state;
    struct memory memory = set_up();
    fill(memory.sent, 0);
    send(&memory);
    SPIN_EXPECT_OK(spin_stream_side_begin(memory.stream, SPIN_LANE_LATE), NULL);
    bring(&memory);
    SPIN_EXPECT_OK(spin_stream_side_end(memory.stream), NULL);
    submit_add(&memory);
    SPIN_EXPECT_OK(spin_stream_side_join(memory.stream, SPIN_LANE_LATE), NULL);
    submit_add(&memory);
    SPIN_EXPECT_OK(spin_stream_sync(memory.stream, WAIT_NS), NULL);
    expect_values(memory.brought, 1);
    tear_down(&memory);
}

/* Each lane is joined by itself. */
static void test_side_lanes(void **state)
{
    (void)state;
    struct memory memory = set_up();
    fill(memory.sent, 0);
    send(&memory);
    SPIN_EXPECT_OK(spin_stream_side_begin(memory.stream, SPIN_LANE_LATE), NULL);
    bring(&memory);
    SPIN_EXPECT_OK(spin_stream_side_end(memory.stream), NULL);
    SPIN_EXPECT_OK(spin_stream_side_begin(memory.stream, SPIN_LANE_SOON), NULL);
    submit_add(&memory);
    SPIN_EXPECT_OK(spin_stream_side_end(memory.stream), NULL);
    SPIN_EXPECT_OK(spin_stream_side_join(memory.stream, SPIN_LANE_SOON), NULL);
    submit_add(&memory);
    SPIN_EXPECT_OK(spin_stream_side_join(memory.stream, SPIN_LANE_LATE), NULL);
    SPIN_EXPECT_OK(spin_stream_sync(memory.stream, WAIT_NS), NULL);
    expect_values(memory.brought, 2);
    tear_down(&memory);
}

static void test_recording(void **state)
{
    (void)state;
    struct memory memory = set_up();
    struct spin_error err;
    struct spin_graph *graph = NULL;
    SPIN_EXPECT_OK(spin_graph_begin(memory.stream), NULL);
    send(&memory);
    submit_add(&memory);
    SPIN_EXPECT_OK(spin_stream_side_begin(memory.stream, SPIN_LANE_LATE), NULL);
    bring(&memory);
    SPIN_EXPECT_OK(spin_stream_side_end(memory.stream), NULL);
    SPIN_EXPECT_OK(spin_stream_side_join(memory.stream, SPIN_LANE_LATE), NULL);
    SPIN_EXPECT_OK(spin_graph_end(memory.stream, &graph, &err), &err);
    assert_int_equal(spin_fake_submissions(memory.stream), 0);
    for (uint32_t i = 0; i < 3; i++) {
        fill(memory.sent, 10 * i);
        SPIN_EXPECT_OK(spin_graph_launch(memory.stream, graph), NULL);
        assert_int_equal(spin_fake_waiting(memory.stream), 3);
        assert_int_equal(memory.brought[0], 0xA5A5A5A5);
        SPIN_EXPECT_OK(spin_stream_sync(memory.stream, WAIT_NS), NULL);
        expect_values(memory.brought, 10 * i + 1);
    }
    spin_graph_destroy(memory.stream, graph);
    tear_down(&memory);
}

static void test_lost(void **state)
{
    (void)state;
    struct memory memory = set_up();
    struct spin_error err;
    void *out = NULL;
    spin_fake_fail_after(memory.stream, 2);
    submit_add(&memory);
    submit_add(&memory);
    SPIN_EXPECT_STATUS(spin_fake_submit(memory.stream, add_one, &memory.device, 8),
                       SPIN_ERR_DEVICE_LOST);
    SPIN_EXPECT_STATUS(spin_stream_sync(memory.stream, WAIT_NS), SPIN_ERR_DEVICE_LOST);
    SPIN_EXPECT_STATUS(spin_device_write(memory.stream, memory.device, memory.sent, 4),
                       SPIN_ERR_DEVICE_LOST);
    SPIN_EXPECT_STATUS(spin_device_alloc(memory.stream, 1, &out, &err), SPIN_ERR_DEVICE_LOST);
    tear_down(&memory);
}

static void test_sizes(void **state)
{
    (void)state;
    struct memory memory = set_up();
    struct spin_error err;
    void *out = NULL;
    uint64_t total = 0;
    assert_int_equal(spin_device_memory(memory.stream, &total), (1 << 20) - 4096);
    assert_int_equal(total, 1 << 20);
    SPIN_EXPECT_STATUS(spin_device_alloc(memory.stream, 1 << 20, &out, &err), SPIN_ERR_NO_MEMORY);
    tear_down(&memory);
}

/* --- mistakes --- */

static void read_device_memory(const struct memory *memory)
{
    (void)printf("%u", *(volatile uint32_t *)memory->device);
}

static void write_device_memory(const struct memory *memory)
{
    SPIN_EXPECT_OK(spin_stream_sync(memory->stream, WAIT_NS), NULL);
    *(volatile uint32_t *)memory->device = 1;
}

static void change_early(const struct memory *memory)
{
    send(memory);
    memory->sent[VALUES - 1]++;
    SPIN_EXPECT_OK(spin_stream_sync(memory->stream, WAIT_NS), NULL);
}

static void record_a_wait(const struct memory *memory)
{
    uint32_t values[VALUES] = {0};
    SPIN_EXPECT_OK(spin_graph_begin(memory->stream), NULL);
    SPIN_EXPECT_OK(spin_device_write(memory->stream, memory->device, values, sizeof values), NULL);
}

static void give_host_memory(const struct memory *memory)
{
    float weight[8] = {0};
    const struct spin_rms_norm_args args = {
        .x = {memory->device, SPIN_DTYPE_F32, 1, 8, 8},
        .y = {memory->device, SPIN_DTYPE_F32, 1, 8, 8},
        .weight = weight,
    };
    (void)spin_ops_fake.rms_norm(&args, memory->stream);
}

static void leave_memory(const struct memory *memory)
{
    spin_stream_destroy(memory->stream);
}

/* What cmocka makes of a mistake in the child is nobody's test result. */
static void be_silent(void)
{
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    (void)dup2(nowhere, STDOUT_FILENO);
    (void)dup2(nowhere, STDERR_FILENO);
}

/* A child that makes a mistake does not get to the end of it. */
static bool is_survived(void (*mistake)(const struct memory *))
{
    const struct memory memory = set_up();
    (void)fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        be_silent();
        (void)signal(SIGSEGV, SIG_DFL);
        mistake(&memory);
        _exit(77);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    struct memory rest = memory;
    tear_down(&rest);
    return WIFEXITED(status) && WEXITSTATUS(status) == 77;
}

static void do_nothing(const struct memory *memory)
{
    (void)memory;
}

static void test_mistakes(void **state)
{
    (void)state;
    assert_true(is_survived(do_nothing));
    assert_false(is_survived(read_device_memory));
    assert_false(is_survived(write_device_memory));
    assert_false(is_survived(change_early));
    assert_false(is_survived(record_a_wait));
    assert_false(is_survived(give_host_memory));
    assert_false(is_survived(leave_memory));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_background), cmocka_unit_test(test_waiting_copies),
        cmocka_unit_test(test_side_lane),  cmocka_unit_test(test_side_lanes),
        cmocka_unit_test(test_recording),  cmocka_unit_test(test_lost),
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
