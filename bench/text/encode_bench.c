/* encode_bench: opening a tokenizer, and encoding natural text and one long piece.
 *
 *   encode_bench MODEL TEXT_FILE
 *
 * Processor time of the one thread that works, so that a busy machine changes little. Median of 20
 * runs after one that is not counted. */
#include "base/assert.h"
#include "base/file.h"
#include "model/format/gguf.h"
#include "model/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RUNS 20u
#define LONG_PIECE_BYTES (UINT64_C(1) << 20)

struct job {
    const char *source;
    const struct spin_tokenizer *tokenizer;
    struct spin_string text;
    int32_t *tokens; /* [text.count]: a token has a byte at least */
    uint64_t token_count;
};

static double seconds(void)
{
    struct timespec now;
    SPIN_ASSERT_EQ(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), 0);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_doubles(const void *left, const void *right)
{
    const double a = *(const double *)left;
    const double b = *(const double *)right;
    return (a > b) - (a < b);
}

static void run_open(struct job *job)
{
    struct spin_tokenizer *tokenizer = NULL;
    SPIN_ASSERT_EQ(spin_tokenizer_open(job->source, &tokenizer, NULL), SPIN_OK);
    spin_tokenizer_close(tokenizer);
}

static void run_encode(struct job *job)
{
    SPIN_ASSERT_EQ(spin_tokenizer_encode(job->tokenizer, job->text.bytes, job->text.count,
                                         SPIN_ENCODE_PLAIN, job->tokens, job->text.count,
                                         &job->token_count, NULL),
                   SPIN_OK);
}

static double median_seconds(struct job *job, void (*run)(struct job *))
{
    double times[RUNS];
    run(job);
    for (uint32_t i = 0; i < RUNS; i++) {
        const double begin = seconds();
        run(job);
        times[i] = seconds() - begin;
    }
    qsort(times, RUNS, sizeof *times, compare_doubles);
    return times[RUNS / 2];
}

static void bench_encode(struct job *job, const char *what)
{
    const double time = median_seconds(job, run_encode);
    printf("RESULT encode_%s_mb_per_s=%.1f bytes=%llu tokens=%llu\n", what,
           (double)job->text.count / time / 1e6, (unsigned long long)job->text.count,
           (unsigned long long)job->token_count);
}

int main(int argc, char **argv)
{
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_file_map file = {0};
    struct spin_error err = {.text = "usage: encode_bench MODEL TEXT_FILE"};
    if (argc != 3 || spin_tokenizer_open(argv[1], &tokenizer, &err) != SPIN_OK ||
        spin_file_map_open(argv[2], &file, &err) != SPIN_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    struct job job = {.source = argv[1], .tokenizer = tokenizer};
    char *piece = malloc(LONG_PIECE_BYTES);
    job.tokens = malloc(SPIN_MAX(file.count, LONG_PIECE_BYTES) * sizeof *job.tokens);
    SPIN_ASSERT(piece != NULL && job.tokens != NULL);
    printf("RESULT open_ms=%.1f\n", 1e3 * median_seconds(&job, run_open));
    job.text = (struct spin_string){(const char *)file.bytes, file.count};
    bench_encode(&job, "text");
    memset(piece, 'a', LONG_PIECE_BYTES);
    job.text = (struct spin_string){piece, LONG_PIECE_BYTES};
    bench_encode(&job, "one_piece");
    free(piece);
    free(job.tokens);
    spin_file_map_close(&file);
    spin_tokenizer_close(tokenizer);
    return 0;
}
