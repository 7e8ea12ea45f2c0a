/* certificate: authorities and certificates made on the spot, for tests of TLS.
 *
 * Why        Committed ones expire, and a test wants the wrong ones too.
 * Ownership  The files belong to the test's folder; an authority is freed by its maker.
 * Threading  One thread.
 * Errors     Fails the test. */
#pragma once

#include "base/base.h"

struct spin_test_authority; /* private to certificate.c */

struct spin_test_certificate {
    const struct spin_test_authority *issuer;
    const char *name;      /* files NAME.crt and NAME.key */
    const char *host;      /* subject alternative name: an IPv4 address or a DNS name */
    int64_t valid_from_s;  /* relative to now */
    int64_t valid_until_s; /* relative to now */
};

/* Writes `folder`/NAME.crt. */
struct spin_test_authority *spin_test_authority_create(const char *folder, const char *name);
void spin_test_authority_destroy(struct spin_test_authority *authority);
/* Writes `folder`/NAME.crt and `folder`/NAME.key. */
void spin_test_certificate_write(const char *folder, const struct spin_test_certificate *wanted);
