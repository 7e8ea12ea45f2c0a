#include "router/members.h"

#include "base/address.h"
#include "base/assert.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far above any worker, low enough that sums of counts stay sums. */
#define SEQUENCES_LIMIT (1u << 20)
#define TOKENS_LIMIT (UINT64_C(1) << 48)
#define PREFILL_RATE_LIMIT 1e12

struct spin_members {
    struct spin_members_config config;
    struct spin_member *rows[SPIN_MEMBERS_MAX]; /* in the order in which they came */
    uint32_t count;
};

spin_status spin_members_create(const struct spin_members_config *config, struct spin_members **out,
                                struct spin_error *err)
{
    struct spin_members *members = calloc(1, sizeof *members);
    if (members == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "members: %zu bytes", sizeof *members);
    }
    members->config = *config;
    *out = members;
    return SPIN_OK;
}

static void remove_row_and_free(struct spin_members *members, uint32_t index, bool replaced)
{
    struct spin_member *member = members->rows[index];
    members->config.left(members->config.context, member, replaced);
    members->count--;
    memmove(&members->rows[index], &members->rows[index + 1],
            (members->count - index) * sizeof(struct spin_member *));
    free(member);
}

void spin_members_destroy(struct spin_members *members)
{
    if (members != NULL) {
        while (members->count > 0) {
            remove_row_and_free(members, members->count - 1, false);
        }
        free(members);
    }
}

static bool is_worker(const struct spin_member *member)
{
    return member->kind == SPIN__V1__MEMBER_KIND__MEMBER_WORKER;
}

static void changed(struct spin_members *members, struct spin_member *member)
{
    member->view.takes = is_worker(member) && member->joined && !member->draining &&
                         !member->goodbye && !member->suspected;
    members->config.changed(members->config.context, member);
}

static void heard(struct spin_member *member, uint64_t now_ns)
{
    member->heard_ns = now_ns;
    member->suspected = false;
}

void spin_members_copy_load(Spin__V1__WorkerLoad *out, const Spin__V1__WorkerLoad *load)
{
    *out = *load;
    out->base.n_unknown_fields = 0;
    out->base.unknown_fields = NULL;
}

/* Texts of members go into log lines and tables: printable, and as long as their field. */
static spin_status read_text(const char *field, const char *text, char *out, uint64_t capacity,
                             struct spin_error *err)
{
    const uint64_t bytes = strlen(text);
    if (bytes >= capacity) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.%s: %" PRIu64 " bytes, at most %" PRIu64,
                         field, bytes, capacity - 1);
    }
    for (uint64_t i = 0; i < bytes; i++) {
        if (text[i] < ' ' || text[i] > '~') {
            return spin_fail(err, SPIN_ERR_INVALID,
                             "hello.%s: byte %" PRIu64 " is not printable ASCII", field, i);
        }
    }
    memcpy(out, text, bytes + 1);
    return SPIN_OK;
}

static spin_status read_peer(const Spin__V1__Hello *hello, struct spin_member *row,
                             struct spin_error *err)
{
    const Spin__V1__Peer *peer = hello->peer;
    if (peer == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.peer: missing");
    }
    if (peer->id[0] == '\0') {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.peer.id: empty");
    }
    SPIN_TRY(read_text("peer.id", peer->id, row->id, sizeof row->id, err));
    SPIN_TRY(
        read_text("peer.grpc_address", peer->grpc_address, row->address, sizeof row->address, err));
    struct spin_address address;
    struct spin_error why;
    if (spin_address_split(row->address, &address, &why) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.peer.grpc_address: %s", why.text);
    }
    row->incarnation = peer->incarnation;
    return SPIN_OK;
}

static spin_status read_capacity(const Spin__V1__WorkerCapacity *capacity, struct spin_member *row,
                                 struct spin_error *err)
{
    if (capacity == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.capacity: missing");
    }
    if (capacity->sequences_max == 0 || capacity->sequences_max > SEQUENCES_LIMIT) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "hello.capacity.sequences_max: %u, must be in 1..%u",
                         capacity->sequences_max, SEQUENCES_LIMIT);
    }
    row->view.sequences_max = capacity->sequences_max;
    row->view.queue_max = SPIN_MIN(capacity->queue_max, SEQUENCES_LIMIT);
    row->view.kv_tokens = SPIN_MIN(capacity->kv_tokens, TOKENS_LIMIT);
    row->kv_host_bytes = capacity->kv_host_bytes;
    row->kv_device_bytes = capacity->kv_device_bytes;
    return SPIN_OK;
}

