/* place: a model's weights, in the memory and the form that a device's operations read.
 *
 * Why        Files keep weights in many formats and lie in host memory. The operations of a GPU
 *            multiply BF16 in its own memory, so once, before the engine starts, every matrix is
 *            de-quantised to BF16 (rounded to nearest even) and copied there; norms and biases stay
 *            F32. What comes out is a model like any other.
 * Ownership  The placed model owns its memory on the device and nothing of the source, which may be
 *            closed at once. It borrows the stream: close it first.
 * Threading  The thread that opened the model; it starts threads of its own while it converts.
 * Units      Bytes.
 * Errors     NO_MEMORY: the text names what the weights take. DEVICE_LOST. */
#pragma once

#include "kernels/device.h"
#include "model/weights/model.h"

SPIN_BEGIN_DECLS

/* Logs how far it is every few seconds. */
SPIN_MUST_USE spin_status spin_model_place(const struct spin_model *model,
                                           struct spin_stream *stream, struct spin_model **out,
                                           struct spin_error *err);
/* What the placed weights take on the device; pure. */
uint64_t spin_model_placed_bytes(const struct spin_model *model);

SPIN_END_DECLS
