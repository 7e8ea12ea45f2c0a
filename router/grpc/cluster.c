#include "router/grpc/cluster.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mutex.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELLO_TIMEOUT_NS (10 * SPIN_NS_PER_S)
#define CHECK_NS SPIN_NS_PER_S
/* A hello is names, addresses and a layout descriptor; block events come in pieces. */
#define MEMBER_MESSAGE_BYTES_MAX (UINT64_C(256) << 10)
#define MEMBER_ARENA_BYTES (UINT64_C(1) << 20)
#define JOIN_OUTBOX_BYTES (UINT64_C(64) << 10)
/* Of members that come back before their old stream is seen to be over. */
#define JOINS_ENDING_MAX 1024u
#define DESCRIBE_CALLS_MAX 256u
#define DESCRIBE_REQUEST_BYTES_MAX 4096u
#define DESCRIBE_OUTBOX_BYTES SPIN_RPC_MESSAGE_BYTES_MAX
/* In one answer, over all members: a quarter of what a message may hold. */
#define DESCRIBE_REQUESTS_MAX 2048u

struct spin_cluster {
    struct spin_cluster_config config;
    struct spin_loop *loop;
    struct spin_members *members;
    struct spin_timer *timer;
    struct spin_list joins;
    uint64_t refused;        /* hellos, since the last line about them */
    uint64_t refused_log_ns; /* when that was; 0: never */
    bool closing;
};

/* What a member said and the loop has not looked at. */
struct news {
    uint8_t *hello; /* packed, on the heap; NULL: none */
    size_t hello_bytes;
    bool heard;
    bool has_status;
    bool has_load;
    Spin__V1__MemberStatus status; /* without pointers: the next two are what they point to */
    Spin__V1__WorkerLoad load;
    char role[16];
    struct spin_member_requests requests;
    bool goodbye;
    bool half_closed;
    bool gone;
    const char *violation; /* static; NULL: none */
};

/* One Join call; it lives in the call. The rpc thread fills `news` and posts once; the loop takes
 * it. The call is finished by the loop alone, and only while no post is under way, because the
 * message that is posted lies in here; from then on the rpc thread leaves it alone (`over`). */
struct join {
    struct spin_loop_message message; /* first: run gets it */
    struct spin_cluster *cluster;
    struct spin_rpc_call *call;
    struct spin_link link;
    bool listed;
    struct spin_member *member; /* NULL: no hello yet */
    uint64_t since_ns;
    bool ending; /* as the next two say */
    spin_status end_status;
    char end_text[240];

    struct spin_mutex mutex; /* guards the rest */
    struct news news;
    bool said_hello;
    bool posted;
    bool over;
};

/* --- Join: the rpc thread's side --- */

static void post(struct join *join)
{
    if (!join->posted) {
        join->posted = true;
        spin_loop_post(join->cluster->loop, &join->message);
    }
}

static const char *make_hello_copy(struct join *join, const Spin__V1__Hello *hello)
{
    if (join->said_hello) {
        return "a second hello";
    }
    join->said_hello = true;
    const size_t bytes = spin__v1__hello__get_packed_size(hello);
    join->news.hello = malloc(bytes + 1); /* of an empty hello too */
    if (join->news.hello == NULL) {
        return "no memory for the hello";
    }
    join->news.hello_bytes = spin__v1__hello__pack(hello, join->news.hello);
    return NULL;
}

static void keep_status(struct news *news, const Spin__V1__MemberStatus *status)
{
    spin__v1__member_status__init(&news->status);
    news->status.draining = status->draining;
    news->status.memory_used_bytes = status->memory_used_bytes;
    (void)snprintf(news->role, sizeof news->role, "%s", status->role);
    news->has_load = status->load != NULL;
    if (status->load != NULL) {
        spin_members_copy_load(&news->load, status->load);
    }
    spin_members_read_requests(status, &news->requests);
    news->has_status = true;
}

