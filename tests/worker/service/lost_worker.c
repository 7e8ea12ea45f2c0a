/* spin-worker, whose device is lost in the middle of its work: LOST_AFTER operations of attention
 * go well, the next one fails, as a GPU's would.
 *
 * Linked with --wrap=spin_worker_backend_open: everything else is the real program. */
#include "worker/service/backend.h"
#include "worker/service/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

spin_status __wrap_spin_worker_backend_open(const struct spin_worker_options *options,
                                            const struct spin_model *model,
                                            struct spin_worker_backend *out,
                                            struct spin_error *err);

static struct spin_ops ops;
static uint64_t calls_left; /* the engine's thread only, once it runs */

static spin_status attention(const struct spin_attention_args *args, struct spin_stream *stream)
{
    if (calls_left == 0) {
        return SPIN_ERR_DEVICE_LOST;
    }
    calls_left--;
    return spin_ops_ref.attention(args, stream);
}

spin_status __wrap_spin_worker_backend_open(const struct spin_worker_options *options,
                                            const struct spin_model *model,
                                            struct spin_worker_backend *out, struct spin_error *err)
{
    (void)options;
    (void)model;
    const char *after = getenv("LOST_AFTER");
    if (after == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "LOST_AFTER is not set");
    }
    calls_left = strtoull(after, NULL, 10);
    ops = spin_ops_ref;
    ops.name = "lost";
    ops.attention = attention;
    *out = (struct spin_worker_backend){.ops = &ops};
    return SPIN_OK;
}

int main(int argc, char **argv)
{
    struct spin_worker_options options = {0};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    if (spin_config_load(&spin_worker_config_spec, argc, argv, environ, &options, &values,
                         &exit_now, &err) != SPIN_OK) {
        (void)fprintf(stderr, "lost_worker: %s\n", err.text);
        return 2;
    }
    const int code = spin_worker_process_run(&options, values);
    spin_config_values_destroy(values);
    return code;
}
