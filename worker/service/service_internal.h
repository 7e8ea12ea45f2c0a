/* service_internal: what the files of the service share.
 *
 * Why        Generate and Describe are a file each; both look at the same identity.
 * Ownership  The service owns it.
 * Threading  Immutable after create, but `draining`, which is read and set by functions.
 * Errors     None. */
#pragma once

#include "base/address.h"
#include "kvstore/block/layout.h"
#include "worker/service/generate_request.h"
#include "worker/service/service.h"

SPIN_BEGIN_DECLS

struct spin_service_identity {
    const char *model_name;
    const struct spin_model *model;
    struct spin_engine *engine;
    struct spin_metrics *metrics; /* NULL: nobody counts */
    struct spin_generate_limits limits;
    uint8_t kv_layout[SPIN_KV_LAYOUT_WIRE_BYTES];
    uint64_t incarnation;                     /* random: a restart is another one */
    char address[SPIN_ADDRESS_TEXT_BYTES];    /* to be dialled from this machine */
    char advertised[SPIN_ADDRESS_TEXT_BYTES]; /* by others; the same after a restart: our id */
};

const struct spin_service_identity *spin_service_get_identity(const struct spin_service *service);

/* generate.c. The context of every handler is the service. */
uint32_t spin_generate_state_bytes(void);
void spin_generate_start(void *context, struct spin_rpc_call *call,
                         const struct ProtobufCMessage *request);
void spin_generate_gone(void *context, struct spin_rpc_call *call);

/* describe.c */
void spin_describe_start(void *context, struct spin_rpc_call *call,
                         const struct ProtobufCMessage *request);

SPIN_END_DECLS
