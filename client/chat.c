/* spin chat: a conversation, line by line. */
#include "base/clock.h"
#include "client/answer.h"
#include "client/ask.h"
#include "client/commands.h"
#include "client/conversation.h"
#include "client/lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GO_ON (-1) /* not an exit code */

struct chat {
    const struct spin_chat_options *options;
    struct spin_stops stops;
    struct spin_client *client;
    struct spin_client_model model;
    struct spin_interrupt interrupt;
    struct spin_lines lines;
    struct spin_conversation conversation;
    uint32_t max_tokens;
    bool terminal; /* a person types; else errors end the program */
    struct spin_answer *answer;
    struct spin_error refused; /* client's thread: why we wanted no more of the answer */
};

/* --- one turn --- */

static bool on_delta(void *context, const struct spin_client_delta *delta)
{
    struct chat *chat = context;
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    return spin_answer_add(chat->answer, delta, now_ns, &chat->refused) == SPIN_OK;
}

static bool too_long(const struct chat *chat, const struct spin_asked *asked)
{
    return asked->outcome.status == SPIN_ERR_LIMIT && !spin_answer_begun(chat->answer);
}

/* Asks with the whole conversation, or without its oldest turns when it is too long for the model;
 * *out_forgotten: how many. */
static void ask(struct chat *chat, struct spin_client_message *view, struct spin_asked *asked,
                uint32_t *out_forgotten)
{
    struct spin_client_request request = {.messages = view};
    spin_ask_fill(&request, &chat->options->sampling, &chat->stops);
    request.max_tokens = chat->max_tokens;
    const struct spin_asking asking = {chat->client, &chat->interrupt, on_delta, chat};
    uint32_t turns = 0;
    uint32_t count = spin_conversation_view(&chat->conversation, turns, view);
    do {
        *out_forgotten = turns++;
        request.message_count = count;
        spin_ask(&asking, &request, asked);
        count = spin_conversation_view(&chat->conversation, turns, view);
    } while (count > 0 && too_long(chat, asked));
}

