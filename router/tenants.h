/* tenants: who may ask, and in whose name.
 *
 * Why        Queues, fairness and (through salts) reuse of KV are per tenant, so a key must say
 *            whose it is. Without any key everyone is the tenant "default".
 * Ownership  Owns its copies of keys and names.
 * Threading  Immutable after create: any thread.
 * Units      Index 0..count-1.
 * Errors     create: NOT_FOUND, IO, INVALID (the file, with the line), LIMIT (over
 *            SPIN_CONFIG_FILE_KEYS_MAX keys). find: DENIED. Keys are kept and looked up as digests
 *            under a random key of the process, so time tells nothing about them; never logged. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_tenants; /* private to tenants.c */

/* `api_key` (tenant "default") and `api_keys_file` (a YAML or JSON mapping "tenant: key", or with
 * several keys "tenant/what-for: key"); both may be NULL. Names: 1..64 of [a-zA-Z0-9._-], keys:
 * 1..256 printable ASCII. */
SPIN_MUST_USE spin_status spin_tenants_create(const char *api_key, const char *api_keys_file,
                                              struct spin_tenants **out, struct spin_error *err);
void spin_tenants_destroy(struct spin_tenants *tenants); /* NULL is allowed */
uint32_t spin_tenants_count(const struct spin_tenants *tenants);
const char *spin_tenants_name(const struct spin_tenants *tenants, uint32_t tenant);
/* `key`: what the client sent, "" or NULL when nothing. */
SPIN_MUST_USE spin_status spin_tenants_find(const struct spin_tenants *tenants, const char *key,
                                            uint32_t *out_tenant, struct spin_error *err);

SPIN_END_DECLS