/* NULL, or what is wrong with it. */
static const char *keep_message(struct join *join, const Spin__V1__MemberMessage *message)
{
    const int fields = (message->hello != NULL) + (message->status != NULL) +
                       (message->blocks != NULL) + (message->goodbye != NULL);
    if (fields != 1) {
        return "a message must have exactly one of hello, status, blocks and goodbye";
    }
    if (message->hello != NULL) {
        return make_hello_copy(join, message->hello);
    }
    if (!join->said_hello) {
        return "the first message must be hello";
    }
    join->news.heard = true;
    if (message->status != NULL) {
        keep_status(&join->news, message->status);
    }
    join->news.goodbye = join->news.goodbye || message->goodbye != NULL;
    return NULL;
}

static void on_join_message(void *context, struct spin_rpc_call *call,
                            const struct ProtobufCMessage *message)
{
    (void)context;
    struct join *join = spin_rpc_call_state(call);
    spin_mutex_lock(&join->mutex);
    if (!join->over) {
        const char *violation = keep_message(join, (const Spin__V1__MemberMessage *)message);
        if (join->news.violation == NULL) {
            join->news.violation = violation;
        }
        post(join);
    }
    spin_mutex_unlock(&join->mutex);
}

static void on_join_half_closed(void *context, struct spin_rpc_call *call)
{
    (void)context;
    struct join *join = spin_rpc_call_state(call);
    spin_mutex_lock(&join->mutex);
    if (!join->over) {
        join->news.half_closed = true;
        post(join);
    }
    spin_mutex_unlock(&join->mutex);
}

static void on_join_gone(void *context, struct spin_rpc_call *call)
{
    (void)context;
    struct join *join = spin_rpc_call_state(call);
    spin_mutex_lock(&join->mutex);
    if (!join->over) {
        join->news.gone = true;
        post(join);
    }
    spin_mutex_unlock(&join->mutex);
}

/* --- Join: the loop's side --- */

static void drop_member(struct join *join)
{
    struct spin_member *member = join->member;
    join->member = NULL;
    if (member != NULL) {
        SPIN_ASSERT(member->stream == join);
        spin_members_disconnect(join->cluster->members, member,
                                spin_loop_now_ns(join->cluster->loop));
    }
}

/* Now, or when what is posted has been run. The join may be gone when this returns. */
static void release(struct join *join)
{
    spin_mutex_lock(&join->mutex);
    const bool now = !join->posted;
    join->over = now;
    uint8_t *hello = now ? join->news.hello : NULL;
    spin_mutex_unlock(&join->mutex);
    if (now) {
        free(hello);
        if (join->listed) {
            spin_list_remove(&join->cluster->joins, &join->link);
        }
        spin_rpc_call_finish(join->call, join->end_status, join->end_text);
    }
}

/* As release: nothing may be done with it after this. */
static void end(struct join *join, spin_status status, const char *text)
{
    if (join->ending) {
        return;
    }
    join->ending = true;
    join->end_status = status;
    (void)snprintf(join->end_text, sizeof join->end_text, "%s", text);
    drop_member(join);
    release(join);
}

static void welcome(struct join *join)
{
    char id[SPIN_MEMBER_ID_BYTES];
    (void)snprintf(id, sizeof id, "%s", join->cluster->config.router_id);
    Spin__V1__Welcome message;
    spin__v1__welcome__init(&message);
    message.router_id = id;
    message.status_interval_ms = join->cluster->config.status_interval_ms;
    Spin__V1__RouterMessage response;
    spin__v1__router_message__init(&response);
    response.welcome = &message;
    spin_rpc_call_append(join->call, &response.base);
}

/* The row gets this stream; another one that it had is over. */
static spin_status enter_table(struct join *join, const Spin__V1__Hello *hello,
                               struct spin_error *err)
{
    struct spin_cluster *cluster = join->cluster;
    const struct spin_member *known =
        hello->peer == NULL ? NULL : spin_members_find(cluster->members, hello->peer->id);
    struct join *older = known == NULL ? NULL : known->stream;
    struct spin_member *member = NULL;
    SPIN_TRY(
        spin_members_join(cluster->members, hello, spin_loop_now_ns(cluster->loop), &member, err));
    if (older != NULL) {
        older->member = NULL; /* the row is mine now, or is gone */
        end(older, SPIN_ERR_AGAIN, "the member has joined again");
    }
    member->stream = join;
    join->member = member;
    return SPIN_OK;
}

