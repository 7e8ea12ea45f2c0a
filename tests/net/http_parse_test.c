/* Requests by table, from RFC 9112 and from what is known to smuggle requests past servers. Each is
 * fed whole, a byte at a time and cut in two at every place: the outcome must be the same. */
#include "net/http_internal.h"
#include "tests/spin_test.h"

#define HEADER_BYTES_MAX 512u
#define BODY_BYTES_MAX 64u

struct fixture {
    struct spin_http_budget bodies;
    struct spin_http_limits limits;
    struct spin_http_parser parser;
    char outcome[4096]; /* of all requests so far */
    uint64_t at;
};

static void init(struct fixture *fixture)
{
    *fixture = (struct fixture){.bodies = {.max = 1u << 20}};
    fixture->limits = (struct spin_http_limits){
        .header_bytes_max = HEADER_BYTES_MAX,
        .body_bytes_max = BODY_BYTES_MAX,
        .bodies = &fixture->bodies,
    };
    spin_http_parser_init(&fixture->parser, &fixture->limits);
}

static void deinit(struct fixture *fixture)
{
    spin_http_parser_deinit(&fixture->parser);
    assert_int_equal(fixture->bodies.used, 0);
}

static void note_request(struct fixture *fixture)
{
    struct spin_http_request request;
    spin_http_parser_request(&fixture->parser, &request);
    assert_int_equal(request.body[request.body_bytes], '\0');
    const char *test = spin_http_parser_header(&fixture->parser, "x-TEST");
    const int count =
        snprintf(fixture->outcome + fixture->at, sizeof fixture->outcome - fixture->at,
                 "%s %s %s %s %.*s%s;", request.method, request.path, request.query,
                 test == NULL ? "-" : test, (int)request.body_bytes, request.body,
                 fixture->parser.keep_alive ? "" : " close");
    fixture->at += (uint64_t)count;
    assert_true(fixture->at < sizeof fixture->outcome);
}

/* Appends what comes of the bytes: requests, or the status of a failure. False after a failure. */
static bool feed(struct fixture *fixture, const char *bytes, uint64_t count)
{
    enum spin_http_parsed parsed = SPIN_HTTP_HEAD;
    while (parsed != SPIN_HTTP_MORE && (count != 0 || parsed == SPIN_HTTP_HEAD)) {
        uint64_t used = 0;
        parsed = spin_http_parse(&fixture->parser, bytes, count, &used);
        assert_true(used <= count);
        bytes += used;
        count -= used;
        if (parsed == SPIN_HTTP_FAILED) {
            (void)snprintf(fixture->outcome + fixture->at, sizeof fixture->outcome - fixture->at,
                           "%d", fixture->parser.status);
            assert_non_null(fixture->parser.text);
            return false;
        }
        if (parsed == SPIN_HTTP_WHOLE) {
            note_request(fixture);
            spin_http_parser_reset(&fixture->parser);
        }
    }
    assert_int_equal(count, 0);
    return true;
}

/* In pieces of `step` bytes after a first of `first`. */
static void expect_cut(const char *bytes, uint64_t count, uint64_t first, uint64_t step,
                       const char *wanted)
{
    struct fixture fixture;
    init(&fixture);
    bool good = first == 0 || feed(&fixture, bytes, first);
    for (uint64_t at = first; good && at < count; at += step) {
        good = feed(&fixture, bytes + at, SPIN_MIN(step, count - at));
    }
    if (strcmp(fixture.outcome, wanted) != 0) {
        fail_msg("\"%.*s\"\nfirst %u, step %u: got \"%s\" (%s), wanted \"%s\"", (int)count, bytes,
                 (unsigned)first, (unsigned)step, fixture.outcome,
                 fixture.parser.text == NULL ? "" : fixture.parser.text, wanted);
    }
    deinit(&fixture);
}

static void expect(const char *text, const char *wanted)
{
    const uint64_t count = strlen(text);
    expect_cut(text, count, 0, count, wanted);
    expect_cut(text, count, 0, 1, wanted);
    for (uint64_t first = 1; first < count; first++) {
        expect_cut(text, count, first, count, wanted);
    }
}

struct row {
    const char *text;
    const char *wanted;
};

static void expect_all(const struct row *rows, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        expect(rows[i].text, rows[i].wanted);
    }
}

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST "POST / HTTP/1.1\r\nHost: a\r\n"

