/* A good file is read back value by value; then each row of a table makes one thing wrong and says
 * which status and which words the error must have; then every prefix and every changed byte. */
#include "model/format/gguf.h"

#include "tests/model/built_file.h"
#include "tests/model/gguf_builder.h"
#include "tests/spin_test.h"

#include <inttypes.h>

static const uint8_t three_strings[] = {
    8, 0, 0, 0, 3, 0, 0, 0, 0,   0,   0,    0, /* element type, count */
    2, 0, 0, 0, 0, 0, 0, 0, 'a', 'b',          /* "ab" */
    0, 0, 0, 0, 0, 0, 0, 0,                    /* "" */
    3, 0, 0, 0, 0, 0, 0, 0, 'c', 0,   0xff,    /* any bytes */
};
static const uint8_t two_i16[] = {3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0xff, 0xff};

/* One of each kind of value and tensor type. */
static void make_good(struct gguf_builder *builder)
{
    const int8_t i8 = -5;
    const uint64_t u64 = UINT64_C(1) << 63;
    const int64_t i64 = -1;
    const double f64 = 0.1;
    spin_gguf_builder_init(builder);
    spin_gguf_builder_string(builder, "general.architecture", "llama");
    spin_gguf_builder_u32(builder, "a.u32", 4000000000u);
    spin_gguf_builder_raw(builder, "a.i8", SPIN_GGUF_I8, &i8, sizeof i8);
    spin_gguf_builder_raw(builder, "a.u64", SPIN_GGUF_U64, &u64, sizeof u64);
    spin_gguf_builder_raw(builder, "a.i64", SPIN_GGUF_I64, &i64, sizeof i64);
    spin_gguf_builder_raw(builder, "a.f64", SPIN_GGUF_F64, &f64, sizeof f64);
    spin_gguf_builder_f32(builder, "a.f32", 1.5f);
    spin_gguf_builder_bool(builder, "a.bool", 1);
    spin_gguf_builder_raw(builder, "a.strings", SPIN_GGUF_ARRAY, three_strings,
                          sizeof three_strings);
    spin_gguf_builder_raw(builder, "a.i16s", SPIN_GGUF_ARRAY, two_i16, sizeof two_i16);
    spin_gguf_builder_tensor(builder, "f32", 0, 0, 5);
    spin_gguf_builder_tensor(builder, "f16", 1, 3, 7);
    spin_gguf_builder_tensor(builder, "bf16", 30, 2, 8);
    spin_gguf_builder_tensor(builder, "q4_0", 2, 2, 64);
    spin_gguf_builder_tensor(builder, "q4_1", 3, 2, 32);
    spin_gguf_builder_tensor(builder, "q8_0", 8, 1, 32);
    spin_gguf_builder_tensor(builder, "q4_k", 12, 1, 512);
    spin_gguf_builder_tensor(builder, "q6_k", 14, 2, 256);
}

static void test_values(void **state)
{
    (void)state;
    struct gguf_builder builder;
    struct spin_error err = {0};
    struct spin_gguf *gguf = NULL;
    make_good(&builder);
    struct spin_file_map map = spin_gguf_builder_finish(&builder);
    SPIN_EXPECT_OK(spin_gguf_open(&map, &gguf, &err), &err);

    uint64_t u64 = 7;
    double f64 = 7;
    bool boolean = false;
    struct spin_string string = {0};
    SPIN_EXPECT_OK(spin_gguf_u64(gguf, "a.u32", &u64, &err), &err);
    assert_int_equal(u64, 4000000000u);
    SPIN_EXPECT_OK(spin_gguf_u64(gguf, "a.u64", &u64, &err), &err);
    assert_true(u64 == UINT64_C(1) << 63);
    SPIN_EXPECT_STATUS(spin_gguf_u64(gguf, "a.i8", &u64, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "'a.i8': -5 is negative"));
    SPIN_EXPECT_STATUS(spin_gguf_u64(gguf, "a.f32", &u64, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "'a.f32': an integer wanted, the file has float32"));
    SPIN_EXPECT_STATUS(spin_gguf_u64(gguf, "a", &u64, &err), SPIN_ERR_NOT_FOUND);
    assert_true(u64 == UINT64_C(1) << 63); /* untouched by all three */

    SPIN_EXPECT_OK(spin_gguf_f64(gguf, "a.f32", &f64, &err), &err);
    assert_true(f64 == 1.5);
    SPIN_EXPECT_OK(spin_gguf_f64(gguf, "a.f64", &f64, &err), &err);
    assert_true(f64 == 0.1);
    SPIN_EXPECT_OK(spin_gguf_f64(gguf, "a.i64", &f64, &err), &err);
    assert_true(f64 == -1);
    SPIN_EXPECT_STATUS(spin_gguf_f64(gguf, "a.bool", &f64, &err), SPIN_ERR_INVALID);
    SPIN_EXPECT_OK(spin_gguf_bool(gguf, "a.bool", &boolean, &err), &err);
    assert_true(boolean);
    SPIN_EXPECT_STATUS(spin_gguf_bool(gguf, "a.u32", &boolean, &err), SPIN_ERR_INVALID);
    SPIN_EXPECT_OK(spin_gguf_string(gguf, "general.architecture", &string, &err), &err);
    assert_int_equal(string.count, 5);
    assert_memory_equal(string.bytes, "llama", 5);
    SPIN_EXPECT_STATUS(spin_gguf_string(gguf, "a.strings", &string, &err), SPIN_ERR_INVALID);
    spin_gguf_close(gguf);
    spin_built_free(&map);
}

