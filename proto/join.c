/* The set of routers: which there are, by name, and one link to each. */
#include "proto/join.h"

#include "base/address.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/join_internal.h"

#include <stdlib.h>
#include <string.h>

#define RESOLVE_INTERVAL_NS (10 * SPIN_NS_PER_S)
#define LEAVE_LIMIT_NS (1 * SPIN_NS_PER_S)
#define TARGET_BYTES_MAX 272u /* a DNS name has at most 253, a port 5 */

_Static_assert(SPIN_JOIN_ROUTERS_MAX <= 64, "a link's targets are the bits of a u64");

/* One item of `routers`. */
struct spin_join_target {
    struct spin_join *join; /* NULL: destroyed, and the resolution not over yet */
    uint32_t index;
    char text[TARGET_BYTES_MAX]; /* "host:port" */
    struct spin_address parts;   /* the host is what a certificate is made out to */
    bool resolving;
    bool failure_logged;
};

/* --- names --- */

static void on_resolved(void *context, spin_status status, const char *const *addresses,
                        uint32_t count);

static spin_status resolve(struct spin_join_target *target, struct spin_error *err)
{
    SPIN_TRY(spin_loop_resolve(target->join->loop, target->text, on_resolved, target, err));
    target->resolving = true;
    return SPIN_OK;
}

static struct spin_join_target *target_create(struct spin_join *join, const char *text,
                                              size_t bytes)
{
    struct spin_join_target *target = calloc(1, sizeof *target);
    if (target != NULL) {
        target->join = join;
        target->index = join->target_count;
        memcpy(target->text, text, bytes);
    }
    return target;
}

/* While a resolution is under way its end frees the memory. */
static void target_destroy(struct spin_join_target *target)
{
    target->join = NULL;
    if (!target->resolving) {
        free(target);
    }
}

static spin_status add_target(struct spin_join *join, const char *text, size_t bytes,
                              struct spin_error *err)
{
    if (join->target_count == SPIN_JOIN_ROUTERS_MAX || bytes >= TARGET_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "routers: at most %u of at most %u bytes",
                         SPIN_JOIN_ROUTERS_MAX, TARGET_BYTES_MAX - 1);
    }
    struct spin_join_target *target = target_create(join, text, bytes);
    if (target == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "join: %zu bytes", sizeof *target);
    }
    join->targets[join->target_count++] = target;
    SPIN_TRY(spin_address_split(target->text, &target->parts, err));
    return resolve(target, err);
}

static spin_status add_targets(struct spin_join *join, const char *routers, struct spin_error *err)
{
    for (const char *item = routers;;) {
        const size_t bytes = strcspn(item, ",");
        SPIN_TRY(add_target(join, item, bytes, err));
        if (item[bytes] == '\0') {
            return SPIN_OK;
        }
        item += bytes + 1;
    }
}

static struct spin_join_link *find_link(const struct spin_join *join, const char *address)
{
    for (uint32_t i = 0; i < join->link_count; i++) {
        if (strcmp(join->links[i]->address, address) == 0) {
            return join->links[i];
        }
    }
    return NULL;
}

/* The address is a router's: there is a link to it, or there will be one. */
static void want_link(struct spin_join_target *target, const char *address)
{
    struct spin_join *join = target->join;
    struct spin_join_link *link = find_link(join, address);
    if (link == NULL) {
        struct spin_error err = {0};
        spin_status status;
        if (join->link_count == SPIN_JOIN_ROUTERS_MAX) {
            status = spin_fail(&err, SPIN_ERR_LIMIT, "more than %u routers", SPIN_JOIN_ROUTERS_MAX);
        } else {
            status = spin_join_link_create(join, address, target->parts.host, &link, &err);
        }
        if (status != SPIN_OK) {
            SPIN_WARN("router left out: router=%s why=%s", address, err.text);
            return;
        }
        join->links[join->link_count++] = link;
    }
    link->targets |= UINT64_C(1) << target->index;
}

static void remove_link(struct spin_join *join, uint32_t index)
{
    spin_join_link_destroy(join->links[index]);
    join->link_count--;
    join->links[index] = join->links[join->link_count];
}

/* No name leads to it any more. A stream that stands is left alone: names come and go, too. */
static bool is_stale(const struct spin_join_link *link)
{
    return link->targets == 0 && !link->open;
}

static void on_resolved(void *context, spin_status status, const char *const *addresses,
                        uint32_t count)
{
    struct spin_join_target *target = context;
    struct spin_join *join = target->join;
    target->resolving = false;
    if (join == NULL) {
        target_destroy(target);
        return;
    }
    if (join->leaving) {
        return;
    }
    if (status != SPIN_OK || count == 0) {
        if (!target->failure_logged) {
            SPIN_WARN("router's name not found, trying again: router=%s", target->text);
        }
        target->failure_logged = true;
        return; /* what was known stays */
    }
    target->failure_logged = false;
    for (uint32_t i = 0; i < join->link_count; i++) {
        join->links[i]->targets &= ~(UINT64_C(1) << target->index);
    }
    for (uint32_t i = 0; i < count; i++) {
        want_link(target, addresses[i]);
    }
    for (uint32_t i = join->link_count; i-- > 0;) {
        if (is_stale(join->links[i])) {
            remove_link(join, i);
        }
    }
}

