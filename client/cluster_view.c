#include "client/cluster_view.h"

#include "base/clock.h"
#include "client/json_text.h"

#include <inttypes.h>
#include <string.h>

#define TABLE_COLUMNS 100
#define ID_WIDTH_MAX 64
#define CELL_BYTES 40

/* What stands for the parts that a message may lack. */
struct nothing {
    Spin__V1__Hello hello;
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    Spin__V1__MemberStatus status;
    Spin__V1__WorkerLoad load;
};

struct view {
    const Spin__V1__ClusterDescribeResponse *cluster;
    FILE *out;
    int width; /* of the members' column */
    struct nothing nothing;
};

/* A member, with nothing missing. */
struct row {
    const Spin__V1__Member *member;
    const Spin__V1__Hello *hello;
    const Spin__V1__Peer *peer;
    const Spin__V1__ModelIdentity *model;
    const Spin__V1__WorkerCapacity *capacity;
    const Spin__V1__MemberStatus *status;
    const Spin__V1__WorkerLoad *load;
    const char *role;
    const char *state;
};

static struct row row_of(const struct view *view, size_t index)
{
    const Spin__V1__Member *member = view->cluster->members[index];
    const struct nothing *nothing = &view->nothing;
    struct row row = {.member = member};
    row.hello = member->hello != NULL ? member->hello : &nothing->hello;
    row.peer = row.hello->peer != NULL ? row.hello->peer : &nothing->peer;
    row.model = row.hello->model != NULL ? row.hello->model : &nothing->model;
    row.capacity = row.hello->capacity != NULL ? row.hello->capacity : &nothing->capacity;
    row.status = member->status != NULL ? member->status : &nothing->status;
    row.load = row.status->load != NULL ? row.status->load : &nothing->load;
    row.role = row.status->role[0] != '\0' ? row.status->role : row.hello->role;
    row.state = "ready";
    if (!member->reachable) {
        row.state = "lost";
    } else if (row.status->draining) {
        row.state = "draining";
    }
    return row;
}

static int widest_id(const struct view *view)
{
    size_t width = strlen("MEMBER");
    for (size_t i = 0; i < view->cluster->n_members; i++) {
        width = SPIN_MAX(width, strlen(row_of(view, i).peer->id));
    }
    return (int)SPIN_MIN(width, ID_WIDTH_MAX);
}

static void view_init(struct view *view, const Spin__V1__ClusterDescribeResponse *cluster,
                      FILE *out)
{
    view->cluster = cluster;
    view->out = out;
    spin__v1__hello__init(&view->nothing.hello);
    spin__v1__peer__init(&view->nothing.peer);
    spin__v1__model_identity__init(&view->nothing.model);
    spin__v1__worker_capacity__init(&view->nothing.capacity);
    spin__v1__member_status__init(&view->nothing.status);
    spin__v1__worker_load__init(&view->nothing.load);
    view->width = widest_id(view);
}

static bool is_worker(const struct row *row)
{
    return row->hello->kind != SPIN__V1__MEMBER_KIND__MEMBER_MEMORY_NODE;
}

static const char *request_state(const Spin__V1__RequestKv *request)
{
    if (request->suspended) {
        return "suspended";
    }
    return request->resident ? "resident" : "buffered";
}

static double milliseconds(uint64_t ns)
{
    return (double)ns / (double)SPIN_NS_PER_MS;
}

/* --- cells --- */

struct cell {
    char text[CELL_BYTES];
};

/* Divides `value` by `step` until it is below, and says how often; at most `most` times. */
static double scale(double value, double step, uint32_t most, uint32_t *out_times)
{
    *out_times = 0;
    while (value >= step && *out_times < most) {
        value /= step;
        ++*out_times;
    }
    return value;
}

/* Three digits at least: 12.3, 123. */
static int decimals(double value)
{
    return value < 100 ? 1 : 0;
}

static struct cell count_cell(uint64_t count)
{
    static const char units[] = " kMGT";
    struct cell cell;
    uint32_t unit;
    const double value = scale((double)count, 1000, 4, &unit);
    if (count < 10000) {
        (void)snprintf(cell.text, sizeof cell.text, "%" PRIu64, count);
    } else {
        (void)snprintf(cell.text, sizeof cell.text, "%.*f%c", decimals(value), value, units[unit]);
    }
    return cell;
}

