#include "tests/spin_test.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Standard error goes to the pipe; an abort must leave no core file behind. */
static void run_child(int pipe_end, void (*function)(void *), void *argument)
{
    const struct rlimit no_core = {0};
    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)signal(SIGABRT, SIG_DFL); /* cmocka's handler would report a test failure */
    (void)dup2(pipe_end, STDERR_FILENO);
    function(argument);
    _exit(0);
}

bool spin_test_dies(void (*function)(void *), void *argument, const char *text)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        run_child(ends[1], function, argument);
    }
    (void)close(ends[1]);
    char said[4096];
    size_t count = 0;
    ssize_t got = 0;
    while (count < sizeof said - 1 &&
           (got = read(ends[0], said + count, sizeof said - 1 - count)) > 0) {
        count += (size_t)got;
    }
    said[count] = '\0';
    (void)close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(said, text) != NULL;
}

double spin_test_relative_l2(const float *a, const float *b, uint64_t count)
{
    double difference = 0;
    double norm = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (!isfinite((double)a[i])) {
            return (double)INFINITY;
        }
        const double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}