/* Where no secret is set anyone may try, as often as he likes: one line a second is enough. */
static void log_refusal(struct join *join, const char *text)
{
    struct spin_cluster *cluster = join->cluster;
    const uint64_t now_ns = spin_loop_now_ns(cluster->loop);
    cluster->refused++;
    if (cluster->refused_log_ns != 0 && now_ns - cluster->refused_log_ns < SPIN_NS_PER_S) {
        return;
    }
    SPIN_WARN("join refused: times=%" PRIu64 " last_peer=%s: %s", cluster->refused,
              spin_rpc_call_peer(join->call), text);
    cluster->refused = 0;
    cluster->refused_log_ns = now_ns;
}

/* False: it was refused, and is over. */
static bool take_hello(struct join *join, const struct news *news)
{
    Spin__V1__Hello *hello = spin__v1__hello__unpack(NULL, news->hello_bytes, news->hello);
    struct spin_error err = {0};
    spin_status status = SPIN_ERR_NO_MEMORY;
    if (hello == NULL) {
        (void)spin_fail(&err, status, "no memory for the hello");
    } else {
        status = enter_table(join, hello, &err);
        spin__v1__hello__free_unpacked(hello, NULL);
    }
    if (status == SPIN_OK) {
        welcome(join);
        return true;
    }
    log_refusal(join, err.text);
    end(join, status, err.text);
    return false;
}

static void take_status(struct join *join, struct news *news)
{
    const uint64_t now_ns = spin_loop_now_ns(join->cluster->loop);
    if (news->has_status) {
        news->status.role = news->role;
        news->status.load = news->has_load ? &news->load : NULL;
        join->member->requests = news->requests;
        spin_members_status(join->cluster->members, join->member, &news->status, now_ns);
    } else if (news->heard) {
        spin_members_heard(join->cluster->members, join->member, now_ns);
    }
    if (news->goodbye) {
        spin_members_goodbye(join->cluster->members, join->member, now_ns);
    }
}

static void take_end(struct join *join, const struct news *news)
{
    if (news->violation != NULL) {
        end(join, SPIN_ERR_INVALID, news->violation);
    } else if (news->gone) {
        end(join, SPIN_ERR_CANCELLED, "the member is gone");
    } else if (news->half_closed) {
        end(join, SPIN_OK, "");
    } else if (join->cluster->closing) {
        end(join, SPIN_ERR_SHUTDOWN, "the router is shutting down");
    }
}

static void take_news(struct join *join, struct news *news)
{
    if (!join->listed) {
        join->listed = true;
        join->since_ns = spin_loop_now_ns(join->cluster->loop);
        spin_list_push_back(&join->cluster->joins, &join->link);
    }
    if (news->hello != NULL && news->violation == NULL && !take_hello(join, news)) {
        return;
    }
    if (join->member != NULL) {
        take_status(join, news);
    }
    take_end(join, news);
}

static void free_news(struct news *news)
{
    free(news->hello);
}

static void on_join_news(struct spin_loop_message *message)
{
    struct join *join = (struct join *)message;
    spin_mutex_lock(&join->mutex);
    struct news news = join->news;
    memset(&join->news, 0, sizeof join->news);
    join->posted = false;
    spin_mutex_unlock(&join->mutex);
    if (join->ending) {
        release(join);
    } else {
        take_news(join, &news);
    }
    free_news(&news);
}

static void on_join_start(void *context, struct spin_rpc_call *call,
                          const struct ProtobufCMessage *request)
{
    (void)request; /* they come one by one */
    struct join *join = spin_rpc_call_state(call);
    join->message.run = on_join_news;
    join->cluster = context;
    join->call = call;
    spin_mutex_init(&join->mutex);
    spin_mutex_lock(&join->mutex);
    post(join); /* the loop's list of calls is complete, so close finds them all */
    spin_mutex_unlock(&join->mutex);
}