static const char *const byte_units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
#define BYTE_UNIT_LAST 4u

static struct cell bytes_cell(uint64_t bytes)
{
    struct cell cell;
    uint32_t unit;
    const double value = scale((double)bytes, 1024, BYTE_UNIT_LAST, &unit);
    (void)snprintf(cell.text, sizeof cell.text, "%.*f %s", unit == 0 ? 0 : decimals(value), value,
                   byte_units[unit]);
    return cell;
}

/* "12.0/64.0 MiB": both in the unit of the whole. */
static struct cell use_cell(uint64_t used, uint64_t all)
{
    struct cell cell = {"-"};
    uint32_t unit;
    const double whole = scale((double)all, 1024, BYTE_UNIT_LAST, &unit);
    double part = (double)used;
    for (uint32_t i = 0; i < unit; i++) {
        part /= 1024;
    }
    const int digits = unit == 0 ? 0 : decimals(whole);
    if (all != 0) {
        (void)snprintf(cell.text, sizeof cell.text, "%.*f/%.*f %s", digits, part, digits, whole,
                       byte_units[unit]);
    }
    return cell;
}

static double hit_ratio(uint64_t hits, uint64_t misses)
{
    return (double)hits / ((double)hits + (double)misses);
}

static struct cell hit_cell(uint64_t hits, uint64_t misses)
{
    struct cell cell = {"-"};
    if (hits != 0 || misses != 0) {
        (void)snprintf(cell.text, sizeof cell.text, "%.1f%%", 100 * hit_ratio(hits, misses));
    }
    return cell;
}

/* --- tables --- */

static void print_headline(const struct view *view, const char *target)
{
    const Spin__V1__ClusterDescribeResponse *cluster = view->cluster;
    uint32_t ready = 0;
    for (size_t i = 0; i < cluster->n_members; i++) {
        ready += strcmp(row_of(view, i).state, "ready") == 0;
    }
    (void)fprintf(view->out, "router %s at %s: %zu members, %u ready\n", cluster->router_id, target,
                  cluster->n_members, ready);
    if (cluster->n_members == 0) {
        (void)fprintf(view->out,
                      "no worker has joined yet: start one with `spin-worker --router %s`\n",
                      target);
    }
}

/* All before the model's name, with the blanks in between. */
#define LOAD_COLUMNS 66

static void print_load(const struct view *view, const struct row *row)
{
    const int width = view->width;
    char run[CELL_BYTES];
    (void)snprintf(run, sizeof run, "%u/%u", row->load->running, row->capacity->sequences_max);
    const int model_width = SPIN_MAX(TABLE_COLUMNS - LOAD_COLUMNS - width, 16);
    (void)fprintf(view->out, "%-*.*s  %-7.16s  %-8s  %9s  %5u  %7.1f  %9.1f  %5.1f  %.*s\n", width,
                  width, row->peer->id, row->role, row->state, run, row->load->waiting,
                  milliseconds(row->load->step_ns), row->load->prefill_tokens_per_s,
                  (double)row->member->status_age_ms / 1e3, model_width, row->model->name);
}

static void print_kv(const struct view *view, const struct row *row)
{
    const int width = view->width;
    const Spin__V1__WorkerLoad *load = row->load;
    (void)fprintf(view->out, "%-*.*s  %-9.16s  %6s  %9s  %7s  %13s  %13s  %8s\n", width, width,
                  row->peer->id, row->hello->algorithm,
                  hit_cell(load->kv_hits, load->kv_misses).text,
                  count_cell(load->kv_pages_retrieved).text, count_cell(load->kv_evictions).text,
                  use_cell(load->kv_hbm_bytes_used, row->capacity->kv_device_bytes).text,
                  use_cell(load->kv_host_bytes_used, row->capacity->kv_host_bytes).text,
                  bytes_cell(load->kv_table_bytes).text);
}

/* A device's name has no bound here but the table's. */
static void print_device(const struct view *view, const struct row *row)
{
    const char *device = row->hello->device[0] != '\0' ? row->hello->device : "-";
    const int device_width = SPIN_MAX(TABLE_COLUMNS - 2 - view->width, 16);
    (void)fprintf(view->out, "%-*.*s  %.*s\n", view->width, view->width, row->peer->id,
                  device_width, device);
}