static spin_status check_bytes(const char *field, uint64_t bytes, uint64_t max,
                               struct spin_error *err)
{
    return bytes <= max ? SPIN_OK
                        : spin_fail(err, SPIN_ERR_INVALID,
                                    "hello.model.%s: %" PRIu64 " bytes, at most %" PRIu64, field,
                                    bytes, max);
}

static spin_status read_model(const Spin__V1__ModelIdentity *model, struct spin_member *row,
                              struct spin_error *err)
{
    if (model == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.model: missing");
    }
    struct spin_member_model *out = &row->model;
    SPIN_TRY(read_text("model.name", model->name, out->name, sizeof out->name, err));
    if (model->model_id.len != 0 && model->model_id.len != sizeof out->id) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.model.model_id: %zu bytes, must be 0 or %zu",
                         model->model_id.len, sizeof out->id);
    }
    SPIN_TRY(check_bytes("kv_layout", model->kv_layout.len, sizeof out->kv_layout, err));
    if (model->max_model_len == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.model.max_model_len: 0, at least 1");
    }
    out->id_bytes = (uint32_t)model->model_id.len;
    out->kv_layout_bytes = (uint32_t)model->kv_layout.len;
    if (out->id_bytes > 0) {
        memcpy(out->id, model->model_id.data, out->id_bytes);
    }
    if (out->kv_layout_bytes > 0) {
        memcpy(out->kv_layout, model->kv_layout.data, out->kv_layout_bytes);
    }
    out->vocab = model->vocab;
    out->max_model_len = model->max_model_len;
    row->max_model_len = model->max_model_len;
    if (row->view.kv_tokens != 0 && row->view.kv_tokens < row->max_model_len) {
        row->max_model_len = (uint32_t)row->view.kv_tokens;
    }
    return SPIN_OK;
}

static spin_status check_vocab(const struct spin_members *members, const struct spin_member *row,
                               struct spin_error *err)
{
    const uint32_t vocab = members->config.vocab;
    if (row->model.vocab == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.model.vocab: 0, at least 1");
    }
    if (vocab != 0 &&
        (row->model.vocab < vocab || row->model.vocab - vocab > SPIN_MEMBERS_VOCAB_PADDING)) {
        return spin_fail(err, SPIN_ERR_PEER_MISMATCH,
                         "vocabulary of %u tokens: this router's tokenizer has %u (and a model may "
                         "pad it by %u)",
                         row->model.vocab, vocab, SPIN_MEMBERS_VOCAB_PADDING);
    }
    return SPIN_OK;
}

/* Not against rows whose stream is over: a cluster that stops may start with another model. */
static spin_status check_model_id(const struct spin_members *members, const struct spin_member *row,
                                  struct spin_error *err)
{
    for (uint32_t i = 0; i < members->count; i++) {
        const struct spin_member *other = members->rows[i];
        if (!is_worker(other) || !other->joined || strcmp(other->id, row->id) == 0 ||
            other->model.id_bytes == 0 || row->model.id_bytes == 0) {
            continue;
        }
        if (memcmp(other->model.id, row->model.id, sizeof row->model.id) != 0) {
            return spin_fail(err, SPIN_ERR_PEER_MISMATCH,
                             "model \"%s\": other weights or shape than worker %s has (model "
                             "\"%s\")",
                             row->model.name, other->id, other->model.name);
        }
    }
    return SPIN_OK;
}

static spin_status read_worker(const struct spin_members *members, const Spin__V1__Hello *hello,
                               struct spin_member *row, struct spin_error *err)
{
    SPIN_TRY(read_capacity(hello->capacity, row, err));
    SPIN_TRY(read_model(hello->model, row, err));
    SPIN_TRY(check_vocab(members, row, err));
    const char *name = members->config.model_name;
    if (name != NULL && strcmp(name, row->model.name) != 0) {
        return spin_fail(err, SPIN_ERR_PEER_MISMATCH,
                         "model \"%s\": this router serves \"%s\" (--served-model-name)",
                         row->model.name, name);
    }
    return check_model_id(members, row, err);
}

