#include "router/policy/admission.h"

#include "base/clock.h"

#include <stdlib.h>

/* Keys order entries inside a tenant; a tenant that waits is in `active`, in the order of turns:
 *
 *     recovered: [entry] [entry]              before everybody, first come first served
 *     active:    [tenant] -> [tenant] -> ...  the first has its turn while its deficit lasts
 *                  |
 *                  entries by key
 */
struct tenant {
    struct spin_list entries;
    struct spin_link active;
    int64_t deficit_tokens; /* what it may still send in this turn */
    bool in_turn;           /* this turn's quantum has been given */
};

struct spin_admission {
    struct spin_admission_config config;
    struct spin_list recovered;
    struct spin_list active;
    uint32_t count;
    struct tenant *tenants;
};

static struct spin_admission_entry *entry_of(struct spin_link *link)
{
    return link == NULL ? NULL : SPIN_CONTAINER_OF(link, struct spin_admission_entry, link);
}

static int64_t cost_of(const struct spin_admission_entry *entry)
{
    return entry->prompt_tokens > 0 ? (int64_t)entry->prompt_tokens : 1;
}

spin_status spin_admission_create(const struct spin_admission_config *config,
                                  struct spin_admission **out, struct spin_error *err)
{
    SPIN_ASSERT_GT(config->tenant_count, 0);
    SPIN_ASSERT_GT(config->quantum_tokens, 0);
    struct spin_admission *admission = calloc(1, sizeof *admission);
    struct tenant *tenants = calloc(config->tenant_count, sizeof *tenants);
    if (admission == NULL || tenants == NULL) {
        free(admission);
        free(tenants);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "admission: %u tenants", config->tenant_count);
    }
    admission->config = *config;
    admission->tenants = tenants;
    spin_list_init(&admission->recovered);
    spin_list_init(&admission->active);
    for (uint32_t i = 0; i < config->tenant_count; i++) {
        spin_list_init(&tenants[i].entries);
    }
    *out = admission;
    return SPIN_OK;
}

void spin_admission_destroy(struct spin_admission *admission)
{
    if (admission != NULL) {
        SPIN_ASSERT_EQ(admission->count, 0);
        free(admission->tenants);
        free(admission);
    }
}

static spin_status check_room(const struct spin_admission *admission, uint32_t tenant,
                              struct spin_error *err)
{
    const struct spin_admission_config *config = &admission->config;
    if (admission->count >= config->queue_max) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "the queue is full: %u requests wait, at most %u",
                         admission->count, config->queue_max);
    }
    const uint32_t waiting = admission->tenants[tenant].entries.count;
    if (waiting >= config->tenant_queue_max) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED,
                         "your queue is full: %u of your requests wait, at most %u", waiting,
                         config->tenant_queue_max);
    }
    return SPIN_OK;
}

/* Behind everything with a key that is not larger: most come in order, so from the end. */
static void insert_by_key(struct spin_list *entries, struct spin_admission_entry *entry)
{
    struct spin_link *after = spin_list_last(entries);
    while (after != NULL && entry_of(after)->key_ns > entry->key_ns) {
        after = after == spin_list_first(entries) ? NULL : after->prev;
    }
    struct spin_link *next =
        after == NULL ? spin_list_first(entries) : spin_list_next(entries, after);
    if (next == NULL) {
        spin_list_push_back(entries, &entry->link);
    } else {
        spin_list_insert_before(entries, next, &entry->link);
    }
}

spin_status spin_admission_push(struct spin_admission *admission,
                                struct spin_admission_entry *entry, uint64_t now_ns, bool first,
                                struct spin_error *err)
{
    SPIN_ASSERT_LT(entry->tenant, admission->config.tenant_count);
    SPIN_ASSERT(entry->link.next == NULL);
    if (first) {
        entry->key_ns = 0; /* says where it is: keys of others are later than the machine's start */
        spin_list_push_back(&admission->recovered, &entry->link);
        admission->count++;
        return SPIN_OK;
    }
    SPIN_TRY(check_room(admission, entry->tenant, err));
    const uint64_t cost_ns = (uint64_t)entry->prompt_tokens * admission->config.token_cost_ns;
    entry->key_ns = SPIN_MAX(spin_deadline_ns(now_ns, cost_ns), 1);
    struct tenant *tenant = &admission->tenants[entry->tenant];
    insert_by_key(&tenant->entries, entry);
    if (tenant->entries.count == 1) {
        spin_list_push_back(&admission->active, &tenant->active);
    }
    admission->count++;
    return SPIN_OK;
}

