/* backend: where a worker's model runs, by --device and --ops: on a GPU or on the CPU.
 *
 * Why        Asking for a GPU that is not there is an error with its reason; leaving the choice to
 *            the worker is a choice that the log explains. Nothing else in a worker asks.
 * Ownership  The backend owns its stream: whatever lies on the device goes first.
 * Threading  The thread that starts the worker.
 * Errors     INVALID: options that exclude each other. UNSUPPORTED: --device cuda, and something is
 *            missing that the text names: a build with CUDA, a driver, a GPU, code for it or for
 *            the model.
 *            DEVICE_LOST, NO_MEMORY: there is a GPU and it does not work, with auto, too. */
#pragma once

#include "worker/service/options.h"

SPIN_BEGIN_DECLS

struct spin_worker_backend {
    const struct spin_ops *ops;
    struct spin_stream *stream; /* of a GPU; NULL: the CPU, with a stream of the engine's own */
};

SPIN_MUST_USE spin_status spin_worker_backend_open(const struct spin_worker_options *options,
                                                   const struct spin_model *model,
                                                   struct spin_worker_backend *out,
                                                   struct spin_error *err);
void spin_worker_backend_close(struct spin_worker_backend *backend); /* zeros are allowed */

SPIN_END_DECLS
