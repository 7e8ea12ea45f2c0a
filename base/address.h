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

SPIN_END_DECLS
