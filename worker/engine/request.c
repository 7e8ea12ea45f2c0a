#include "worker/engine/request.h"

const char *spin_finish_reason_name(enum spin_finish_reason reason)
{
    switch (reason) {
    case SPIN_FINISH_STOP:
        return "stop";
    case SPIN_FINISH_LENGTH:
        return "length";
    case SPIN_FINISH_CANCELLED:
        return "cancelled";
    case SPIN_FINISH_DEADLINE:
        return "deadline";
    case SPIN_FINISH_ERROR:
        return "error";
    }
    return "unknown";
}

struct spin_sampling spin_sampling_default(void)
{
    return (struct spin_sampling){.temperature = 0,
                                  .top_p = 1,
                                  .top_k = 0,
                                  .min_p = 0,
                                  .presence_penalty = 0,
                                  .frequency_penalty = 0,
                                  .repetition_penalty = 1,
                                  .seed = 0,
                                  .logit_bias = NULL,
                                  .logit_bias_count = 0};
}
