/* digest: BLAKE2b-128 over bytes that come piece by piece.
 *
 * Why        A model's id is a digest of gigabytes that lie scattered in files (model/weights);
 *            block keys, which are short, are hashed in one call (key.h).
 * Ownership  The caller's storage; nothing to free.
 * Threading  One thread at a time per digest.
 * Errors     None. The split into pieces does not change the result. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

#define SPIN_DIGEST_BYTES 16u

struct spin_digest {
    uint8_t state[384] __attribute__((aligned(64))); /* private to digest.c */
};

void spin_digest_init(struct spin_digest *digest);
void spin_digest_update(struct spin_digest *digest, const void *bytes, uint64_t count);
/* The digest must be initialised again before another update. */
void spin_digest_final(struct spin_digest *digest, uint8_t out[SPIN_DIGEST_BYTES]);

/* XXH3-64: many times faster than BLAKE2b, for bytes that change by accident and not by intent. */
uint64_t spin_digest_checksum(const void *bytes, uint64_t count);

SPIN_END_DECLS
