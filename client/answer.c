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
    struct spin_text_stream *stream;
    FILE *text; /* --json: the text so far; NULL otherwise */
    char *text_bytes;
    size_t text_count;
    struct answer_token *tokens; /* kept for --json and --logprobs */
    uint64_t token_count;        /* received */
    uint64_t token_capacity;
    uint64_t first_ns; /* when the first token came; 0: none yet */
    uint64_t last_ns;
    bool finished; /* the worker's finish came; below is what it said */
    Spin__V1__FinishReason reason;
    Spin__V1__Usage usage;
};

static bool keeps_tokens(const struct spin_answer *answer)
{
    return answer->config.options->json || answer->config.options->logprobs;
}

spin_status spin_answer_create(const struct spin_answer_config *config, struct spin_answer **out,
                               struct spin_error *err)
{
    struct spin_answer *answer = calloc(1, sizeof *answer);
    if (answer == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: %zu bytes", sizeof *answer);
    }
    answer->config = *config;
    spin__v1__usage__init(&answer->usage);
    spin_status status;
    SPIN_TRY_GOTO(
        status,
        spin_text_stream_create(config->tokenizer, config->options->stop, &answer->stream, err),
        fail);
    if (config->options->json) {
        answer->text = open_memstream(&answer->text_bytes, &answer->text_count);
        if (answer->text == NULL) {
            status = spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: its text");
            goto fail;
        }
    }
    *out = answer;
    return SPIN_OK;
fail:
    spin_answer_destroy(answer);
    return status;
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
    spin_text_stream_destroy(answer->stream);
    free(answer);
}

static spin_status keep_token(struct spin_answer *answer, const Spin__V1__Token *token,
                              struct spin_error *err)
{
    if (answer->token_count == answer->token_capacity) {
        const uint64_t capacity = SPIN_MAX(answer->token_capacity * 2, UINT64_C(256));
        struct answer_token *larger = realloc(answer->tokens, capacity * sizeof *larger);
        if (larger == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: %" PRIu64 " tokens", capacity);
        }
        answer->tokens = larger;
        answer->token_capacity = capacity;
    }
    answer->tokens[answer->token_count] = (struct answer_token){token->token, token->logprob};
    return SPIN_OK;
}

static bool write_text(struct spin_answer *answer, struct spin_text text)
{
    FILE *out = answer->text != NULL ? answer->text : answer->config.text_out;
    return fwrite(text.bytes, 1, text.count, out) == text.count;
}

static spin_status add_token(struct spin_answer *answer, const Spin__V1__Token *token,
                             struct spin_error *err)
{
    if (spin_text_stream_stopped(answer->stream)) {
        return SPIN_OK; /* on its way when the call was cancelled */
    }
    struct spin_text text;
    SPIN_TRY(spin_text_stream_push(answer->stream, token->token, &text, err));
    if (keeps_tokens(answer)) {
        SPIN_TRY(keep_token(answer, token, err));
    }
    answer->token_count++;
    if (!write_text(answer, text)) {
        return spin_fail_errno(err, SPIN_ERR_IO, "standard output");
    }
    return SPIN_OK;
}

spin_status spin_answer_add_response(struct spin_answer *answer,
                                     const Spin__V1__GenerateResponse *response, uint64_t now_ns,
                                     struct spin_error *err)
{
    if (response->n_tokens > 0) {
        answer->first_ns = answer->first_ns == 0 ? now_ns : answer->first_ns;
        answer->last_ns = now_ns;
    }
    for (size_t i = 0; i < response->n_tokens; i++) {
        SPIN_TRY(add_token(answer, response->tokens[i], err));
    }
    if (response->finish != NULL) {
        answer->finished = true;
        answer->reason = response->finish->reason;
        if (response->finish->usage != NULL) {
            answer->usage = *response->finish->usage; /* numbers only */
        }
    }
    if (answer->text == NULL && fflush(answer->config.text_out) != 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "standard output");
    }
    return SPIN_OK;
}

bool spin_answer_stopped(const struct spin_answer *answer)
{
    return spin_text_stream_stopped(answer->stream);
}

static const char *reason_text(const struct spin_answer *answer)
{
    if (spin_answer_stopped(answer)) {
        return "stop";
    }
    if (!answer->finished) {
        return "interrupted";
    }
    switch (answer->reason) {
    case SPIN__V1__FINISH_REASON__FINISH_STOP:
        return "stop";
    case SPIN__V1__FINISH_REASON__FINISH_LENGTH:
        return "length";
    case SPIN__V1__FINISH_REASON__FINISH_CANCELLED:
        return "cancelled";
    case SPIN__V1__FINISH_REASON__FINISH_DEADLINE:
        return "deadline";
    case SPIN__V1__FINISH_REASON__FINISH_ERROR:
        return "error";
    case SPIN__V1__FINISH_REASON__FINISH_NONE:
    case _SPIN__V1__FINISH_REASON_IS_INT_SIZE:
        break;
    }
    return "unknown";
}

