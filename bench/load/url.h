/* url: where a server is, as people write it.
 *
 * Why        One text says where and how: "http://localhost:8000/base" is OpenAI-compatible HTTP,
 *            "grpc://host:9000", or without a scheme, our own API.
 * Ownership  Plain data.
 * Threading  Any thread.
 * Errors     INVALID quotes the text; UNSUPPORTED: https, which nobody here speaks. */
#pragma once

#include "base/address.h"

SPIN_BEGIN_DECLS

#define SPIN_LOAD_PATH_BYTES 128u

struct spin_load_url {
    bool is_http;
    char address[SPIN_ADDRESS_TEXT_BYTES]; /* "host:port" */
    char path[SPIN_LOAD_PATH_BYTES];       /* "" or "/base", without a slash at the end */
};

SPIN_MUST_USE spin_status spin_load_url_parse(const char *text, struct spin_load_url *out,
                                              struct spin_error *err);

SPIN_END_DECLS