static void test_arrays(void **state)
{
    (void)state;
    struct gguf_builder builder;
    struct spin_error err = {0};
    struct spin_gguf *gguf = NULL;
    make_good(&builder);
    struct spin_file_map map = spin_gguf_builder_finish(&builder);
    SPIN_EXPECT_OK(spin_gguf_open(&map, &gguf, &err), &err);

    struct spin_gguf_array array = {0};
    struct spin_string string = {0};
    uint64_t cursor = 0;
    SPIN_EXPECT_OK(spin_gguf_array(gguf, "a.strings", &array, &err), &err);
    assert_int_equal(array.type, SPIN_GGUF_STRING);
    assert_int_equal(array.count, 3);
    assert_true(spin_gguf_array_next_string(&array, &cursor, &string));
    assert_int_equal(string.count, 2);
    assert_memory_equal(string.bytes, "ab", 2);
    assert_true(spin_gguf_array_next_string(&array, &cursor, &string));
    assert_int_equal(string.count, 0);
    assert_true(spin_gguf_array_next_string(&array, &cursor, &string));
    assert_int_equal(string.count, 3);
    assert_memory_equal(string.bytes, "c\0\xff", 3);
    assert_false(spin_gguf_array_next_string(&array, &cursor, &string));

    SPIN_EXPECT_OK(spin_gguf_array(gguf, "a.i16s", &array, &err), &err);
    assert_int_equal(array.type, SPIN_GGUF_I16);
    assert_int_equal(array.count, 2);
    assert_int_equal(array.byte_count, 4);
    assert_memory_equal(array.bytes, "\1\0\xff\xff", 4);
    cursor = 0;
    assert_false(spin_gguf_array_next_string(&array, &cursor, &string));
    spin_gguf_close(gguf);
    spin_built_free(&map);
}

static void test_tensors(void **state)
{
    (void)state;
    static const enum spin_dtype dtypes[] = {SPIN_DTYPE_F32,  SPIN_DTYPE_F16,  SPIN_DTYPE_BF16,
                                             SPIN_DTYPE_Q4_0, SPIN_DTYPE_Q4_1, SPIN_DTYPE_Q8_0,
                                             SPIN_DTYPE_Q4_K, SPIN_DTYPE_Q6_K};
    struct gguf_builder builder;
    struct spin_error err = {0};
    struct spin_gguf *gguf = NULL;
    make_good(&builder);
    struct spin_file_map map = spin_gguf_builder_finish(&builder);
    SPIN_EXPECT_OK(spin_gguf_open(&map, &gguf, &err), &err);
    assert_int_equal(spin_gguf_tensor_count(gguf), SPIN_ARRAY_COUNT(dtypes));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(dtypes); i++) {
        const struct gguf_builder_tensor *wanted = &builder.tensors[i];
        const struct spin_gguf_tensor *tensor = spin_gguf_tensor_find(gguf, wanted->name);
        assert_ptr_equal(tensor, spin_gguf_tensor_at(gguf, i));
        assert_int_equal(tensor->dtype, dtypes[i]);
        assert_int_equal(tensor->dim_count, wanted->dim_count);
        assert_int_equal(tensor->dims[0], wanted->dims[0]);
        assert_int_equal(tensor->dims[1], wanted->dims[1]);
        assert_int_equal(tensor->dims[3], 1);
        assert_int_equal(tensor->bytes, wanted->bytes);
        for (uint64_t k = 0; k < tensor->bytes; k++) {
            assert_int_equal(tensor->data[k], spin_gguf_builder_data(wanted->name, k));
        }
    }
    assert_null(spin_gguf_tensor_find(gguf, "f"));
    assert_null(spin_gguf_tensor_find(gguf, "f321"));
    spin_gguf_close(gguf);
    spin_built_free(&map);
}

