#include "router/grpc/inference.h"

#include "router/grpc/inference_internal.h"

#include <stdlib.h>

#define REQUESTS_BYTES_MAX (UINT64_C(256) << 20)

spin_status spin_inference_create(const struct spin_inference_parts *parts,
                                  struct spin_inference **out, struct spin_error *err)
{
    static const struct spin_inference_kind *const kinds[SPIN_INFERENCE_METHODS] = {
        &spin_inference_generate, &spin_inference_tokenize, &spin_inference_detokenize,
        &spin_inference_get_model};
    struct spin_inference *inference = calloc(1, sizeof *inference);
    if (inference == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "inference: %zu bytes", sizeof *inference);
    }
    spin_mutex_init(&inference->mutex);
    inference->parts = *parts;
    if (parts->requests_bytes_max == 0) {
        inference->parts.requests_bytes_max = REQUESTS_BYTES_MAX;
    }
    for (uint32_t i = 0; i < SPIN_INFERENCE_METHODS; i++) {
        inference->lines[i] = (struct spin_inference_line){inference, kinds[i]};
    }
    const spin_status status = spin_inference_scratch_create(&inference->scratch, err);
    if (status != SPIN_OK) {
        spin_inference_destroy(inference);
        return status;
    }
    *out = inference;
    return SPIN_OK;
}

void spin_inference_destroy(struct spin_inference *inference)
{
    if (inference != NULL) {
        spin_inference_scratch_destroy(inference->scratch);
        spin_mutex_deinit(&inference->mutex);
        free(inference);
    }
}

void spin_inference_methods(struct spin_inference *inference,
                            struct spin_rpc_method methods[SPIN_INFERENCE_METHODS])
{
    for (uint32_t i = 0; i < SPIN_INFERENCE_METHODS; i++) {
        methods[i] = inference->lines[i].kind->method;
        methods[i].state_bytes = spin_inference_call_state_bytes();
        methods[i].context = &inference->lines[i];
        methods[i].start = spin_inference_call_start;
        methods[i].gone = spin_inference_call_gone;
    }
}
