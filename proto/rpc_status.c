#include "proto/rpc_status.h"

/* Read downwards: the first row with a status gives its code, the first row with a code its
 * status. */
static const struct {
    spin_status status;
    enum spin_rpc_code code;
} rows[] = {
    {SPIN_OK, SPIN_RPC_OK},
    {SPIN_ERR_CANCELLED, SPIN_RPC_CANCELLED},
    {SPIN_ERR_DEADLINE, SPIN_RPC_DEADLINE_EXCEEDED},
    {SPIN_ERR_NOT_FOUND, SPIN_RPC_NOT_FOUND},
    {SPIN_ERR_INVALID, SPIN_RPC_INVALID_ARGUMENT},
    /* Wrong for this server's limits, right for another's: a router may try elsewhere. */
    {SPIN_ERR_LIMIT, SPIN_RPC_OUT_OF_RANGE},
    {SPIN_ERR_EXHAUSTED, SPIN_RPC_RESOURCE_EXHAUSTED},
    {SPIN_ERR_NO_MEMORY, SPIN_RPC_RESOURCE_EXHAUSTED},
    {SPIN_ERR_UNSUPPORTED, SPIN_RPC_UNIMPLEMENTED},
    {SPIN_ERR_CORRUPT, SPIN_RPC_DATA_LOSS},
    /* What we deny over the wire is always a token. */
    {SPIN_ERR_DENIED, SPIN_RPC_UNAUTHENTICATED},
    {SPIN_ERR_PEER_MISMATCH, SPIN_RPC_FAILED_PRECONDITION},
    {SPIN_ERR_INTERNAL, SPIN_RPC_INTERNAL},
    {SPIN_ERR_IO, SPIN_RPC_INTERNAL},
    {SPIN_ERR_DEVICE_LOST, SPIN_RPC_INTERNAL},
    /* All three say "not here, not now"; who receives it only knows that the peer did not serve. */
    {SPIN_ERR_PEER_LOST, SPIN_RPC_UNAVAILABLE},
    {SPIN_ERR_SHUTDOWN, SPIN_RPC_UNAVAILABLE},
    {SPIN_ERR_AGAIN, SPIN_RPC_UNAVAILABLE},
    /* Codes that we never send. */
    {SPIN_ERR_AGAIN, SPIN_RPC_ABORTED},
    {SPIN_ERR_DENIED, SPIN_RPC_PERMISSION_DENIED},
    {SPIN_ERR_INVALID, SPIN_RPC_ALREADY_EXISTS},
    {SPIN_ERR_INTERNAL, SPIN_RPC_UNKNOWN},
};

const char *spin_rpc_code_name(enum spin_rpc_code code)
{
    switch (code) {
#define CODE_NAME(name, value) \
    case SPIN_RPC_##name: \
        return #name;
        SPIN_RPC_CODE_MAP(CODE_NAME)
#undef CODE_NAME
    }
    return "UNKNOWN";
}

enum spin_rpc_code spin_rpc_code_from_status(spin_status status)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        if (rows[i].status == status) {
            return rows[i].code;
        }
    }
    return SPIN_RPC_INTERNAL;
}

spin_status spin_rpc_status_from_code(int code)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        if ((int)rows[i].code == code) {
            return rows[i].status;
        }
    }
    return SPIN_ERR_INTERNAL;
}