static void print_devices(const struct view *view)
{
    (void)fprintf(view->out, "\n%-*s  %s\n", view->width, "MEMBER", "DEVICE");
    for (size_t i = 0; i < view->cluster->n_members; i++) {
        const struct row row = row_of(view, i);
        if (is_worker(&row)) {
            print_device(view, &row);
        }
    }
}

void spin_cluster_view_members(const Spin__V1__ClusterDescribeResponse *cluster, const char *target,
                               FILE *out)
{
    struct view view;
    view_init(&view, cluster, out);
    print_headline(&view, target);
    if (cluster->n_members == 0) {
        return;
    }
    (void)fprintf(out, "\n%-*s  %-7s  %-8s  %9s  %5s  %7s  %9s  %5s  %s\n", view.width, "MEMBER",
                  "ROLE", "STATE", "RUNNING", "WAIT", "STEP MS", "PREFILL/S", "AGE S", "MODEL");
    for (size_t i = 0; i < cluster->n_members; i++) {
        const struct row row = row_of(&view, i);
        print_load(&view, &row);
    }
    (void)fprintf(out, "\n%-*s  %-9s  %6s  %9s  %7s  %13s  %13s  %8s\n", view.width, "MEMBER",
                  "ALGORITHM", "HIT", "RETRIEVED", "EVICTED", "HBM USED", "HOST USED", "TABLES");
    for (size_t i = 0; i < cluster->n_members; i++) {
        const struct row row = row_of(&view, i);
        if (is_worker(&row)) {
            print_kv(&view, &row);
        }
    }
    print_devices(&view);
}

static void print_request(const struct view *view, const struct row *row,
                          const Spin__V1__RequestKv *request)
{
    (void)fprintf(view->out, "%-*.*s  %-9s  %7u  %6u  %9u  %7u  %6s  %s\n", view->width,
                  view->width, row->peer->id, request_state(request), request->tokens,
                  request->budget_pages, request->mandatory_pages, request->working_set,
                  hit_cell(request->hits, request->misses).text, request->request_id);
}

void spin_cluster_view_requests(const Spin__V1__ClusterDescribeResponse *cluster, FILE *out)
{
    struct view view;
    view_init(&view, cluster, out);
    size_t count = 0;
    for (size_t i = 0; i < cluster->n_members; i++) {
        count += row_of(&view, i).status->n_requests;
    }
    if (count == 0) {
        (void)fprintf(out, "\nno request holds KV\n");
        return;
    }
    (void)fprintf(out, "\n%-*s  %-9s  %7s  %6s  %9s  %7s  %6s  %s\n", view.width, "MEMBER", "KV",
                  "TOKENS", "BUDGET", "MANDATORY", "WORKING", "HIT", "REQUEST");
    for (size_t i = 0; i < cluster->n_members; i++) {
        const struct row row = row_of(&view, i);
        for (size_t n = 0; n < row.status->n_requests; n++) {
            print_request(&view, &row, row.status->requests[n]);
        }
    }
}

/* --- JSON --- */

static void print_text(const char *name, const char *text, FILE *out)
{
    (void)fprintf(out, "\"%s\": ", name);
    spin_json_write_string(out, text, strlen(text));
    (void)fputs(", ", out);
}

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

static void print_ratio(uint64_t hits, uint64_t misses, FILE *out)
{
    if (hits == 0 && misses == 0) {
        (void)fputs("\"hit_ratio\": null", out);
    } else {
        (void)fprintf(out, "\"hit_ratio\": %.6f", hit_ratio(hits, misses));
    }
}

static void print_identity(const struct row *row, FILE *out)
{
    print_text("id", row->peer->id, out);
    print_text("address", row->peer->grpc_address, out);
    print_text("role", row->role, out);
    print_text("state", row->state, out);
    print_text("model", row->model->name, out);
    print_text("version", row->hello->version, out);
    print_text("algorithm", row->hello->algorithm, out);
    print_text("device", row->hello->device, out);
    (void)fprintf(out,
                  "\"budget_tokens\": %u, \"min_context\": %u, \"kind\": \"%s\""
                  ", \"incarnation\": \"%016" PRIx64 "\", \"reachable\": %s"
                  ", \"age_ms\": %" PRIu64 ", \"max_model_len\": %u",
                  row->hello->budget_tokens, row->hello->min_context,
                  is_worker(row) ? "worker" : "memory-node", row->peer->incarnation,
                  truth(row->member->reachable), row->member->status_age_ms,
                  row->model->max_model_len);
}

