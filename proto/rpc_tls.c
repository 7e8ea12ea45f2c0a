/* gRPC core takes PEM texts and says little about what is wrong with them, and that late. So they
 * are read with its own TLS library first. */
#include "base/file.h"
#include "proto/rpc_internal.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES_MAX (UINT64_C(1) << 20)
#define CERT_OPTION "--tls-cert"
#define KEY_OPTION "--tls-key"
#define CA_OPTION "--tls-ca"

/* The files' contents; NULL: not given. */
struct pem {
    char *cert;
    char *key;
    char *ca;
};

static void free_pem(struct pem *pem)
{
    if (pem->key != NULL) {
        explicit_bzero(pem->key, strlen(pem->key));
    }
    free(pem->cert);
    free(pem->key);
    free(pem->ca);
}

static spin_status read_file(const char *option, const char *path, char **out,
                             struct spin_error *err)
{
    if (path == NULL) {
        return SPIN_OK;
    }
    struct spin_error cause = {0};
    uint64_t bytes = 0;
    const spin_status status = spin_file_read(path, FILE_BYTES_MAX, out, &bytes, &cause);
    return status == SPIN_OK ? SPIN_OK : spin_fail(err, status, "%s: %s", option, cause.text);
}

/* Every certificate in `text` must be whole; `*first` is the caller's, and may be NULL. */
static spin_status parse_certificates(const char *option, const char *path, const char *text,
                                      X509 **first, struct spin_error *err)
{
    BIO *source = BIO_new_mem_buf(text, -1);
    uint32_t count = 0;
    ERR_clear_error();
    for (X509 *cert = PEM_read_bio_X509(source, NULL, NULL, NULL); cert != NULL;
         cert = PEM_read_bio_X509(source, NULL, NULL, NULL)) {
        count++;
        if (count == 1 && first != NULL) {
            *first = cert;
        } else {
            X509_free(cert);
        }
    }
    const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(source);
    if (count == 0 && at_end) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s %.160s: no PEM certificate in it", option,
                         path);
    }
    if (!at_end) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s %.160s: certificate %u is damaged", option,
                         path, count + 1);
    }
    return SPIN_OK;
}

/* Nobody is asked: an encrypted key is one that we cannot read.
 * NOLINTNEXTLINE(readability-non-const-parameter): the library's type */
static int no_password(char *buffer, int bytes, int writing, void *context)
{
    (void)buffer;
    (void)bytes;
    (void)writing;
    (void)context;
    return -1;
}

static spin_status check_pair(const struct spin_rpc_tls *tls, const struct pem *pem,
                              struct spin_error *err)
{
    X509 *cert = NULL;
    spin_status status = parse_certificates(CERT_OPTION, tls->cert_file, pem->cert, &cert, err);
    BIO *source = BIO_new_mem_buf(pem->key, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(source, NULL, no_password, NULL);
    if (status == SPIN_OK && key == NULL) {
        status = spin_fail(err, SPIN_ERR_INVALID,
                           "%s %.160s: no PEM private key in it, or one with a password",
                           KEY_OPTION, tls->key_file);
    } else if (status == SPIN_OK && X509_check_private_key(cert, key) != 1) {
        status = spin_fail(err, SPIN_ERR_INVALID,
                           "%s %.160s: not the key of the certificate that %s names", KEY_OPTION,
                           tls->key_file, CERT_OPTION);
    }
    ERR_clear_error();
    EVP_PKEY_free(key);
    X509_free(cert);
    BIO_free(source);
    return status;
}

static spin_status read_pem(const struct spin_rpc_tls *tls, struct pem *out, struct spin_error *err)
{
    if ((tls->cert_file == NULL) != (tls->key_file == NULL)) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s and %s: one is of no use without the other",
                         CERT_OPTION, KEY_OPTION);
    }
    SPIN_TRY(read_file(CERT_OPTION, tls->cert_file, &out->cert, err));
    SPIN_TRY(read_file(KEY_OPTION, tls->key_file, &out->key, err));
    SPIN_TRY(read_file(CA_OPTION, tls->ca_file, &out->ca, err));
    if (out->cert != NULL) {
        SPIN_TRY(check_pair(tls, out, err));
    }
    return out->ca == NULL ? SPIN_OK
                           : parse_certificates(CA_OPTION, tls->ca_file, out->ca, NULL, err);
}

static grpc_server_credentials *create_server_credentials(const struct pem *pem)
{
    const grpc_ssl_pem_key_cert_pair pair = {.private_key = pem->key, .cert_chain = pem->cert};
    grpc_ssl_server_credentials_options *options =
        grpc_ssl_server_credentials_create_options_using_config(
            pem->ca == NULL ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                            : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
            grpc_ssl_server_certificate_config_create(pem->ca, &pair, 1));
    return grpc_ssl_server_credentials_create_with_options(options); /* takes both */
}

spin_status spin_rpc_tls_server_credentials(const struct spin_rpc_tls *tls,
                                            grpc_server_credentials **out, struct spin_error *err)
{
    if (tls->ca_file != NULL && tls->cert_file == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s: a server needs %s and %s too", CA_OPTION,
                         CERT_OPTION, KEY_OPTION);
    }
    struct pem pem = {0};
    const spin_status status = read_pem(tls, &pem, err);
    if (status == SPIN_OK) {
        *out = pem.cert == NULL ? grpc_insecure_server_credentials_create()
                                : create_server_credentials(&pem);
    }
    free_pem(&pem);
    return status;
}

spin_status spin_rpc_tls_channel_credentials(const struct spin_rpc_tls *tls,
                                             grpc_channel_credentials **out, struct spin_error *err)
{
    struct pem pem = {0};
    const spin_status status = read_pem(tls, &pem, err);
    if (status == SPIN_OK && (tls->enabled || pem.cert != NULL || pem.ca != NULL)) {
        grpc_ssl_pem_key_cert_pair pair = {.private_key = pem.key, .cert_chain = pem.cert};
        *out = grpc_ssl_credentials_create_ex(pem.ca, pem.cert == NULL ? NULL : &pair, NULL, NULL);
    } else if (status == SPIN_OK) {
        *out = grpc_insecure_credentials_create();
    }
    free_pem(&pem);
    return status;
}
