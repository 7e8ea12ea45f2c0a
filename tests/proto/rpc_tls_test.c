/* Certificates made here, right and wrong in one way each, between a server and a client: a call
 * goes through, or neither end has seen one. Then files that are not what their option says. */
#include "base/clock.h"
#include "base/mutex.h"
#include "proto/rpc_client.h"
#include "proto/rpc_server.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "tests/proto/certificate.h"
#include "tests/spin_test.h"

#include <unistd.h>

#define DAY_S (INT64_C(24) * 3600)
#define WAIT_NS (20 * SPIN_NS_PER_S) /* a handshake takes some ms; a hang fails instead */

struct fixture {
    char folder[256];
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    const char *parent = getenv("TEST_TMPDIR");
    (void)snprintf(fixture->folder, sizeof fixture->folder, "%s/tls-XXXXXX",
                   parent == NULL ? "/tmp" : parent);
    assert_non_null(mkdtemp(fixture->folder));
    const char *folder = fixture->folder;
    struct spin_test_authority *ours = spin_test_authority_create(folder, "ours");
    struct spin_test_authority *theirs = spin_test_authority_create(folder, "theirs");
    const struct spin_test_certificate certificates[] = {
        {ours, "server", "127.0.0.1", -DAY_S, DAY_S},
        {ours, "elsewhere", "elsewhere.example", -DAY_S, DAY_S},
        {ours, "expired", "127.0.0.1", -2 * DAY_S, -DAY_S},
        {ours, "early", "127.0.0.1", DAY_S, 2 * DAY_S},
        {theirs, "stranger", "127.0.0.1", -DAY_S, DAY_S},
        {ours, "client", "client.example", -DAY_S, DAY_S},
        {ours, "client-expired", "client.example", -2 * DAY_S, -DAY_S},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(certificates); i++) {
        spin_test_certificate_write(folder, &certificates[i]);
    }
    spin_test_authority_destroy(ours);
    spin_test_authority_destroy(theirs);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    free(*state); /* the folder goes with the test's own */
    return 0;
}

/* The path of a file in the folder; NULL stays NULL. Valid until sixteen others were asked for. */
static const char *file(const struct fixture *fixture, const char *name, const char *suffix)
{
    static char paths[16][320];
    static uint32_t used;
    if (name == NULL) {
        return NULL;
    }
    char *path = paths[used++ % SPIN_ARRAY_COUNT(paths)];
    (void)snprintf(path, sizeof paths[0], "%s/%s.%s", fixture->folder, name, suffix);
    return path;
}

static struct spin_rpc_tls tls_of(const struct fixture *fixture, const char *name, const char *ca)
{
    return (struct spin_rpc_tls){.cert_file = file(fixture, name, "crt"),
                                 .key_file = file(fixture, name, "key"),
                                 .ca_file = file(fixture, ca, "crt")};
}

static void start_one(void *context, struct spin_rpc_call *call,
                      const struct ProtobufCMessage *request)
{
    (void)context;
    (void)request;
    spin_rpc_call_finish(call, SPIN_ERR_NOT_FOUND, spin_rpc_call_peer(call));
}

static const struct spin_rpc_method method = {
    .path = "/t.T/One",
    .request = &spin__v1__describe_request__descriptor,
    .request_bytes_max = 64,
    .arena_bytes_max = 65536,
    .outbox_bytes = 64,
    .calls_max = 4,
    .start = start_one,
};

struct outcome {
    struct spin_mutex mutex;
    struct spin_cond changed;
    bool done;
    enum spin_rpc_code code;
    char text[256];
};

static void on_message(void *context, const struct ProtobufCMessage *message)
{
    (void)context;
    (void)message;
    fail_msg("an answer that nobody gave");
}

static void on_finished(void *context, const struct spin_rpc_outcome *result)
{
    struct outcome *outcome = context;
    spin_mutex_lock(&outcome->mutex);
    outcome->done = true;
    outcome->code = result->code;
    (void)snprintf(outcome->text, sizeof outcome->text, "%s", result->text);
    spin_cond_broadcast(&outcome->changed);
    spin_mutex_unlock(&outcome->mutex);
}

