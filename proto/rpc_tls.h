/* rpc_tls: the files that make a gRPC connection encrypted, and both ends known to each other.
 *
 * Why        Servers and clients take the same three files: what I am (certificate and key), whom I
 *            believe (authorities). With authorities on the server this is mutual TLS: a client
 *            without a certificate of theirs is refused.
 * Ownership  Borrows the texts during create; the files are read there, once.
 * Threading  Immutable.
 * Errors     From create: NOT_FOUND, DENIED, IO, LIMIT (a file over 1 MiB), INVALID (a certificate
 *            without its key or with another's, a file that is not PEM, a key with a password); the
 *            text names the option and the file. What the peer's certificate lacks shows when
 *            connecting: PEER_LOST. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

/* All NULL: no encryption. Options are --tls-cert, --tls-key, --tls-ca. */
struct spin_rpc_tls {
    const char *cert_file; /* PEM chain; servers need it */
    const char *key_file;  /* PEM, of the chain's first certificate */
    const char *ca_file;   /* PEM; a client's default is the system's own authorities */
    bool enabled;          /* clients: encrypt even when no file is given */
    /* Clients: the name that the server's certificate must carry; NULL: the host of the target. */
    const char *server_name;
};

SPIN_END_DECLS
