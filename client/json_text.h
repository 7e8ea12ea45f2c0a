/* json_text: a string as JSON.
 *
 * Why        The command prints one flat object; that needs no library, only correct strings.
 * Threading  Any thread.
 * Errors     Those of the stream: see ferror. Bytes that are not UTF-8 come out as U+FFFD. */
#pragma once

#include "base/base.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

/* With its quotes. */
void spin_json_write_string(FILE *out, const char *bytes, uint64_t count);

SPIN_END_DECLS
