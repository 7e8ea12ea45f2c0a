#include "proto/rpc_internal.h"

#include <grpc/slice.h>

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SCHEME "Bearer "

static char *new_token(const char *bytes, size_t count)
{
    char *copy = malloc(count + 1);
    if (copy != NULL) { /* else the call has no token, and is refused where one is wanted */
        memcpy(copy, bytes, count);
        copy[count] = '\0';
    }
    return copy;
}

char *spin_rpc_token_find(const grpc_metadata_array *metadata)
{
    for (size_t i = 0; i < metadata->count; i++) {
        const grpc_metadata *entry = &metadata->metadata[i];
        if (grpc_slice_str_cmp(entry->key, "authorization") != 0) {
            continue;
        }
        const char *value = (const char *)GRPC_SLICE_START_PTR(entry->value);
        const size_t bytes = GRPC_SLICE_LENGTH(entry->value);
        const size_t scheme_bytes = sizeof SCHEME - 1;
        /* The name of a scheme is the same in any case (RFC 9110). */
        if (bytes <= scheme_bytes || strncasecmp(value, SCHEME, scheme_bytes) != 0) {
            return NULL;
        }
        return new_token(value + scheme_bytes, bytes - scheme_bytes);
    }
    return NULL;
}

bool spin_rpc_token_equal(const char *given, const char *expected)
{
    /* `expected` is read up to its end and then at its end: neither its length nor the place of the
     * first difference changes how often this loop runs or where it branches. */
    uint32_t difference = 0;
    size_t at = 0;
    for (size_t i = 0; given[i] != '\0'; i++) {
        difference |= (uint32_t)(uint8_t)given[i] ^ (uint32_t)(uint8_t)expected[at];
        at += (size_t)(expected[at] != '\0');
    }
    return (difference | (uint32_t)(uint8_t)expected[at]) == 0;
}
