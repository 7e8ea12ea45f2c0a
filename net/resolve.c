#include "base/address.h"
#include "net/loop_internal.h"

#include <uv.h>

#include <netdb.h>
#include <stdlib.h>
#include <string.h>

struct resolve {
    uv_getaddrinfo_t uv;
    spin_resolved_fn done;
    void *context;
    struct spin_address target;
};

struct found {
    char texts[SPIN_LOOP_ADDRESSES_MAX][SPIN_NET_ADDRESS_BYTES];
    const char *pointers[SPIN_LOOP_ADDRESSES_MAX];
    uint32_t count;
};

/* A hosts file may name an address twice. */
static void add_address(struct found *found, const struct sockaddr *address)
{
    if (found->count == SPIN_LOOP_ADDRESSES_MAX) {
        return;
    }
    char *text = found->texts[found->count];
    spin_net_format(address, text);
    for (uint32_t i = 0; i < found->count; i++) {
        if (strcmp(found->texts[i], text) == 0) {
            return;
        }
    }
    found->pointers[found->count++] = text;
}

static void release_resolve(uv_getaddrinfo_t *uv, int failure, struct addrinfo *addresses)
{
    struct resolve *resolve = uv->data;
    struct found found;
    found.count = 0;
    for (const struct addrinfo *info = addresses; info != NULL; info = info->ai_next) {
        add_address(&found, info->ai_addr);
    }
    uv_freeaddrinfo(addresses);
    const spin_resolved_fn done = resolve->done;
    void *context = resolve->context;
    free(resolve);
    const spin_status status =
        failure == 0 && found.count == 0 ? SPIN_ERR_NOT_FOUND : spin_net_status(failure);
    done(context, status, found.pointers, found.count);
}

static struct resolve *resolve_create(const struct spin_address *target, spin_resolved_fn done,
                                      void *context)
{
    struct resolve *resolve = calloc(1, sizeof *resolve);
    if (resolve != NULL) {
        resolve->uv.data = resolve;
        resolve->done = done;
        resolve->context = context;
        resolve->target = *target;
    }
    return resolve;
}

static void resolve_destroy(struct resolve *resolve)
{
    free(resolve);
}

spin_status spin_loop_resolve(struct spin_loop *loop, const char *target, spin_resolved_fn done,
                              void *context, struct spin_error *err)
{
    SPIN_ASSERT(done != NULL);
    struct spin_address parts;
    SPIN_TRY(spin_address_split(target, &parts, err));
    struct resolve *resolve = resolve_create(&parts, done, context);
    if (resolve == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "resolving %.128s", target);
    }
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    const int failure = uv_getaddrinfo(spin_loop_uv(loop), &resolve->uv, release_resolve,
                                       resolve->target.host, resolve->target.port, &hints);
    if (failure != 0) {
        resolve_destroy(resolve);
        return spin_fail(err, spin_net_status(failure), "resolving %.128s: %s", target,
                         uv_strerror(failure));
    }
    return SPIN_OK;
}
