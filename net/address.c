#include "net/loop_internal.h"

#include <arpa/inet.h>
#include <stdio.h>

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
