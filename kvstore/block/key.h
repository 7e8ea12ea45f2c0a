/* key: the name of a block of KV, computed from what made it.
 *
 * Why        A block is found by content, so any worker can reuse what another computed and nobody
 *            can be handed somebody else's. The chain is BLAKE2b keyed by the tenant's salt: a
 *            tenant can neither name nor collide with another tenant's blocks.
 * Formula    root  = H_salt("spin-kv-1" | model id | layout descriptor | provenance)
 *            key_i = H_salt(key_{i-1} | tokens [128 i, 128 i + 128) as little-endian int32)
 *            with key_{-1} = root and H_salt = BLAKE2b-128 keyed with the 32-byte salt.
 * Threading  Any thread; pure.
 * Units      A key is 16 bytes; tokens are int32. Only whole blocks have keys.
 * Errors     None; arguments are the caller's to get right (asserted). */
#pragma once

#include "kvstore/block/layout.h"

SPIN_BEGIN_DECLS

#define SPIN_BLOCK_KEY_BYTES 16u
#define SPIN_SALT_BYTES 32u
#define SPIN_MODEL_ID_BYTES 16u

struct spin_block_key {
    uint8_t bytes[SPIN_BLOCK_KEY_BYTES];
};

struct spin_model_id {
    uint8_t bytes[SPIN_MODEL_ID_BYTES];
};

struct spin_salt {
    uint8_t bytes[SPIN_SALT_BYTES];
};

/* Who made the KV: densely prefilled tokens, or tokens decoded under a sparse algorithm, whose K/V
 * differ (D1). */
enum spin_provenance_kind { SPIN_PROVENANCE_PREFILL = 1, SPIN_PROVENANCE_DECODE = 2 };
struct spin_provenance {
    enum spin_provenance_kind kind;
    uint32_t algorithm;     /* DECODE: the algorithm's wire number; PREFILL: 0 */
    uint32_t budget_tokens; /* DECODE: 0 means dense */
};

/* The salt of a tenant: BLAKE2b-256 keyed with the cluster secret over the tenant's name. */
struct spin_salt spin_salt_derive(const uint8_t *secret, uint64_t secret_bytes, const char *tenant);

/* What processes of one cluster show each other (a bearer token): 64 hex digits and a NUL, from the
 * secret under a name that no tenant can have. Salts cannot be computed from it. */
#define SPIN_CLUSTER_TOKEN_BYTES 65u
void spin_cluster_token(const char *secret, char out[SPIN_CLUSTER_TOKEN_BYTES]);

struct spin_block_key spin_block_key_root(const struct spin_salt *salt,
                                          const struct spin_model_id *model,
                                          const struct spin_kv_layout *layout,
                                          const struct spin_provenance *provenance);
/* `tokens` are the SPIN_BLOCK_TOKENS tokens of the block after `previous`. */
struct spin_block_key spin_block_key_next(const struct spin_salt *salt,
                                          const struct spin_block_key *previous,
                                          const int32_t *tokens);
bool spin_block_key_equal(const struct spin_block_key *a, const struct spin_block_key *b);
/* 32 hex digits and a NUL. */
void spin_block_key_format(const struct spin_block_key *key, char out[33]);

/* The checksum of one layer of a block (kv_heads * 16 tiles): XXH3-64. */
uint64_t spin_block_layer_checksum(const void *bytes, uint64_t count);

SPIN_END_DECLS
