/* name: what a file calls its parts, before it may appear in a log line.
 *
 * Why        Names of keys and tensors are quoted in error texts; one with control characters in it
 *            could forge log lines, and no real file has one.
 * Threading  Any thread; pure. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

/* All bytes are printable ASCII, the space included. */
bool spin_name_is_printable(const char *bytes, uint64_t count);

SPIN_END_DECLS
