/* join_internal: one router's Join stream, and what it tells the set of them.
 *
 * Why        join.c knows names and which routers there are; join_link.c knows one router: when to
 *            dial, what to say and for how long to wait.
 *
 *              +--> PAUSED --timer--> WAITING --welcome--> JOINED --+
 *              |                         |                   |      |
 *              +---------- over ---------+----- ENDING ------+------+
 *              |
 *              +--> RESTING: another link leads to the same router
 *
 * Ownership  The set owns its links. Destroying a link whose call is open leaves its memory to the
 *            message that says that the call is over.
 * Threading  The loop's thread; what the rpc thread hears is posted.
 * Units      Nanoseconds.
 * Errors     link create: those of spin_rpc_client_create, NO_MEMORY. */
#pragma once

#include "base/rng.h"
#include "proto/join.h"

SPIN_BEGIN_DECLS

#define SPIN_JOIN_ADDRESS_BYTES 128u
#define SPIN_JOIN_ROUTER_ID_BYTES 128u

enum spin_join_link_state {
    SPIN_JOIN_PAUSED,  /* until the timer says dial */
    SPIN_JOIN_WAITING, /* for the welcome */
    SPIN_JOIN_JOINED,  /* the timer says when the next status is due */
    SPIN_JOIN_ENDING,  /* cancelled, or the goodbye is on its way */
    SPIN_JOIN_RESTING  /* for as long as another link is joined to the same router */
};

struct spin_join_link {
    struct spin_join *join; /* NULL: destroyed, and the call not over yet */
    char address[SPIN_JOIN_ADDRESS_BYTES];
    uint64_t targets; /* bit n: the n-th name leads here */
    enum spin_join_link_state state;
    char router_id[SPIN_JOIN_ROUTER_ID_BYTES]; /* as of the last welcome */
    uint32_t failures;                         /* since the last welcome */
    spin_status failure_logged;
    const char *reason; /* why we ended it ourselves; NULL: we did not */
    struct spin_rpc_client *client;
    struct spin_rpc_client_call *call;
    bool open; /* `ended` is still to come */
    struct spin_timer *timer;

    /* Filled by the rpc thread before it posts them; at most one of each per call. */
    struct {
        struct spin_loop_message message;
        bool posted;
        uint32_t interval_ms;
        char router_id[SPIN_JOIN_ROUTER_ID_BYTES];
    } welcome;
    struct {
        struct spin_loop_message message;
        spin_status status;
        char text[200];
    } ended;
};

struct spin_join_target; /* private to join.c */

struct spin_join {
    struct spin_loop *loop;
    struct spin_rpc_thread *thread;
    struct spin_join_config config;
    struct spin_rng rng; /* of the jitter */
    struct spin_join_target *targets[SPIN_JOIN_ROUTERS_MAX];
    uint32_t target_count;
    struct spin_join_link *links[SPIN_JOIN_ROUTERS_MAX];
    uint32_t link_count;
    struct spin_timer *timer; /* the next resolution; after leave: when to have left */
    bool leaving;
    bool left;
};

/* join_link.c. `server_name`: whose certificate it must be. Dials at once. */
SPIN_MUST_USE spin_status spin_join_link_create(struct spin_join *join, const char *address,
                                                const char *server_name,
                                                struct spin_join_link **out,
                                                struct spin_error *err);
void spin_join_link_destroy(struct spin_join_link *link); /* NULL is allowed */
void spin_join_link_report(struct spin_join_link *link);  /* a status now, if it is joined */
void spin_join_link_leave(struct spin_join_link *link, const char *reason);
void spin_join_link_rest(struct spin_join_link *link); /* ends what is open */
void spin_join_link_wake(struct spin_join_link *link); /* a resting one dials again */

/* join.c: what a link tells. */
void spin_join_link_welcomed(struct spin_join *join, struct spin_join_link *link);
/* The link's call is over and the link PAUSED; it may be destroyed inside. */
void spin_join_link_is_over(struct spin_join *join, struct spin_join_link *link);

SPIN_END_DECLS
