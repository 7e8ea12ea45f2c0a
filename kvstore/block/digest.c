#include "kvstore/block/digest.h"

#include "base/assert.h"

#include <sodium.h>
#include <xxhash.h>

_Static_assert(sizeof(crypto_generichash_state) <= sizeof(struct spin_digest),
               "the state must fit into the caller's storage");

static crypto_generichash_state *state(struct spin_digest *digest)
{
    return (crypto_generichash_state *)(void *)digest->state;
}

void spin_digest_init(struct spin_digest *digest)
{
    /* Picks the AVX2 code, which is twice as fast; does nothing after the first time. */
    SPIN_ASSERT(sodium_init() >= 0);
    SPIN_ASSERT_EQ(crypto_generichash_init(state(digest), NULL, 0, SPIN_DIGEST_BYTES), 0);
}

void spin_digest_update(struct spin_digest *digest, const void *bytes, uint64_t count)
{
    SPIN_ASSERT_EQ(crypto_generichash_update(state(digest), bytes, count), 0);
}

void spin_digest_final(struct spin_digest *digest, uint8_t out[SPIN_DIGEST_BYTES])
{
    SPIN_ASSERT_EQ(crypto_generichash_final(state(digest), out, SPIN_DIGEST_BYTES), 0);
}

uint64_t spin_digest_checksum(const void *bytes, uint64_t count)
{
    return XXH3_64bits(bytes, count);
}
