#include "base/address.h"

#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PORT_MAX 65535u
#define PORT_DIGITS_MAX 5u

spin_status spin_address_split(const char *text, struct spin_address *out, struct spin_error *err)
{
    const char *colon = strrchr(text, ':');
    const char *host = text;
    uint64_t host_bytes = colon == NULL ? 0 : (uint64_t)(colon - text);
    if (host_bytes >= 2 && text[0] == '[' && colon[-1] == ']') {
        host++;
        host_bytes -= 2;
    } else if (host_bytes != 0 && memchr(text, ':', host_bytes) != NULL) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "address \"%.128s\": an IPv6 address goes in brackets: \"[::1]:80\"",
                         text);
    }
    const uint64_t port_bytes = colon == NULL ? 0 : strlen(colon + 1);
    if (host_bytes == 0 || host_bytes >= sizeof out->host || port_bytes == 0 ||
        port_bytes > PORT_DIGITS_MAX || strspn(colon + 1, "0123456789") != port_bytes ||
        strtoul(colon + 1, NULL, 10) > PORT_MAX || memchr(host, '[', host_bytes) != NULL ||
        memchr(host, ']', host_bytes) != NULL) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "address \"%.128s\": not host:port with a port of 0..65535", text);
    }
    memcpy(out->host, host, host_bytes);
    out->host[host_bytes] = '\0';
    memcpy(out->port, colon + 1, port_bytes + 1);
    return SPIN_OK;
}

void spin_address_format(const char *host, uint32_t port, char out[SPIN_ADDRESS_TEXT_BYTES])
{
    const bool number = strchr(host, ':') != NULL;
    (void)snprintf(out, SPIN_ADDRESS_TEXT_BYTES, number ? "[%s]:%u" : "%s:%u", host, port);
}

bool spin_address_is_wildcard(const char *text)
{
    struct spin_address address;
    return spin_address_split(text, &address, NULL) == SPIN_OK &&
           (strcmp(address.host, "0.0.0.0") == 0 || strcmp(address.host, "::") == 0);
}

void spin_address_local(const char *listen, uint32_t port, char out[SPIN_ADDRESS_TEXT_BYTES])
{
    struct spin_address address = {0};
    const spin_status status = spin_address_split(listen, &address, NULL);
    SPIN_ASSERT_EQ(status, SPIN_OK); /* its server has read it */
    spin_address_format(spin_address_is_wildcard(listen) ? "127.0.0.1" : address.host, port, out);
}
