/* A good header is read back; then a table of headers with one thing wrong, each with the status
 * and the words that the error must have; then every prefix. */
#include "model/format/safetensors.h"

#include "tests/model/built_file.h"
#include "tests/model/safetensors_builder.h"
#include "tests/spin_test.h"

#define GOOD \
    "{\"__metadata__\":{\"format\":\"pt\"}," \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]}," \
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}," \
    "\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[20,22]}}    "
#define GOOD_DATA_BYTES 22

static void test_good(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_safetensors *safetensors = NULL;
    struct spin_file_map map = spin_safetensors_builder_make(GOOD, GOOD_DATA_BYTES);
    SPIN_EXPECT_OK(spin_safetensors_open(&map, &safetensors, &err), &err);
    assert_int_equal(spin_safetensors_count(safetensors), 3);

    const struct spin_safetensors_tensor *a = spin_safetensors_find(safetensors, "a");
    const struct spin_safetensors_tensor *b = spin_safetensors_find(safetensors, "b");
    const struct spin_safetensors_tensor *s = spin_safetensors_find(safetensors, "s");
    assert_ptr_equal(a, spin_safetensors_at(safetensors, 0));
    assert_ptr_equal(b, spin_safetensors_at(safetensors, 1));
    assert_string_equal(b->name, "b");
    assert_int_equal(a->dtype, SPIN_DTYPE_F32);
    assert_int_equal(b->dtype, SPIN_DTYPE_BF16);
    assert_int_equal(s->dtype, SPIN_DTYPE_F16);
    assert_int_equal(b->dim_count, 2);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->dims[2], 1);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(s->dim_count, 0);
    assert_int_equal(s->bytes, 2);
    for (uint64_t i = 0; i < b->bytes; i++) {
        assert_int_equal(b->data[i], spin_safetensors_builder_data(8 + i));
    }
    assert_null(spin_safetensors_find(safetensors, "__metadata__"));
    assert_null(spin_safetensors_find(safetensors, "c"));
    spin_safetensors_close(safetensors);
    spin_built_free(&map);
}

struct wrong {
    const char *header;
    uint64_t data_bytes;
    spin_status status;
    const char *words;
};

#define ONE(fields) "{\"t\":{" fields "}}"

static const struct wrong wrongs[] = {
    {"{}", 0, SPIN_OK, ""},
    {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, SPIN_OK, ""},
    {"{}", 1, SPIN_ERR_CORRUPT, "1 bytes behind the last tensor at data offset 0"},
    {" {}", 0, SPIN_ERR_CORRUPT, "does not start with '{'"},
    {"", 0, SPIN_ERR_CORRUPT, "does not start with '{'"},
    {"{", 0, SPIN_ERR_CORRUPT, "header: line 1"},
    {"{} {}", 0, SPIN_ERR_CORRUPT, "header: line 1"},
    {"{\"t\":1,\"t\":2}", 0, SPIN_ERR_CORRUPT, "duplicate"},
    {"{\"t\":[]}", 0, SPIN_ERR_CORRUPT, "tensor 't': its entry is not an object"},
    {"{\"\":{}}", 0, SPIN_ERR_CORRUPT, "a tensor's name"},
    {"{\"a\\nb\":{}}", 0, SPIN_ERR_CORRUPT, "a tensor's name"},
    {"{\"t\xc3\xa9\":{}}", 0, SPIN_ERR_CORRUPT, "a tensor's name"},
    {"{\"t\xff\":{}}", 0, SPIN_ERR_CORRUPT, "header: line 1"},
    {ONE("\"shape\":[1],\"data_offsets\":[0,4]"), 4, SPIN_ERR_CORRUPT, "'dtype' is missing"},
    {ONE("\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]"), 4, SPIN_ERR_INVALID,
     "a string wanted"},
    {ONE("\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]"), 4, SPIN_ERR_UNSUPPORTED,
     "tensor 't': type F8_E4M3"},
    {ONE("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, SPIN_ERR_CORRUPT,
     "'shape' is not an array"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, SPIN_ERR_CORRUPT,
     "'shape'[0] is not an integer"},
    {ONE("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, SPIN_ERR_CORRUPT,
     "'shape'[0] is not an integer"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,4]"), 4, SPIN_ERR_LIMIT,
     "'shape' has 5 elements"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1,0],\"data_offsets\":[0,0]"), 0, SPIN_ERR_UNSUPPORTED,
     "dimension 1 is 0"},
    {ONE("\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]"), 0,
     SPIN_ERR_CORRUPT, "overflows"},
    {ONE("\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,0]"), 0,
     SPIN_ERR_CORRUPT, "header: line 1"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1]"), 4, SPIN_ERR_CORRUPT, "'data_offsets' is not an array"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4, SPIN_ERR_CORRUPT,
     "data_offsets 0 to 0"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4, SPIN_ERR_CORRUPT,
     "data_offsets 4 to 0"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"), 4, SPIN_ERR_CORRUPT,
     "data_offsets 4 to 8 in 4 bytes"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,3]"), 4, SPIN_ERR_CORRUPT,
     "3 bytes at data offset 0, the shape says 4"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]"), 8, SPIN_ERR_CORRUPT,
     "tensor 't': starts at data offset 4, with a hole behind"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 8, SPIN_ERR_CORRUPT,
     "4 bytes behind the last tensor at data offset 4"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"u\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
     12, SPIN_ERR_CORRUPT, "tensor 'u': starts at data offset 4, inside"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"u\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
     8, SPIN_ERR_CORRUPT, "inside the tensor before it"},
};

