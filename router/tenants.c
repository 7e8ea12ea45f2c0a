#include "router/tenants.h"

#include "base/assert.h"
#include "base/config_file.h"
#include "base/file.h"
#include "kvstore/block/key.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define NAME_BYTES_MAX 64u
#define KEY_BYTES_MAX 256u
#define SECRET_BYTES 32u

static const char default_name[] = "default";

struct key {
    struct spin_salt digest;
    uint32_t tenant;
};

struct spin_tenants {
    uint8_t secret[SECRET_BYTES];
    char (*names)[NAME_BYTES_MAX + 1];
    uint32_t name_count;
    struct key *keys; /* by digest; none: everyone is tenant 0 */
    uint32_t key_count;
};

static bool is_name(const char *text, uint64_t bytes)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    if (bytes == 0 || bytes > NAME_BYTES_MAX) {
        return false;
    }
    for (uint64_t i = 0; i < bytes; i++) {
        if (text[i] == '\0' || strchr(letters, text[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static bool is_key(const char *key)
{
    const uint64_t bytes = strlen(key);
    for (uint64_t i = 0; i < bytes; i++) {
        if (key[i] <= ' ' || key[i] > '~') { /* a header could not carry it */
            return false;
        }
    }
    return bytes > 0 && bytes <= KEY_BYTES_MAX;
}

static uint32_t add_name(struct spin_tenants *tenants, const char *name, uint64_t bytes)
{
    for (uint32_t i = 0; i < tenants->name_count; i++) {
        if (strlen(tenants->names[i]) == bytes && memcmp(tenants->names[i], name, bytes) == 0) {
            return i;
        }
    }
    memcpy(tenants->names[tenants->name_count], name, bytes);
    return tenants->name_count++;
}

static int compare_digests(const struct key *a, const struct key *b)
{
    return memcmp(a->digest.bytes, b->digest.bytes, sizeof a->digest.bytes);
}

static int compare_keys(const void *a, const void *b)
{
    return compare_digests(a, b);
}

static void add_key(struct spin_tenants *tenants, const char *key, uint32_t tenant)
{
    tenants->keys[tenants->key_count++] = (struct key){
        .digest = spin_salt_derive(tenants->secret, SECRET_BYTES, key), .tenant = tenant};
}

static spin_status read_line(struct spin_tenants *tenants, const char *path,
                             const struct spin_config_file_entry *entry, struct spin_error *err)
{
    const char *slash = strchr(entry->key, '/');
    const uint64_t bytes = slash == NULL ? strlen(entry->key) : (uint64_t)(slash - entry->key);
    if (!is_name(entry->key, bytes) || (slash != NULL && !is_name(slash + 1, strlen(slash + 1)))) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--api-keys-file %s line %u: \"%.64s\" must be a tenant's name or "
                         "name/what-for, each 1..%u of a-z A-Z 0-9 . _ -",
                         path, entry->line, entry->key, NAME_BYTES_MAX);
    }
    if (entry->value == NULL || !is_key(entry->value)) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--api-keys-file %s line %u: the key of \"%.64s\" must be 1..%u printable "
                         "ASCII characters without blanks",
                         path, entry->line, entry->key, KEY_BYTES_MAX);
    }
    add_key(tenants, entry->value, add_name(tenants, entry->key, bytes));
    return SPIN_OK;
}

static spin_status open_file(const char *path, struct spin_config_file *out, struct spin_error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    SPIN_TRY(spin_file_read(path, SPIN_CONFIG_FILE_BYTES_MAX, &text, &bytes, err));
    const spin_status status = spin_config_file_parse(text, bytes, path, out, err);
    free(text);
    if (status == SPIN_OK && out->count == 0) {
        /* Serving everyone is not what somebody meant who gave a file of keys. */
        return spin_fail(err, SPIN_ERR_INVALID, "--api-keys-file %s: no key in it", path);
    }
    return status;
}

