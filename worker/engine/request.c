#include "worker/engine/request.h"

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
