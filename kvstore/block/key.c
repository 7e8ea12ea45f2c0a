#include "kvstore/block/key.h"

#include "base/assert.h"

#include <sodium.h>
#include <string.h>
#include <xxhash.h>

/* What roots start with, without its NUL; the digit changes when anything under the keys does. */
static const char root_label[] = "spin-kv-1";
#define ROOT_LABEL_BYTES (sizeof root_label - 1)

/* Provenance as it is hashed: kind, algorithm, budget, each u32 little endian. */
#define PROVENANCE_BYTES 12u

/* What is hashed; docs/kv-layout.md has the tables. */
#define ROOT_BYTES \
    (ROOT_LABEL_BYTES + SPIN_MODEL_ID_BYTES + SPIN_KV_LAYOUT_WIRE_BYTES + PROVENANCE_BYTES)
#define NEXT_BYTES (SPIN_BLOCK_KEY_BYTES + SPIN_BLOCK_TOKENS * sizeof(int32_t))
_Static_assert(ROOT_BYTES == 61, "a root hashes 61 bytes");
_Static_assert(NEXT_BYTES == 528, "a key hashes 528 bytes");

_Static_assert(SPIN_SALT_BYTES <= crypto_generichash_blake2b_KEYBYTES_MAX, "a salt is a key");
_Static_assert(SPIN_BLOCK_KEY_BYTES >= crypto_generichash_blake2b_BYTES_MIN, "16 bytes or more");

static void put_u32(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)value;
    out[1] = (uint8_t)(value >> 8);
    out[2] = (uint8_t)(value >> 16);
    out[3] = (uint8_t)(value >> 24);
}

/* BLAKE2b needs no sodium_init: without it the portable code runs, which is fast enough for one
 * hash per 128 tokens. */
static struct spin_block_key keyed_hash(const struct spin_salt *salt, const uint8_t *bytes,
                                        uint64_t count)
{
    struct spin_block_key key;
    SPIN_ASSERT_EQ(crypto_generichash_blake2b(key.bytes, sizeof key.bytes, bytes, count,
                                              salt->bytes, sizeof salt->bytes),
                   0);
    return key;
}

struct spin_salt spin_salt_derive(const uint8_t *secret, uint64_t secret_bytes, const char *tenant)
{
    /* BLAKE2b keys end at 64 bytes; a longer secret is hashed into one, as HMAC does. */
    uint8_t folded[crypto_generichash_blake2b_KEYBYTES_MAX];
    if (secret_bytes > sizeof folded) {
        SPIN_ASSERT_EQ(
            crypto_generichash_blake2b(folded, sizeof folded, secret, secret_bytes, NULL, 0), 0);
        secret = folded;
        secret_bytes = sizeof folded;
    }
    struct spin_salt salt;
    SPIN_ASSERT_EQ(crypto_generichash_blake2b(salt.bytes, sizeof salt.bytes,
                                              (const uint8_t *)tenant, strlen(tenant), secret,
                                              secret_bytes),
                   0);
    sodium_memzero(folded, sizeof folded);
    return salt;
}

void spin_cluster_token(const char *secret, char out[SPIN_CLUSTER_TOKEN_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    /* Names of tenants have no slash (router/tenants.h). */
    const struct spin_salt token =
        spin_salt_derive((const uint8_t *)secret, strlen(secret), "/cluster");
    for (uint32_t i = 0; i < sizeof token.bytes; i++) {
        out[2 * i] = digits[token.bytes[i] >> 4];
        out[2 * i + 1] = digits[token.bytes[i] & 15];
    }
    out[2 * sizeof token.bytes] = '\0';
}

struct spin_block_key spin_block_key_root(const struct spin_salt *salt,
                                          const struct spin_model_id *model,
                                          const struct spin_kv_layout *layout,
                                          const struct spin_provenance *provenance)
{
    SPIN_ASSERT(provenance->kind == SPIN_PROVENANCE_PREFILL ||
                provenance->kind == SPIN_PROVENANCE_DECODE);
    if (provenance->kind == SPIN_PROVENANCE_PREFILL) { /* one KV, one name */
        SPIN_ASSERT_EQ(provenance->algorithm, 0);
        SPIN_ASSERT_EQ(provenance->budget_tokens, 0);
    }
    uint8_t bytes[ROOT_BYTES];
    uint8_t *at = bytes;
    memcpy(at, root_label, ROOT_LABEL_BYTES);
    at += ROOT_LABEL_BYTES;
    memcpy(at, model->bytes, sizeof model->bytes);
    at += sizeof model->bytes;
    spin_kv_layout_encode(layout, at);
    at += SPIN_KV_LAYOUT_WIRE_BYTES;
    put_u32(at, (uint32_t)provenance->kind);
    put_u32(at + 4, provenance->algorithm);
    put_u32(at + 8, provenance->budget_tokens);
    return keyed_hash(salt, bytes, sizeof bytes);
}

struct spin_block_key spin_block_key_next(const struct spin_salt *salt,
                                          const struct spin_block_key *previous,
                                          const int32_t *tokens)
{
    uint8_t bytes[NEXT_BYTES];
    memcpy(bytes, previous->bytes, SPIN_BLOCK_KEY_BYTES);
    for (uint32_t i = 0; i < SPIN_BLOCK_TOKENS; i++) {
        put_u32(bytes + SPIN_BLOCK_KEY_BYTES + i * sizeof(int32_t), (uint32_t)tokens[i]);
    }
    return keyed_hash(salt, bytes, sizeof bytes);
}

bool spin_block_key_equal(const struct spin_block_key *a, const struct spin_block_key *b)
{
    return memcmp(a->bytes, b->bytes, SPIN_BLOCK_KEY_BYTES) == 0;
}

void spin_block_key_format(const struct spin_block_key *key, char out[33])
{
    (void)sodium_bin2hex(out, 2 * SPIN_BLOCK_KEY_BYTES + 1, key->bytes, SPIN_BLOCK_KEY_BYTES);
}

uint64_t spin_block_layer_checksum(const void *bytes, uint64_t count)
{
    return XXH3_64bits(bytes, count);
}