static void test_requests(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {GET "\r\n", "GET /  - ;"},
        {"\r\n\r\n" GET "\r\n", "GET /  - ;"},
        {"GET /a/b?c=d&e HTTP/1.1\r\nHost: a\r\nX-Test:  v w \t\r\n\r\n", "GET /a/b c=d&e v w ;"},
        {"GET /?a?b HTTP/1.1\r\nHost:\r\nX-Test:\r\n\r\n", "GET / a?b  ;"},
        {"GET http://example.org/p?q HTTP/1.1\r\nHost: a\r\n\r\n", "GET /p q - ;"},
        {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS *  - ;"},
        {"GET / HTTP/1.0\r\n\r\n", "GET /  -  close;"},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET /  - ;"},
        {GET "Connection: close\r\n\r\n", "GET /  -  close;"},
        {GET "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" GET "\r\n", "GET /  - ;GET /  - ;"},
        {GET "X-Test: one\r\nX-Test: two\r\n\r\n", "GET /  one ;"},
        {POST "Content-Length: 3\r\n\r\nabc", "POST /  - abc;"},
        {POST "Content-Length: 0\r\n\r\n", "POST /  - ;"},
        {POST "Content-Length: 3\r\n\r\nabc" GET "\r\n" POST "Content-Length: 1\r\n\r\nx",
         "POST /  - abc;GET /  - ;POST /  - x;"},
        {POST "Content-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc", "POST /  - abc;"},
        {POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\n\r\n",
         "POST /  - abc0123456789;"},
        {POST "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n" GET "\r\n", "POST /  - ;GET /  - ;"},
        {POST "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Test: late\r\n\r\n" GET "\r\n",
         "POST /  - x;GET /  - ;"},
        {"PRI * HTTP/1.1\r\nHost: a\r\n\r\n", "505"},
    };
    expect_all(rows, SPIN_ARRAY_COUNT(rows));
}

