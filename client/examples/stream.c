/* stream: several questions at once, without a thread for each, and an end after a deadline.
 *
 *     stream HOST:PORT QUESTION...
 *
 * submit returns at once; the answers come through callbacks, which here collect them. A callback
 * may run before submit has returned, so what it needs is made first. */
#include "client/spin_client.h"

#include <semaphore.h>
#include <stdio.h>
#include <string.h>

#define QUESTIONS_MAX 16
#define TEXT_BYTES 4096
#define DEADLINE_NS UINT64_C(30000000000)

struct answer {
    char text[TEXT_BYTES];
    struct spin_error outcome;
    sem_t *ended; /* counts the answers that have */
};

static bool keep_delta(void *context, const struct spin_client_delta *delta)
{
    struct answer *answer = context; /* one call's callbacks come one at a time: no lock */
    const size_t used = strlen(answer->text);
    if (used + delta->text_bytes >= TEXT_BYTES) {
        return false; /* no room: we want no more of it */
    }
    memcpy(answer->text + used, delta->text, delta->text_bytes);
    answer->text[used + delta->text_bytes] = '\0';
    return true;
}

/* Exactly once for every call that was submitted, whatever happened to it. */
static void note_end(void *context, spin_status status, const char *text)
{
    struct answer *answer = context;
    answer->outcome.status = status;
    (void)snprintf(answer->outcome.text, sizeof answer->outcome.text, "%s", text);
    (void)sem_post(answer->ended);
}

static void ask(struct spin_client *client, const char *question, struct answer *answer)
{
    const struct spin_client_message messages[] = {{"system", "Answer in one sentence."},
                                                   {"user", question}};
    const struct spin_client_request request = {.messages = messages,
                                                .message_count = 2,
                                                .max_tokens = 48,
                                                .temperature = 0.7F,
                                                .seed = 1,
                                                .deadline_ns = DEADLINE_NS};
    const struct spin_client_handlers handlers = {answer, keep_delta, note_end};
    struct spin_client_call *call = NULL;
    struct spin_error err = {0};
    const spin_status status = spin_client_submit(client, &request, &handlers, &call, &err);
    if (status != SPIN_OK) { /* then no callback comes */
        note_end(answer, status, err.text);
    }
    spin_client_call_release(call); /* we shall not cancel it */
}

int main(int argc, char **argv)
{
    const int count = argc - 2;
    if (count < 1 || count > QUESTIONS_MAX) {
        (void)fprintf(stderr, "usage: stream HOST:PORT QUESTION...\n");
        return 2;
    }
    static struct answer answers[QUESTIONS_MAX];
    sem_t ended;
    (void)sem_init(&ended, 0, 0);
    struct spin_client_config config = spin_client_config_default();
    config.target = argv[1];
    struct spin_client *client = NULL;
    struct spin_error err = {0};
    if (spin_client_connect(&config, &client, &err) != SPIN_OK) {
        (void)fprintf(stderr, "stream: %s\n", err.text);
        return 1;
    }
    for (int i = 0; i < count; i++) {
        answers[i].ended = &ended;
        ask(client, argv[2 + i], &answers[i]);
    }
    for (int i = 0; i < count; i++) {
        (void)sem_wait(&ended);
    }
    spin_client_close(client);

    int failed = 0;
    for (int i = 0; i < count; i++) {
        const bool good = answers[i].outcome.status == SPIN_OK;
        (void)printf("%s\n    %s\n", argv[2 + i], good ? answers[i].text : answers[i].outcome.text);
        failed += !good;
    }
    return failed == 0 ? 0 : 1;
}
