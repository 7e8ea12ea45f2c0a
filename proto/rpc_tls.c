#include "proto/rpc_internal.h"

spin_status spin_rpc_tls_server_credentials(const struct spin_rpc_tls *tls,
                                            grpc_server_credentials **out, struct spin_error *err)
{
    if (tls->cert_file != NULL || tls->key_file != NULL || tls->ca_file != NULL) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED, "--tls-cert: not supported");
    }
    *out = grpc_insecure_server_credentials_create();
    return SPIN_OK;
}

spin_status spin_rpc_tls_channel_credentials(const struct spin_rpc_tls *tls,
                                             grpc_channel_credentials **out, struct spin_error *err)
{
    if (tls->enabled || tls->ca_file != NULL || tls->cert_file != NULL) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED, "--tls-ca: not supported");
    }
    *out = grpc_insecure_credentials_create();
    return SPIN_OK;
}
