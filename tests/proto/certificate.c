#include "tests/proto/certificate.h"

#include "tests/spin_test.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#define DAY_S (INT64_C(24) * 3600)

struct spin_test_authority {
    X509 *cert;
    EVP_PKEY *key;
};

static FILE *open_file(const char *folder, const char *name, const char *suffix)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s.%s", folder, name, suffix);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    return file;
}

static void write_cert(const char *folder, const char *name, X509 *cert)
{
    FILE *file = open_file(folder, name, "crt");
    assert_int_equal(PEM_write_X509(file, cert), 1);
    assert_int_equal(fclose(file), 0);
}

static void add_extension(X509 *cert, X509 *issuer, int kind, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static X509 *new_cert(const char *name, EVP_PKEY *key, int64_t from_s, int64_t until_s)
{
    static int64_t serial = 1;
    X509 *cert = X509_new();
    assert_non_null(cert);
    assert_int_equal(X509_set_version(cert, X509_VERSION_3), 1);
    assert_int_equal(ASN1_INTEGER_set_int64(X509_get_serialNumber(cert), serial++), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(cert), from_s));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), until_s));
    assert_int_equal(X509_set_pubkey(cert, key), 1);
    assert_int_equal(X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                                (const unsigned char *)name, -1, -1, 0),
                     1);
    return cert;
}

struct spin_test_authority *spin_test_authority_create(const char *folder, const char *name)
{
    struct spin_test_authority *authority = calloc(1, sizeof *authority);
    assert_non_null(authority);
    authority->key = EVP_EC_gen("P-256");
    assert_non_null(authority->key);
    X509 *cert = new_cert(name, authority->key, -DAY_S, DAY_S);
    assert_int_equal(X509_set_issuer_name(cert, X509_get_subject_name(cert)), 1);
    add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(cert, cert, NID_key_usage, "critical,keyCertSign");
    assert_int_not_equal(X509_sign(cert, authority->key, EVP_sha256()), 0);
    write_cert(folder, name, cert);
    authority->cert = cert;
    return authority;
}

void spin_test_authority_destroy(struct spin_test_authority *authority)
{
    X509_free(authority->cert);
    EVP_PKEY_free(authority->key);
    free(authority);
}

void spin_test_certificate_write(const char *folder, const struct spin_test_certificate *wanted)
{
    char name[256];
    const bool address = isdigit((unsigned char)wanted->host[0]) != 0;
    (void)snprintf(name, sizeof name, "%s:%s", address ? "IP" : "DNS", wanted->host);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    assert_non_null(key);
    X509 *cert = new_cert(wanted->name, key, wanted->valid_from_s, wanted->valid_until_s);
    X509 *issuer = wanted->issuer->cert;
    assert_int_equal(X509_set_issuer_name(cert, X509_get_subject_name(issuer)), 1);
    add_extension(cert, issuer, NID_subject_alt_name, name);
    assert_int_not_equal(X509_sign(cert, wanted->issuer->key, EVP_sha256()), 0);
    write_cert(folder, wanted->name, cert);
    FILE *file = open_file(folder, wanted->name, "key");
    assert_int_equal(PEM_write_PKCS8PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(fclose(file), 0);
    X509_free(cert);
    EVP_PKEY_free(key);
}