static spin_status check_distinct(const struct spin_tenants *tenants, struct spin_error *err)
{
    for (uint32_t i = 1; i < tenants->key_count; i++) {
        const struct key *one = &tenants->keys[i - 1];
        const struct key *other = &tenants->keys[i];
        if (compare_digests(one, other) == 0) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "--api-keys-file: one key is given twice, to \"%s\" and \"%s\"",
                             tenants->names[one->tenant], tenants->names[other->tenant]);
        }
    }
    return SPIN_OK;
}

static spin_status build(struct spin_tenants *tenants, const char *api_key, const char *path,
                         const struct spin_config_file *file, struct spin_error *err)
{
    if (getrandom(tenants->secret, SECRET_BYTES, 0) != (ssize_t)SECRET_BYTES) {
        return spin_fail_errno(err, SPIN_ERR_INTERNAL, "no random bytes for the keys' digests");
    }
    tenants->names = calloc(file->count + 1u, sizeof *tenants->names);
    tenants->keys = calloc(file->count + 1u, sizeof *tenants->keys);
    if (tenants->names == NULL || tenants->keys == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tenants: %u keys", file->count + 1u);
    }
    if (api_key != NULL || file->count == 0) {
        (void)add_name(tenants, default_name, strlen(default_name));
    }
    if (api_key != NULL) {
        if (!is_key(api_key)) {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "--api-key: must be 1..%u printable ASCII characters without blanks",
                             KEY_BYTES_MAX);
        }
        add_key(tenants, api_key, 0);
    }
    for (uint32_t i = 0; i < file->count; i++) {
        SPIN_TRY(read_line(tenants, path, &file->entries[i], err));
    }
    qsort(tenants->keys, tenants->key_count, sizeof *tenants->keys, compare_keys);
    return check_distinct(tenants, err);
}

spin_status spin_tenants_create(const char *api_key, const char *api_keys_file,
                                struct spin_tenants **out, struct spin_error *err)
{
    struct spin_tenants *tenants = calloc(1, sizeof *tenants);
    if (tenants == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tenants: %zu bytes", sizeof *tenants);
    }
    struct spin_config_file file = {0};
    spin_status status = SPIN_OK;
    if (api_keys_file != NULL) {
        status = open_file(api_keys_file, &file, err);
    }
    if (status == SPIN_OK) {
        status = build(tenants, api_key, api_keys_file, &file, err);
    }
    spin_config_file_deinit(&file);
    if (status != SPIN_OK) {
        spin_tenants_destroy(tenants);
        return status;
    }
    *out = tenants;
    return SPIN_OK;
}

void spin_tenants_destroy(struct spin_tenants *tenants)
{
    if (tenants != NULL) {
        free(tenants->names);
        free(tenants->keys);
        free(tenants);
    }
}

uint32_t spin_tenants_count(const struct spin_tenants *tenants)
{
    return tenants->name_count;
}

const char *spin_tenants_name(const struct spin_tenants *tenants, uint32_t tenant)
{
    SPIN_ASSERT_LT(tenant, tenants->name_count);
    return tenants->names[tenant];
}

spin_status spin_tenants_find(const struct spin_tenants *tenants, const char *key,
                              uint32_t *out_tenant, struct spin_error *err)
{
    if (tenants->key_count == 0) {
        *out_tenant = 0;
        return SPIN_OK;
    }
    if (key == NULL || key[0] == '\0') {
        return spin_fail(err, SPIN_ERR_DENIED,
                         "no API key: send it as \"authorization: Bearer <key>\"");
    }
    const struct key wanted = {.digest = spin_salt_derive(tenants->secret, SECRET_BYTES, key)};
    const struct key *found =
        bsearch(&wanted, tenants->keys, tenants->key_count, sizeof *tenants->keys, compare_keys);
    if (found == NULL) {
        return spin_fail(err, SPIN_ERR_DENIED, "the API key is not known");
    }
    *out_tenant = found->tenant;
    return SPIN_OK;
}
