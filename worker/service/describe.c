/* Describe: who this worker is, what it can hold, how busy it is. */
#include "base/version.h"
#include "worker/service/service_internal.h"

#include <string.h>

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
}

void spin_describe_start(void *context, struct spin_rpc_call *call,
                         const struct ProtobufCMessage *request)
{
    (void)request; /* it has no fields */
    const struct spin_service *service = context;
    const struct spin_service_identity *identity = spin_service_get_identity(service);
    const struct spin_engine_config *config = spin_engine_get_config(identity->engine);
    struct spin_engine_load engine_load;
    spin_engine_get_load(identity->engine, &engine_load);

    Spin__V1__Peer peer;
    spin__v1__peer__init(&peer);
    peer.id = borrow_text(identity->peer_id);
    peer.incarnation = identity->incarnation;
    peer.grpc_address = borrow_text(identity->address);
    Spin__V1__ModelIdentity model;
    fill_model(&model, identity, config);
    Spin__V1__WorkerCapacity capacity;
    spin__v1__worker_capacity__init(&capacity);
    capacity.sequences_max = config->max_num_seqs;
    capacity.queue_max = config->max_waiting;
    capacity.kv_tokens = engine_load.kv_tokens;
    capacity.kv_device_bytes = config->kv_bytes;
    Spin__V1__WorkerLoad load;
    fill_load(&load, &engine_load);

    Spin__V1__DescribeResponse response;
    spin__v1__describe_response__init(&response);
    response.peer = &peer;
    response.model = &model;
    response.role = borrow_text("unified");
    response.capacity = &capacity;
    response.load = &load;
    response.version = borrow_text(SPIN_VERSION);
    response.backend = borrow_text(config->ops->name);
    response.algorithm = borrow_text("dense");
    response.draining = spin_service_is_draining(service);
    spin_rpc_call_append(call, &response.base);
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}