static spin_status read_hello(const struct spin_members *members, const Spin__V1__Hello *hello,
                              struct spin_member *row, struct spin_error *err)
{
    if (hello->protocol != SPIN_MEMBERS_PROTOCOL) {
        return spin_fail(err, SPIN_ERR_PEER_MISMATCH, "protocol %u: this router speaks %u",
                         hello->protocol, SPIN_MEMBERS_PROTOCOL);
    }
    SPIN_TRY(read_peer(hello, row, err));
    SPIN_TRY(read_text("version", hello->version, row->version, sizeof row->version, err));
    SPIN_TRY(read_text("role", hello->role, row->role, sizeof row->role, err));
    SPIN_TRY(read_text("algorithm", hello->algorithm, row->algorithm, sizeof row->algorithm, err));
    SPIN_TRY(read_text("device", hello->device, row->device, sizeof row->device, err));
    row->budget_tokens = hello->budget_tokens;
    row->min_context = hello->min_context;
    row->kind = hello->kind;
    row->memory_bytes = hello->memory_bytes;
    if (hello->kind == SPIN__V1__MEMBER_KIND__MEMBER_MEMORY_NODE) {
        return SPIN_OK;
    }
    if (hello->kind != SPIN__V1__MEMBER_KIND__MEMBER_WORKER) {
        return spin_fail(err, SPIN_ERR_INVALID, "hello.kind: %d, must be 1 (worker) or 2 (memory)",
                         (int)hello->kind);
    }
    return read_worker(members, hello, row, err);
}

static uint32_t index_of(const struct spin_members *members, const char *id)
{
    for (uint32_t i = 0; i < members->count; i++) {
        if (strcmp(members->rows[i]->id, id) == 0) {
            return i;
        }
    }
    return SPIN_MEMBERS_MAX;
}

/* The row that a hello belongs to: the same incarnation's, or a new one. NULL: no room. */
static struct spin_member *make_row(struct spin_members *members, const struct spin_member *read)
{
    const uint32_t index = index_of(members, read->id);
    if (index < members->count) {
        if (members->rows[index]->incarnation == read->incarnation) {
            return members->rows[index];
        }
        remove_row_and_free(members, index, true);
    }
    struct spin_member *row = NULL;
    if (members->count < SPIN_MEMBERS_MAX) {
        row = calloc(1, sizeof *row);
    }
    if (row != NULL) {
        members->rows[members->count] = row;
        members->count++;
    }
    return row;
}

spin_status spin_members_join(struct spin_members *members, const Spin__V1__Hello *hello,
                              uint64_t now_ns, struct spin_member **out, struct spin_error *err)
{
    struct spin_member read = {0};
    SPIN_TRY(read_hello(members, hello, &read, err));
    struct spin_member *row = make_row(members, &read);
    if (row == NULL) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "no room for another member: at most %u",
                         SPIN_MEMBERS_MAX);
    }
    read.link = row->link;
    read.linked_ns = row->linked_ns;
    read.stream = row->stream;
    read.joined = true;
    read.joined_ns = now_ns;
    read.status_ns = now_ns;
    spin__v1__worker_load__init(&read.load);
    *row = read;
    heard(row, now_ns);
    *out = row;
    changed(members, row);
    return SPIN_OK;
}

static void read_load(const Spin__V1__WorkerLoad *load, struct spin_member *member)
{
    struct spin_worker_view *view = &member->view;
    view->running = SPIN_MIN(load->running, SEQUENCES_LIMIT);
    view->waiting = SPIN_MIN(load->waiting, SEQUENCES_LIMIT);
    view->kv_tokens_used = SPIN_MIN(load->kv_tokens_used, TOKENS_LIMIT);
    view->queued_prompt_tokens = SPIN_MIN(load->queued_prompt_tokens, TOKENS_LIMIT);
    view->step_ns = load->step_ns;
    const double rate = load->prefill_tokens_per_s;
    view->prefill_tokens_per_s = rate > 0 && rate < PREFILL_RATE_LIMIT ? rate : 0;
    spin_members_copy_load(&member->load, load);
    view->sent_sequences = 0;
    view->sent_prompt_tokens = 0;
}

void spin_members_read_requests(const Spin__V1__MemberStatus *status,
                                struct spin_member_requests *out)
{
    out->count = 0;
    for (size_t i = 0; i < status->n_requests && out->count < SPIN_MEMBER_REQUESTS_MAX; i++) {
        const Spin__V1__RequestKv *said = status->requests[i];
        struct spin_member_request *row = &out->rows[out->count];
        if (read_text("requests.request_id", said->request_id, row->id, sizeof row->id, NULL) !=
            SPIN_OK) {
            continue;
        }
        row->resident = said->resident;
        row->suspended = said->suspended;
        row->tokens = said->tokens;
        row->budget_pages = said->budget_pages;
        row->mandatory_pages = said->mandatory_pages;
        row->working_set = said->working_set;
        row->slots = said->slots;
        row->hits = said->hits;
        row->misses = said->misses;
        out->count++;
    }
}

