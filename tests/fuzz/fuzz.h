/* fuzz: the entry point that every fuzz target defines.
 *
 * Why        libFuzzer and the plain driver (fuzz_main.c) call the same function.
 * Ownership  The bytes are borrowed for the call; they end at a redzone, without a NUL.
 * Threading  One thread.
 * Errors     Returns 0. A finding is a crash, a sanitizer's report, an assertion or a hang. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

SPIN_END_DECLS
