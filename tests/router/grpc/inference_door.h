/* inference_door: the gRPC door in a test's process, a client before it and a dispatcher of the
 * test's own behind it.
 *
 * Why        The functions of the dispatcher are defined here, so the linker takes no others: a
 *            test sees every request and decides when deltas and ends come.
 * Ownership  set_up makes a struct door, tear_down ends it; every call must be over by then.
 * Threading  The test's thread is the loop's: it runs while the test waits. A reply is written by
 *            the rpc thread and may be read when the call is over.
 * Errors     None: they fail the test. */
#pragma once

#include "base/clock.h"
#include "base/mutex.h"
#include "proto/rpc_client.h"
#include "proto/spin/v1/inference.pb-c.h"
#include "router/grpc/inference.h"
#include "router/metrics.h"

SPIN_BEGIN_DECLS

#define DOOR_GENERATIONS 256u
#define DOOR_TEXT_BYTES_MAX (1u << 20)
#define DOOR_MODEL_LEN (4u << 20)
#define DOOR_REQUESTS_BYTES_MAX (12u << 20)

struct spin_generation {
    struct spin_generation_sink sink;
    char id[SPIN_GENERATION_ID_BYTES];
    Spin__V1__Sampling sampling; /* its numbers */
    uint32_t prompt_count;
    int32_t prompt_last;
    uint32_t stop_count;
    uint64_t deadline_ns;
    bool return_tokens;
    bool open;
};

struct spin_dispatcher {
    struct spin_generation generations[DOOR_GENERATIONS];
    uint32_t submitted;
    uint32_t cancelled;
    uint32_t refuse_at;
    spin_status refusal;
    struct spin_generation_limits limits;
    struct spin_members *members;
};

struct reply { /* of one call; `mutex` guards it */
    struct spin_mutex mutex;
    struct spin_rpc_client_call *call;
    char *text; /* of answer 0 */
    uint64_t text_bytes;
    uint32_t indexes; /* a bit for each answer heard of */
    uint32_t ids;     /* messages with a request id */
    char id[SPIN_GENERATION_ID_BYTES];
    uint32_t tokens;
    uint32_t prompt;
    uint64_t sum; /* of ids of tokens and alternatives, to see that all came, in order */
    uint32_t endings;
    Spin__V1__FinishReason reason;
    int32_t stop_token;
    uint32_t recoveries;
    uint32_t model_len;
    uint32_t finished;
    enum spin_rpc_code code;
    char error[240];
};

struct door {
    struct spin_loop *loop;
    struct spin_tokenizer *tokenizer;
    struct spin_tenants *tenants;
    struct spin_metrics *metrics;
    struct spin_dispatcher dispatcher;
    struct spin_inference *inference;
    struct spin_rpc_method methods[SPIN_INFERENCE_METHODS];
    struct spin_rpc_server *server;
    struct spin_rpc_thread *thread;
    struct spin_rpc_client *client;
    struct spin_rpc_client *stranger; /* bears another key */
    struct spin_timer *watch;
    bool (*condition)(struct door *door);
    uint64_t give_up_ns;
    bool gave_up;
    struct reply reply;
};

struct asking {
    const char *method;
    const struct ProtobufCMessage *message;
    const struct ProtobufCMessageDescriptor *response;
    void (*answered)(void *context, const struct ProtobufCMessage *message);
    struct spin_rpc_client *client;
};

/* A request with its parts, to be changed before it is sent. */
struct request {
    Spin__V1__InferenceRequest message;
    Spin__V1__Prompt prompt;
    Spin__V1__Sampling sampling;
    char text[16];
};

int spin_door_set_up(void **state);
int spin_door_tear_down(void **state);
void spin_door_run_until(struct door *door, bool (*condition)(struct door *door));
/* A condition: something was submitted, or the call ended without. */
bool spin_door_has_submitted(struct door *door);

/* The client's side: one call at a time. */
void spin_door_ask(struct door *door, const struct asking *asking);
void spin_door_generate(struct door *door, const Spin__V1__InferenceRequest *message);
void spin_door_on_response(void *context, const struct ProtobufCMessage *message);
/* Until both sides have seen its end. */
void spin_door_wait_over(struct door *door);
Spin__V1__InferenceRequest *spin_door_fill(struct request *request, const char *text);
uint64_t spin_door_add(uint64_t sum, int32_t token);

/* The dispatcher's side. */
void spin_door_end(struct spin_generation *generation, const struct spin_generation_end *end);
double spin_door_metric(const struct door *door, enum spin_router_metric metric);

SPIN_END_DECLS