static struct tenant *turn_of(const struct spin_admission *admission)
{
    struct spin_link *link = spin_list_first(&admission->active);
    return link == NULL ? NULL : SPIN_CONTAINER_OF(link, struct tenant, active);
}

static struct spin_admission_entry *front_of(const struct tenant *tenant)
{
    return entry_of(spin_list_first(&tenant->entries));
}

/* How many quanta the tenant lacks for its first entry. */
static int64_t turns_needed(const struct tenant *tenant, int64_t quantum)
{
    const int64_t lack = cost_of(front_of(tenant)) - tenant->deficit_tokens;
    return lack <= 0 ? 0 : (lack + quantum - 1) / quantum;
}

/* Rounds in which nobody could send anything, given at once: a prompt of a million tokens would
 * otherwise take hundreds of walks over all tenants. The last quantum comes with the turn. */
static void skip_idle_rounds(struct spin_admission *admission, int64_t quantum)
{
    int64_t rounds = INT64_MAX;
    SPIN_LIST_FOREACH (&admission->active, link) {
        const struct tenant *tenant = SPIN_CONTAINER_OF(link, struct tenant, active);
        rounds = SPIN_MIN(rounds, turns_needed(tenant, quantum));
    }
    if (rounds <= 1) {
        return;
    }
    SPIN_LIST_FOREACH (&admission->active, link) {
        SPIN_CONTAINER_OF(link, struct tenant, active)->deficit_tokens += (rounds - 1) * quantum;
    }
}

struct spin_admission_entry *spin_admission_peek(struct spin_admission *admission)
{
    if (admission->recovered.count > 0) {
        return entry_of(spin_list_first(&admission->recovered));
    }
    if (admission->active.count == 0) {
        return NULL;
    }
    const int64_t quantum = admission->config.quantum_tokens;
    /* One round ends the turn that was begun, one gives whoever needs least its last quantum. */
    const uint64_t turns_max = 2 * (uint64_t)admission->active.count + 1;
    for (uint64_t turn = 0; turn < turns_max; turn++) {
        struct tenant *tenant = turn_of(admission);
        if (!tenant->in_turn) {
            tenant->in_turn = true;
            tenant->deficit_tokens += quantum;
        }
        if (cost_of(front_of(tenant)) <= tenant->deficit_tokens) {
            return front_of(tenant);
        }
        tenant->in_turn = false;
        spin_list_remove(&admission->active, &tenant->active);
        spin_list_push_back(&admission->active, &tenant->active);
        if (turn + 1 == admission->active.count) {
            skip_idle_rounds(admission, quantum);
        }
    }
    SPIN_ASSERT(false); /* skip_idle_rounds left somebody one quantum short at most */
    return NULL;
}

void spin_admission_pop(struct spin_admission *admission, struct spin_admission_entry *entry)
{
    if (entry->key_ns != 0) { /* recovered ones take nobody's turn */
        admission->tenants[entry->tenant].deficit_tokens -= cost_of(entry);
    }
    spin_admission_remove(admission, entry);
}

void spin_admission_remove(struct spin_admission *admission, struct spin_admission_entry *entry)
{
    SPIN_ASSERT_GT(admission->count, 0);
    admission->count--;
    if (entry->key_ns == 0) {
        spin_list_remove(&admission->recovered, &entry->link);
        return;
    }
    struct tenant *tenant = &admission->tenants[entry->tenant];
    spin_list_remove(&tenant->entries, &entry->link);
    if (tenant->entries.count == 0) { /* who does not wait saves nothing up */
        spin_list_remove(&admission->active, &tenant->active);
        tenant->deficit_tokens = 0;
        tenant->in_turn = false;
    }
}

uint32_t spin_admission_count(const struct spin_admission *admission)
{
    return admission->count;
}
