/* assert: our own bugs end the process, with the expression, both values and the thread's name.
 *
 * Why        <assert.h> vanishes under NDEBUG, which -c opt defines; a server wants its invariants
 *            checked where it runs. What comes from outside is never asserted: it gets a status.
 * Threading  Any thread. SPIN_ASSERT_THREAD(owner) states which thread an object belongs to.
 * Errors     A failed assertion writes one line to standard error and aborts. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

__attribute__((noreturn)) void spin_assert_fail(const char *expr, const char *file, int line);
__attribute__((noreturn)) void spin_assert_fail_values(const char *expr, int64_t a, int64_t b,
                                                       const char *where);

#define SPIN_STRINGIFY_(x) #x
#define SPIN_STRINGIFY(x) SPIN_STRINGIFY_(x)

#define SPIN_ASSERT(expr) ((expr) ? (void)0 : spin_assert_fail(#expr, __FILE__, __LINE__))

#define SPIN_ASSERT_OP_(a, op, b) \
    (((a)op(b)) ? (void)0 \
                : spin_assert_fail_values(#a " " #op " " #b, (int64_t)(a), (int64_t)(b), \
                                          __FILE__ ":" SPIN_STRINGIFY(__LINE__)))
#define SPIN_ASSERT_EQ(a, b) SPIN_ASSERT_OP_(a, ==, b)
#define SPIN_ASSERT_NE(a, b) SPIN_ASSERT_OP_(a, !=, b)
#define SPIN_ASSERT_LT(a, b) SPIN_ASSERT_OP_(a, <, b)
#define SPIN_ASSERT_LE(a, b) SPIN_ASSERT_OP_(a, <=, b)
#define SPIN_ASSERT_GT(a, b) SPIN_ASSERT_OP_(a, >, b)
#define SPIN_ASSERT_GE(a, b) SPIN_ASSERT_OP_(a, >=, b)

/* For O(n) checks and inner loops: on with -DSPIN_DEBUG, which all sanitizer builds define. */
#ifdef SPIN_DEBUG
#define SPIN_DASSERT(expr) SPIN_ASSERT(expr)
#else
#define SPIN_DASSERT(expr) ((void)sizeof(expr))
#endif

/* The thread that owns an object: set once by its owner, asserted on every entry after that. */
struct spin_owner {
    uint64_t thread; /* 0: not owned yet */
};
void spin_owner_set(struct spin_owner *owner);
bool spin_owner_is_current(const struct spin_owner *owner);
#define SPIN_ASSERT_THREAD(owner) SPIN_ASSERT(spin_owner_is_current(owner))

SPIN_END_DECLS