static void call_one(struct spin_rpc_client *client, struct outcome *outcome)
{
    Spin__V1__DescribeRequest message;
    spin__v1__describe_request__init(&message);
    const struct spin_rpc_request request = {.path = "/t.T/One",
                                             .message = &message.base,
                                             .response = &spin__v1__describe_response__descriptor,
                                             .response_bytes_max = 64,
                                             .arena_bytes_max = 65536,
                                             .deadline_ns =
                                                 spin_now_ns(spin_clock_real()) + WAIT_NS,
                                             .context = outcome,
                                             .message_received = on_message,
                                             .finished = on_finished};
    struct spin_rpc_client_call *call = NULL;
    struct spin_error err = {0};
    spin_mutex_init(&outcome->mutex);
    spin_cond_init(&outcome->changed);
    SPIN_EXPECT_OK(spin_rpc_client_submit(client, &request, &call, &err), &err);
    spin_mutex_lock(&outcome->mutex);
    while (!outcome->done) {
        (void)spin_cond_wait(&outcome->changed, &outcome->mutex, SPIN_NO_DEADLINE);
    }
    spin_mutex_unlock(&outcome->mutex);
    spin_rpc_client_call_release(call);
    spin_cond_deinit(&outcome->changed);
    spin_mutex_deinit(&outcome->mutex);
}

struct handshake {
    const char *what;
    const char *server; /* NULL: not encrypted */
    const char *server_ca;
    const char *client; /* NULL: no certificate */
    const char *client_ca;
    const char *server_name;
    bool plain; /* the client does not encrypt */
    bool works;
};

static const struct handshake handshakes[] = {
    {"neither encrypts", NULL, NULL, NULL, NULL, NULL, true, true},
    {"tls", "server", NULL, NULL, "ours", NULL, false, true},
    {"tls, a client certificate that nobody asked for", "server", NULL, "client", "ours", NULL,
     false, true},
    {"tls, of an authority that the client does not know", "stranger", NULL, NULL, "ours", NULL,
     false, false},
    {"tls, the client knows another authority", "server", NULL, NULL, "theirs", NULL, false, false},
    {"tls, the system's authorities", "server", NULL, NULL, NULL, NULL, false, false},
    {"tls, expired", "expired", NULL, NULL, "ours", NULL, false, false},
    {"tls, not valid yet", "early", NULL, NULL, "ours", NULL, false, false},
    {"tls, of another host", "elsewhere", NULL, NULL, "ours", NULL, false, false},
    {"tls, of another host that is expected", "elsewhere", NULL, NULL, "ours", "elsewhere.example",
     false, true},
    {"tls, not of the host that is expected", "server", NULL, NULL, "ours", "elsewhere.example",
     false, false},
    {"only the server encrypts", "server", NULL, NULL, NULL, NULL, true, false},
    {"only the client encrypts", NULL, NULL, NULL, "ours", NULL, false, false},
    {"mtls", "server", "ours", "client", "ours", NULL, false, true},
    {"mtls, no client certificate", "server", "ours", NULL, "ours", NULL, false, false},
    {"mtls, a stranger's client certificate", "server", "ours", "stranger", "ours", NULL, false,
     false},
    {"mtls, an expired client certificate", "server", "ours", "client-expired", "ours", NULL, false,
     false},
};

static void try_handshake(const struct fixture *fixture, const struct handshake *row)
{
    struct spin_rpc_server *server = NULL;
    struct spin_rpc_thread *thread = NULL;
    struct spin_rpc_client *client = NULL;
    struct spin_error err = {0};
    const struct spin_rpc_server_config server_config = {
        .listen = "127.0.0.1:0",
        .listen_flag = "--listen",
        .methods = &method,
        .method_count = 1,
        .tls = tls_of(fixture, row->server, row->server_ca)};
    SPIN_EXPECT_OK(spin_rpc_server_create(&server_config, &server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_server_start(server, &err), &err);
    char target[64];
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", spin_rpc_server_port(server));
    struct spin_rpc_client_config client_config = {
        .target = target, .tls = tls_of(fixture, row->client, row->client_ca)};
    client_config.tls.enabled = !row->plain;
    client_config.tls.server_name = row->server_name;
    SPIN_EXPECT_OK(spin_rpc_thread_create(&thread, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_client_create(thread, &client_config, &client, &err), &err);

    struct outcome outcome = {0};
    call_one(client, &outcome);
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(server, &stats);
    print_message("%s: %s \"%s\"\n", row->what, spin_rpc_code_name(outcome.code), outcome.text);
    assert_int_equal(outcome.code, row->works ? SPIN_RPC_NOT_FOUND : SPIN_RPC_UNAVAILABLE);
    assert_int_equal(stats.calls, row->works ? 1 : 0);
    if (row->works) {
        assert_ptr_equal(strstr(outcome.text, "ipv4:127.0.0.1:"), outcome.text);
    }

    spin_rpc_client_destroy(client);
    spin_rpc_thread_destroy(thread);
    spin_rpc_server_stop(server, WAIT_NS);
    spin_rpc_server_destroy(server);
}

static void test_handshakes(void **state)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(handshakes); i++) {
        try_handshake(*state, &handshakes[i]);
    }
}

