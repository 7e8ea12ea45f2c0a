/* grpc.health.v1.Health/Check, so that probes and load balancers need nothing of ours. */
#include "proto/rpc_internal.h"
#include "proto/spin/v1/health.pb-c.h"

#include <stdio.h>

static void check(void *context, struct spin_rpc_call *call, const struct ProtobufCMessage *request)
{
    const struct spin_rpc_server *server = context;
    const Grpc__Health__V1__HealthCheckRequest *asked =
        (const Grpc__Health__V1__HealthCheckRequest *)request;
    if (asked->service[0] != '\0' && !spin_rpc_server_has_service(server, asked->service)) {
        struct spin_error err;
        const spin_status status =
            spin_fail(&err, SPIN_ERR_NOT_FOUND, "unknown service \"%.64s\"", asked->service);
        spin_rpc_call_finish(call, status, err.text);
        return;
    }
    Grpc__Health__V1__HealthCheckResponse answer;
    grpc__health__v1__health_check_response__init(&answer);
    answer.status = spin_rpc_server_is_serving(server)
                        ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                        : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
    spin_rpc_call_append(call, &answer.base);
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

void spin_rpc_health_method(struct spin_rpc_method *method)
{
    *method = (struct spin_rpc_method){
        .path = "/grpc.health.v1.Health/Check",
        .request = &grpc__health__v1__health_check_request__descriptor,
        .request_bytes_max = 4096, /* one service name */
        .arena_bytes_max = 64 << 10,
        .outbox_bytes = 256,
        .calls_max = SPIN_RPC_HEALTH_CALLS_MAX,
        .start = check,
    };
}
