/* spin_test: what C tests share beyond cmocka.
 *
 * Why        cmocka wants four headers in one order, and float comparisons that say what they saw.
 * Threading  The test's thread. */
#pragma once

#include "base/status.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka needs what is above. */
/* clang-format off */
#include <cmocka.h>
/* clang-format on */

/* Fails with the error's text when the call did not succeed. */
#define SPIN_EXPECT_OK(expr, err) \
    do { \
        const spin_status expect_status_ = (expr); \
        if (expect_status_ != SPIN_OK) { \
            fail_msg("%s: %s: %s", #expr, spin_status_name(expect_status_), \
                     (err) == NULL ? "" : ((const struct spin_error *)(err))->text); \
        } \
    } while (0)

#define SPIN_EXPECT_STATUS(expr, wanted) \
    do { \
        const spin_status expect_status_ = (expr); \
        if (expect_status_ != (wanted)) { \
            fail_msg("%s: got %s, wanted %s", #expr, spin_status_name(expect_status_), \
                     spin_status_name(wanted)); \
        } \
    } while (0)

/* True when `function` ends the process by an assertion whose line contains `text`. It runs in a
 * child of its own, so nothing it does is seen here. */
bool spin_test_dies(void (*function)(void *), void *argument, const char *text);

/* ||a - b|| / ||b||, in double; infinite when a is not finite. */
double spin_test_relative_l2(const float *a, const float *b, uint64_t count);