static void test_alignment(void **state)
{
    (void)state;
    static const uint32_t alignments[] = {8, 64, 4096};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(alignments); i++) {
        struct gguf_builder builder;
        struct spin_error err = {0};
        struct spin_gguf *gguf = NULL;
        make_good(&builder);
        builder.alignment = alignments[i];
        spin_gguf_builder_u32(&builder, "general.alignment", alignments[i]);
        struct spin_file_map map = spin_gguf_builder_finish(&builder);
        SPIN_EXPECT_OK(spin_gguf_open(&map, &gguf, &err), &err);
        const struct spin_gguf_tensor *last = spin_gguf_tensor_find(gguf, "q6_k");
        assert_int_equal((uint64_t)(last->data - map.bytes) % alignments[i], 0);
        assert_int_equal(last->data[419], spin_gguf_builder_data("q6_k", 419));
        spin_gguf_close(gguf);
        spin_built_free(&map);
    }
}

/* ---- one thing wrong ---- */

static void no_change(struct gguf_builder *b)
{
    (void)b;
}
static void bad_magic(struct gguf_builder *b)
{
    b->magic = 0x4c4d4747;
}
static void big_endian_magic(struct gguf_builder *b)
{
    b->magic = 0x47475546;
}
static void big_endian_version(struct gguf_builder *b)
{
    b->version = 0x03000000;
}
static void version_2(struct gguf_builder *b)
{
    b->version = 2;
}
static void version_4(struct gguf_builder *b)
{
    b->version = 4;
}
static void key_count_limit(struct gguf_builder *b)
{
    b->stated_key_count = UINT64_MAX - 1;
}
static void key_count_beyond_file(struct gguf_builder *b)
{
    b->stated_key_count = 65536;
}
static void tensor_count_limit(struct gguf_builder *b)
{
    b->stated_tensor_count = UINT64_C(1) << 63;
}
static void tensor_count_beyond_file(struct gguf_builder *b)
{
    b->stated_tensor_count = 65536;
}
static void key_empty(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "", 1);
}
static void key_control(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "a\nb", 1);
}
static void key_twice(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "a.x", 1);
    b->keys[b->key_count - 1].name = "a.u32";
}
static void key_type(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", 13, "", 0);
}
static void bool_two(struct gguf_builder *b)
{
    spin_gguf_builder_bool(b, "a.x", 2);
}
static void string_huge(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", SPIN_GGUF_STRING, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8);
}
static void string_beyond_file(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", SPIN_GGUF_STRING, "\0\0\1\0\0\0\0\0", 8);
}
static void array_nested(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", SPIN_GGUF_ARRAY, "\x09\0\0\0\1\0\0\0\0\0\0\0", 12);
}
static void array_type(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", SPIN_GGUF_ARRAY, "\x0d\0\0\0\1\0\0\0\0\0\0\0", 12);
}
static void array_huge(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", SPIN_GGUF_ARRAY, "\x0a\0\0\0\xff\xff\xff\xff\xff\xff\xff\x1f",
                          12);
}
static void array_strings_huge(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", SPIN_GGUF_ARRAY, "\x08\0\0\0\0\0\0\x80\0\0\0\0", 12);
}
static void array_bool_two(struct gguf_builder *b)
{
    spin_gguf_builder_raw(b, "a.x", SPIN_GGUF_ARRAY, "\x07\0\0\0\2\0\0\0\0\0\0\0\1\2", 14);
}
static void alignment_0(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "general.alignment", 0);
}
static void alignment_4(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "general.alignment", 4);
}
static void alignment_48(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "general.alignment", 48);
}
static void alignment_2g(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "general.alignment", UINT32_C(1) << 31);
}
static void alignment_string(struct gguf_builder *b)
{
    spin_gguf_builder_string(b, "general.alignment", "32");
}
static void alignment_past_end(struct gguf_builder *b)
{
    spin_gguf_builder_u32(b, "general.alignment", UINT32_C(1) << 30);
}
static void dims_none(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->dim_count = 0;
}
static void dims_five(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->dim_count = 5;
}
static void dim_zero(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->dims[1] = 0;
}
static void dims_overflow(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->dims[0] = UINT64_C(1) << 32;
    spin_gguf_builder_find(b, "f16")->dims[1] = UINT64_C(1) << 32;
}
static void dims_wrap_small(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->dims[0] = (UINT64_C(1) << 63) + 8; /* times 2 bytes: 16 */
}
static void dims_beyond_file(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "q6_k")->dims[1] = 3;
}
static void type_q5_k(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->wire_type = 13;
}
static void type_unknown(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->wire_type = 99;
}
static void row_not_blocks(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "q8_0")->dims[0] = 33;
}
static void offset_unaligned(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->offset = 33;
}
static void offset_huge(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "f16")->offset = UINT64_MAX - 31;
}
static void offset_overlap(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "bf16")->offset = 32;
    spin_gguf_builder_find(b, "f16")->offset = 32;
}
static void tensor_twice(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "bf16")->name = "f16";
}
static void tensor_control(struct gguf_builder *b)
{
    spin_gguf_builder_find(b, "bf16")->name = "\033[2J";
}

