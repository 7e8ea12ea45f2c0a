/* spin generate: one prompt, its answer to standard output. */
#include "base/clock.h"
#include "client/answer.h"
#include "client/ask.h"
#include "client/commands.h"
#include "client/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct generation {
    const struct spin_generate_options *options;
    struct spin_stops stops;
    char *prompt;
    struct spin_client *client;
    struct spin_answer *answer;
    struct spin_error refused; /* client's thread: why we wanted no more of the answer */
};

static bool on_delta(void *context, const struct spin_client_delta *delta)
{
    struct generation *generation = context;
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    return spin_answer_add(generation->answer, delta, now_ns, &generation->refused) == SPIN_OK;
}

static spin_status prepare(struct generation *generation, const char *argument,
                           struct spin_error *err)
{
    const struct spin_generate_options *options = generation->options;
    SPIN_TRY(spin_stops_init(&generation->stops, options->sampling.stop, err));
    SPIN_TRY(spin_prompt_read(options, argument, &generation->prompt, err));
    SPIN_TRY(spin_ask_open(&options->router, &generation->client, err));
    const struct spin_answer_config answer = {.prints = !options->json,
                                              .logprobs = options->logprobs,
                                              .stats = options->sampling.stats,
                                              .text_out = stdout,
                                              .stats_out = stderr,
                                              .started_ns = spin_now_ns(spin_clock_real())};
    return spin_answer_create(&answer, &generation->answer, err);
}

static void ask(struct generation *generation, struct spin_asked *asked)
{
    const struct spin_generate_options *options = generation->options;
    const struct spin_client_message messages[] = {{"system", options->sampling.system},
                                                   {"user", generation->prompt}};
    const uint32_t first = options->sampling.system == NULL ? 1 : 0;
    struct spin_client_request request = {.ignore_eos = options->ignore_eos,
                                          .logprobs = options->logprobs,
                                          .return_tokens = options->json,
                                          .deadline_ns = options->deadline_ns};
    spin_ask_fill(&request, &options->sampling, &generation->stops);
    if (options->raw) {
        request.text = generation->prompt;
    } else {
        request.messages = messages + first;
        request.message_count = SPIN_ARRAY_COUNT(messages) - first;
    }
    struct spin_interrupt interrupt;
    if (spin_interrupt_open(&interrupt, &asked->outcome) != SPIN_OK) {
        return;
    }
    const struct spin_asking asking = {generation->client, &interrupt, on_delta, generation};
    spin_ask(&asking, &request, asked);
    spin_interrupt_close(&interrupt);
}

static int report(const struct generation *generation, const struct spin_asked *asked)
{
    const struct spin_router_options *router = &generation->options->router;
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    const bool written = !spin_answer_begun(generation->answer) ||
                         spin_answer_finish(generation->answer, asked->outcome.status, now_ns);
    if (asked->interrupted != 0) {
        (void)fprintf(stderr, "spin generate: interrupted\n");
        return SPIN_EXIT_INTERRUPTED;
    }
    if (generation->refused.status != SPIN_OK) {
        spin_complain("spin generate", router, &generation->refused);
        return SPIN_EXIT_FAILED;
    }
    if (asked->outcome.status != SPIN_OK) {
        spin_complain("spin generate", router, &asked->outcome);
        return SPIN_EXIT_FAILED;
    }
    if (!written) {
        (void)fprintf(stderr, "spin generate: cannot write to standard output\n");
        return SPIN_EXIT_FAILED;
    }
    return SPIN_EXIT_DONE;
}

static int run(const struct spin_generate_options *options, const char *argument)
{
    struct generation generation = {.options = options};
    struct spin_error err = {0};
    int code = SPIN_EXIT_FAILED;
    if (prepare(&generation, argument, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin generate: %s\n", err.text);
    } else {
        struct spin_asked asked = {.interrupted = 0};
        ask(&generation, &asked);
        code = report(&generation, &asked);
    }
    spin_client_close(generation.client);
    spin_answer_destroy(generation.answer);
    free(generation.prompt);
    spin_stops_deinit(&generation.stops);
    return code;
}

int spin_command_generate(int argc, char *const *argv)
{
    struct spin_generate_options options = {0};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = SPIN_EXIT_DONE;
    if (spin_config_load(&spin_generate_config_spec, argc, argv, environ, &options, &values,
                         &exit_now, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin generate: %s\n", err.text);
        code = SPIN_EXIT_OPTIONS;
    } else if (!exit_now) {
        code = run(&options, spin_config_positional_count(values) > 0
                                 ? spin_config_positional(values, 0)
                                 : NULL);
    }
    spin_config_values_destroy(values);
    return code;
}
