/* prompt: the prompt's text from wherever it is.
 *
 * Why        Argument, file and standard input are one thing after this.
 * Ownership  The text is the caller's: free.
 * Threading  The main thread; reading standard input blocks.
 * Units      Bytes of UTF-8.
 * Errors     INVALID: no prompt, two, an empty one, or one with a NUL. NOT_FOUND, IO, LIMIT: the
 *            file. NO_MEMORY. */
#pragma once

#include "client/options.h"

SPIN_BEGIN_DECLS

#define SPIN_PROMPT_BYTES_MAX (UINT64_C(16) << 20) /* a router takes no more */

/* `argument`: the bare argument, or NULL. *out is NUL-terminated. */
SPIN_MUST_USE spin_status spin_prompt_read(const struct spin_generate_options *options,
                                           const char *argument, char **out,
                                           struct spin_error *err);

SPIN_END_DECLS