/* What the turn leaves behind; GO_ON or an exit code. */
static int conclude(struct chat *chat, const struct spin_asked *asked, uint32_t forgotten)
{
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    const bool written = !spin_answer_begun(chat->answer) ||
                         spin_answer_finish(chat->answer, asked->outcome.status, now_ns);
    const bool keeps = spin_answer_begun(chat->answer) &&
                       (asked->outcome.status == SPIN_OK || asked->interrupted != 0);
    struct spin_error err = {0};
    if (!keeps) {
        spin_conversation_drop_last(&chat->conversation);
    } else if (spin_conversation_add(&chat->conversation, "assistant",
                                     spin_answer_text(chat->answer), &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin chat: %s\n", err.text);
        return SPIN_EXIT_FAILED;
    }
    if (keeps && forgotten > 0) {
        spin_conversation_forget(&chat->conversation, forgotten);
        (void)fprintf(stderr, "(over the model's %u tokens: the oldest %s forgotten)\n",
                      chat->model.max_model_len, forgotten == 1 ? "turn is" : "turns are");
    }
    if (!written || chat->refused.status != SPIN_OK) {
        (void)fprintf(stderr, "spin chat: cannot write to standard output\n");
        return SPIN_EXIT_FAILED;
    }
    if (asked->interrupted != 0) {
        (void)fputs("(stopped)\n", stderr);
        return asked->interrupted == SIGINT ? GO_ON : SPIN_EXIT_INTERRUPTED;
    }
    if (asked->outcome.status != SPIN_OK) {
        spin_complain("spin chat", &chat->options->router, &asked->outcome);
        return chat->terminal ? GO_ON : SPIN_EXIT_FAILED;
    }
    return GO_ON;
}

static int take_turn(struct chat *chat, const char *text)
{
    struct spin_error err = {0};
    const struct spin_answer_config config = {.prints = true,
                                              .keeps = true,
                                              .stats = chat->options->sampling.stats,
                                              .text_out = stdout,
                                              .stats_out = stderr,
                                              .started_ns = spin_now_ns(spin_clock_real())};
    struct spin_client_message *view = NULL;
    int code = SPIN_EXIT_FAILED;
    if (spin_conversation_add(&chat->conversation, "user", text, &err) == SPIN_OK &&
        spin_answer_create(&config, &chat->answer, &err) == SPIN_OK) {
        view = calloc(chat->conversation.count, sizeof *view);
    }
    if (view == NULL) {
        (void)fprintf(stderr, "spin chat: %s\n", err.status == SPIN_OK ? "no memory" : err.text);
    } else {
        struct spin_asked asked;
        uint32_t forgotten = 0;
        ask(chat, view, &asked, &forgotten);
        code = conclude(chat, &asked, forgotten);
    }
    free(view);
    spin_answer_destroy(chat->answer);
    chat->answer = NULL;
    return code;
}

/* --- commands --- */

static int show_help(struct chat *chat, const char *argument)
{
    (void)chat;
    (void)argument;
    (void)fputs("/help           this\n"
                "/reset          forgets the conversation; the system message stays\n"
                "/system TEXT    sets the system message; without a text there is none\n"
                "/quit           ends, as Ctrl-D does; Ctrl-C stops an answer\n"
                "//...           is a message that begins with /\n",
                stderr);
    return GO_ON;
}

static int reset(struct chat *chat, const char *argument)
{
    (void)argument;
    spin_conversation_reset(&chat->conversation);
    return GO_ON;
}

static int set_system(struct chat *chat, const char *argument)
{
    struct spin_error err = {0};
    const char *text = argument[0] == '\0' ? NULL : argument;
    if (spin_conversation_set_system(&chat->conversation, text, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin chat: %s\n", err.text);
        return SPIN_EXIT_FAILED;
    }
    return GO_ON;
}

static int quit(struct chat *chat, const char *argument)
{
    (void)chat;
    (void)argument;
    return SPIN_EXIT_DONE;
}

static int obey(struct chat *chat, const char *line)
{
    static const struct {
        const char *name;
        int (*run)(struct chat *chat, const char *argument);
    } commands[] = {
        {"/help", show_help}, {"/reset", reset}, {"/system", set_system}, {"/quit", quit}};
    const size_t bytes = strcspn(line, " \t");
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(commands); i++) {
        if (strlen(commands[i].name) == bytes && strncmp(line, commands[i].name, bytes) == 0) {
            return commands[i].run(chat, line + bytes + strspn(line + bytes, " \t"));
        }
    }
    (void)fprintf(stderr, "spin chat: unknown command %.*s; /help lists them\n",
                  (int)SPIN_MIN(bytes, 64), line);
    return chat->terminal ? GO_ON : SPIN_EXIT_FAILED;
}

/* --- the conversation --- */

static int take_line(struct chat *chat, const char *line)
{
    if (line[strspn(line, " \t")] == '\0') {
        return GO_ON;
    }
    if (line[0] == '/' && line[1] != '/') {
        return obey(chat, line);
    }
    return take_turn(chat, line[0] == '/' ? line + 1 : line);
}

/* There was no line; GO_ON or an exit code. */
static int explain(const struct chat *chat, const struct spin_error *err, int number)
{
    if (err->status == SPIN_ERR_NOT_FOUND) { /* the end of the input */
        if (chat->terminal) {
            (void)fputc('\n', stderr);
        }
        return SPIN_EXIT_DONE;
    }
    if (err->status == SPIN_ERR_CANCELLED) {
        if (number != SIGINT || !chat->terminal) {
            return SPIN_EXIT_INTERRUPTED;
        }
        (void)fputs("\n(Ctrl-D or /quit ends)\n", stderr);
        return GO_ON;
    }
    (void)fprintf(stderr, "spin chat: %s\n", err->text);
    return err->status == SPIN_ERR_LIMIT && chat->terminal ? GO_ON : SPIN_EXIT_FAILED;
}

static int converse(struct chat *chat)
{
    int code = GO_ON;
    while (code == GO_ON) {
        if (chat->terminal) {
            (void)fputs("> ", stderr);
        }
        struct spin_error err = {0};
        char *line = NULL;
        int number = 0;
        if (spin_lines_next(&chat->lines, &chat->interrupt, &line, &number, &err) == SPIN_OK) {
            code = take_line(chat, line);
        } else {
            code = explain(chat, &err, number);
        }
    }
    return code;
}

static spin_status prepare(struct chat *chat, struct spin_error *err)
{
    const struct spin_chat_options *options = chat->options;
    SPIN_TRY(spin_stops_init(&chat->stops, options->sampling.stop, err));
    SPIN_TRY(spin_ask_open(&options->router, &chat->client, err));
    SPIN_TRY(spin_client_get_model(chat->client, &chat->model, err));
    if (chat->model.chat_format[0] == '\0') {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "%s has no chat format: use spin generate --raw", chat->model.name);
    }
    const uint32_t half = chat->model.max_model_len / 2;
    chat->max_tokens = options->sampling.max_tokens;
    if (half > 0) { /* 0: no worker has joined yet */
        chat->max_tokens = SPIN_MIN(chat->max_tokens, half);
    }
    return spin_conversation_set_system(&chat->conversation, options->sampling.system, err);
}

static int run(const struct spin_chat_options *options)
{
    struct chat chat = {
        .options = options, .lines = {.fd = STDIN_FILENO}, .terminal = isatty(STDIN_FILENO) == 1};
    struct spin_error err = {0};
    int code = SPIN_EXIT_FAILED;
    spin_status status = prepare(&chat, &err);
    if (status == SPIN_OK) {
        status = spin_interrupt_open(&chat.interrupt, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "spin chat: %s\n", err.text);
    } else {
        if (chat.terminal) {
            (void)fprintf(stderr, "%s, %u tokens; /help for help\n", chat.model.name,
                          chat.model.max_model_len);
        }
        code = converse(&chat);
        spin_interrupt_close(&chat.interrupt);
    }
    spin_client_close(chat.client);
    spin_conversation_deinit(&chat.conversation);
    spin_lines_deinit(&chat.lines);
    spin_stops_deinit(&chat.stops);
    return code;
}

int spin_command_chat(int argc, char *const *argv)
{
    struct spin_chat_options options = {.router = {.tls = false}};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = SPIN_EXIT_DONE;
    if (spin_config_load(&spin_chat_config_spec, argc, argv, environ, &options, &values, &exit_now,
                         &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin chat: %s\n", err.text);
        code = SPIN_EXIT_OPTIONS;
    } else if (!exit_now) {
        code = run(&options);
    }
    spin_config_values_destroy(values);
    return code;
}
