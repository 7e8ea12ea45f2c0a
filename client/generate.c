/* spin generate: a prompt to a worker, its answer to standard output. */
#include "base/clock.h"
#include "client/answer.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/prompt.h"

#include <stdio.h>
#include <unistd.h>

enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_OPTIONS = 2, EXIT_INTERRUPTED = 130 };

/* One parsed response: 1 MiB of the smallest token messages. */
#define RESPONSE_ARENA_BYTES (UINT64_C(64) << 20)

struct generation {
    const struct spin_generate_options *options;
    struct spin_tokenizer *tokenizer;
    struct spin_prompt prompt;
    struct spin_connection *connection;
    struct spin_answer *answer;
    struct spin_error refused; /* client's thread: why we wanted no more of the answer */
};

static bool on_response(void *context, const struct ProtobufCMessage *message)
{
    struct generation *generation = context;
    const Spin__V1__GenerateResponse *response = (const Spin__V1__GenerateResponse *)message;
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    return spin_answer_add_response(generation->answer, response, now_ns, &generation->refused) ==
               SPIN_OK &&
           !spin_answer_stopped(generation->answer);
}

static void fill_sampling(Spin__V1__Sampling *sampling, const struct spin_generate_options *options)
{
    spin__v1__sampling__init(sampling);
    sampling->temperature = (float)options->temperature;
    sampling->top_p = (float)options->top_p;
    sampling->top_k = options->top_k;
    sampling->min_p = (float)options->min_p;
    sampling->seed = options->seed;
    sampling->max_tokens = options->max_tokens;
    sampling->ignore_eos = options->ignore_eos;
    sampling->logprobs = options->logprobs;
}

static spin_status ask(struct generation *generation, struct spin_call_result *result)
{
    const struct spin_generate_options *options = generation->options;
    Spin__V1__Sampling sampling;
    fill_sampling(&sampling, options);
    char id[64];
    (void)snprintf(id, sizeof id, "spin-%d", (int)getpid());
    Spin__V1__GenerateRequest message;
    spin__v1__generate_request__init(&message);
    message.request_id = id;
    message.prompt_tokens = generation->prompt.tokens;
    message.n_prompt_tokens = generation->prompt.count;
    message.sampling = &sampling;
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    const struct spin_rpc_request request = {
        .path = "/spin.v1.Worker/Generate",
        .message = &message.base,
        .response = &spin__v1__generate_response__descriptor,
        .response_bytes_max = 2 * (UINT64_C(1) << 20),
        .arena_bytes_max = RESPONSE_ARENA_BYTES,
        .deadline_ns = options->deadline_ns == 0 ? SPIN_NO_DEADLINE
                                                 : spin_deadline_ns(now_ns, options->deadline_ns)};
    return spin_connection_call(generation->connection, &request, on_response, generation, result);
}

static int report(struct generation *generation, const struct spin_call_result *result)
{
    const bool anything = result->messages > 0;
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    const bool written = !anything || spin_answer_finish(generation->answer, now_ns);
    if (result->interrupted) {
        (void)fprintf(stderr, "spin generate: interrupted\n");
        return EXIT_INTERRUPTED;
    }
    if (generation->refused.status != SPIN_OK) {
        (void)fprintf(stderr, "spin generate: %s\n", generation->refused.text);
        return EXIT_FAILED;
    }
    if (result->status != SPIN_OK && !spin_answer_stopped(generation->answer)) {
        (void)fprintf(stderr, "spin generate: the worker answers %s: %s\n",
                      spin_rpc_code_name(result->code), result->text);
        return EXIT_FAILED;
    }
    if (!written) {
        (void)fprintf(stderr, "spin generate: cannot write to standard output\n");
        return EXIT_FAILED;
    }
    return EXIT_DONE;
}

static spin_status prepare(struct generation *generation, const char *argument,
                           struct spin_error *err)
{
    const struct spin_generate_options *options = generation->options;
    SPIN_TRY(spin_tokenizer_open(options->model, &generation->tokenizer, err));
    SPIN_TRY(spin_prompt_init(&generation->prompt, options, argument, generation->tokenizer, err));
    SPIN_TRY(spin_connection_open(options->worker, options->connect_timeout_ns,
                                  &generation->connection, err));
    const struct spin_answer_config answer = {.options = options,
                                              .tokenizer = generation->tokenizer,
                                              .text_out = stdout,
                                              .stats_out = stderr,
                                              .prompt_tokens = generation->prompt.count,
                                              .started_ns = spin_now_ns(spin_clock_real())};
    return spin_answer_create(&answer, &generation->answer, err);
}

static int run(const struct spin_generate_options *options, const char *argument)
{
    struct generation generation = {.options = options};
    struct spin_error err = {0};
    int code = EXIT_FAILED;
    if (prepare(&generation, argument, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin generate: %s\n", err.text);
    } else {
        struct spin_call_result result;
        (void)ask(&generation, &result); /* the result has the status too */
        code = report(&generation, &result);
    }
    spin_connection_close(generation.connection);
    spin_answer_destroy(generation.answer);
    spin_prompt_deinit(&generation.prompt);
    spin_tokenizer_close(generation.tokenizer);
    return code;
}

int spin_command_generate(int argc, char *const *argv)
{
    struct spin_generate_options options = {0};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = EXIT_DONE;
    if (spin_config_load(&spin_generate_config_spec, argc, argv, environ, &options, &values,
                         &exit_now, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin generate: %s\n", err.text);
        code = EXIT_OPTIONS;
    } else if (!exit_now) {
        code = run(&options, spin_config_positional_count(values) > 0
                                 ? spin_config_positional(values, 0)
                                 : NULL);
    }
    spin_config_values_destroy(values);
    return code;
}
