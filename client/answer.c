#include "client/answer.h"

#include "base/clock.h"
#include "client/json_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct answer_token {
    int32_t token;
    float logprob;
};

struct spin_answer {
    struct spin_answer_config config;
    FILE *text; /* the text so far; NULL: nobody wants it later */
    char *text_bytes;
    size_t text_count;
    struct answer_token *tokens; /* kept for --json and --logprobs */
    uint64_t token_count;
    uint64_t token_capacity;
    uint64_t first_ns; /* when the first delta came; 0: none yet */
    uint64_t last_ns;
    bool ended; /* the ending came; below is what it said */
    struct spin_client_ending ending;
};

spin_status spin_answer_create(const struct spin_answer_config *config, struct spin_answer **out,
                               struct spin_error *err)
{
    struct spin_answer *answer = calloc(1, sizeof *answer);
    if (answer == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: %zu bytes", sizeof *answer);
    }
    answer->config = *config;
    if (config->keeps || !config->prints) {
        answer->text = open_memstream(&answer->text_bytes, &answer->text_count);
        if (answer->text == NULL) {
            free(answer);
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: its text");
        }
    }
    *out = answer;
    return SPIN_OK;
}

void spin_answer_destroy(struct spin_answer *answer)
{
    if (answer == NULL) {
        return;
    }
    if (answer->text != NULL) {
        (void)fclose(answer->text);
    }
    free(answer->text_bytes);
    free(answer->tokens);
    free(answer);
}

static spin_status keep_tokens(struct spin_answer *answer, const struct spin_client_delta *delta,
                               struct spin_error *err)
{
    const uint64_t wanted = answer->token_count + delta->token_count;
    if (wanted > answer->token_capacity) {
        const uint64_t capacity = SPIN_MAX(answer->token_capacity * 2, wanted);
        struct answer_token *larger = realloc(answer->tokens, capacity * sizeof *larger);
        if (larger == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: %" PRIu64 " tokens", capacity);
        }
        answer->tokens = larger;
        answer->token_capacity = capacity;
    }
    for (uint32_t i = 0; i < delta->token_count; i++) {
        answer->tokens[answer->token_count++] =
            (struct answer_token){delta->tokens[i].token, delta->tokens[i].logprob};
    }
    return SPIN_OK;
}

static bool write_text(FILE *out, const struct spin_client_delta *delta)
{
    return delta->text_bytes == 0 ||
           (fwrite(delta->text, 1, delta->text_bytes, out) == delta->text_bytes &&
            fflush(out) == 0);
}

spin_status spin_answer_add(struct spin_answer *answer, const struct spin_client_delta *delta,
                            uint64_t now_ns, struct spin_error *err)
{
    if (delta->ending == NULL) {
        answer->first_ns = answer->first_ns == 0 ? now_ns : answer->first_ns;
        answer->last_ns = now_ns;
    }
    SPIN_TRY(keep_tokens(answer, delta, err));
    if (answer->text != NULL && !write_text(answer->text, delta)) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: its text");
    }
    if (answer->config.prints && !write_text(answer->config.text_out, delta)) {
        return spin_fail_errno(err, SPIN_ERR_IO, "standard output");
    }
    if (delta->ending != NULL) {
        answer->ended = true;
        answer->ending = *delta->ending;
        answer->ending.stop_string = NULL; /* valid during the call only; nobody needs it */
    }
    return SPIN_OK;
}

const char *spin_answer_text(struct spin_answer *answer)
{
    (void)fflush(answer->text);
    return answer->text_bytes;
}

bool spin_answer_begun(const struct spin_answer *answer)
{
    return answer->first_ns != 0 || answer->ended;
}

static const char *reason_text(const struct spin_answer *answer, spin_status outcome)
{
    if (answer->ended) {
        return answer->ending.reason == SPIN_CLIENT_STOP ? "stop" : "length";
    }
    switch ((int)outcome) {
    case SPIN_ERR_CANCELLED:
        return "cancelled";
    case SPIN_ERR_DEADLINE:
        return "deadline";
    default:
        return "error";
    }
}

/* What the lines at the end say, in seconds; 0 where there is nothing to divide. */
struct timings {
    double queue_s;
    double ttft_s;
    double prefill_s;
    double prefill_tokens_per_s;
    double tpot_s;
    double tokens_per_s;
    double total_s;
};

static double seconds(uint64_t ns)
{
    return (double)ns / (double)SPIN_NS_PER_S;
}

