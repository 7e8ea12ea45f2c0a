/* sweep: the search for the highest rate that holds.
 *
 * Why        What a cluster can take is one number that people want, and finding it by hand takes
 *            an afternoon. Each answer costs a run of minutes, so the search asks little: it
 *            doubles until a rate fails, then halves the gap, on a scale of ratios, until it is
 *            narrow enough.
 *
 *            holds:   1 .. 2 .. 4 ........ 6.5          found: 6.5, with 7.1 known to fail
 *            fails:               8 .......... 7.1      (precision 10 %)
 *
 *            A rate at which the generator itself was too slow says nothing of the server: it ends
 *            the search there.
 * Ownership  Plain data.
 * Threading  Any thread; pure.
 * Units      Requests per second. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

enum spin_sweep_verdict {
    SPIN_SWEEP_HOLDS,
    SPIN_SWEEP_FAILS,
    SPIN_SWEEP_LIMITED /* by the generator */
};

enum spin_sweep_end {
    SPIN_SWEEP_GOES_ON,
    SPIN_SWEEP_FOUND,    /* within the precision */
    SPIN_SWEEP_AT_MAX,   /* rate_max holds */
    SPIN_SWEEP_AT_MIN,   /* rate_min fails */
    SPIN_SWEEP_TOO_SLOW, /* a higher rate was more than the generator can do */
    SPIN_SWEEP_TIRED     /* rates_max were tried */
};
const char *spin_sweep_end_text(enum spin_sweep_end end);

struct spin_sweep_config {
    double rate_first; /* between rate_min and rate_max */
    double rate_min;   /* above 0 */
    double rate_max;
    double precision;   /* above 0: the highest that holds and the lowest that fails are so near */
    uint32_t rates_max; /* how many are tried at most; above 0 */
};

struct spin_sweep {
    struct spin_sweep_config config;
    double holds; /* the highest that held; 0: none so far */
    double fails; /* the lowest that failed; infinite: none so far */
    double next;  /* what to try, while it goes on */
    uint32_t tried;
    enum spin_sweep_end end;
};

void spin_sweep_init(struct spin_sweep *sweep, const struct spin_sweep_config *config);
/* What came of `next`; the end is no longer GOES_ON, or next is another rate. */
void spin_sweep_judge(struct spin_sweep *sweep, enum spin_sweep_verdict verdict);

SPIN_END_DECLS
