/* The plain driver of a fuzz target: for compilers without libFuzzer, and for every test run.
 *
 * usage: <target> FILE|DIRECTORY...
 *
 * Replays each file, then a fixed number of mutations of each, the same in every run: a regression
 * of what was found once, and a small net for what was not. The search is tests/fuzz/run's. */
#include "base/base.h"
#include "base/file.h"
#include "base/rng.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* All mutations of a run together; each seed gets an equal part. */
#define MUTATIONS 4000u
/* Bytes that one run may feed in mutations: large seeds get fewer of them, not a slow test. */
#define MUTATED_BYTES (UINT64_C(64) << 20)
#define SEEDS_MAX 4096u
#define SEED_BYTES_MAX (UINT64_C(16) << 20)
#define EDITS_MAX 8u

struct seeds {
    char *paths[SEEDS_MAX];
    uint32_t count;
};

/* The driver's own trouble: exit status 2, which no finding has. */
__attribute__((noreturn)) static void give_up(const char *what, const char *why)
{
    (void)fprintf(stderr, "%s: %s\n", what, why);
    exit(2);
}

static void add_seed(struct seeds *seeds, const char *path)
{
    if (seeds->count == SEEDS_MAX) {
        give_up(path, "too many seeds");
    }
    seeds->paths[seeds->count] = strdup(path);
    if (seeds->paths[seeds->count++] == NULL) {
        give_up("driver", "out of memory");
    }
}

/* Files of one directory, not of those below it, in the order of their names. */
static void add_directory(struct seeds *seeds, const char *path)
{
    struct dirent **entries = NULL;
    const int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) {
        give_up(path, "cannot be listed");
    }
    for (int i = 0; i < count; i++) {
        char file[1024];
        (void)snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
        struct stat info;
        if (stat(file, &info) == 0 && S_ISREG(info.st_mode)) {
            add_seed(seeds, file);
        }
        free(entries[i]);
    }
    free((void *)entries);
}

static void add_argument(struct seeds *seeds, const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        add_directory(seeds, path);
    } else {
        add_seed(seeds, path);
    }
}

/* A copy of exactly `count` bytes, so that a read past the end is a sanitizer's report. */
static void run_exact(const uint8_t *bytes, uint64_t count)
{
    uint8_t *copy = malloc(count == 0 ? 1 : count);
    if (copy == NULL) {
        give_up("driver", "out of memory");
    }
    memcpy(copy, bytes, count);
    (void)LLVMFuzzerTestOneInput(copy, count);
    free(copy);
}

/* What parsers trip over: signs, limits of widths, delimiters. */
static uint8_t interesting_byte(struct spin_rng *rng)
{
    static const uint8_t bytes[] = {0x00, 0x01, 0x7F, 0x80, 0xFF, '"', '\\', '{', '}',  '[',
                                    ']',  ':',  ',',  '-',  '0',  '9', ' ',  '%', '\n', '\''};
    return bytes[spin_rng_below(rng, SPIN_ARRAY_COUNT(bytes))];
}

/* One edit in place; returns the new count, at most one more than before. */
static uint32_t edit(struct spin_rng *rng, uint8_t *bytes, uint32_t count)
{
    const uint32_t at = count == 0 ? 0 : spin_rng_below(rng, count);
    const uint32_t kind = count == 0 ? 4 : spin_rng_below(rng, 6);
    switch (kind) {
    case 0:
        bytes[at] ^= (uint8_t)(1u << spin_rng_below(rng, 8));
        return count;
    case 1:
        bytes[at] = interesting_byte(rng);
        return count;
    case 2: /* cut the tail */
        return at;
    case 3: /* remove a byte */
        memmove(bytes + at, bytes + at + 1, count - at - 1);
        return count - 1;
    case 4: /* insert a byte */
        memmove(bytes + at + 1, bytes + at, count - at);
        bytes[at] = interesting_byte(rng);
        return count + 1;
    default: { /* repeat a stretch over another place */
        const uint32_t from = spin_rng_below(rng, count);
        const uint32_t bytes_max = count - SPIN_MAX(at, from);
        const uint32_t wanted = 1 + spin_rng_below(rng, 16);
        memmove(bytes + at, bytes + from, SPIN_MIN(bytes_max, wanted));
        return count;
    }
    }
}

static void run_mutations(const struct spin_file_map *seed, uint32_t index, uint64_t mutations)
{
    uint8_t *bytes = malloc(seed->count + EDITS_MAX);
    if (bytes == NULL) {
        give_up("driver", "out of memory");
    }
    struct spin_rng rng = {.seed = index, .stream = seed->count};
    for (uint64_t i = 0; i < mutations; i++) {
        uint32_t count = (uint32_t)seed->count;
        if (seed->bytes != NULL) {
            memcpy(bytes, seed->bytes, count);
        }
        const uint32_t edits = 1 + spin_rng_below(&rng, EDITS_MAX);
        for (uint32_t k = 0; k < edits; k++) {
            count = edit(&rng, bytes, count);
        }
        run_exact(bytes, count);
    }
    free(bytes);
}

/* Returns how many inputs were run. */
static uint64_t run_seed(const char *path, uint32_t index, uint32_t seed_count)
{
    struct spin_file_map seed;
    struct spin_error err;
    if (spin_file_map_open(path, &seed, &err) != SPIN_OK) {
        give_up("seed", err.text);
    }
    if (seed.count > SEED_BYTES_MAX) {
        give_up(path, "too large for a seed");
    }
    static const uint8_t nothing[1];
    run_exact(seed.bytes == NULL ? nothing : seed.bytes, seed.count);
    const uint64_t affordable = MUTATED_BYTES / seed_count / (seed.count + 1) + 1;
    const uint64_t mutations = SPIN_MIN(MUTATIONS / seed_count + 1, affordable);
    run_mutations(&seed, index, mutations);
    spin_file_map_close(&seed);
    return 1 + mutations;
}

int main(int argc, char **argv)
{
    static struct seeds seeds;
    for (int i = 1; i < argc; i++) {
        add_argument(&seeds, argv[i]);
    }
    if (seeds.count == 0) {
        (void)fprintf(stderr, "usage: %s FILE|DIRECTORY...\n", argv[0]);
        return 2;
    }
    uint64_t runs = 0;
    for (uint32_t i = 0; i < seeds.count; i++) {
        runs += run_seed(seeds.paths[i], i, seeds.count);
        free(seeds.paths[i]);
    }
    (void)printf("%u seeds, %llu inputs, no finding\n", seeds.count, (unsigned long long)runs);
    return 0;
}
