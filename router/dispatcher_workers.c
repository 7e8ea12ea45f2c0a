/* The workers that a dispatcher may use: a connection for each that joined. */
#include "base/clock.h"
#include "base/log.h"
#include "router/dispatcher_internal.h"
#include "router/metrics.h"

#include <string.h>

bool spin_dispatcher_is_usable(const struct spin_member *member)
{
    return member->view.takes && member->link != NULL;
}

/* One that fails again and again counts as none. */
void spin_dispatcher_note_workers(struct spin_dispatcher *dispatcher)
{
    bool found = false;
    for (uint32_t i = 0; i < spin_members_count(dispatcher->members) && !found; i++) {
        const struct spin_member *member = spin_members_at(dispatcher->members, i);
        found = spin_dispatcher_is_usable(member) && spin_worker_link_is_sound(member->link);
    }
    if (found) {
        dispatcher->no_worker_ns = SPIN_NO_DEADLINE;
    } else if (dispatcher->no_worker_ns == SPIN_NO_DEADLINE) {
        dispatcher->no_worker_ns = spin_loop_now_ns(dispatcher->parts.loop);
    }
    spin_metrics_set(dispatcher->parts.metrics, SPIN_ROUTER_METRIC_WORKERS,
                     spin_members_ready(dispatcher->members));
}

void spin_dispatcher_unlink_member(struct spin_member *member)
{
    struct spin_worker_link *link = member->link;
    if (link != NULL) {
        link->heard_ns = SPIN_MAX(link->heard_ns, member->heard_ns);
        link->member = NULL;
        member->link = NULL;
    }
}

static void make_link(struct spin_dispatcher *dispatcher, struct spin_member *member)
{
    const struct spin_rpc_client_config config = {.target = member->address,
                                                  .bearer = dispatcher->config.worker_token,
                                                  .tls = dispatcher->config.worker_tls};
    struct spin_worker_link *link = NULL;
    struct spin_error err = {0};
    if (spin_worker_link_create(dispatcher->thread, &config, member, &link, &err) != SPIN_OK) {
        SPIN_ERROR("no connection to worker: id=%s address=%s: %s", member->id, member->address,
                   err.text);
        return;
    }
    dispatcher->links_made++;
    link->serial = dispatcher->links_made;
    link->member = member;
    member->link = link;
    spin_list_push_back(&dispatcher->links, &link->link);
}

/* A new Join: what the worker did before is forgotten, and it is used at once. */
static void welcome(struct spin_dispatcher *dispatcher, struct spin_member *member)
{
    SPIN_INFO("member joined: id=%s address=%s role=%s version=%s", member->id, member->address,
              member->role, member->version);
    if (member->kind != SPIN__V1__MEMBER_KIND__MEMBER_WORKER) {
        return;
    }
    const struct spin_worker_link *old = member->link;
    if (old != NULL && strcmp(old->address, member->address) != 0) {
        spin_dispatcher_unlink_member(member);
    }
    if (member->link == NULL) {
        make_link(dispatcher, member);
    } else {
        spin_worker_link_forgive(member->link);
    }
}

void spin_dispatcher_member_changed(void *context, struct spin_member *member)
{
    struct spin_dispatcher *dispatcher = context;
    if (member->joined && member->linked_ns != member->joined_ns) {
        member->linked_ns = member->joined_ns;
        welcome(dispatcher, member);
    }
    if (!member->joined) {
        SPIN_INFO("member gone: id=%s goodbye=%s", member->id, member->goodbye ? "yes" : "no");
        spin_metrics_add(
            dispatcher->parts.metrics, SPIN_ROUTER_METRIC_WORKERS_LOST,
            !member->goodbye && member->kind == SPIN__V1__MEMBER_KIND__MEMBER_WORKER ? 1 : 0);
    }
    spin_dispatcher_note_workers(dispatcher);
    spin_dispatcher_schedule(dispatcher);
}

/* Links without a row and without calls. */
void spin_dispatcher_destroy_idle_links(struct spin_dispatcher *dispatcher)
{
    struct spin_link *at = spin_list_first(&dispatcher->links);
    while (at != NULL) {
        struct spin_worker_link *link = SPIN_CONTAINER_OF(at, struct spin_worker_link, link);
        at = spin_list_next(&dispatcher->links, at);
        if (link->member == NULL && link->calls.count == 0) {
            spin_list_remove(&dispatcher->links, &link->link);
            spin_worker_link_destroy(link);
        }
    }
}