static void print_load_numbers(const struct row *row, FILE *out)
{
    (void)fprintf(out,
                  ", \"running\": %u, \"sequences_max\": %u, \"waiting\": %u, \"queue_max\": %u"
                  ", \"kv_tokens_used\": %" PRIu64 ", \"kv_tokens\": %" PRIu64
                  ", \"queued_prompt_tokens\": %" PRIu64 ", \"step_ms\": %.3f"
                  ", \"prefill_tokens_per_s\": %.3f, \"preemptions\": %" PRIu64
                  ", \"suspensions\": %" PRIu64,
                  row->load->running, row->capacity->sequences_max, row->load->waiting,
                  row->capacity->queue_max, row->load->kv_tokens_used, row->capacity->kv_tokens,
                  row->load->queued_prompt_tokens, milliseconds(row->load->step_ns),
                  row->load->prefill_tokens_per_s, row->load->preemptions, row->load->suspensions);
}

static void print_kv_numbers(const struct row *row, FILE *out)
{
    const Spin__V1__WorkerLoad *load = row->load;
    (void)fprintf(out,
                  ", \"kv_hits\": %" PRIu64 ", \"kv_misses\": %" PRIu64
                  ", \"kv_pages_retrieved\": %" PRIu64 ", \"kv_evictions\": %" PRIu64
                  ", \"dense_fallbacks\": %" PRIu64 ", \"kv_table_bytes\": %" PRIu64
                  ", \"kv_summary_bytes\": %" PRIu64 ", \"kv_hbm_bytes_used\": %" PRIu64
                  ", \"kv_hbm_bytes\": %" PRIu64 ", \"kv_host_bytes_used\": %" PRIu64
                  ", \"kv_host_bytes\": %" PRIu64 ", ",
                  load->kv_hits, load->kv_misses, load->kv_pages_retrieved, load->kv_evictions,
                  load->dense_fallbacks, load->kv_table_bytes, load->kv_summary_bytes,
                  load->kv_hbm_bytes_used, row->capacity->kv_device_bytes, load->kv_host_bytes_used,
                  row->capacity->kv_host_bytes);
    print_ratio(load->kv_hits, load->kv_misses, out);
}

static void print_request_object(const Spin__V1__RequestKv *request, FILE *out)
{
    (void)fputs("{", out);
    print_text("id", request->request_id, out);
    print_text("kv", request_state(request), out);
    (void)fprintf(out,
                  "\"tokens\": %u, \"budget_pages\": %u, \"mandatory_pages\": %u"
                  ", \"working_set\": %u, \"slots\": %" PRIu64 ", \"hits\": %" PRIu64
                  ", \"misses\": %" PRIu64 ", ",
                  request->tokens, request->budget_pages, request->mandatory_pages,
                  request->working_set, request->slots, request->hits, request->misses);
    print_ratio(request->hits, request->misses, out);
    (void)fputs("}", out);
}

static void print_member_object(const struct row *row, FILE *out)
{
    (void)fputs("{", out);
    print_identity(row, out);
    print_load_numbers(row, out);
    print_kv_numbers(row, out);
    (void)fputs(", \"requests\": [", out);
    for (size_t i = 0; i < row->status->n_requests; i++) {
        (void)fputs(i == 0 ? "" : ", ", out);
        print_request_object(row->status->requests[i], out);
    }
    (void)fputs("]}", out);
}

void spin_cluster_view_json(const Spin__V1__ClusterDescribeResponse *cluster, FILE *out)
{
    struct view view;
    view_init(&view, cluster, out);
    (void)fputs("{", out);
    print_text("router", cluster->router_id, out);
    (void)fputs("\"members\": [", out);
    for (size_t i = 0; i < cluster->n_members; i++) {
        const struct row row = row_of(&view, i);
        (void)fputs(i == 0 ? "" : ", ", out);
        print_member_object(&row, out);
    }
    (void)fputs("]}\n", out);
}
