/* api_internal: what the files of this folder share about the server and its open requests.
 *
 * Why        Routes and pages (api.c, pages.c), the life of a request with a body (call.c) and its
 *            generations (completion.c) are apart; this is what they see of each other.
 *
 *            call:  [reading on a pool thread] -> generations submitted -> last one ended -> freed
 *                          \ refused -> freed        \ failed or gone -> closing -> freed
 *
 * Ownership  The api owns its calls; a call its exchange, intake, answers and generations.
 * Threading  The loop's thread only, but for the intake while `reading`.
 * Units      Bytes, nanoseconds. */
#pragma once

#include "base/list.h"
#include "router/http/api.h"
#include "router/http/intake.h"
#include "router/http/openai_reply.h"

SPIN_BEGIN_DECLS

#define SPIN_API_ID_BYTES 48u
/* A whole reply that is collected; a stream has no such limit. */
#define SPIN_API_REPLY_BYTES_MAX (UINT64_C(64) << 20)

struct spin_http_api {
    struct spin_http_api_config config;
    struct spin_http_api_parts parts;
    struct spin_http_server *server;
    struct spin_timer *keep_alive;
    struct spin_list streams; /* of calls that send events */
    uint32_t calls_open;
    bool draining;
    bool server_closed;
    void (*closed)(void *context);
    void *closed_context;
    struct spin_json_writer scratch;        /* one event or page at a time */
    struct spin_http_server_stats reported; /* what the metrics know already */
    char *model_label;                      /* for every metric */
};

/* --- replies (api.c) --- */

struct spin_api_reply {
    int status;
    const char *content_type;
    const char *body;
    uint64_t body_bytes;
    const char *request_id;
    const char *extra_name; /* one more header, or NULL */
    const char *extra_value;
};
void spin_api_respond(struct spin_http_api *api, struct spin_http_exchange *exchange,
                      const struct spin_api_reply *reply);
void spin_api_respond_error(struct spin_http_api *api, struct spin_http_exchange *exchange,
                            const struct spin_openai_error *error, const char *request_id);
void spin_api_count_status(struct spin_http_api *api, int status);
/* The client's x-request-id where it is fit for a log line, else one of our own. */
void spin_api_request_id(const struct spin_http_exchange *exchange, char out[SPIN_API_ID_BYTES]);
/* "<prefix>-" and 32 random hexadecimal digits. */
void spin_api_draw_id(const char *prefix, char out[SPIN_API_ID_BYTES]);
/* After a call is gone: may be the last thing that close waits for. */
void spin_api_call_ended(struct spin_http_api *api);

/* --- pages.c --- */

struct spin_api_page { /* a request without a body */
    struct spin_http_api *api;
    struct spin_http_exchange *exchange;
    const struct spin_http_request *request;
    char request_id[SPIN_API_ID_BYTES];
};
void spin_api_health(const struct spin_api_page *page);
void spin_api_metrics(const struct spin_api_page *page);
void spin_api_config(const struct spin_api_page *page);
void spin_api_models(const struct spin_api_page *page);
void spin_api_model(const struct spin_api_page *page);

/* --- calls (call.c, completion.c) --- */

struct spin_api_answer { /* one generation */
    struct spin_api_call *call;
    struct spin_generation *generation; /* NULL: not submitted, or ended */
    uint32_t index;
    uint32_t prompt_tokens;
    bool begun;                           /* its first chunk is out */
    bool added_bos;                       /* the next prompt token is not in the text */
    uint32_t tokens;                      /* in chunks so far, for usage as it goes */
    uint64_t bytes;                       /* collected */
    struct spin_json_writer text;         /* echo; and, unless streamed, the answer */
    struct spin_openai_logprobs logprobs; /* when asked for */
    const char *finish_reason;            /* NULL: not ended */
};

struct spin_api_call {
    struct spin_loop_work work;
    struct spin_loop_message close_message;
    struct spin_link stream_link;
    struct spin_http_api *api;
    struct spin_http_exchange *exchange;
    struct spin_intake intake; /* its request and prompts go when the generations have them */
    uint32_t tenant;
    uint64_t deadline_ns;
    bool reading;
    bool gone;
    bool closing; /* close_message is posted */
    char request_id[SPIN_API_ID_BYTES];
    struct spin_openai_error error; /* why it is closing */

    struct spin_openai_head head;
    struct spin_api_answer *answers;
    uint32_t answer_count;
    uint32_t answers_open;
    uint32_t n;
    bool chat;
    bool echo;
    bool stream; /* its headers are out */
    bool logprobs;
    bool include_usage;
    bool continuous_usage;
    uint64_t collected_bytes;
    uint64_t written_ns; /* when the client last got something */
    struct spin_openai_usage usage;
};

/* Takes the exchange. */
void spin_api_call_begin(const struct spin_api_page *page, enum spin_openai_endpoint endpoint,
                         uint32_t tenant);
void spin_api_call_gone(struct spin_api_call *call);
/* Ends the exchange with an error, and the call. Not from inside a sink. */
void spin_api_call_refuse(struct spin_api_call *call, const struct spin_openai_error *error);
/* From anywhere: in the loop's next turn what still runs is cancelled, the client is told `error`
 * and the call is freed. */
void spin_api_call_fail(struct spin_api_call *call, const struct spin_openai_error *error);
/* The exchange has ended well. */
void spin_api_call_destroy(struct spin_api_call *call);

/* Submits what the intake holds; ends the call itself when it cannot. */
void spin_api_completion_start(struct spin_api_call *call);
void spin_api_completion_cancel(struct spin_api_call *call);
void spin_api_completion_deinit(struct spin_api_call *call);

SPIN_END_DECLS
