/* members: the table of who is in the cluster, as they said themselves and when.
 *
 * Why        Placement, health, Describe and limits look at the same rows. A member is the
 *            authority on its role, drain and load (D12); what the router adds is how long ago it
 *            spoke and what was sent to it since.
 * Rules      A worker is taken when its protocol is ours, its vocabulary is the tokenizer's (models
 *            pad theirs: up to SPIN_MEMBERS_VOCAB_PADDING more), its name is `model_name` where one
 *            was given, and its model id is that of the workers that stand in the table now: a
 *            sequence moves between them, so their weights must be equal.
 * Ownership  Owns copies of what members said. A member's pointer is valid until it is removed,
 *            which `left` announces.
 * Threading  The loop's thread only.
 * Units      Tokens, nanoseconds.
 * Errors     join: PEER_MISMATCH (another model, vocabulary or protocol), INVALID (a field is
 *            missing or out of range, by name), EXHAUSTED (over SPIN_MEMBERS_MAX). */
#pragma once

#include "base/status.h"
#include "proto/spin/v1/cluster.pb-c.h"
#include "router/policy/placement.h"

SPIN_BEGIN_DECLS

#define SPIN_MEMBERS_MAX 1024u
#define SPIN_MEMBER_ID_BYTES 128u
#define SPIN_MEMBER_ADDRESS_BYTES 272u
#define SPIN_MEMBER_MODEL_NAME_BYTES 128u
#define SPIN_MEMBER_MODEL_ID_BYTES 16u
#define SPIN_MEMBER_LAYOUT_BYTES_MAX 256u
#define SPIN_MEMBER_REQUESTS_MAX 64u
#define SPIN_MEMBER_REQUEST_ID_BYTES 64u
#define SPIN_MEMBERS_PROTOCOL 1u
#define SPIN_MEMBERS_VOCAB_PADDING 4096u
/* A row whose Join stream is over still limits requests for this long: it may come back. */
#define SPIN_MEMBERS_GONE_NS UINT64_C(60000000000)

struct spin_member_model { /* of workers */
    char name[SPIN_MEMBER_MODEL_NAME_BYTES];
    uint8_t id[SPIN_MEMBER_MODEL_ID_BYTES];
    uint32_t id_bytes; /* 0 or all */
    uint8_t kv_layout[SPIN_MEMBER_LAYOUT_BYTES_MAX];
    uint32_t kv_layout_bytes;
    uint32_t vocab;
    uint32_t max_model_len; /* as it said; what it takes is the row's max_model_len */
};

/* A request's share of a worker's tiers, as RequestKv says it. */
struct spin_member_request {
    char id[SPIN_MEMBER_REQUEST_ID_BYTES];
    bool resident;
    bool suspended;
    uint32_t tokens;
    uint32_t budget_pages;
    uint32_t mandatory_pages;
    uint32_t working_set;
    uint64_t slots;
    uint64_t hits;
    uint64_t misses;
};

struct spin_member_requests {
    uint32_t count;
    struct spin_member_request rows[SPIN_MEMBER_REQUESTS_MAX];
};

struct spin_member {
    char id[SPIN_MEMBER_ID_BYTES];
    char address[SPIN_MEMBER_ADDRESS_BYTES]; /* gRPC, host:port */
    char version[32];
    char role[16];
    char algorithm[32];
    char device[64];
    uint32_t budget_tokens;
    uint32_t min_context;
    uint64_t incarnation;
    Spin__V1__MemberKind kind;
    struct spin_member_model model;
    struct spin_worker_view view; /* what placement sees; workers only */
    uint32_t max_model_len;       /* the model's or what its pool holds, the smaller */
    uint64_t kv_host_bytes;
    uint64_t kv_device_bytes;
    uint64_t memory_bytes; /* memory nodes */
    uint64_t memory_used_bytes;
    Spin__V1__WorkerLoad load; /* as it said last; numbers only */
    struct spin_member_requests requests;
    uint64_t joined_ns;
    uint64_t heard_ns;  /* the last message on its Join stream */
    uint64_t status_ns; /* the last status */
    uint64_t gone_ns;   /* when that stream ended, unless `joined` */
    bool joined;        /* its Join stream stands */
    bool draining;      /* it says so */
    bool goodbye;       /* it said that it leaves */
    bool suspected;     /* it has not spoken for suspect_ns */
    void *link;         /* the dispatcher's: its connection */
    uint64_t linked_ns; /* the dispatcher's: the joined_ns that it has acted on */
    void *stream;       /* the door's: its Join call */
};

struct spin_members; /* private to members.c */

struct spin_members_config {
    const char *model_name; /* NULL: any; else what members must serve */
    uint32_t vocab;         /* of the tokenizer; 0: any, it knows every id */
    uint64_t suspect_ns;    /* silent for longer: takes nothing until it speaks; 0: never */
    void *context;
    void (*changed)(void *context, struct spin_member *member); /* joined, spoke, or Join broke */
    /* About to be removed. `replaced`: by a new incarnation, so this process is dead. */
    void (*left)(void *context, struct spin_member *member, bool replaced);
};

SPIN_MUST_USE spin_status spin_members_create(const struct spin_members_config *config,
                                              struct spin_members **out, struct spin_error *err);
void spin_members_destroy(struct spin_members *members); /* NULL is allowed */

/* A new incarnation of a known id takes its place: `left` for the old, `changed` for the new. The
 * same incarnation again is the same row: the newer stream counts. */
SPIN_MUST_USE spin_status spin_members_join(struct spin_members *members,
                                            const Spin__V1__Hello *hello, uint64_t now_ns,
                                            struct spin_member **out, struct spin_error *err);
void spin_members_status(struct spin_members *members, struct spin_member *member,
                         const Spin__V1__MemberStatus *status, uint64_t now_ns);
/* What a status says of requests, at most so many and with ids that fit: the others are left out.
 * Pure, any thread. */
void spin_members_read_requests(const Spin__V1__MemberStatus *status,
                                struct spin_member_requests *out);
/* The numbers of a load without its unknown fields, which the message's memory holds. Pure. */
void spin_members_copy_load(Spin__V1__WorkerLoad *out, const Spin__V1__WorkerLoad *load);
/* It spoke, of other things than its status. */
void spin_members_heard(struct spin_members *members, struct spin_member *member, uint64_t now_ns);
/* It says that it leaves: it gets nothing more, and its stream's end is no loss. */
void spin_members_goodbye(struct spin_members *members, struct spin_member *member,
                          uint64_t now_ns);
/* The Join stream is over. The row stays for SPIN_MEMBERS_GONE_NS. */
void spin_members_disconnect(struct spin_members *members, struct spin_member *member,
                             uint64_t now_ns);
/* Removes members that have been gone for that long, and suspects those that are silent. */
void spin_members_expire(struct spin_members *members, uint64_t now_ns);

/* What this router sends to a worker and gets back between two of its statuses. `sent_ns`: when the
 * sequence that is over was sent. */
void spin_members_sent(struct spin_member *member, uint32_t prompt_tokens);
void spin_members_done(struct spin_member *member, uint64_t sent_ns, uint32_t prompt_tokens);

uint32_t spin_members_count(const struct spin_members *members);
struct spin_member *spin_members_at(const struct spin_members *members, uint32_t index);
struct spin_member *spin_members_find(const struct spin_members *members, const char *id);
/* Workers that take requests now. */
uint32_t spin_members_ready(const struct spin_members *members);
/* The least of all workers in the table; 0: there is none. */
uint32_t spin_members_max_model_len(const struct spin_members *members);
uint32_t spin_members_vocab(const struct spin_members *members);

SPIN_END_DECLS
