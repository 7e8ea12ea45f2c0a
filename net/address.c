#include "net/loop_internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

spin_status spin_net_split(const char *text, struct spin_net_target *out, struct spin_error *err)
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
    if (host_bytes == 0 || host_bytes >= sizeof out->host || port_bytes == 0 || port_bytes > 5 ||
        strspn(colon + 1, "0123456789") != port_bytes || strtoul(colon + 1, NULL, 10) > 65535) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "address \"%.128s\": not host:port with a port of 0..65535", text);
    }
    memcpy(out->host, host, host_bytes);
    out->host[host_bytes] = '\0';
    memcpy(out->port, colon + 1, port_bytes + 1);
    return SPIN_OK;
}

void spin_net_format(const struct sockaddr *address, char out[SPIN_NET_ADDRESS_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "";
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)address;
        (void)inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        (void)snprintf(out, SPIN_NET_ADDRESS_BYTES, "%s:%u", host, ntohs(v4->sin_port));
    } else if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const void *)address;
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        (void)snprintf(out, SPIN_NET_ADDRESS_BYTES, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        (void)snprintf(out, SPIN_NET_ADDRESS_BYTES, "?");
    }
}

spin_status spin_net_status(int uv_error)
{
    switch (uv_error) {
    case 0:
        return SPIN_OK;
    case UV_ENOMEM:
    case UV_EAI_MEMORY:
        return SPIN_ERR_NO_MEMORY;
    case UV_EMFILE:
    case UV_ENFILE:
        return SPIN_ERR_EXHAUSTED;
    case UV_EAI_AGAIN:
        return SPIN_ERR_AGAIN;
    case UV_EAI_NONAME:
    case UV_EAI_NODATA:
    case UV_EAI_SERVICE:
        return SPIN_ERR_NOT_FOUND;
    case UV_ECANCELED:
    case UV_EAI_CANCELED:
        return SPIN_ERR_CANCELLED;
    default:
        return SPIN_ERR_IO;
    }
}
