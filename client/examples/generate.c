/* generate: one question, its answer as it is made.
 *
 *     generate HOST:PORT QUESTION
 *
 * The shortest whole program: connect, ask, print, close. */
#include "client/spin_client.h"

#include <stdio.h>

/* Called for every piece of the answer, on the client's thread. */
static bool print_delta(void *context, const struct spin_client_delta *delta)
{
    (void)context;
    (void)fwrite(delta->text, 1, delta->text_bytes, stdout);
    (void)fflush(stdout);
    if (delta->ending != NULL) { /* the last one says how it went */
        (void)fprintf(stderr, "\n%u tokens in, %u out, because of %s\n",
                      delta->ending->prompt_tokens, delta->ending->completion_tokens,
                      delta->ending->reason == SPIN_CLIENT_STOP ? "the model" : "max_tokens");
    }
    return true; /* false would cancel */
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: generate HOST:PORT QUESTION\n");
        return 2;
    }
    struct spin_client_config config = spin_client_config_default();
    config.target = argv[1];

    struct spin_client *client = NULL;
    struct spin_error err = {0};
    if (spin_client_connect(&config, &client, &err) != SPIN_OK) {
        (void)fprintf(stderr, "generate: %s\n", err.text);
        return 1;
    }
    const struct spin_client_message messages[] = {{"user", argv[2]}};
    const struct spin_client_request request = {
        .messages = messages, .message_count = 1, .max_tokens = 64};
    const spin_status status = spin_client_generate(client, &request, print_delta, NULL, &err);
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "generate: %s: %s\n", spin_status_name(status), err.text);
    }
    spin_client_close(client);
    return status == SPIN_OK ? 0 : 1;
}