static void write_text(const char *path, const char *text, uint64_t bytes)
{
    FILE *target = fopen(path, "w");
    assert_non_null(target);
    assert_int_equal(fwrite(text, 1, bytes, target), bytes);
    assert_int_equal(fclose(target), 0);
}

/* The server and the client refuse in the same words. */
static void expect_refused(const struct spin_rpc_tls *tls, spin_status status, const char *option,
                           const char *text)
{
    struct spin_error err = {0};
    struct spin_rpc_server *server = NULL;
    const struct spin_rpc_server_config server_config = {
        .listen = "127.0.0.1:0", .listen_flag = "--listen", .tls = *tls};
    SPIN_EXPECT_STATUS(spin_rpc_server_create(&server_config, &server, &err), status);
    if (strstr(err.text, option) == NULL || strstr(err.text, text) == NULL) {
        fail_msg("\"%s\" does not name %s and \"%s\"", err.text, option, text);
    }
    print_message("%s\n", err.text);
    struct spin_rpc_thread *thread = NULL;
    struct spin_rpc_client *client = NULL;
    struct spin_error client_err = {0};
    SPIN_EXPECT_OK(spin_rpc_thread_create(&thread, &err), &err);
    const struct spin_rpc_client_config client_config = {.target = "127.0.0.1:1", .tls = *tls};
    const spin_status client_status =
        spin_rpc_client_create(thread, &client_config, &client, &client_err);
    if (tls->cert_file != NULL || tls->key_file != NULL) {
        SPIN_EXPECT_STATUS(client_status, status);
        assert_string_equal(client_err.text, err.text);
    }
    spin_rpc_client_destroy(client);
    spin_rpc_thread_destroy(thread);
}

static void test_files_that_do_not_fit(void **state)
{
    const struct fixture *fixture = *state;
    struct spin_rpc_tls tls = tls_of(fixture, "server", NULL);
    tls.key_file = file(fixture, "client", "key");
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-key", "not the key of the certificate");
    tls = tls_of(fixture, "server", NULL);
    tls.key_file = NULL;
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-key", "of no use without");
    tls = tls_of(fixture, "server", NULL);
    tls.cert_file = NULL;
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-cert", "of no use without");
    tls = tls_of(fixture, NULL, "ours");
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-ca", "needs --tls-cert");
    tls = tls_of(fixture, "server", NULL);
    tls.key_file = tls.cert_file;
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-key", "no PEM private key");
    tls = tls_of(fixture, "server", NULL);
    tls.cert_file = tls.key_file;
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-cert", "no PEM certificate");
    tls = tls_of(fixture, "nobody", NULL);
    expect_refused(&tls, SPIN_ERR_NOT_FOUND, "--tls-cert", "nobody.crt");
    tls = tls_of(fixture, "server", "nobody");
    expect_refused(&tls, SPIN_ERR_NOT_FOUND, "--tls-ca", "nobody.crt");
    tls = tls_of(fixture, "server", NULL);
    tls.key_file = fixture->folder;
    expect_refused(&tls, SPIN_ERR_IO, "--tls-key", fixture->folder);
}

static void test_files_that_are_damaged(void **state)
{
    const struct fixture *fixture = *state;
    struct spin_rpc_tls tls = tls_of(fixture, "server", "bad");
    const char *bad = tls.ca_file;
    write_text(bad, "", 0);
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-ca", "no PEM certificate");
    const char cut[] = "-----BEGIN CERTIFICATE-----\nMIIB";
    write_text(bad, cut, sizeof cut - 1);
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-ca", "certificate 1 is damaged");
    const char nonsense[] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    write_text(bad, nonsense, sizeof nonsense - 1);
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-ca", "certificate 1 is damaged");
    char *large = malloc((1 << 20) + 1);
    assert_non_null(large);
    memset(large, ' ', (1 << 20) + 1);
    write_text(bad, large, (1 << 20) + 1);
    free(large);
    expect_refused(&tls, SPIN_ERR_LIMIT, "--tls-ca", "bad.crt");
    /* Nobody at the terminal is asked for its password. */
    const char locked[] = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
                          "AAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    tls = tls_of(fixture, "server", NULL);
    tls.key_file = bad;
    write_text(bad, locked, sizeof locked - 1);
    expect_refused(&tls, SPIN_ERR_INVALID, "--tls-key", "or one with a password");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshakes),
        cmocka_unit_test(test_files_that_do_not_fit),
        cmocka_unit_test(test_files_that_are_damaged),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
