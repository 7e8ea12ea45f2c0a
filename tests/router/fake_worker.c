#include "tests/router/fake_worker.h"

#include "base/clock.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "tests/spin_test.h"

int32_t spin_fake_letter(uint32_t index)
{
    return 'a' + (int32_t)(index % 26);
}

static void append_one(struct spin_rpc_call *call, bool prompt, uint32_t index, uint32_t top_count)
{
    Spin__V1__TokenLogprob top[20];
    Spin__V1__TokenLogprob *tops[20];
    Spin__V1__Token token;
    spin__v1__token__init(&token);
    token.token = spin_fake_letter(index);
    token.logprob = -(float)index;
    for (uint32_t i = 0; i < top_count; i++) {
        spin__v1__token_logprob__init(&top[i]);
        top[i].token = (int32_t)(index + i);
        tops[i] = &top[i];
    }
    token.n_top = top_count;
    token.top = tops;
    Spin__V1__Token *list[1] = {&token};
    Spin__V1__GenerateResponse response;
    spin__v1__generate_response__init(&response);
    *(prompt ? &response.prompt : &response.tokens) = list;
    *(prompt ? &response.n_prompt : &response.n_tokens) = 1;
    spin_rpc_call_append(call, &response.base);
}

static void append_finish(struct spin_rpc_call *call, bool stop, uint32_t prompt_tokens)
{
    Spin__V1__Usage usage;
    Spin__V1__Finish finish;
    Spin__V1__GenerateResponse response;
    spin__v1__usage__init(&usage);
    spin__v1__finish__init(&finish);
    spin__v1__generate_response__init(&response);
    usage.prompt_tokens = prompt_tokens;
    usage.cached_tokens = 5;
    finish.usage = &usage;
    finish.reason =
        stop ? SPIN__V1__FINISH_REASON__FINISH_STOP : SPIN__V1__FINISH_REASON__FINISH_LENGTH;
    finish.stop_token = stop ? 256 : -1;
    response.finish = &finish;
    spin_rpc_call_append(call, &response.base);
}

static struct spin_fake_script note_call(struct spin_fake_worker *worker,
                                         const Spin__V1__GenerateRequest *asked)
{
    spin_mutex_lock(&worker->mutex);
    worker->calls++;
    worker->resumed = (uint32_t)asked->n_resumed_tokens;
    worker->seed = asked->sampling->seed;
    worker->max_tokens = asked->sampling->max_tokens;
    worker->asked_scores = asked->sampling->prompt_logprobs;
    worker->salt_bytes = (uint32_t)asked->salt.len;
    if (asked->salt.len == sizeof worker->salt) {
        memcpy(worker->salt, asked->salt.data, sizeof worker->salt);
    }
    struct spin_fake_script script = worker->script;
    if (worker->script.deaths == 0) {
        script.die_after = SPIN_FAKE_FOREVER;
    } else if (worker->script.deaths != SPIN_FAKE_FOREVER) {
        worker->script.deaths--;
    }
    spin_mutex_unlock(&worker->mutex);
    return script;
}

static void start_generate(void *context, struct spin_rpc_call *call,
                           const struct ProtobufCMessage *request)
{
    const Spin__V1__GenerateRequest *asked = (const Spin__V1__GenerateRequest *)request;
    const struct spin_fake_script script = note_call(context, asked);
    const uint32_t prompt = (uint32_t)asked->n_prompt_tokens;
    const uint32_t first = (uint32_t)asked->n_resumed_tokens;
    const uint32_t scores = asked->sampling->prompt_logprobs ? prompt : 0;
    const uint32_t tops = asked->sampling->top_logprobs;
    for (uint32_t i = 0; i < first; i++) { /* what it is to go on from */
        if (asked->resumed_tokens[i] != spin_fake_letter(i)) {
            spin_rpc_call_finish(call, SPIN_ERR_INVALID, "resumed_tokens are wrong");
            return;
        }
    }
    uint32_t life = script.die_after;
    bool lives = true;
    for (uint32_t i = 0; i < scores && lives; i++) {
        lives = life-- > 0;
        if (lives) {
            append_one(call, true, i, tops);
        }
    }
    bool stop = false;
    for (uint32_t i = first; i < asked->sampling->max_tokens && lives && !stop; i++) {
        stop = i == script.stop_at;
        lives = life-- > 0;
        if (lives && !stop) {
            append_one(call, false, i, tops);
        }
    }
    lives = lives && (life > 0 || script.die_after == SPIN_FAKE_FOREVER);
    if (lives && !script.without_finish) {
        append_finish(call, stop, prompt);
    }
    if (lives) {
        spin_rpc_call_finish(call, SPIN_OK, NULL);
    } else if (!script.hold) {
        spin_rpc_call_finish(call, script.death, "told to");
    } /* else `gone` will */
}