static void test_headers(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrongs); i++) {
        struct spin_error err = {0};
        struct spin_safetensors *safetensors = NULL;
        struct spin_file_map map =
            spin_safetensors_builder_make(wrongs[i].header, wrongs[i].data_bytes);
        const spin_status status = spin_safetensors_open(&map, &safetensors, &err);
        if (status != wrongs[i].status || strstr(err.text, wrongs[i].words) == NULL) {
            fail_msg("row %u: wanted %s with \"%s\", got %s with \"%s\"", i,
                     spin_status_name(wrongs[i].status), wrongs[i].words, spin_status_name(status),
                     err.text);
        }
        spin_safetensors_close(safetensors);
        spin_built_free(&map);
    }
}

static void test_header_length(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {3, UINT64_C(100) << 20, UINT64_MAX, UINT64_MAX - 7};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(lengths); i++) {
        struct spin_safetensors *safetensors = NULL;
        struct spin_error err = {0};
        struct spin_file_map map = spin_safetensors_builder_make("{}", 0);
        memcpy(spin_built_bytes(&map), &lengths[i], 8);
        SPIN_EXPECT_STATUS(spin_safetensors_open(&map, &safetensors, &err), SPIN_ERR_CORRUPT);
        assert_non_null(strstr(err.text, "in a file of 10"));
        spin_built_free(&map);
    }
}

/* A header of the limit plus one byte that really is there (untouched pages of a sparse
 * allocation). */
static void test_header_limit(void **state)
{
    (void)state;
    const uint64_t header_bytes = SPIN_SAFETENSORS_HEADER_BYTES_MAX + 1;
    uint8_t *bytes = calloc(1, 8 + header_bytes);
    assert_non_null(bytes);
    memcpy(bytes, &header_bytes, 8);
    const struct spin_file_map map = {.bytes = bytes, .count = 8 + header_bytes};
    struct spin_safetensors *safetensors = NULL;
    SPIN_EXPECT_STATUS(spin_safetensors_open(&map, &safetensors, NULL), SPIN_ERR_LIMIT);
    free(bytes);
}

static void test_every_prefix(void **state)
{
    (void)state;
    struct spin_file_map map = spin_safetensors_builder_make(GOOD, GOOD_DATA_BYTES);
    for (uint64_t count = 0; count < map.count; count++) {
        uint8_t *bytes = malloc(SPIN_MAX(count, 1));
        assert_non_null(bytes);
        memcpy(bytes, map.bytes, count);
        const struct spin_file_map prefix = {.bytes = count == 0 ? NULL : bytes, .count = count};
        struct spin_safetensors *safetensors = NULL;
        SPIN_EXPECT_STATUS(spin_safetensors_open(&prefix, &safetensors, NULL), SPIN_ERR_CORRUPT);
        free(bytes);
    }
    spin_built_free(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),          cmocka_unit_test(test_headers),
        cmocka_unit_test(test_header_length), cmocka_unit_test(test_header_limit),
        cmocka_unit_test(test_every_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
