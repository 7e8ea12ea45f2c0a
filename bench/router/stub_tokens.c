#include "bench/router/stub_tokens.h"

#include "base/rng.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#define LETTERS 26u

/* The mapped file and nothing else: the pointer is the mapping. */
struct spin_stub_times {
    _Atomic uint64_t sent_ns[SPIN_STUB_STREAMS_MAX][SPIN_STUB_TOKENS_MAX];
};

uint64_t spin_stub_key(const int32_t *prompt, uint64_t prompt_count, uint64_t seed)
{
    uint64_t key = seed ^ UINT64_C(0x9e3779b97f4a7c15);
    for (uint64_t i = 0; i < prompt_count; i++) {
        key = (key ^ (uint32_t)prompt[i]) * UINT64_C(0x100000001b3);
    }
    return key;
}

int32_t spin_stub_token(uint64_t key, uint32_t place)
{
    const uint32_t drawn = spin_philox(key, 0, place).word[0];
    return (int32_t)('a' + drawn % LETTERS);
}

spin_status spin_stub_times_open(const char *path, struct spin_stub_times **out,
                                 struct spin_error *err)
{
    const size_t bytes = sizeof(struct spin_stub_times);
    const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "%s", path);
    }
    void *mapped = MAP_FAILED;
    if (ftruncate(file, (off_t)bytes) == 0) {
        mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    if (mapped == MAP_FAILED) {
        const spin_status status = spin_fail_errno(err, SPIN_ERR_IO, "%s: %zu bytes", path, bytes);
        (void)close(file);
        return status;
    }
    (void)close(file);
    *out = mapped;
    return SPIN_OK;
}

void spin_stub_times_close(struct spin_stub_times *times)
{
    if (times != NULL) {
        (void)munmap(times, sizeof *times);
    }
}

uint32_t spin_stub_stream(const int32_t *prompt, uint64_t prompt_count)
{
    if (prompt_count < 2 || prompt[0] < 0 || prompt[0] > UINT8_MAX || prompt[1] < 0 ||
        prompt[1] > UINT8_MAX) {
        return UINT32_MAX;
    }
    return 256 * (uint32_t)prompt[0] + (uint32_t)prompt[1];
}

void spin_stub_times_set(struct spin_stub_times *times, uint32_t stream, uint32_t place,
                         uint64_t sent_ns)
{
    if (stream < SPIN_STUB_STREAMS_MAX && place < SPIN_STUB_TOKENS_MAX) {
        /* Relaxed: the token itself, through two sockets, orders it before the reader's load. */
        atomic_store_explicit(&times->sent_ns[stream][place], sent_ns, memory_order_relaxed);
    }
}

uint64_t spin_stub_times_get(const struct spin_stub_times *times, uint32_t stream, uint32_t place)
{
    if (stream >= SPIN_STUB_STREAMS_MAX || place >= SPIN_STUB_TOKENS_MAX) {
        return 0;
    }
    return atomic_load_explicit(&times->sent_ns[stream][place], memory_order_relaxed);
}
