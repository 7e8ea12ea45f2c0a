/* rope_frequencies: the rotation speeds of a model's RoPE, with its scaling folded in.
 *
 * With f_i = base^(-2 i / dim) / divisor_i, i in [0, dim / 2), and wavelength w = 2 pi / f:
 *
 *   linear   f / factor
 *   llama3   w < context / high:  f                    (turns often: trained well, kept)
 *            w > context / low:   f / factor           (never saw a whole turn: interpolated)
 *            between:             (1 - s) f / factor + s f,  s = (context / w - low) / (high - low)
 *   yarn     dim_at(r) = dim ln(context / (2 pi r)) / (2 ln base)   where a pair turns r times
 *            low = floor(dim_at(beta_fast)), high = ceil(dim_at(beta_slow)), inside [0, dim - 1]
 *            ramp = clamp((i - low) / (high - low), 0, 1)
 *            f / factor * ramp + f (1 - ramp);  magnitude = attention_factor
 *
 * Sources: "Extending Context Window of Large Language Models via Positional Interpolation"
 * (2306.15595), the Llama 3.1 model card, "YaRN" (2309.00071), equations 17 to 23. */
#include "base/assert.h"
#include "model/weights/model.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

/* The smallest width of yarn's ramp: keeps the division defined when both ends meet. */
#define RAMP_WIDTH_MIN 0.001

struct ramp {
    double low;
    double high;
};

static double llama3_frequency(const struct spin_rope_config *rope, double frequency)
{
    const double context = (double)rope->original_context;
    const double wavelength = TWO_PI / frequency;
    if (wavelength < context / rope->high_freq_factor) {
        return frequency;
    }
    if (wavelength > context / rope->low_freq_factor) {
        return frequency / rope->factor;
    }
    const double smooth = (context / wavelength - rope->low_freq_factor) /
                          (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

static double yarn_dim_at(const struct spin_rope_config *rope, double rotations)
{
    return (double)rope->dim * log((double)rope->original_context / (rotations * TWO_PI)) /
           (2 * log(rope->base));
}

static struct ramp yarn_ramp(const struct spin_rope_config *rope)
{
    struct ramp ramp;
    ramp.low = fmax(floor(yarn_dim_at(rope, rope->beta_fast)), 0);
    ramp.high = fmin(ceil(yarn_dim_at(rope, rope->beta_slow)), (double)rope->dim - 1);
    if (ramp.high - ramp.low < RAMP_WIDTH_MIN) {
        ramp.high = ramp.low + RAMP_WIDTH_MIN;
    }
    return ramp;
}

static double yarn_frequency(const struct spin_rope_config *rope, const struct ramp *ramp,
                             uint32_t index, double frequency)
{
    const double position = ((double)index - ramp->low) / (ramp->high - ramp->low);
    const double mix = fmin(fmax(position, 0), 1);
    return frequency / rope->factor * mix + frequency * (1 - mix);
}

static double yarn_magnitude(const struct spin_rope_config *rope)
{
    if (rope->attention_factor != 0) {
        return rope->attention_factor;
    }
    return rope->factor > 1 ? 0.1 * log(rope->factor) + 1 : 1;
}

void spin_rope_frequencies(const struct spin_rope_config *rope, double *frequencies,
                           double *magnitude)
{
    SPIN_ASSERT_EQ(rope->dim % 2, 0);
    const bool is_yarn = rope->scaling == SPIN_ROPE_SCALING_YARN;
    const struct ramp ramp = is_yarn ? yarn_ramp(rope) : (struct ramp){0, 1};
    for (uint32_t i = 0; i < rope->dim / 2; i++) {
        double frequency = pow(rope->base, -2.0 * (double)i / (double)rope->dim);
        if (rope->divisors != NULL) {
            frequency /= (double)rope->divisors[i];
        }
        switch (rope->scaling) {
        case SPIN_ROPE_SCALING_NONE:
            break;
        case SPIN_ROPE_SCALING_LINEAR:
            frequency /= rope->factor;
            break;
        case SPIN_ROPE_SCALING_LLAMA3:
            frequency = llama3_frequency(rope, frequency);
            break;
        case SPIN_ROPE_SCALING_YARN:
            frequency = yarn_frequency(rope, &ramp, i, frequency);
            break;
        }
        frequencies[i] = frequency;
    }
    *magnitude = is_yarn ? yarn_magnitude(rope) : 1;
}
