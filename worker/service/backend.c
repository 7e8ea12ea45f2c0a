#include "worker/service/backend.h"

#include "base/assert.h"
#include "base/log.h"

/* As --ops. */
enum ops_choice { OPS_AUTO, OPS_CPU, OPS_REF };
/* As --device. */
enum device_choice { DEVICE_AUTO, DEVICE_CUDA, DEVICE_CPU };

/* The first GPU that the process sees: CUDA_VISIBLE_DEVICES says which that is. */
#define GPU_ORDINAL 0u

static spin_status open_cpu(const struct spin_worker_options *options,
                            struct spin_worker_backend *out, struct spin_error *err)
{
    const struct spin_ops *best = spin_ops_best_cpu();
    if (options->ops == OPS_CPU && best != &spin_ops_cpu) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "--ops cpu: this processor lacks AVX2 or FMA; use --ops ref");
    }
    *out = (struct spin_worker_backend){.ops = options->ops == OPS_REF ? &spin_ops_ref : best};
    return SPIN_OK;
}

static spin_status open_cuda(const struct spin_model *model, struct spin_worker_backend *out,
                             struct spin_error *err)
{
    SPIN_TRY(spin_engine_check_model(&spin_ops_cuda, model, err));
    *out = (struct spin_worker_backend){.ops = &spin_ops_cuda};
    return spin_stream_create_cuda(GPU_ORDINAL, &out->stream, err);
}

/* Only what a GPU cannot do leads to the CPU; one that should work and does not is an error. */
static spin_status open_any(const struct spin_worker_options *options,
                            const struct spin_model *model, struct spin_worker_backend *out,
                            struct spin_error *err)
{
    struct spin_error why = {0};
    const spin_status status = open_cuda(model, out, &why);
    if (status == SPIN_OK) {
        SPIN_INFO("device: %s (--device auto takes a GPU where there is one)",
                  spin_device_name(out->stream));
        return SPIN_OK;
    }
    if (status != SPIN_ERR_UNSUPPORTED) {
        return spin_fail(err, status, "%s (--device cpu does without)", why.text);
    }
    SPIN_INFO("device: CPU (--device auto: %s)", why.text);
    return open_cpu(options, out, err);
}

spin_status spin_worker_backend_open(const struct spin_worker_options *options,
                                     const struct spin_model *model,
                                     struct spin_worker_backend *out, struct spin_error *err)
{
    SPIN_ASSERT_LE(options->device, DEVICE_CPU);
    SPIN_ASSERT_LE(options->ops, OPS_REF);
    if (options->device == DEVICE_CUDA && options->ops != OPS_AUTO) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--device cuda: a GPU has operations of its own; --ops is for the CPU");
    }
    if (options->device == DEVICE_CUDA) {
        struct spin_error why = {0};
        const spin_status status = open_cuda(model, out, &why);
        return status == SPIN_OK ? SPIN_OK : spin_fail(err, status, "--device cuda: %s", why.text);
    }
    if (options->device == DEVICE_CPU || options->ops != OPS_AUTO) {
        return open_cpu(options, out, err);
    }
    return open_any(options, model, out, err);
}

void spin_worker_backend_close(struct spin_worker_backend *backend)
{
    spin_stream_destroy(backend->stream);
    *backend = (struct spin_worker_backend){0};
}
