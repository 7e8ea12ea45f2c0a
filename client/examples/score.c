/* score: how likely a model finds a text, token by token; nothing is generated.
 *
 *     score HOST:PORT TEXT
 *
 * Prints id and log probability of every token but the first, which nothing comes before, and the
 * perplexity of them all. */
#include "client/spin_client.h"

#include <math.h>
#include <stdio.h>

struct score {
    double sum;
    int count;
};

static bool add_tokens(void *context, const struct spin_client_delta *delta)
{
    struct score *score = context;
    for (uint32_t i = 0; i < delta->prompt_count; i++) {
        const struct spin_client_token *token = &delta->prompt[i];
        if (!isnan(token->logprob)) {
            (void)printf("%8d %10.5f\n", token->token, (double)token->logprob);
            score->sum += (double)token->logprob;
            score->count++;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: score HOST:PORT TEXT\n");
        return 2;
    }
    struct spin_client_config config = spin_client_config_default();
    config.target = argv[1];
    struct spin_client *client = NULL;
    struct spin_error err = {0};
    if (spin_client_connect(&config, &client, &err) != SPIN_OK) {
        (void)fprintf(stderr, "score: %s\n", err.text);
        return 1;
    }
    const struct spin_client_request request = {
        .text = argv[2], .prompt_logprobs = true, .score_only = true};
    struct score score = {.sum = 0};
    const spin_status status = spin_client_generate(client, &request, add_tokens, &score, &err);
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "score: %s: %s\n", spin_status_name(status), err.text);
    } else if (score.count > 0) {
        (void)printf("perplexity %.4f\n", exp(-score.sum / score.count));
    }
    spin_client_close(client);
    return status == SPIN_OK ? 0 : 1;
}