/* What the lines at the end say, in seconds; 0 where there is nothing to divide. */
struct timings {
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

static struct timings measure(const struct spin_answer *answer, uint64_t now_ns)
{
    struct timings t = {.total_s = seconds(now_ns - answer->config.started_ns)};
    if (answer->first_ns != 0) {
        t.ttft_s = seconds(answer->first_ns - answer->config.started_ns);
    }
    /* The worker's clock where it told us, ours where the call was cut short. */
    t.prefill_s = answer->finished ? seconds(answer->usage.prefill_ns) : t.ttft_s;
    if (t.prefill_s > 0) {
        const uint64_t prefilled = answer->config.prompt_tokens - answer->usage.cached_tokens;
        t.prefill_tokens_per_s = (double)prefilled / t.prefill_s;
    }
    const double decode_s = answer->finished ? seconds(answer->usage.decode_ns)
                                             : seconds(answer->last_ns - answer->first_ns);
    if (answer->token_count > 1 && decode_s > 0) {
        t.tpot_s = decode_s / (double)(answer->token_count - 1);
        t.tokens_per_s = 1 / t.tpot_s;
    }
    return t;
}

static void print_stats(const struct spin_answer *answer, const struct timings *t)
{
    FILE *out = answer->config.stats_out;
    const Spin__V1__Usage *usage = &answer->usage;
    (void)fprintf(out, "prompt  %" PRIu64 " tokens, queued %.3f s, prefill %.3f s, %.1f tok/s\n",
                  answer->config.prompt_tokens, seconds(usage->queue_ns), t->prefill_s,
                  t->prefill_tokens_per_s);
    (void)fprintf(out,
                  "output  %" PRIu64 " tokens, first after %.3f s, then %.1f ms each, %.1f tok/s\n",
                  answer->token_count, t->ttft_s, t->tpot_s * 1e3, t->tokens_per_s);
    (void)fprintf(out, "total   %.3f s, finished: %s\n", t->total_s, reason_text(answer));
}

static void print_logprobs(const struct spin_answer *answer)
{
    for (uint64_t i = 0; i < answer->token_count; i++) {
        const char *bytes = "";
        uint32_t count = 0;
        (void)spin_tokenizer_piece(answer->config.tokenizer, answer->tokens[i].token, &bytes,
                                   &count);
        (void)fprintf(answer->config.stats_out, "logprob %8d %12.6f ", answer->tokens[i].token,
                      (double)answer->tokens[i].logprob);
        spin_json_write_string(answer->config.stats_out, bytes, count);
        (void)fputc('\n', answer->config.stats_out);
    }
}

static void print_json(struct spin_answer *answer, const struct timings *t)
{
    FILE *out = answer->config.text_out;
    const Spin__V1__Usage *usage = &answer->usage;
    (void)fflush(answer->text);
    (void)fputs("{\"text\": ", out);
    spin_json_write_string(out, answer->text_bytes, answer->text_count);
    (void)fprintf(out, ", \"finish_reason\": \"%s\", \"tokens\": [", reason_text(answer));
    for (uint64_t i = 0; i < answer->token_count; i++) {
        (void)fprintf(out, "%s%d", i == 0 ? "" : ", ", answer->tokens[i].token);
    }
    (void)fputs("]", out);
    if (answer->config.options->logprobs) {
        (void)fputs(", \"logprobs\": [", out);
        for (uint64_t i = 0; i < answer->token_count; i++) {
            (void)fprintf(out, "%s%.9g", i == 0 ? "" : ", ", (double)answer->tokens[i].logprob);
        }
        (void)fputs("]", out);
    }
    (void)fprintf(out,
                  ", \"prompt_tokens\": %" PRIu64 ", \"completion_tokens\": %" PRIu64
                  ", \"cached_tokens\": %u, \"preemptions\": %u",
                  answer->config.prompt_tokens, answer->token_count, usage->cached_tokens,
                  usage->preemptions);
    (void)fprintf(out,
                  ", \"queue_s\": %.6f, \"ttft_s\": %.6f, \"prefill_s\": %.6f"
                  ", \"prefill_tokens_per_s\": %.3f, \"tpot_s\": %.6f, \"tokens_per_s\": %.3f"
                  ", \"total_s\": %.6f}\n",
                  seconds(usage->queue_ns), t->ttft_s, t->prefill_s, t->prefill_tokens_per_s,
                  t->tpot_s, t->tokens_per_s, t->total_s);
}

bool spin_answer_finish(struct spin_answer *answer, uint64_t now_ns)
{
    const struct timings t = measure(answer, now_ns);
    bool written = write_text(answer, spin_text_stream_finish(answer->stream));
    if (answer->text != NULL) {
        print_json(answer, &t);
    } else {
        (void)fputc('\n', answer->config.text_out);
        if (answer->config.options->logprobs) {
            print_logprobs(answer);
        }
    }
    written = fflush(answer->config.text_out) == 0 && written;
    if (answer->config.options->stats && answer->text == NULL) {
        print_stats(answer, &t);
    }
    return written && ferror(answer->config.text_out) == 0;
}