/* The worker's clock where it told us, ours for what a person waited. */
static struct timings measure(const struct spin_answer *answer, uint64_t now_ns)
{
    const struct spin_client_ending *ending = &answer->ending;
    struct timings t = {.total_s = seconds(now_ns - answer->config.started_ns),
                        .queue_s = seconds(ending->queue_ns),
                        .prefill_s = seconds(ending->prefill_ns)};
    if (answer->first_ns != 0) {
        t.ttft_s = seconds(answer->first_ns - answer->config.started_ns);
    }
    if (t.prefill_s > 0) {
        t.prefill_tokens_per_s =
            (double)(ending->prompt_tokens - ending->cached_tokens) / t.prefill_s;
    }
    const double decode_s = seconds(ending->decode_ns);
    if (ending->completion_tokens > 1 && decode_s > 0) {
        t.tpot_s = decode_s / (double)(ending->completion_tokens - 1);
        t.tokens_per_s = 1 / t.tpot_s;
    }
    return t;
}

static void print_stats(const struct spin_answer *answer, const struct timings *t,
                        spin_status outcome)
{
    FILE *out = answer->config.stats_out;
    const struct spin_client_ending *ending = &answer->ending;
    if (answer->ended) {
        (void)fprintf(out,
                      "prompt  %u tokens, %u cached, queued %.3f s, prefill %.3f s, %.1f tok/s\n",
                      ending->prompt_tokens, ending->cached_tokens, t->queue_s, t->prefill_s,
                      t->prefill_tokens_per_s);
        (void)fprintf(out, "output  %u tokens, first after %.3f s, then %.1f ms each, %.1f tok/s\n",
                      ending->completion_tokens, t->ttft_s, t->tpot_s * 1e3, t->tokens_per_s);
    }
    (void)fprintf(out, "total   %.3f s, finished: %s", t->total_s, reason_text(answer, outcome));
    if (ending->recoveries > 0) {
        (void)fprintf(out, ", moved to another worker %u times", ending->recoveries);
    }
    (void)fputc('\n', out);
}

static void print_logprobs(const struct spin_answer *answer)
{
    for (uint64_t i = 0; i < answer->token_count; i++) {
        (void)fprintf(answer->config.stats_out, "logprob %8d %12.6f\n", answer->tokens[i].token,
                      (double)answer->tokens[i].logprob);
    }
}

static void print_json(struct spin_answer *answer, const struct timings *t, spin_status outcome)
{
    FILE *out = answer->config.text_out;
    const struct spin_client_ending *ending = &answer->ending;
    (void)fputs("{\"text\": ", out);
    spin_json_write_string(out, spin_answer_text(answer), answer->text_count);
    (void)fprintf(out, ", \"finish_reason\": \"%s\", \"tokens\": [", reason_text(answer, outcome));
    for (uint64_t i = 0; i < answer->token_count; i++) {
        (void)fprintf(out, "%s%d", i == 0 ? "" : ", ", answer->tokens[i].token);
    }
    (void)fputs("]", out);
    if (answer->config.logprobs) {
        (void)fputs(", \"logprobs\": [", out);
        for (uint64_t i = 0; i < answer->token_count; i++) {
            (void)fprintf(out, "%s%.9g", i == 0 ? "" : ", ", (double)answer->tokens[i].logprob);
        }
        (void)fputs("]", out);
    }
    (void)fprintf(out,
                  ", \"prompt_tokens\": %u, \"completion_tokens\": %u, \"cached_tokens\": %u"
                  ", \"recoveries\": %u",
                  ending->prompt_tokens, ending->completion_tokens, ending->cached_tokens,
                  ending->recoveries);
    (void)fprintf(out,
                  ", \"queue_s\": %.6f, \"ttft_s\": %.6f, \"prefill_s\": %.6f"
                  ", \"prefill_tokens_per_s\": %.3f, \"tpot_s\": %.6f, \"tokens_per_s\": %.3f"
                  ", \"total_s\": %.6f}\n",
                  t->queue_s, t->ttft_s, t->prefill_s, t->prefill_tokens_per_s, t->tpot_s,
                  t->tokens_per_s, t->total_s);
}

bool spin_answer_finish(struct spin_answer *answer, spin_status outcome, uint64_t now_ns)
{
    const struct timings t = measure(answer, now_ns);
    FILE *out = answer->config.text_out;
    if (!answer->config.prints) {
        print_json(answer, &t, outcome);
    } else {
        (void)fputc('\n', out);
        if (answer->config.logprobs) {
            print_logprobs(answer);
        }
    }
    const bool written = fflush(out) == 0 && ferror(out) == 0;
    if (answer->config.stats && answer->config.prints) {
        print_stats(answer, &t, outcome);
    }
    return written;
}
