/* address: "host:port" and "[v6]:port" taken apart, as people and peers write them.
 *
 * Why        HTTP and gRPC bind, dial and check certificates by the same texts: one reader of them,
 *            one message for a wrong one.
 * Ownership  None: the parts are copies.
 * Threading  Any thread.
 * Errors     INVALID: the text quotes the address and says what was wrong with it. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_ADDRESS_HOST_BYTES 256u /* a DNS name has at most 253 */
#define SPIN_ADDRESS_PORT_BYTES 8u

struct spin_address {
    char host[SPIN_ADDRESS_HOST_BYTES]; /* a name or a number, without brackets; never empty */
    char port[SPIN_ADDRESS_PORT_BYTES]; /* digits: 0..65535 */
};

SPIN_MUST_USE spin_status spin_address_split(const char *text, struct spin_address *out,
                                             struct spin_error *err);

/* The longest text of a host and a port, with brackets, colon and NUL. */
#define SPIN_ADDRESS_TEXT_BYTES (SPIN_ADDRESS_HOST_BYTES + SPIN_ADDRESS_PORT_BYTES + 8u)
/* "host:port", in brackets where the host is an IPv6 number. */
void spin_address_format(const char *host, uint32_t port, char out[SPIN_ADDRESS_TEXT_BYTES]);

bool spin_address_is_wildcard(const char *text); /* 0.0.0.0 or [::], whatever the port */
/* Where processes of this machine dial a server that bound `port` of `listen`, which split takes
 * (asserted): 127.0.0.1 for a wildcard. */
void spin_address_local(const char *listen, uint32_t port, char out[SPIN_ADDRESS_TEXT_BYTES]);

SPIN_END_DECLS