static void gone_generate(void *context, struct spin_rpc_call *call)
{
    struct spin_fake_worker *worker = context;
    spin_mutex_lock(&worker->mutex);
    worker->gone++;
    spin_mutex_unlock(&worker->mutex);
    spin_rpc_call_finish(call, SPIN_ERR_CANCELLED, "gone");
}

void spin_fake_worker_start(struct spin_fake_worker *worker, bool one_by_one)
{
    struct spin_error err;
    spin_mutex_init(&worker->mutex);
    worker->script =
        (struct spin_fake_script){.die_after = SPIN_FAKE_FOREVER, .stop_at = SPIN_FAKE_FOREVER};
    worker->method = (struct spin_rpc_method){.path = "/spin.v1.Worker/Generate",
                                              .request = &spin__v1__generate_request__descriptor,
                                              .request_bytes_max = SPIN_RPC_GENERATE_BYTES_MAX,
                                              .arena_bytes_max = SPIN_RPC_GENERATE_BYTES_MAX,
                                              .outbox_bytes = SPIN_RPC_MESSAGE_BYTES_MAX,
                                              .calls_max = 1000,
                                              .state_bytes = 8,
                                              .context = worker,
                                              .merge = !one_by_one,
                                              .bearer = SPIN_FAKE_TOKEN,
                                              .start = start_generate,
                                              .gone = gone_generate};
    const struct spin_rpc_server_config config = {.listen = "127.0.0.1:0",
                                                  .listen_flag = "--listen",
                                                  .methods = &worker->method,
                                                  .method_count = 1};
    SPIN_EXPECT_OK(spin_rpc_server_create(&config, &worker->server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_server_start(worker->server, &err), &err);
}

void spin_fake_worker_tell(struct spin_fake_worker *worker, struct spin_fake_script script)
{
    spin_mutex_lock(&worker->mutex);
    worker->script = script;
    spin_mutex_unlock(&worker->mutex);
}

uint32_t spin_fake_worker_read(struct spin_fake_worker *worker, const uint32_t *value)
{
    spin_mutex_lock(&worker->mutex);
    const uint32_t count = *value;
    spin_mutex_unlock(&worker->mutex);
    return count;
}

void spin_fake_worker_stop(struct spin_fake_worker *worker)
{
    spin_rpc_server_stop(worker->server, 0);
    spin_rpc_server_destroy(worker->server);
    spin_mutex_deinit(&worker->mutex);
}

struct spin_member *spin_fake_worker_join(struct spin_fake_worker *worker,
                                          struct spin_members *members, const char *id,
                                          uint64_t incarnation)
{
    char name[32];
    char address[64];
    (void)snprintf(name, sizeof name, "%s", id);
    (void)snprintf(address, sizeof address, "127.0.0.1:%u", spin_rpc_server_port(worker->server));
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    Spin__V1__Hello hello;
    spin__v1__peer__init(&peer);
    spin__v1__model_identity__init(&model);
    spin__v1__worker_capacity__init(&capacity);
    spin__v1__hello__init(&hello);
    peer.id = name;
    peer.incarnation = incarnation;
    peer.grpc_address = address;
    model.vocab = 512;
    model.max_model_len = 4096;
    capacity.sequences_max = 64;
    capacity.queue_max = 64;
    hello.peer = &peer;
    hello.model = &model;
    hello.capacity = &capacity;
    hello.kind = SPIN__V1__MEMBER_KIND__MEMBER_WORKER;
    hello.protocol = SPIN_MEMBERS_PROTOCOL;
    struct spin_member *member = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(
        spin_members_join(members, &hello, spin_now_ns(spin_clock_real()), &member, &err), &err);
    return member;
}