struct wrong {
    void (*change)(struct gguf_builder *builder);
    spin_status status;
    const char *words;
};

static const struct wrong wrongs[] = {
    {no_change, SPIN_OK, ""},
    {bad_magic, SPIN_ERR_CORRUPT, "not a GGUF file: magic 0x4c4d4747"},
    {big_endian_magic, SPIN_ERR_UNSUPPORTED, "big-endian"},
    {big_endian_version, SPIN_ERR_UNSUPPORTED, "big-endian"},
    {version_2, SPIN_ERR_UNSUPPORTED, "version 2"},
    {version_4, SPIN_ERR_UNSUPPORTED, "version 4"},
    {key_count_limit, SPIN_ERR_LIMIT, "key count"},
    {key_count_beyond_file, SPIN_ERR_CORRUPT, "key count"},
    {tensor_count_limit, SPIN_ERR_LIMIT, "tensor count"},
    {tensor_count_beyond_file, SPIN_ERR_CORRUPT, "tensor count"},
    {key_empty, SPIN_ERR_CORRUPT, "a name of 0 bytes"},
    {key_control, SPIN_ERR_CORRUPT, "not ASCII"},
    {key_twice, SPIN_ERR_CORRUPT, "key 'a.u32' at offset"},
    {key_type, SPIN_ERR_CORRUPT, "key 'a.x' at offset"},
    {bool_two, SPIN_ERR_CORRUPT, "a bool of value 2"},
    {string_huge, SPIN_ERR_LIMIT, "key 'a.x' at offset"},
    {string_beyond_file, SPIN_ERR_CORRUPT, "65536 bytes wanted"},
    {array_nested, SPIN_ERR_UNSUPPORTED, "array of arrays"},
    {array_type, SPIN_ERR_CORRUPT, "element type 13"},
    {array_huge, SPIN_ERR_CORRUPT, "elements do not fit"},
    {array_strings_huge, SPIN_ERR_CORRUPT, "elements do not fit"},
    {array_bool_two, SPIN_ERR_CORRUPT, "a bool of value 2"},
    {alignment_0, SPIN_ERR_CORRUPT, "'general.alignment': 0"},
    {alignment_4, SPIN_ERR_CORRUPT, "'general.alignment': 4"},
    {alignment_48, SPIN_ERR_CORRUPT, "'general.alignment': 48"},
    {alignment_2g, SPIN_ERR_CORRUPT, "'general.alignment': 2147483648"},
    {alignment_string, SPIN_ERR_INVALID, "'general.alignment': an integer wanted"},
    {alignment_past_end, SPIN_ERR_CORRUPT, "tensor 'f"},
    {dims_none, SPIN_ERR_CORRUPT, "tensor 'f16' at offset"},
    {dims_five, SPIN_ERR_CORRUPT, "5 dimensions"},
    {dim_zero, SPIN_ERR_CORRUPT, "dimension 1 is 0"},
    {dims_overflow, SPIN_ERR_CORRUPT, "more bytes than the file"},
    {dims_wrap_small, SPIN_ERR_CORRUPT, "more bytes than the file"},
    {dims_beyond_file, SPIN_ERR_CORRUPT, "tensor 'q6_k'"},
    {type_q5_k, SPIN_ERR_UNSUPPORTED, "tensor 'f16' at offset"},
    {type_q5_k, SPIN_ERR_UNSUPPORTED, "type Q5_K (13)"},
    {type_unknown, SPIN_ERR_UNSUPPORTED, "type unknown (99)"},
    {row_not_blocks, SPIN_ERR_CORRUPT, "rows of 33 values are not whole Q8_0 blocks"},
    {offset_unaligned, SPIN_ERR_CORRUPT, "data offset 33 is not a multiple of 32"},
    {offset_huge, SPIN_ERR_CORRUPT, "tensor 'f16'"},
    {offset_overlap, SPIN_ERR_CORRUPT, "overlap"},
    {tensor_twice, SPIN_ERR_CORRUPT, "tensor 'f16' appears twice"},
    {tensor_control, SPIN_ERR_CORRUPT, "not ASCII"},
};

