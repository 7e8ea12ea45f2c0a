/* Keys against Python's hashlib, which is another implementation of BLAKE2b, and checksums against
 * the test vectors of the xxHash project. The constants below are what this printed:
 *
 *     import hashlib, struct
 *     def blake(data, size, key=b""):
 *         return hashlib.blake2b(data, digest_size=size, key=key).digest()
 *     salt = blake(b"tenant-a", 32, b"correct horse battery staple")
 *     layout = b"SPKV" + struct.pack("<HBBIIIHH", 1, 1, 1, 32, 8, 128, 8, 128)
 *     start = b"spin-kv-1" + bytes(range(16)) + layout
 *     root = blake(start + struct.pack("<III", 1, 0, 0), 16, salt)
 *     decode = blake(start + struct.pack("<III", 2, 3, 2048), 16, salt)
 *     key = root
 *     for i in range(3):
 *         tokens = [(i * 128 + j) * 2654435761 % 2**32 for j in range(128)]
 *         key = blake(key + struct.pack("<128I", *tokens), 16, salt)
 *         print(key.hex())
 *     print(salt.hex(), root.hex(), decode.hex())
 *     print(blake(b"tenant-a", 32, blake(bytes(range(100)), 64)).hex(), blake(b"", 32).hex())
 *     print(blake(b"/cluster", 32, b"correct horse battery staple").hex())
 */
#include "kvstore/block/key.h"

#include "tests/spin_test.h"

static const struct spin_kv_layout layout = {32, 8, 128, SPIN_KV_BF16, SPIN_SWIZZLE_XOR16};
static const struct spin_provenance prefill = {SPIN_PROVENANCE_PREFILL, 0, 0};
static const char secret[] = "correct horse battery staple";

static struct spin_model_id model_id(void)
{
    struct spin_model_id model;
    for (uint32_t i = 0; i < SPIN_MODEL_ID_BYTES; i++) {
        model.bytes[i] = (uint8_t)i;
    }
    return model;
}

static struct spin_salt salt_of(const char *tenant)
{
    return spin_salt_derive((const uint8_t *)secret, sizeof secret - 1, tenant);
}

static void expect_hex(const uint8_t *bytes, uint32_t count, const char *wanted)
{
    char text[65] = "";
    assert_true(count <= 32);
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(text + 2 * (size_t)i, 3, "%02x", bytes[i]);
    }
    assert_string_equal(text, wanted);
}

static void expect_key(const struct spin_block_key *key, const char *wanted)
{
    char text[33];
    spin_block_key_format(key, text);
    assert_string_equal(text, wanted);
    expect_hex(key->bytes, SPIN_BLOCK_KEY_BYTES, wanted);
}

