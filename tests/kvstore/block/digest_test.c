/* Digests of bytes in one piece and in every kind of pieces, against Python's hashlib:
 *
 *     hashlib.blake2b(bytes((i * 131 + i // 256) % 256 for i in range(n)), digest_size=16)
 */
#include "kvstore/block/digest.h"

#include "tests/spin_test.h"

#define BYTES_MAX 100000u

static const struct {
    uint32_t bytes;
    const char *digest;
} answers[] = {
    {0, "cae66941d9efbd404e4d88758ea67670"},      {1, "7025e075d5e2f6cde3cc051a31f07660"},
    {127, "6e922d43002541888d8ef0442898571b"},    {128, "c7952e56c4c9cb1d1513d850a2e48b3b"},
    {129, "32313d61081001b350efdf0b7330c52f"},    {1000, "d0f690703260d48215c0f1126b6da6a7"},
    {100000, "4a417e077750fe93d32a3fec93148478"},
};

static void test_any_split_gives_the_digest(void **state)
{
    (void)state;
    static uint8_t bytes[BYTES_MAX];
    static const uint32_t pieces[] = {1, 7, 64, 128, 4096, BYTES_MAX};
    for (uint32_t i = 0; i < BYTES_MAX; i++) {
        bytes[i] = (uint8_t)(i * 131 + i / 256);
    }
    for (uint32_t a = 0; a < SPIN_ARRAY_COUNT(answers); a++) {
        for (uint32_t p = 0; p < SPIN_ARRAY_COUNT(pieces); p++) {
            struct spin_digest digest;
            spin_digest_init(&digest);
            for (uint32_t at = 0; at < answers[a].bytes; at += pieces[p]) {
                spin_digest_update(&digest, bytes + at, SPIN_MIN(pieces[p], answers[a].bytes - at));
            }
            uint8_t out[SPIN_DIGEST_BYTES];
            spin_digest_final(&digest, out);
            char text[2 * SPIN_DIGEST_BYTES + 1] = "";
            for (uint32_t i = 0; i < SPIN_DIGEST_BYTES; i++) {
                (void)snprintf(text + 2 * (size_t)i, 3, "%02x", out[i]);
            }
            assert_string_equal(text, answers[a].digest);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_any_split_gives_the_digest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