void spin_members_status(struct spin_members *members, struct spin_member *member,
                         const Spin__V1__MemberStatus *status, uint64_t now_ns)
{
    heard(member, now_ns);
    member->status_ns = now_ns;
    member->draining = status->draining;
    member->memory_used_bytes = status->memory_used_bytes;
    char role[sizeof member->role];
    if (status->role[0] != '\0' &&
        read_text("role", status->role, role, sizeof role, NULL) == SPIN_OK) {
        memcpy(member->role, role, sizeof role);
    }
    if (status->load != NULL) {
        read_load(status->load, member);
    }
    changed(members, member);
}

void spin_members_heard(struct spin_members *members, struct spin_member *member, uint64_t now_ns)
{
    const bool came_back = member->suspected;
    heard(member, now_ns);
    if (came_back) {
        changed(members, member);
    }
}

void spin_members_goodbye(struct spin_members *members, struct spin_member *member, uint64_t now_ns)
{
    heard(member, now_ns);
    member->goodbye = true;
    changed(members, member);
}

void spin_members_disconnect(struct spin_members *members, struct spin_member *member,
                             uint64_t now_ns)
{
    member->joined = false;
    member->stream = NULL;
    member->gone_ns = now_ns;
    member->requests.count = 0; /* they are elsewhere by now, or over */
    changed(members, member);
}

static void suspect(struct spin_members *members, struct spin_member *member, uint64_t now_ns)
{
    const uint64_t limit_ns = members->config.suspect_ns;
    if (limit_ns == 0 || member->suspected || now_ns - member->heard_ns <= limit_ns) {
        return;
    }
    SPIN_WARN("member is silent: id=%s for_ms=%" PRIu64, member->id,
              (now_ns - member->heard_ns) / UINT64_C(1000000));
    member->suspected = true;
    changed(members, member);
}

void spin_members_expire(struct spin_members *members, uint64_t now_ns)
{
    for (uint32_t i = members->count; i > 0; i--) {
        struct spin_member *member = members->rows[i - 1];
        if (member->joined) {
            suspect(members, member, now_ns);
        } else if (now_ns - member->gone_ns >= SPIN_MEMBERS_GONE_NS) {
            remove_row_and_free(members, i - 1, false);
        }
    }
}

void spin_members_sent(struct spin_member *member, uint32_t prompt_tokens)
{
    spin_worker_view_sent(&member->view, prompt_tokens);
}

void spin_members_done(struct spin_member *member, uint64_t sent_ns, uint32_t prompt_tokens)
{
    spin_worker_view_done(&member->view, prompt_tokens, sent_ns >= member->status_ns);
}

uint32_t spin_members_count(const struct spin_members *members)
{
    return members->count;
}

struct spin_member *spin_members_at(const struct spin_members *members, uint32_t index)
{
    SPIN_ASSERT_LT(index, members->count);
    return members->rows[index];
}

struct spin_member *spin_members_find(const struct spin_members *members, const char *id)
{
    const uint32_t index = index_of(members, id);
    return index < members->count ? members->rows[index] : NULL;
}

uint32_t spin_members_ready(const struct spin_members *members)
{
    uint32_t ready = 0;
    for (uint32_t i = 0; i < members->count; i++) {
        ready += members->rows[i]->view.takes ? 1 : 0;
    }
    return ready;
}

uint32_t spin_members_max_model_len(const struct spin_members *members)
{
    uint32_t least = 0;
    for (uint32_t i = 0; i < members->count; i++) {
        const struct spin_member *member = members->rows[i];
        if (is_worker(member) && (least == 0 || member->max_model_len < least)) {
            least = member->max_model_len;
        }
    }
    return least;
}

uint32_t spin_members_vocab(const struct spin_members *members)
{
    uint32_t least = 0;
    for (uint32_t i = 0; i < members->count; i++) {
        const struct spin_member *member = members->rows[i];
        if (is_worker(member) && (least == 0 || member->model.vocab < least)) {
            least = member->model.vocab;
        }
    }
    return least;
}
