/* Keys from an option and from files, good and bad, and who they belong to. */
#include "router/tenants.h"

#include "tests/spin_test.h"

#include <unistd.h>

static void write_file(char path[64], const char *text)
{
    (void)snprintf(path, 64, "tenants_XXXXXX");
    const int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, strlen(text)), strlen(text));
    assert_int_equal(close(file), 0);
}

static spin_status create(const char *key, const char *text, struct spin_tenants **out,
                          struct spin_error *err)
{
    char path[64];
    if (text == NULL) {
        return spin_tenants_create(key, NULL, out, err);
    }
    write_file(path, text);
    const spin_status status = spin_tenants_create(key, path, out, err);
    (void)unlink(path);
    return status;
}

static void expect(const struct spin_tenants *tenants, const char *key, const char *name)
{
    uint32_t tenant = UINT32_MAX;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_tenants_find(tenants, key, &tenant, &err), &err);
    assert_string_equal(spin_tenants_name(tenants, tenant), name);
}

static void expect_denied(const struct spin_tenants *tenants, const char *key)
{
    uint32_t tenant = 77;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(spin_tenants_find(tenants, key, &tenant, &err), SPIN_ERR_DENIED);
    assert_int_equal(tenant, 77);
    if (key != NULL && key[0] != '\0') {
        assert_null(strstr(err.text, key)); /* never shown */
    }
}

static void test_open_to_all(void **state)
{
    (void)state;
    struct spin_tenants *tenants = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(create(NULL, NULL, &tenants, &err), &err);
    assert_int_equal(spin_tenants_count(tenants), 1);
    expect(tenants, NULL, "default");
    expect(tenants, "", "default");
    expect(tenants, "whatever a client sends", "default");
    spin_tenants_destroy(tenants);
}

static void test_one_key(void **state)
{
    (void)state;
    struct spin_tenants *tenants = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(create("sk-1", NULL, &tenants, &err), &err);
    expect(tenants, "sk-1", "default");
    expect_denied(tenants, NULL);
    expect_denied(tenants, "");
    expect_denied(tenants, "sk-");
    expect_denied(tenants, "sk-12");
    expect_denied(tenants, "SK-1");
    spin_tenants_destroy(tenants);
    spin_tenants_destroy(NULL);
}

static void test_file(void **state)
{
    (void)state;
    struct spin_tenants *tenants = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(create("sk-0",
                          "alice: key-a\n"
                          "bob/laptop: key-b1\n"
                          "bob/phone: key-b2\n"
                          "default/more: key-d\n",
                          &tenants, &err),
                   &err);
    assert_int_equal(spin_tenants_count(tenants), 3);
    expect(tenants, "sk-0", "default");
    expect(tenants, "key-d", "default");
    expect(tenants, "key-a", "alice");
    expect(tenants, "key-b1", "bob");
    expect(tenants, "key-b2", "bob");
    expect_denied(tenants, "bob");
    spin_tenants_destroy(tenants);
    SPIN_EXPECT_OK(create(NULL, "{\"alice\": \"key-a\"}", &tenants, &err), &err);
    assert_int_equal(spin_tenants_count(tenants), 1); /* no default without its key */
    expect(tenants, "key-a", "alice");
    spin_tenants_destroy(tenants);
}

static void test_many_keys(void **state)
{
    (void)state;
    static char text[64 * 1024];
    size_t used = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "t%u/k%u: key-%u\n", i % 100, i,
                                 i * 7919);
    }
    struct spin_tenants *tenants = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(create(NULL, text, &tenants, &err), &err);
    assert_int_equal(spin_tenants_count(tenants), 100);
    for (uint32_t i = 0; i < 1000; i++) {
        char key[32];
        char name[32];
        (void)snprintf(key, sizeof key, "key-%u", i * 7919);
        (void)snprintf(name, sizeof name, "t%u", i % 100);
        expect(tenants, key, name);
    }
    spin_tenants_destroy(tenants);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        const char *text;
        spin_status status;
        const char *says;
    } cases[] = {
        {"", NULL, SPIN_ERR_INVALID, "--api-key"},
        {"a b", NULL, SPIN_ERR_INVALID, "--api-key"},
        {"a\nb", NULL, SPIN_ERR_INVALID, "--api-key"},
        {NULL, "", SPIN_ERR_INVALID, "no key in it"},
        {NULL, "# nothing\n", SPIN_ERR_INVALID, "no key in it"},
        {NULL, "a: k\nb c: l\n", SPIN_ERR_INVALID, "line 2"},
        {NULL, "a/b/c: k\n", SPIN_ERR_INVALID, "line 1"},
        {NULL, "/b: k\n", SPIN_ERR_INVALID, "line 1"},
        {NULL, "a/: k\n", SPIN_ERR_INVALID, "line 1"},
        {NULL, "a:\n", SPIN_ERR_INVALID, "the key of \"a\""},
        {NULL, "a: \"k k\"\n", SPIN_ERR_INVALID, "the key of \"a\""},
        {NULL, "a: k\na: l\n", SPIN_ERR_INVALID, "again"},
        {NULL, "a: k\nb: k\n", SPIN_ERR_INVALID, "given twice"},
        {"k", "b: k\n", SPIN_ERR_INVALID, "given twice"},
        {NULL, "- a\n", SPIN_ERR_INVALID, "mapping"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        struct spin_tenants *tenants = NULL;
        struct spin_error err = {0};
        const spin_status status = create(cases[i].key, cases[i].text, &tenants, &err);
        if (status != cases[i].status || strstr(err.text, cases[i].says) == NULL) {
            fail_msg("case %u: %s: %s", i, spin_status_name(status), err.text);
        }
        assert_null(tenants);
    }
    struct spin_tenants *tenants = NULL;
    SPIN_EXPECT_STATUS(spin_tenants_create(NULL, "no/such/file", &tenants, NULL),
                       SPIN_ERR_NOT_FOUND);
    char longest[300];
    memset(longest, 'k', sizeof longest);
    longest[257] = '\0';
    SPIN_EXPECT_STATUS(spin_tenants_create(longest, NULL, &tenants, NULL), SPIN_ERR_INVALID);
    longest[256] = '\0';
    struct spin_error err;
    SPIN_EXPECT_OK(spin_tenants_create(longest, NULL, &tenants, &err), &err);
    spin_tenants_destroy(tenants);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_to_all), cmocka_unit_test(test_one_key),
        cmocka_unit_test(test_file),        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
