/* stub_thread: the stub server on a thread of its own, for tests in one process.
 *
 * Why        Tests look into a result, and the sanitizers at both sides of it.
 * Ownership  start returns owned; stop frees.
 * Threading  The test's thread. */
#pragma once

#include "bench/load/stub.h"

struct stub_thread {
    char http[64]; /* "http://127.0.0.1:port" */
    char grpc[64]; /* "127.0.0.1:port" */
};

/* Listens on free ports of both protocols; fails the test when it cannot. */
struct stub_thread *spin_test_stub_start(const struct spin_load_stub_config *config);
void spin_test_stub_stop(struct stub_thread *stub);
