/* rng: Philox4x32-10, a counter-based random generator (Salmon et al., SC 2011).
 *
 * Why        The n-th random number of a request is a pure function of (seed, stream, n), so a
 *            stream that resumes on another worker draws what the first would have drawn, on any
 *            device.
 * Threading  Any thread; values only.
 * Units      A key is (seed, stream); one block is four 32-bit words. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

struct spin_philox_block {
    uint32_t word[4];
};

/* The block at `counter` under key `seed`; `stream` separates users of one seed (it fills the upper
 * half of the 128-bit counter). Matches the published test vectors. */
struct spin_philox_block spin_philox(uint64_t seed, uint64_t stream, uint64_t counter);

/* A uniform double in [0, 1) with 53 bits, from words 0 and 1 of the block at `counter`. */
double spin_philox_uniform(uint64_t seed, uint64_t stream, uint64_t counter);

/* A sequential generator over the same function, for tests, simulations and random weights. */
struct spin_rng {
    uint64_t seed;
    uint64_t stream;
    uint64_t counter;
};
uint32_t spin_rng_u32(struct spin_rng *rng);
/* Uniform in [0, bound), without bias; bound > 0. */
uint32_t spin_rng_below(struct spin_rng *rng, uint32_t bound);
double spin_rng_uniform(struct spin_rng *rng);
/* Standard normal (Box-Muller). */
double spin_rng_normal(struct spin_rng *rng);

SPIN_END_DECLS
