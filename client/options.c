#include "client/options.h"

#include <stdlib.h>
#include <string.h>

#define NO_RANGE .min = 0, .max = -1

/* The rows that several commands share; `options` is the command's struct. */
#define ROUTER_ROWS(options) \
    {.name = "router", \
     .type = SPIN_OPTION_STRING, \
     .offset = offsetof(options, router.target), \
     .default_value = "127.0.0.1:9000", \
     NO_RANGE, \
     .help = "host:port of a router's gRPC."}, \
        {.name = "api-key", \
         .type = SPIN_OPTION_STRING, \
         .offset = offsetof(options, router.api_key), \
         NO_RANGE, \
         .secret = true, \
         .help = "The key that the router asks for; better in the environment than in a " \
                 "command line that others can see."}, \
        {.name = "tls", \
         .type = SPIN_OPTION_BOOL, \
         .offset = offsetof(options, router.tls), \
         .default_value = "false", \
         NO_RANGE, \
         .help = "Encrypts the connection; the next three imply it."}, \
        {.name = "tls-ca", \
         .type = SPIN_OPTION_STRING, \
         .offset = offsetof(options, router.tls_ca), \
         NO_RANGE, \
         .help = "PEM file of the authorities to believe; without it the system's."}, \
        {.name = "tls-cert", \
         .type = SPIN_OPTION_STRING, \
         .offset = offsetof(options, router.tls_cert), \
         NO_RANGE, \
         .help = "PEM file of this client's certificate, where the router asks for one."}, \
        {.name = "tls-key", \
         .type = SPIN_OPTION_STRING, \
         .offset = offsetof(options, router.tls_key), \
         NO_RANGE, \
         .help = "PEM file of that certificate's key."}, \
    { \
        .name = "connect-timeout", .type = SPIN_OPTION_DURATION, \
        .offset = offsetof(options, router.connect_timeout_ns), .default_value = "3s", \
        .min = 1000000, .max = 3600e9, .help = "How long to wait for the router to answer at all." \
    }

#define SAMPLING_ROWS(options, most, shows_stats) \
    {.name = "model", \
     .type = SPIN_OPTION_STRING, \
     .offset = offsetof(options, sampling.model), \
     NO_RANGE, \
     .help = "The name of the model; without it the one that is served."}, \
        {.name = "system", \
         .type = SPIN_OPTION_STRING, \
         .offset = offsetof(options, sampling.system), \
         NO_RANGE, \
         .help = "The system message; without it what the model's template says."}, \
        {.name = "max-tokens", \
         .type = SPIN_OPTION_U32, \
         .offset = offsetof(options, sampling.max_tokens), \
         .default_value = (most), \
         .min = 1, \
         .max = 1 << 24, \
         .unit = "tokens", \
         .help = "How many tokens to generate at most."}, \
        {.name = "temperature", \
         .type = SPIN_OPTION_DOUBLE, \
         .offset = offsetof(options, sampling.temperature), \
         .default_value = "0", \
         .min = 0, \
         .max = 100, \
         .help = "0 takes the most likely token; higher is more varied."}, \
        {.name = "top-p", \
         .type = SPIN_OPTION_DOUBLE, \
         .offset = offsetof(options, sampling.top_p), \
         .default_value = "1", \
         .min = 0, \
         .max = 1, \
         .help = "Draws from the most likely tokens that hold this much probability; 1 is off."}, \
        {.name = "top-k", \
         .type = SPIN_OPTION_U32, \
         .offset = offsetof(options, sampling.top_k), \
         .default_value = "0", \
         NO_RANGE, \
         .help = "Draws from this many most likely tokens; 0 is off."}, \
        {.name = "min-p", \
         .type = SPIN_OPTION_DOUBLE, \
         .offset = offsetof(options, sampling.min_p), \
         .default_value = "0", \
         .min = 0, \
         .max = 1, \
         .help = "Leaves out tokens less likely than this share of the most likely one; 0 is " \
                 "off."}, \
        {.name = "seed", \
         .type = SPIN_OPTION_U64, \
         .offset = offsetof(options, sampling.seed), \
         .default_value = "0", \
         NO_RANGE, \
         .help = "The same seed draws the same tokens; 0 is another one each time."}, \
        {.name = "stop", \
         .type = SPIN_OPTION_STRING, \
         .offset = offsetof(options, sampling.stop), \
         NO_RANGE, \
         .help = "Ends the output before this text; several are separated by |||, at most 16 of " \
                 "256 bytes."}, \
    { \
        .name = "stats", .type = SPIN_OPTION_BOOL, .offset = offsetof(options, sampling.stats), \
        .default_value = (shows_stats), NO_RANGE, \
        .help = "Prints the timings to standard error at the end." \
    }

#define GENERATE(name) .offset = offsetof(struct spin_generate_options, name)
#define STATUS(name) .offset = offsetof(struct spin_status_options, name)

