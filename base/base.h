/* base: the few words every file needs: fixed-width types, linkage and attribute macros. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define SPIN_BEGIN_DECLS extern "C" {
#define SPIN_END_DECLS }
#else
#define SPIN_BEGIN_DECLS
#define SPIN_END_DECLS
#endif

/* Of small functions in headers: kernels call them, too. */
#ifdef __CUDACC__
#define SPIN_INLINE static inline __host__ __device__
#else
#define SPIN_INLINE static inline
#endif

#define SPIN_MUST_USE __attribute__((warn_unused_result))
#define SPIN_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))
#define SPIN_ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define SPIN_MIN(a, b) ((a) < (b) ? (a) : (b))
#define SPIN_MAX(a, b) ((a) > (b) ? (a) : (b))
