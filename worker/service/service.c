#include "worker/service/service.h"

#include "base/address.h"
#include "base/assert.h"
#include "worker/service/service_internal.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* What may wait for a slow reader: 50,000 plain tokens, or 3,500 with 20 alternatives each. */
#define OUTBOX_BYTES SPIN_RPC_MESSAGE_BYTES_MAX
/* Calls that the engine does not count any more while their last bytes are on the way. */
#define ENDING_CALLS_MAX 64u
#define DESCRIBE_CALLS_MAX 256u
/* A packed token takes at least one byte on the wire and four in memory; the rest is small. */
#define GENERATE_ARENA_BYTES (4 * SPIN_RPC_GENERATE_BYTES_MAX + (UINT64_C(1) << 20))

struct spin_service {
    struct spin_service_identity identity;
    struct spin_rpc_method methods[2];
    struct spin_rpc_server *server;
    atomic_bool draining;
};

const struct spin_service_identity *spin_service_get_identity(const struct spin_service *service)
{
    return &service->identity;
}

bool spin_service_is_draining(const struct spin_service *service)
{
    return atomic_load(&service->draining);
}

static void fill_methods(struct spin_service *service, const char *bearer)
{
    const struct spin_engine_config *config = spin_engine_get_config(service->identity.engine);
    service->methods[0] = (struct spin_rpc_method){
        .path = "/spin.v1.Worker/Generate",
        .request = &spin__v1__generate_request__descriptor,
        .request_bytes_max = SPIN_RPC_GENERATE_BYTES_MAX,
        .arena_bytes_max = GENERATE_ARENA_BYTES,
        .outbox_bytes = OUTBOX_BYTES,
        .calls_max = config->max_num_seqs + config->max_waiting + ENDING_CALLS_MAX,
        .state_bytes = spin_generate_state_bytes(),
        .merge = true, /* tokens append; finish comes once */
        .bearer = bearer,
        .start = spin_generate_start,
        .gone = spin_generate_gone,
    };
    service->methods[1] = (struct spin_rpc_method){
        .path = "/spin.v1.Worker/Describe",
        .request = &spin__v1__describe_request__descriptor,
        .request_bytes_max = 4096, /* it has no fields */
        .arena_bytes_max = 64 << 10,
        .outbox_bytes = 64 << 10,
        .calls_max = DESCRIBE_CALLS_MAX,
        .bearer = bearer,
        .start = spin_describe_start,
    };
}

static void fill_layout(struct spin_service_identity *identity)
{
    const struct spin_model_config *model = &identity->model->config;
    const struct spin_kv_layout layout = {
        .layers = model->layers,
        .kv_heads = model->kv_heads,
        .head_dim = model->head_dim,
        .dtype = SPIN_KV_BF16,
        .swizzle = spin_engine_get_config(identity->engine)->ops->swizzle};
    spin_kv_layout_encode(&layout, identity->kv_layout);
}

static spin_status draw_incarnation(uint64_t *out, struct spin_error *err)
{
    uint64_t drawn = 0;
    if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn) {
        return spin_fail_errno(err, SPIN_ERR_INTERNAL, "no random bytes for the incarnation");
    }
    *out = drawn;
    return SPIN_OK;
}

/* The bound port under a host that can be dialled from here, and under the one that others dial. */
static spin_status fill_addresses(struct spin_service *service,
                                  const struct spin_service_config *config, struct spin_error *err)
{
    struct spin_service_identity *identity = &service->identity;
    const uint32_t port = spin_rpc_server_port(service->server);
    spin_address_local(config->listen, port, identity->address);
    const char *advertise = config->advertise != NULL ? config->advertise : identity->address;
    struct spin_address given;
    struct spin_error why;
    if (spin_address_split(advertise, &given, &why) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_INVALID, "--advertise-address: %s", why.text);
    }
    const unsigned long given_port = strtoul(given.port, NULL, 10);
    spin_address_format(given.host, given_port == 0 ? port : (uint32_t)given_port,
                        identity->advertised);
    return SPIN_OK;
}

spin_status spin_service_create(const struct spin_service_config *config, struct spin_service **out,
                                struct spin_error *err)
{
    struct spin_service *service = calloc(1, sizeof *service);
    if (service == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "service: %zu bytes", sizeof *service);
    }
    service->identity = (struct spin_service_identity){
        .model_name = config->model_name,
        .model = config->model,
        .engine = config->engine,
        .metrics = config->metrics,
        .limits = {.vocab = config->model->config.vocab,
                   .end_tokens = config->end_tokens,
                   .end_token_count = config->end_token_count,
                   .sparse = spin_engine_get_config(config->engine)->sparse}};
    fill_layout(&service->identity);
    fill_methods(service, config->bearer);
    const struct spin_rpc_server_config server = {.listen = config->listen,
                                                  .listen_flag = "--listen",
                                                  .methods = service->methods,
                                                  .method_count =
                                                      SPIN_ARRAY_COUNT(service->methods),
                                                  .context = service,
                                                  .tls = config->tls};
    spin_status status;
    SPIN_TRY_GOTO(status, draw_incarnation(&service->identity.incarnation, err), fail);
    SPIN_TRY_GOTO(status, spin_rpc_server_create(&server, &service->server, err), fail);
    SPIN_TRY_GOTO(status, fill_addresses(service, config, err), fail);
    *out = service;
    return SPIN_OK;
fail:
    spin_service_destroy(service);
    return status;
}

const char *spin_service_address(const struct spin_service *service)
{
    return service->identity.address;
}

uint32_t spin_service_calls_max(const struct spin_service *service)
{
    return service->methods[0].calls_max;
}

uint64_t spin_service_outbox_bytes(void)
{
    return OUTBOX_BYTES;
}

spin_status spin_service_start(struct spin_service *service, struct spin_error *err)
{
    SPIN_TRY(spin_rpc_server_start(service->server, err));
    spin_rpc_server_set_serving(service->server, true);
    return SPIN_OK;
}

void spin_service_drain(struct spin_service *service)
{
    atomic_store(&service->draining, true);
    spin_rpc_server_set_serving(service->server, false);
}

void spin_service_stop(struct spin_service *service, uint64_t grace_ns)
{
    spin_rpc_server_stop(service->server, grace_ns);
}

void spin_service_destroy(struct spin_service *service)
{
    if (service != NULL) {
        spin_rpc_server_destroy(service->server);
        free(service);
    }
}

void spin_service_get_stats(const struct spin_service *service, struct spin_rpc_server_stats *out)
{
    spin_rpc_server_get_stats(service->server, out);
}