static const struct spin_option generate_options[] = {
    ROUTER_ROWS(struct spin_generate_options),
    SAMPLING_ROWS(struct spin_generate_options, "256", "true"),
    {.name = "prompt",
     .type = SPIN_OPTION_STRING,
     GENERATE(prompt),
     NO_RANGE,
     .help = "The prompt; it may also be the bare argument, --file, or standard input."},
    {.name = "file",
     .type = SPIN_OPTION_STRING,
     GENERATE(file),
     NO_RANGE,
     .help = "A file with the prompt; - is standard input."},
    {.name = "raw",
     .type = SPIN_OPTION_BOOL,
     GENERATE(raw),
     .default_value = "false",
     NO_RANGE,
     .help = "Continues the prompt as it is, without a chat template."},
    {.name = "ignore-eos",
     .type = SPIN_OPTION_BOOL,
     GENERATE(ignore_eos),
     .default_value = "false",
     NO_RANGE,
     .help = "Goes on after the model's end token."},
    {.name = "logprobs",
     .type = SPIN_OPTION_BOOL,
     GENERATE(logprobs),
     .default_value = "false",
     NO_RANGE,
     .help = "Prints each token's id and log probability at the end, to standard error or into "
             "the JSON."},
    {.name = "deadline",
     .type = SPIN_OPTION_DURATION,
     GENERATE(deadline_ns),
     .default_value = "0",
     NO_RANGE,
     .help = "Gives up after this long; 0: never."},
    {.name = "json",
     .type = SPIN_OPTION_BOOL,
     GENERATE(json),
     .default_value = "false",
     NO_RANGE,
     .help = "Prints one JSON object with text, tokens and timings at the end instead of the text "
             "as it comes."},
};

const struct spin_config_spec spin_generate_config_spec = {
    .program = "spin generate",
    .synopsis = "[PROMPT]",
    .about = "Asks the cluster to answer or continue a prompt and prints the text as it comes.\n"
             "Exits with 0 after an answer, 1 after an error, 2 for wrong options, 130 after "
             "Ctrl-C.",
    .options = generate_options,
    .option_count = SPIN_ARRAY_COUNT(generate_options),
    .positional_max = 1,
};

static const struct spin_option chat_options[] = {
    ROUTER_ROWS(struct spin_chat_options),
    SAMPLING_ROWS(struct spin_chat_options, "512", "false"),
};

const struct spin_config_spec spin_chat_config_spec = {
    .program = "spin chat",
    .synopsis = "",
    .about = "Talks with the model: a line is a message, the answer appears as it is made, and\n"
             "the conversation is kept. /help lists what else there is. Ctrl-C stops an answer,\n"
             "Ctrl-D ends the program. When the conversation grows over the model's limit, its\n"
             "oldest turns are forgotten, which is said. --max-tokens is at most half of that\n"
             "limit here. Lines may also come from a pipe; then the first error ends the program.",
    .options = chat_options,
    .option_count = SPIN_ARRAY_COUNT(chat_options),
};

static const struct spin_option status_options[] = {
    ROUTER_ROWS(struct spin_status_options),
    {.name = "requests",
     .type = SPIN_OPTION_BOOL,
     STATUS(requests),
     .default_value = "false",
     NO_RANGE,
     .help =
         "Also prints a line for each request that holds KV, the 32 oldest of a worker and fewer "
         "in a cluster of more than 64: resident, buffered or suspended; budget, mandatory "
         "pages and working set of a layer's KV head."},
    {.name = "watch",
     .type = SPIN_OPTION_BOOL,
     STATUS(watch),
     .default_value = "false",
     NO_RANGE,
     .help = "Draws the tables again every second, until Ctrl-C."},
    {.name = "json",
     .type = SPIN_OPTION_BOOL,
     STATUS(json),
     .default_value = "false",
     NO_RANGE,
     .help = "Prints one JSON object a time instead of tables; requests are in it."},
};

const struct spin_config_spec spin_status_config_spec = {
    .program = "spin status",
    .synopsis = "",
    .about =
        "Prints who is in the cluster, as one router sees it: roles, load, how long\n"
        "ago each member spoke, and its KV: the algorithm that selects pages, how many it found\n"
        "in HBM and fetched from the host, and how full the tiers are.",
    .options = status_options,
    .option_count = SPIN_ARRAY_COUNT(status_options),
};

/* --- stop --- */

spin_status spin_stops_init(struct spin_stops *stops, const char *option, struct spin_error *err)
{
    *stops = (struct spin_stops){.count = 0};
    if (option == NULL) {
        return SPIN_OK;
    }
    stops->bytes = strdup(option);
    if (stops->bytes == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "--stop: %zu bytes", strlen(option));
    }
    spin_status status = SPIN_OK;
    char *text = stops->bytes;
    while (text != NULL && status == SPIN_OK) {
        char *separator = strstr(text, SPIN_STOP_SEPARATOR);
        if (separator != NULL) {
            *separator = '\0';
        }
        if (text[0] == '\0') {
            status = spin_fail(err, SPIN_ERR_INVALID, "--stop: text %u is empty", stops->count + 1);
        } else if (stops->count == SPIN_STOPS_MAX) {
            status = spin_fail(err, SPIN_ERR_LIMIT, "--stop: more than %u texts", SPIN_STOPS_MAX);
        } else {
            stops->texts[stops->count++] = text;
        }
        text = separator == NULL ? NULL : separator + strlen(SPIN_STOP_SEPARATOR);
    }
    if (status != SPIN_OK) {
        spin_stops_deinit(stops);
    }
    return status;
}

void spin_stops_deinit(struct spin_stops *stops)
{
    free(stops->bytes);
    *stops = (struct spin_stops){.count = 0};
}