static void test_salts(void **state)
{
    (void)state;
    expect_hex(salt_of("tenant-a").bytes, SPIN_SALT_BYTES,
               "1d790d4e68dd38e2efbb70c75f1fdc95bd02e3fdb1d33cf0d78ec8a5ac4c98ee");
    uint8_t longer[100];
    for (uint32_t i = 0; i < sizeof longer; i++) {
        longer[i] = (uint8_t)i;
    }
    expect_hex(spin_salt_derive(longer, sizeof longer, "tenant-a").bytes, SPIN_SALT_BYTES,
               "dcdd3dcc390161996820437050fd69d94137cc34155bc3c6d21aba0e11aeaf1a");
    expect_hex(spin_salt_derive(NULL, 0, "").bytes, SPIN_SALT_BYTES,
               "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
}

static void test_cluster_token(void **state)
{
    (void)state;
    char token[SPIN_CLUSTER_TOKEN_BYTES];
    spin_cluster_token(secret, token);
    assert_string_equal(token, "9a8d680929f361ac187d189db6f8fcda1b23faa24ae1c599246ea345a4936dab");
}

static void test_chain(void **state)
{
    (void)state;
    static const char *const keys[] = {"c25143ef844ae8e4c8b385fa2a0b0bc5",
                                       "b703f3f07f8976e2d47336b3597acddf",
                                       "5bdc080830022b71cdf4e88449d211ac"};
    const struct spin_salt salt = salt_of("tenant-a");
    const struct spin_model_id model = model_id();
    struct spin_block_key key = spin_block_key_root(&salt, &model, &layout, &prefill);
    expect_key(&key, "76bfc851586e698afe739dc4a55afc09");
    for (uint32_t block = 0; block < SPIN_ARRAY_COUNT(keys); block++) {
        int32_t tokens[SPIN_BLOCK_TOKENS];
        for (uint32_t i = 0; i < SPIN_BLOCK_TOKENS; i++) {
            tokens[i] = (int32_t)((block * SPIN_BLOCK_TOKENS + i) * UINT32_C(2654435761));
        }
        key = spin_block_key_next(&salt, &key, tokens);
        expect_key(&key, keys[block]);
    }
    const struct spin_provenance decode = {SPIN_PROVENANCE_DECODE, 3, 2048};
    key = spin_block_key_root(&salt, &model, &layout, &decode);
    expect_key(&key, "c47429bef9e37e5c18813bde50f352f9");
}

/* Everything that makes a KV is in its name: changing one thing changes every key. */
static void test_every_input_counts(void **state)
{
    (void)state;
    const struct spin_salt salt = salt_of("tenant-a");
    const struct spin_salt other_salt = salt_of("tenant-b");
    const struct spin_model_id model = model_id();
    struct spin_model_id other_model = model;
    other_model.bytes[15] ^= 1;
    struct spin_kv_layout other_layout = layout;
    other_layout.swizzle = SPIN_SWIZZLE_NONE;
    const struct spin_provenance decode = {SPIN_PROVENANCE_DECODE, 0, 0};
    const struct spin_provenance other_algorithm = {SPIN_PROVENANCE_DECODE, 1, 0};
    const struct spin_provenance other_budget = {SPIN_PROVENANCE_DECODE, 0, 1};
    struct spin_block_key keys[10] = {
        spin_block_key_root(&salt, &model, &layout, &prefill),
        spin_block_key_root(&other_salt, &model, &layout, &prefill),
        spin_block_key_root(&salt, &other_model, &layout, &prefill),
        spin_block_key_root(&salt, &model, &other_layout, &prefill),
        spin_block_key_root(&salt, &model, &layout, &decode),
        spin_block_key_root(&salt, &model, &layout, &other_algorithm),
        spin_block_key_root(&salt, &model, &layout, &other_budget),
    };
    int32_t tokens[SPIN_BLOCK_TOKENS] = {0};
    keys[7] = spin_block_key_next(&salt, &keys[0], tokens);
    keys[8] = spin_block_key_next(&other_salt, &keys[0], tokens);
    tokens[SPIN_BLOCK_TOKENS - 1] = 1;
    keys[9] = spin_block_key_next(&salt, &keys[0], tokens);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(keys); i++) {
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(keys); k++) {
            assert_int_equal(spin_block_key_equal(&keys[i], &keys[k]), i == k);
        }
    }
}

static void prefill_with_a_budget(void *argument)
{
    const struct spin_salt salt = salt_of("x");
    const struct spin_model_id model = model_id();
    const struct spin_block_key key = spin_block_key_root(&salt, &model, &layout, argument);
    (void)key;
}

/* One KV must not get two names. */
static void test_impossible_provenance_is_asserted(void **state)
{
    (void)state;
    struct spin_provenance budget = {SPIN_PROVENANCE_PREFILL, 0, 1};
    struct spin_provenance algorithm = {SPIN_PROVENANCE_PREFILL, 1, 0};
    struct spin_provenance nobody = {0};
    assert_true(spin_test_dies(prefill_with_a_budget, &budget, "budget_tokens == 0"));
    assert_true(spin_test_dies(prefill_with_a_budget, &algorithm, "algorithm == 0"));
    assert_true(spin_test_dies(prefill_with_a_budget, &nobody, "provenance->kind"));
}

static const struct {
    uint64_t bytes;
    uint64_t checksum;
} published[] = {
    {0, UINT64_C(0x2D06800538D394C2)},    {1, UINT64_C(0xC44BDFF4074EECDB)},
    {6, UINT64_C(0x27B56A84CD2D7325)},    {12, UINT64_C(0xA713DAF0DFBB77E7)},
    {24, UINT64_C(0xA3FE70BF9D3510EB)},   {48, UINT64_C(0x397DA259ECBA1F11)},
    {80, UINT64_C(0xBCDEFBBB2C47C90A)},   {195, UINT64_C(0xCD94217EE362EC3A)},
    {403, UINT64_C(0xCDEB804D65C6DEA4)},  {512, UINT64_C(0x617E49599013CB6B)},
    {2048, UINT64_C(0xDD59E2C3A5F038E0)}, {2240, UINT64_C(0x6E73A90539CF2948)},
    {2367, UINT64_C(0xCB37AEB9E5D361ED)},
};

static void test_checksums(void **state)
{
    (void)state;
    static uint8_t bytes[2367]; /* the bytes that the vectors are of */
    uint64_t generator = UINT64_C(2654435761);
    for (uint32_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(generator >> 56);
        generator *= UINT64_C(11400714785074694797);
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(published); i++) {
        assert_int_equal(spin_block_layer_checksum(bytes, published[i].bytes),
                         published[i].checksum);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_salts),
        cmocka_unit_test(test_cluster_token),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_every_input_counts),
        cmocka_unit_test(test_impossible_provenance_is_asserted),
        cmocka_unit_test(test_checksums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