static void on_check(void *context)
{
    const struct spin_cluster *cluster = context;
    const uint64_t now_ns = spin_loop_now_ns(cluster->loop);
    struct spin_link *at = spin_list_first(&cluster->joins);
    while (at != NULL) {
        struct join *join = SPIN_CONTAINER_OF(at, struct join, link);
        at = spin_list_next(&cluster->joins, at);
        if (join->member == NULL && now_ns - join->since_ns >= HELLO_TIMEOUT_NS) {
            end(join, SPIN_ERR_DEADLINE, "no hello within 10 s");
        }
    }
}

/* --- Describe --- */

struct describe { /* lives in the call, which ends in its run */
    struct spin_loop_message message;
    struct spin_cluster *cluster;
    struct spin_rpc_call *call;
};

/* One row with everything that its message points to. */
struct described {
    Spin__V1__Member member;
    Spin__V1__Hello hello;
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    Spin__V1__MemberStatus status;
    Spin__V1__WorkerLoad load;
};

static void describe_worker(struct spin_member *member, struct described *out)
{
    struct spin_member_model *model = &member->model;
    spin__v1__model_identity__init(&out->model);
    out->model.name = model->name;
    out->model.model_id = (ProtobufCBinaryData){.len = model->id_bytes, .data = model->id};
    out->model.kv_layout =
        (ProtobufCBinaryData){.len = model->kv_layout_bytes, .data = model->kv_layout};
    out->model.vocab = model->vocab;
    out->model.max_model_len = model->max_model_len;
    spin__v1__worker_capacity__init(&out->capacity);
    out->capacity.sequences_max = member->view.sequences_max;
    out->capacity.queue_max = member->view.queue_max;
    out->capacity.kv_tokens = member->view.kv_tokens;
    out->capacity.kv_host_bytes = member->kv_host_bytes;
    out->capacity.kv_device_bytes = member->kv_device_bytes;
    out->load = member->load;
    out->load.running = member->view.running;
    out->load.waiting = member->view.waiting;
    out->load.kv_tokens_used = member->view.kv_tokens_used;
    out->load.queued_prompt_tokens = member->view.queued_prompt_tokens;
    out->load.step_ns = member->view.step_ns;
    out->load.prefill_tokens_per_s = member->view.prefill_tokens_per_s;
    out->hello.model = &out->model;
    out->hello.capacity = &out->capacity;
    out->status.load = &out->load;
}

static void describe_member(struct spin_member *member, uint64_t now_ns, struct described *out)
{
    spin__v1__member__init(&out->member);
    spin__v1__hello__init(&out->hello);
    spin__v1__peer__init(&out->peer);
    spin__v1__member_status__init(&out->status);
    out->peer.id = member->id;
    out->peer.incarnation = member->incarnation;
    out->peer.grpc_address = member->address;
    out->hello.peer = &out->peer;
    out->hello.kind = member->kind;
    out->hello.role = member->role;
    out->hello.version = member->version;
    out->hello.protocol = SPIN_MEMBERS_PROTOCOL;
    out->hello.algorithm = member->algorithm;
    out->hello.device = member->device;
    out->hello.budget_tokens = member->budget_tokens;
    out->hello.min_context = member->min_context;
    out->hello.memory_bytes = member->memory_bytes;
    out->status.draining = member->draining || member->goodbye;
    out->status.memory_used_bytes = member->memory_used_bytes;
    out->status.role = member->role;
    out->member.hello = &out->hello;
    out->member.status = &out->status;
    out->member.status_age_ms = (now_ns - member->heard_ns) / SPIN_NS_PER_MS;
    out->member.reachable = member->joined && !member->suspected;
    if (member->kind == SPIN__V1__MEMBER_KIND__MEMBER_WORKER) {
        describe_worker(member, out);
    }
}