static void test_malformed_heads(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"\x16\x03\x01\x02", "400"}, /* TLS to a port without */
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "505"},
        {"GET /\r\n\r\n", "400"},
        {"GET / HTTP/1.1\nHost: a\n\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "400"},
        {"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET /\xC3\xA9 HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET a HTTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"},
        {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505"},
        {"GET / HTTP/0.9\r\nHost: a\r\n\r\n", "505"},
        {"GET / FTP/1.1\r\nHost: a\r\n\r\n", "400"},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"},
        {"FROB / HTTP/1.1\r\nHost: a\r\n\r\n", "501"},
        {"get / HTTP/1.1\r\nHost: a\r\n\r\n", "501"},
        {"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "501"},
        {"GET / HTTP/1.1\r\n\r\n", "400"},
        {GET "Host: b\r\n\r\n", "400"},
        {GET "X-Test: a\r\n b\r\n\r\n", "400"}, /* folded */
        {GET "X-Test: a\r\n\tb\r\n\r\n", "400"},
        {GET " X-Test: a\r\n\r\n", "400"},
        {GET "X-Test : a\r\n\r\n", "400"},
        {GET ": a\r\n\r\n", "400"},
        {GET "X-Test\r\n\r\n", "400"},
        {GET "X\x80: a\r\n\r\n", "400"},
        {GET "X-Test: a\x01\r\n\r\n", "400"},
        {GET "Expect: more\r\n\r\n", "417"},
    };
    expect_all(rows, SPIN_ARRAY_COUNT(rows));
    expect_cut("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 33, 0, 33, "400");
}

static void test_bodies_of_doubtful_length(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {POST "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"},
        {POST "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", "400"},
        {POST "Content-Length: 1, 1\r\n\r\nx", "400"},
        {POST "Content-Length: +1\r\n\r\nx", "400"},
        {POST "Content-Length: -1\r\n\r\nx", "400"},
        {POST "Content-Length: 0x1\r\n\r\nx", "400"},
        {POST "Content-Length: 1 1\r\n\r\nx", "400"},
        {POST "Content-Length:\r\n\r\nx", "400"},
        {POST "Content-Length: a\r\n\r\nx", "400"},
        {POST "Content-Length: 99999999999999999999\r\n\r\nx", "400"},
        {POST "Content-Length: 65\r\n\r\nx", "413"},
        {POST "Content-Length: 18446744073709551615\r\n\r\nx", "413"},
        {POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
        {POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "400"},
        {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
        {POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"},
        {POST "Transfer-Encoding: identity\r\n\r\n", "501"},
        {POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501"},
        {POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"},
        {POST "Transfer-Encoding:\r\n\r\n", "501"},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
    };
    expect_all(rows, SPIN_ARRAY_COUNT(rows));
}

#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"

static void test_malformed_chunks(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {CHUNKED "x\r\n", "400"},
        {CHUNKED "-1\r\n", "400"},
        {CHUNKED "0x1\r\na\r\n", "400"},
        {CHUNKED "\r\n", "400"},
        {CHUNKED "1\na\r\n", "400"},
        {CHUNKED "1\r\na\n", "400"},
        {CHUNKED "1\r\nab", "400"},
        {CHUNKED "1 \r\na\r\n0\r\n\r\n", "400"},
        {CHUNKED "10000000000000000\r\n", "400"},
        {CHUNKED "41\r\n01234567890123456789012345678901234567890123456789012345678901234", "413"},
        {CHUNKED "20\r\n01234567890123456789012345678901\r\n21\r\n"
                 "012345678901234567890123456789012",
         "413"},
    };
    expect_all(rows, SPIN_ARRAY_COUNT(rows));
    expect(CHUNKED "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n"
                   "0\r\n\r\n",
           "POST /  - 0123456789012345678901234567890123456789012345678901234567890123;");
}

/* A head of exactly `bytes`, padded behind `start`. */
static void pad(char *out, const char *start, const char *end, uint64_t bytes)
{
    const uint64_t start_bytes = strlen(start);
    const uint64_t end_bytes = strlen(end);
    (void)snprintf(out, bytes, "%s", start);
    memset(out + start_bytes, 'p', bytes - start_bytes);
    memcpy(out + bytes - end_bytes, end, end_bytes + 1);
}

static void test_the_heads_limit(void **state)
{
    (void)state;
    char text[2 * HEADER_BYTES_MAX];
    pad(text, GET "X: ", "\r\n\r\n", HEADER_BYTES_MAX);
    expect(text, "GET /  - ;");
    pad(text, GET "X: ", "\r\n\r\n", HEADER_BYTES_MAX + 1);
    expect(text, "431");
    pad(text, "GET /", " HTTP/1.1\r\nHost: a\r\n\r\n", HEADER_BYTES_MAX + 100);
    expect(text, "414");
}

static void test_bodies_share_a_budget(void **state)
{
    (void)state;
    static const char start[] = POST "Content-Length: 64\r\n\r\nx";
    struct fixture first;
    init(&first);
    first.bodies.max = 65 + 64; /* a NUL stands behind each */
    assert_true(feed(&first, start, sizeof start - 1));
    assert_int_equal(first.bodies.used, 65);
    struct fixture second;
    init(&second);
    second.limits.bodies = &first.bodies;
    assert_false(feed(&second, start, sizeof start - 1));
    assert_string_equal(second.outcome, "503");
    spin_http_parser_deinit(&second.parser);
    assert_int_equal(first.bodies.used, 65);
    deinit(&first);
}

static void test_a_number_in_a_header_takes_no_memory(void **state)
{
    (void)state;
    static const char start[] = POST "Content-Length: 1000000\r\n\r\nx";
    struct fixture fixture;
    init(&fixture);
    fixture.limits.body_bytes_max = 1000000;
    assert_true(feed(&fixture, start, sizeof start - 1));
    assert_true(fixture.bodies.used <= 8192);
    deinit(&fixture);
}

static void test_only_who_waits_wants_to_be_told(void **state)
{
    (void)state;
    static const char text[] = POST "Content-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    static const char empty[] = GET "Expect: 100-continue\r\n\r\n";
    static const char old[] =
        "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    const struct {
        const char *text;
        bool wants;
    } rows[] = {{text, true}, {empty, false}, {old, false}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct fixture fixture;
        uint64_t used = 0;
        init(&fixture);
        assert_int_equal(
            spin_http_parse(&fixture.parser, rows[i].text, strlen(rows[i].text), &used),
            SPIN_HTTP_HEAD);
        assert_int_equal(used, strlen(rows[i].text));
        assert_int_equal(fixture.parser.wants_continue, rows[i].wants);
        deinit(&fixture);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_malformed_heads),
        cmocka_unit_test(test_bodies_of_doubtful_length),
        cmocka_unit_test(test_malformed_chunks),
        cmocka_unit_test(test_the_heads_limit),
        cmocka_unit_test(test_bodies_share_a_budget),
        cmocka_unit_test(test_a_number_in_a_header_takes_no_memory),
        cmocka_unit_test(test_only_who_waits_wants_to_be_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
