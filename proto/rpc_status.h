/* rpc_status: our status codes and gRPC's, in one table.
 *
 * Why        A handler decides a spin_status; the wire knows sixteen codes. Both directions come
 *            from the same rows, so they cannot disagree.
 * Threading  Any thread; pure.
 * Errors     None: an unknown code from a peer is INTERNAL. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

/* X(name, wire value); the values are gRPC's. */
#define SPIN_RPC_CODE_MAP(X) \
    X(OK, 0) \
    X(CANCELLED, 1) \
    X(UNKNOWN, 2) \
    X(INVALID_ARGUMENT, 3) \
    X(DEADLINE_EXCEEDED, 4) \
    X(NOT_FOUND, 5) \
    X(ALREADY_EXISTS, 6) \
    X(PERMISSION_DENIED, 7) \
    X(RESOURCE_EXHAUSTED, 8) \
    X(FAILED_PRECONDITION, 9) \
    X(ABORTED, 10) \
    X(OUT_OF_RANGE, 11) \
    X(UNIMPLEMENTED, 12) \
    X(INTERNAL, 13) \
    X(UNAVAILABLE, 14) \
    X(DATA_LOSS, 15) \
    X(UNAUTHENTICATED, 16)

#define SPIN_RPC_CODE_ENUM(name, value) SPIN_RPC_##name = (value),
enum spin_rpc_code { SPIN_RPC_CODE_MAP(SPIN_RPC_CODE_ENUM) };
#undef SPIN_RPC_CODE_ENUM

const char *spin_rpc_code_name(enum spin_rpc_code code); /* "INVALID_ARGUMENT" */
enum spin_rpc_code spin_rpc_code_from_status(spin_status status);
spin_status spin_rpc_status_from_code(int code);

SPIN_END_DECLS