static void describe_request(struct spin_member_request *request, Spin__V1__RequestKv *out)
{
    spin__v1__request_kv__init(out);
    out->request_id = request->id;
    out->resident = request->resident;
    out->suspended = request->suspended;
    out->tokens = request->tokens;
    out->budget_pages = request->budget_pages;
    out->mandatory_pages = request->mandatory_pages;
    out->working_set = request->working_set;
    out->slots = request->slots;
    out->hits = request->hits;
    out->misses = request->misses;
}

/* An answer under way: rows of members, and all their requests in one array. */
struct description {
    struct described *rows;
    Spin__V1__Member **list;
    Spin__V1__RequestKv *requests;
    Spin__V1__RequestKv **request_list;
    uint32_t request_count;
};

static void description_deinit(struct description *description)
{
    free(description->rows);
    free(description->list);
    free(description->requests);
    free(description->request_list);
}

static spin_status description_init(struct description *out, uint32_t members, uint32_t requests,
                                    struct spin_error *err)
{
    *out =
        (struct description){.rows = calloc(members + 1u, sizeof(struct described)),
                             .list = calloc(members + 1u, sizeof(Spin__V1__Member *)),
                             .requests = calloc(requests + 1u, sizeof(Spin__V1__RequestKv)),
                             .request_list = calloc(requests + 1u, sizeof(Spin__V1__RequestKv *))};
    if (out->rows == NULL || out->list == NULL || out->requests == NULL ||
        out->request_list == NULL) {
        description_deinit(out);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for %u members", members);
    }
    return SPIN_OK;
}

/* Its oldest `count` requests. */
static void describe_requests(struct spin_member *member, uint32_t count,
                              struct description *description, Spin__V1__MemberStatus *out)
{
    const uint32_t first = description->request_count;
    for (uint32_t i = 0; i < count; i++) {
        Spin__V1__RequestKv *message = &description->requests[first + i];
        describe_request(&member->requests.rows[i], message);
        description->request_list[first + i] = message;
    }
    description->request_count += count;
    out->n_requests = count;
    out->requests = &description->request_list[first];
}

static spin_status build_description(const struct describe *describe, struct spin_error *err)
{
    const struct spin_cluster *cluster = describe->cluster;
    const uint32_t count = spin_members_count(cluster->members);
    const uint32_t share = SPIN_MIN(DESCRIBE_REQUESTS_MAX / SPIN_MAX(count, 1u),
                                    SPIN_MEMBER_REQUESTS_MAX); /* of each member */
    struct description description;
    SPIN_TRY(description_init(&description, count, count * share, err));
    for (uint32_t i = 0; i < count; i++) {
        struct spin_member *member = spin_members_at(cluster->members, i);
        struct described *row = &description.rows[i];
        describe_member(member, spin_loop_now_ns(cluster->loop), row);
        describe_requests(member, SPIN_MIN(member->requests.count, share), &description,
                          &row->status);
        description.list[i] = &row->member;
    }
    char id[SPIN_MEMBER_ID_BYTES];
    (void)snprintf(id, sizeof id, "%s", cluster->config.router_id);
    Spin__V1__ClusterDescribeResponse response;
    spin__v1__cluster_describe_response__init(&response);
    response.router_id = id;
    response.n_members = count;
    response.members = description.list;
    spin_rpc_call_append(describe->call, &response.base);
    description_deinit(&description);
    return SPIN_OK;
}

static void on_describe(struct spin_loop_message *message)
{
    struct describe *describe = (struct describe *)message;
    struct spin_error err = {0};
    const spin_status status = build_description(describe, &err);
    spin_rpc_call_finish(describe->call, status, err.text);
}

static spin_status check_key(const struct spin_cluster *cluster, const struct spin_rpc_call *call,
                             struct spin_error *err)
{
    const char *bearer = spin_rpc_call_bearer(call);
    const char *token = cluster->config.token;
    if (cluster->config.tenants == NULL || (token != NULL && spin_rpc_token_equal(bearer, token))) {
        return SPIN_OK;
    }
    uint32_t tenant = 0;
    return spin_tenants_find(cluster->config.tenants, bearer, &tenant, err);
}

