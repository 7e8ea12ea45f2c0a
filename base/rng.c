#include "base/rng.h"

#include "base/assert.h"

#include <math.h>

/* Multipliers and Weyl increments of Philox4x32 (Salmon et al., table 2 and section 4.3). */
#define MULTIPLIER_0 UINT32_C(0xD2511F53)
#define MULTIPLIER_1 UINT32_C(0xCD9E8D57)
#define WEYL_0 UINT32_C(0x9E3779B9) /* golden ratio */
#define WEYL_1 UINT32_C(0xBB67AE85) /* sqrt(3) - 1 */
#define ROUNDS 10

struct spin_philox_block spin_philox(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t key_0 = (uint32_t)seed;
    uint32_t key_1 = (uint32_t)(seed >> 32);
    struct spin_philox_block x = {
        {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t product_0 = (uint64_t)MULTIPLIER_0 * x.word[0];
        const uint64_t product_1 = (uint64_t)MULTIPLIER_1 * x.word[2];
        x = (struct spin_philox_block){
            {(uint32_t)(product_1 >> 32) ^ x.word[1] ^ key_0, (uint32_t)product_1,
             (uint32_t)(product_0 >> 32) ^ x.word[3] ^ key_1, (uint32_t)product_0}};
        key_0 += WEYL_0;
        key_1 += WEYL_1;
    }
    return x;
}

/* The upper 53 of the 64 bits (high, low), scaled to [0, 1): every value is a multiple of 2^-53. */
static double unit_interval(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

double spin_philox_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    const struct spin_philox_block block = spin_philox(seed, stream, counter);
    return unit_interval(block.word[0], block.word[1]);
}

/* Every draw of the sequential generator takes one whole block, so the n-th draw never depends on
 * what kind the draws before it were. */
static struct spin_philox_block next_block(struct spin_rng *rng)
{
    return spin_philox(rng->seed, rng->stream, rng->counter++);
}

uint32_t spin_rng_u32(struct spin_rng *rng)
{
    return next_block(rng).word[0];
}

uint32_t spin_rng_below(struct spin_rng *rng, uint32_t bound)
{
    SPIN_ASSERT(bound > 0);
    /* Lemire's multiply-shift: of the 2^32 products, the first 2^32 mod bound of each residue are
     * refused, which leaves every result equally likely. */
    const uint32_t refused_below = (0u - bound) % bound;
    for (;;) {
        const uint64_t product = (uint64_t)spin_rng_u32(rng) * bound;
        if ((uint32_t)product >= refused_below) {
            return (uint32_t)(product >> 32);
        }
    }
}

double spin_rng_uniform(struct spin_rng *rng)
{
    const struct spin_philox_block block = next_block(rng);
    return unit_interval(block.word[0], block.word[1]);
}

double spin_rng_normal(struct spin_rng *rng)
{
    const struct spin_philox_block block = next_block(rng);
    const double radius_uniform = 1.0 - unit_interval(block.word[0], block.word[1]); /* (0, 1] */
    const double angle = 2.0 * 3.14159265358979323846 * unit_interval(block.word[2], block.word[3]);
    return sqrt(-2.0 * log(radius_uniform)) * cos(angle);
}