/* --- what links tell --- */

void spin_join_link_welcomed(struct spin_join *join, struct spin_join_link *link)
{
    if (link->router_id[0] == '\0') {
        return;
    }
    /* The newer stream counts at the router; the older one is its double. */
    for (uint32_t i = 0; i < join->link_count; i++) {
        struct spin_join_link *other = join->links[i];
        if (other != link && other->state == SPIN_JOIN_JOINED &&
            strcmp(other->router_id, link->router_id) == 0) {
            spin_join_link_rest(other);
        }
    }
}

static bool has_joined_double(const struct spin_join *join, const struct spin_join_link *link)
{
    for (uint32_t i = 0; i < join->link_count && link->router_id[0] != '\0'; i++) {
        const struct spin_join_link *other = join->links[i];
        if (other != link && other->state == SPIN_JOIN_JOINED &&
            strcmp(other->router_id, link->router_id) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_any_open(const struct spin_join *join)
{
    for (uint32_t i = 0; i < join->link_count; i++) {
        if (join->links[i]->open) {
            return true;
        }
    }
    return false;
}

static void wake_doubles(struct spin_join *join, const struct spin_join_link *link)
{
    for (uint32_t i = 0; i < join->link_count; i++) {
        struct spin_join_link *other = join->links[i];
        if (other->state == SPIN_JOIN_RESTING && !has_joined_double(join, other) &&
            strcmp(other->router_id, link->router_id) == 0) {
            spin_join_link_wake(other);
        }
    }
}

void spin_join_link_is_over(struct spin_join *join, struct spin_join_link *link)
{
    if (join->leaving) {
        spin_join_link_rest(link);
        if (!is_any_open(join)) {
            spin_timer_start(join->timer, 0, false);
        }
        return;
    }
    if (has_joined_double(join, link)) {
        spin_join_link_rest(link);
        return;
    }
    wake_doubles(join, link);
    for (uint32_t i = 0; i < join->link_count; i++) {
        if (join->links[i] == link && is_stale(link)) {
            remove_link(join, i);
            return;
        }
    }
}

/* --- life --- */

static void say_left(struct spin_join *join)
{
    const bool first = !join->left;
    join->left = true;
    if (first && join->config.left != NULL) {
        join->config.left(join->config.context); /* may destroy us */
    }
}

static void on_timer(void *context)
{
    struct spin_join *join = context;
    if (join->leaving) {
        say_left(join);
        return;
    }
    for (uint32_t i = 0; i < join->target_count; i++) {
        struct spin_error err = {0};
        if (!join->targets[i]->resolving && resolve(join->targets[i], &err) != SPIN_OK) {
            SPIN_WARN("cannot look up a router: %s", err.text);
        }
    }
}

spin_status spin_join_create(struct spin_loop *loop, struct spin_rpc_thread *thread,
                             const struct spin_join_config *config, struct spin_join **out,
                             struct spin_error *err)
{
    SPIN_ASSERT(config->hello != NULL && config->hello->peer != NULL);
    SPIN_ASSERT(config->fill_status != NULL);
    struct spin_join *join = calloc(1, sizeof *join);
    if (join == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "join: %zu bytes", sizeof *join);
    }
    join->loop = loop;
    join->thread = thread;
    join->config = *config;
    join->rng.seed = config->hello->peer->incarnation; /* members differ in it */
    spin_status status;
    SPIN_TRY_GOTO(status, add_targets(join, config->routers, err), fail);
    SPIN_TRY_GOTO(status, spin_timer_create(loop, on_timer, join, &join->timer), fail);
    spin_timer_start(join->timer, RESOLVE_INTERVAL_NS, true);
    *out = join;
    return SPIN_OK;
fail:
    spin_join_destroy(join);
    return status;
}

void spin_join_report(struct spin_join *join)
{
    for (uint32_t i = 0; i < join->link_count; i++) {
        spin_join_link_report(join->links[i]);
    }
}

void spin_join_leave(struct spin_join *join, const char *reason)
{
    if (join->leaving) {
        return;
    }
    join->leaving = true;
    for (uint32_t i = 0; i < join->link_count; i++) {
        spin_join_link_leave(join->links[i], reason);
    }
    spin_timer_start(join->timer, is_any_open(join) ? LEAVE_LIMIT_NS : 0, false);
}

uint32_t spin_join_connected(const struct spin_join *join)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < join->link_count; i++) {
        count += join->links[i]->state == SPIN_JOIN_JOINED ? 1 : 0;
    }
    return count;
}

void spin_join_destroy(struct spin_join *join)
{
    if (join == NULL) {
        return;
    }
    while (join->link_count != 0) {
        remove_link(join, join->link_count - 1);
    }
    for (uint32_t i = 0; i < join->target_count; i++) {
        target_destroy(join->targets[i]);
    }
    spin_timer_destroy(join->timer);
    free(join);
}