static void on_describe_start(void *context, struct spin_rpc_call *call,
                              const struct ProtobufCMessage *request)
{
    (void)request; /* it has no fields */
    struct describe *describe = spin_rpc_call_state(call);
    describe->message.run = on_describe;
    describe->cluster = context;
    describe->call = call;
    struct spin_error err = {0};
    const spin_status status = check_key(describe->cluster, call, &err);
    if (status == SPIN_OK) {
        spin_loop_post(describe->cluster->loop, &describe->message);
    } else {
        spin_rpc_call_finish(call, status, err.text);
    }
}

/* It is answered within a turn of the loop, whether somebody still listens or not. */
static void on_describe_gone(void *context, struct spin_rpc_call *call)
{
    (void)context;
    (void)call;
}

/* --- the door --- */

spin_status spin_cluster_create(const struct spin_cluster_config *config, struct spin_loop *loop,
                                struct spin_members *members, struct spin_cluster **out,
                                struct spin_error *err)
{
    struct spin_cluster *cluster = calloc(1, sizeof *cluster);
    if (cluster == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "cluster: %zu bytes", sizeof *cluster);
    }
    cluster->config = *config;
    cluster->loop = loop;
    cluster->members = members;
    spin_list_init(&cluster->joins);
    if (spin_timer_create(loop, on_check, cluster, &cluster->timer) != SPIN_OK) {
        free(cluster);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "cluster: no timer");
    }
    spin_timer_start(cluster->timer, CHECK_NS, true);
    *out = cluster;
    return SPIN_OK;
}

void spin_cluster_close(struct spin_cluster *cluster)
{
    cluster->closing = true;
    struct spin_link *at = spin_list_first(&cluster->joins);
    while (at != NULL) {
        struct join *join = SPIN_CONTAINER_OF(at, struct join, link);
        at = spin_list_next(&cluster->joins, at);
        end(join, SPIN_ERR_SHUTDOWN, "the router is shutting down");
    }
}

void spin_cluster_destroy(struct spin_cluster *cluster)
{
    if (cluster != NULL) {
        SPIN_ASSERT_EQ(cluster->joins.count, 0);
        spin_timer_destroy(cluster->timer);
        free(cluster);
    }
}

void spin_cluster_methods(struct spin_cluster *cluster,
                          struct spin_rpc_method methods[SPIN_CLUSTER_METHODS])
{
    methods[0] = (struct spin_rpc_method){.path = "/spin.v1.Cluster/Join",
                                          .request = &spin__v1__member_message__descriptor,
                                          .request_bytes_max = MEMBER_MESSAGE_BYTES_MAX,
                                          .arena_bytes_max = MEMBER_ARENA_BYTES,
                                          .outbox_bytes = JOIN_OUTBOX_BYTES,
                                          .calls_max = SPIN_MEMBERS_MAX + JOINS_ENDING_MAX,
                                          .state_bytes = sizeof(struct join),
                                          .context = cluster,
                                          .bearer = cluster->config.token,
                                          .start = on_join_start,
                                          .message = on_join_message,
                                          .half_closed = on_join_half_closed,
                                          .gone = on_join_gone};
    methods[1] =
        (struct spin_rpc_method){.path = "/spin.v1.Cluster/Describe",
                                 .request = &spin__v1__cluster_describe_request__descriptor,
                                 .request_bytes_max = DESCRIBE_REQUEST_BYTES_MAX,
                                 .arena_bytes_max = UINT64_C(64) << 10,
                                 .outbox_bytes = DESCRIBE_OUTBOX_BYTES,
                                 .calls_max = DESCRIBE_CALLS_MAX,
                                 .state_bytes = sizeof(struct describe),
                                 .context = cluster,
                                 .start = on_describe_start,
                                 .gone = on_describe_gone};
}
