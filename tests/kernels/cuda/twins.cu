/* twins AREA... [--no-timing] [--seed N]: see twins.h. Without areas: all of them. */
#include "base/clock.h"
#include "base/log.h"
#include "tests/kernels/cuda/twins.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYNC_NS (60 * SPIN_NS_PER_S)

struct area {
    const char *name;
    void (*run)(struct spin_twins *twins);
};

static const struct area areas[] = {
    {"device", spin_twins_device},       {"rows", spin_twins_rows},
    {"attention", spin_twins_attention}, {"matmul", spin_twins_matmul},
    {"tables", spin_twins_tables},       {"select", spin_twins_select},
    {"draw", spin_twins_draw},
};

struct options {
    bool chosen[SPIN_ARRAY_COUNT(areas)];
    bool timing;
    uint64_t seed;
};

void spin_twin_check(struct spin_twins *twins, const char *name, bool ok, double value)
{
    (void)printf("CHECK %s %s %.6g\n", name, ok ? "ok" : "BAD", value);
    twins->checks++;
    twins->bad += !ok;
}

void spin_twin_result(const char *name, double value, const char *unit)
{
    (void)printf("RESULT %s=%.6g unit=%s\n", name, value, unit);
}

static bool choose(struct options *options, const char *name)
{
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(areas); i++) {
        if (strcmp(areas[i].name, name) == 0) {
            options->chosen[i] = true;
            return true;
        }
    }
    return false;
}

static bool read_seed(const char *text, uint64_t *seed)
{
    char *end = NULL;
    errno = 0;
    *seed = strtoull(text, &end, 0);
    return errno == 0 && end != text && *end == '\0';
}

static bool read_options(int argc, char **argv, struct options *options)
{
    bool any = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-timing") == 0) {
            options->timing = false;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            if (!read_seed(argv[++i], &options->seed)) {
                return false;
            }
        } else if (choose(options, argv[i])) {
            any = true;
        } else {
            return false;
        }
    }
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(areas) && !any; i++) {
        options->chosen[i] = true;
    }
    return true;
}

/* A device that failed has nothing more to say: false. */
static bool run_area(const struct area *area, struct spin_twins *twins)
{
    char name[64];
    const uint32_t before = twins->checks;
    (void)printf("AREA %s\n", area->name);
    area->run(twins);
    if (twins->checks == before) {
        (void)snprintf(name, sizeof name, "%s_compared_something", area->name);
        spin_twin_check(twins, name, false, 0);
    }
    const bool alive = spin_stream_sync(twins->cuda, SYNC_NS) == SPIN_OK;
    (void)snprintf(name, sizeof name, "%s_device_alive", area->name);
    spin_twin_check(twins, name, alive, alive);
    return alive;
}

int main(int argc, char **argv)
{
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    struct options options = {{false}, true, spin_wall_ns()};
    if (!read_options(argc, argv, &options)) {
        (void)fprintf(stderr, "usage: %s [--no-timing] [--seed N] [AREA...]\n", argv[0]);
        return 2;
    }
    spin_log_set_level(SPIN_LOG_DEBUG);
    struct spin_twins twins = {NULL, NULL, options.seed, options.timing, 0, 0};
    struct spin_error err;
    if (spin_stream_create_cpu(1, &twins.cpu, &err) != SPIN_OK ||
        spin_stream_create_cuda(0, &twins.cuda, &err) != SPIN_OK) {
        (void)printf("FAIL %s\n", err.text);
        return 2;
    }
    (void)printf("seed=%" PRIu64 "\n", twins.seed);
    bool alive = true;
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(areas) && alive; i++) {
        if (options.chosen[i]) {
            alive = run_area(&areas[i], &twins);
        }
    }
    spin_stream_destroy(twins.cuda);
    spin_stream_destroy(twins.cpu);
    (void)printf("%u checks, %u BAD\n", twins.checks, twins.bad);
    return twins.bad == 0 ? 0 : 1;
}
