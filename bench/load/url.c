#include "bench/load/url.h"

#include <stdio.h>
#include <string.h>

#define HTTP_PORT 80u

/* Whether the text is "<scheme>://...". */
static bool has_scheme(const char *text, const char *scheme)
{
    const uint64_t bytes = strlen(scheme);
    return strncmp(text, scheme, bytes) == 0 && strncmp(text + bytes, "://", 3) == 0;
}

static bool is_path(const char *path)
{
    for (; *path != '\0'; path++) {
        if (*path <= ' ' || *path > '~' || *path == '?' || *path == '#') {
            return false;
        }
    }
    return true;
}

/* "[::1]" and "host" have no port. */
static bool has_port(const char *authority)
{
    const char *colon = strrchr(authority, ':');
    const char *bracket = strrchr(authority, ']');
    return colon != NULL && (bracket == NULL || colon > bracket);
}

static spin_status take_authority(const char *text, uint64_t bytes, struct spin_load_url *out,
                                  struct spin_error *err)
{
    char authority[SPIN_ADDRESS_TEXT_BYTES];
    struct spin_address parts;
    if (bytes + 8 > sizeof authority) {
        return spin_fail(err, SPIN_ERR_INVALID, "\"%.100s\": a host is at most %u bytes", text,
                         SPIN_ADDRESS_HOST_BYTES);
    }
    (void)snprintf(authority, sizeof authority, "%.*s", (int)bytes, text);
    if (out->is_http && !has_port(authority)) {
        (void)snprintf(authority + bytes, sizeof authority - bytes, ":%u", HTTP_PORT);
    }
    SPIN_TRY(spin_address_split(authority, &parts, err));
    (void)snprintf(out->address, sizeof out->address, "%s", authority);
    return SPIN_OK;
}

spin_status spin_load_url_parse(const char *text, struct spin_load_url *out, struct spin_error *err)
{
    struct spin_load_url url = {.is_http = has_scheme(text, "http")};
    if (has_scheme(text, "https")) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "\"%.100s\": HTTP is not encrypted here; measure behind the gateway, or "
                         "gRPC with --tls",
                         text);
    }
    const bool is_named = url.is_http || has_scheme(text, "grpc");
    const char *rest = is_named ? strstr(text, "://") + 3 : text;
    const uint64_t bytes = strcspn(rest, "/");
    const char *path = rest + bytes;
    uint64_t path_bytes = strlen(path);
    while (path_bytes != 0 && path[path_bytes - 1] == '/') {
        path_bytes--;
    }
    if (path_bytes >= sizeof url.path || !is_path(path) || (path_bytes != 0 && !url.is_http)) {
        return spin_fail(
            err, SPIN_ERR_INVALID,
            "\"%.100s\": a scheme (http, grpc or none), a host, a port; for http a base path",
            text);
    }
    (void)snprintf(url.path, sizeof url.path, "%.*s", (int)path_bytes, path);
    SPIN_TRY(take_authority(rest, bytes, &url, err));
    *out = url;
    return SPIN_OK;
}
