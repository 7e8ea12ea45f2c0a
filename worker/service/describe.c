/* Who this worker is, what it can hold, how busy it is: for Describe and for Join. */
#include "base/assert.h"
#include "base/version.h"
#include "worker/service/service_internal.h"

#include <string.h>

/* What this version is: it does everything. */
#define ROLE "unified"
#define PROTOCOL 1u

static ProtobufCBinaryData borrow_bytes(const uint8_t *bytes, size_t count)
{
    ProtobufCBinaryData data = {.len = count};
    memcpy(&data.data, &bytes, sizeof bytes); /* protobuf-c has no const; it only reads */
    return data;
}

static char *borrow_text(const char *text)
{
    char *borrowed;
    memcpy(&borrowed, &text, sizeof text); /* as above */
    return borrowed;
}

static void fill_model(Spin__V1__ModelIdentity *out, const struct spin_service_identity *identity,
                       const struct spin_engine_config *config)
{
    spin__v1__model_identity__init(out);
    out->name = borrow_text(identity->model_name);
    out->model_id = borrow_bytes(identity->model->id.bytes, sizeof identity->model->id.bytes);
    out->kv_layout = borrow_bytes(identity->kv_layout, sizeof identity->kv_layout);
    out->vocab = identity->limits.vocab;
    out->max_model_len = config->max_model_len;
}

static void fill_load(Spin__V1__WorkerLoad *out, const struct spin_engine_load *load)
{
    spin__v1__worker_load__init(out);
    out->running = load->running;
    out->waiting = load->waiting;
    out->kv_tokens_used = load->kv_tokens_used;
    out->queued_prompt_tokens = load->queued_prompt_tokens;
    out->step_ns = load->step_ns;
    out->prefill_tokens_per_s = load->prefill_tokens_per_s;
    out->preemptions = load->preemptions;
    out->suspensions = load->suspensions;
    out->kv_hits = load->kv_hits;
    out->kv_misses = load->kv_misses;
    out->kv_pages_retrieved = load->kv_pages_retrieved;
    out->kv_evictions = load->kv_evictions;
    out->kv_table_bytes = load->kv_table_bytes;
    out->kv_summary_bytes = load->kv_summary_bytes;
    out->kv_hbm_bytes_used = load->kv_hbm_bytes_used;
    out->kv_host_bytes_used = load->kv_host_bytes_used;
    out->dense_fallbacks = load->dense_fallbacks;
}

static void fill_request(Spin__V1__RequestKv *out, struct spin_engine_request_kv *kv)
{
    spin__v1__request_kv__init(out);
    out->request_id = kv->id;
    out->resident = kv->active && kv->resident;
    out->suspended = !kv->active;
    out->tokens = kv->tokens;
    out->budget_pages = kv->budget_pages;
    out->mandatory_pages = kv->mandatory_pages;
    out->working_set = kv->working_set;
    out->slots = kv->slots;
    out->hits = kv->hits;
    out->misses = kv->misses;
}

void spin_service_fill_hello(const struct spin_service *service, struct spin_service_hello *out)
{
    const struct spin_service_identity *identity = spin_service_get_identity(service);
    const struct spin_engine_config *config = spin_engine_get_config(identity->engine);
    struct spin_engine_load load;
    spin_engine_get_load(identity->engine, &load);

    spin__v1__peer__init(&out->peer);
    out->peer.id = borrow_text(identity->advertised);
    out->peer.incarnation = identity->incarnation;
    out->peer.grpc_address = borrow_text(identity->advertised);
    fill_model(&out->model, identity, config);
    spin__v1__worker_capacity__init(&out->capacity);
    out->capacity.sequences_max = config->max_num_seqs;
    out->capacity.queue_max = config->max_waiting;
    out->capacity.kv_tokens = load.kv_tokens;
    out->capacity.kv_host_bytes = config->kv_host_bytes;
    out->capacity.kv_device_bytes = config->kv_hbm_bytes;
    spin__v1__hello__init(&out->hello);
    out->hello.peer = &out->peer;
    out->hello.kind = SPIN__V1__MEMBER_KIND__MEMBER_WORKER;
    out->hello.role = borrow_text(ROLE);
    out->hello.model = &out->model;
    out->hello.capacity = &out->capacity;
    out->hello.version = borrow_text(SPIN_VERSION);
    out->hello.protocol = PROTOCOL;
    out->hello.algorithm = borrow_text(config->sparse.algorithm->name);
    out->hello.budget_tokens = config->sparse.budget_tokens;
    out->hello.min_context = config->sparse.min_context;
    out->hello.device = borrow_text(spin_engine_get_device(identity->engine));
}

void spin_service_fill_status(const struct spin_service *service, struct spin_service_status *out)
{
    struct spin_engine *engine = spin_service_get_identity(service)->engine;
    struct spin_engine_load load;
    spin_engine_get_load(engine, &load);
    fill_load(&out->load, &load);
    const uint32_t count = spin_engine_get_requests(engine, out->kv, SPIN_SERVICE_REQUESTS_MAX);
    SPIN_ASSERT_LE(count, SPIN_SERVICE_REQUESTS_MAX);
    for (uint32_t i = 0; i < count; i++) {
        fill_request(&out->requests[i], &out->kv[i]);
        out->request_list[i] = &out->requests[i];
    }
    spin__v1__member_status__init(&out->status);
    out->status.load = &out->load;
    out->status.draining = spin_service_is_draining(service);
    out->status.role = borrow_text(ROLE);
    out->status.n_requests = count;
    out->status.requests = out->request_list;
}

void spin_describe_start(void *context, struct spin_rpc_call *call,
                         const struct ProtobufCMessage *request)
{
    (void)request; /* it has no fields */
    const struct spin_service *service = context;
    const struct spin_engine *engine = spin_service_get_identity(service)->engine;
    struct spin_service_hello who;
    spin_service_fill_hello(service, &who);
    struct spin_engine_load engine_load;
    Spin__V1__WorkerLoad load;
    spin_engine_get_load(engine, &engine_load);
    fill_load(&load, &engine_load);

    Spin__V1__DescribeResponse response;
    spin__v1__describe_response__init(&response);
    response.peer = &who.peer;
    response.model = &who.model;
    response.role = who.hello.role;
    response.capacity = &who.capacity;
    response.load = &load;
    response.version = who.hello.version;
    response.backend = borrow_text(spin_engine_get_config(engine)->ops->name);
    response.algorithm = who.hello.algorithm;
    response.draining = spin_service_is_draining(service);
    response.budget_tokens = who.hello.budget_tokens;
    response.min_context = who.hello.min_context;
    response.device = who.hello.device;
    spin_rpc_call_append(call, &response.base);
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}