static void test_one_thing_wrong(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrongs); i++) {
        struct gguf_builder builder;
        struct spin_error err = {0};
        struct spin_gguf *gguf = NULL;
        make_good(&builder);
        wrongs[i].change(&builder);
        struct spin_file_map map = spin_gguf_builder_finish(&builder);
        const spin_status status = spin_gguf_open(&map, &gguf, &err);
        if (status != wrongs[i].status || strstr(err.text, wrongs[i].words) == NULL) {
            fail_msg("row %u: wanted %s with \"%s\", got %s with \"%s\"", i,
                     spin_status_name(wrongs[i].status), wrongs[i].words, spin_status_name(status),
                     err.text);
        }
        assert_int_equal(err.status, status);
        spin_gguf_close(gguf);
        spin_built_free(&map);
    }
}

/* The bytes of `map` from 0 to `count`, in an allocation of exactly that size. */
static spin_status open_copy(const struct spin_file_map *map, uint64_t count)
{
    uint8_t *bytes = malloc(SPIN_MAX(count, 1));
    assert_non_null(bytes);
    memcpy(bytes, map->bytes, count);
    const struct spin_file_map copy = {.bytes = count == 0 ? NULL : bytes, .count = count};
    struct spin_gguf *gguf = NULL;
    struct spin_error err = {0};
    const spin_status status = spin_gguf_open(&copy, &gguf, &err);
    assert_int_equal(err.status, status);
    spin_gguf_close(gguf);
    free(bytes);
    return status;
}

static void test_every_prefix(void **state)
{
    (void)state;
    struct gguf_builder builder;
    make_good(&builder);
    struct spin_file_map map = spin_gguf_builder_finish(&builder);
    for (uint64_t count = 0; count < map.count; count++) {
        SPIN_EXPECT_STATUS(open_copy(&map, count), SPIN_ERR_CORRUPT);
    }
    SPIN_EXPECT_STATUS(open_copy(&map, map.count), SPIN_OK);
    spin_built_free(&map);
}

/* Any byte may become anything: the answer is a status, and never a crash under the sanitizers. */
static void test_every_byte(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x80, 0xff};
    struct gguf_builder builder;
    make_good(&builder);
    struct spin_file_map map = spin_gguf_builder_finish(&builder);
    uint8_t *bytes = spin_built_bytes(&map);
    uint32_t refused = 0;
    for (uint64_t i = 0; i < map.count; i++) {
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(masks); k++) {
            bytes[i] ^= masks[k];
            refused += open_copy(&map, map.count) != SPIN_OK;
            bytes[i] ^= masks[k];
        }
    }
    assert_true(refused > 500);
    SPIN_EXPECT_STATUS(open_copy(&map, map.count), SPIN_OK);
    spin_built_free(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),          cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_tensors),         cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_one_thing_wrong), cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
