/* Any bytes as what a client sends: requests, or a status that refuses them, within the limits; and
 * the same whether the bytes come at once, one at a time or in pieces of any other sizes. */
#include "base/assert.h"
#include "base/rng.h"
#include "net/http_internal.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

/* Small, so that short inputs reach them. */
#define HEADER_BYTES_MAX 256u
#define BODY_BYTES_MAX 128u
#define BODIES_BYTES_MAX 256u

/* What a run of the parser comes to: a hash over its requests, and how it ended. */
struct outcome {
    uint64_t hash;
    uint32_t requests;
    int status;
};

struct run {
    struct spin_http_budget bodies;
    struct spin_http_limits limits;
    struct spin_http_parser parser;
    struct outcome outcome;
};

static void mix(struct outcome *outcome, const char *bytes, uint64_t count)
{
    const uint64_t prime = UINT64_C(1099511628211); /* FNV-1a */
    outcome->hash = (outcome->hash ^ count) * prime;
    for (uint64_t i = 0; i < count; i++) {
        outcome->hash = (outcome->hash ^ (unsigned char)bytes[i]) * prime;
    }
}

static void note_request(struct run *run)
{
    struct spin_http_request request;
    const struct spin_http_parser *parser = &run->parser;
    spin_http_parser_request(&run->parser, &request);
    SPIN_ASSERT_LE(request.body_bytes, BODY_BYTES_MAX);
    SPIN_ASSERT_EQ(request.body[request.body_bytes], '\0');
    SPIN_ASSERT_LE(parser->head_bytes, HEADER_BYTES_MAX);
    SPIN_ASSERT(request.path[0] == '/' || strcmp(request.path, "*") == 0);
    SPIN_ASSERT_LE(parser->fields_at, parser->head.count);
    run->outcome.requests++;
    mix(&run->outcome, request.method, strlen(request.method));
    mix(&run->outcome, request.path, strlen(request.path));
    mix(&run->outcome, request.query, strlen(request.query));
    mix(&run->outcome, request.body, request.body_bytes);
    mix(&run->outcome, parser->head.bytes + parser->fields_at,
        parser->head.count - parser->fields_at);
    mix(&run->outcome, parser->keep_alive ? "k" : "c", 1);
}

/* False when the connection cannot go on. */
static bool feed(struct run *run, const char *bytes, uint64_t count)
{
    enum spin_http_parsed parsed = SPIN_HTTP_HEAD;
    while (parsed != SPIN_HTTP_MORE && (count != 0 || parsed == SPIN_HTTP_HEAD)) {
        uint64_t used = 0;
        parsed = spin_http_parse(&run->parser, bytes, count, &used);
        SPIN_ASSERT_LE(used, count);
        bytes += used;
        count -= used;
        if (parsed == SPIN_HTTP_FAILED) {
            run->outcome.status = run->parser.status;
            SPIN_ASSERT(run->parser.status >= 400 && run->parser.status <= 599);
            SPIN_ASSERT(run->parser.text != NULL);
            SPIN_ASSERT_EQ(spin_http_parse(&run->parser, bytes, count, &used), SPIN_HTTP_FAILED);
            return false;
        }
        if (parsed == SPIN_HTTP_WHOLE) {
            note_request(run);
            spin_http_parser_reset(&run->parser);
        }
    }
    SPIN_ASSERT_EQ(count, 0);
    return true;
}

/* In pieces of 1 to `piece_max` bytes. */
static struct outcome parse(const uint8_t *bytes, uint64_t count, uint32_t piece_max)
{
    struct run run = {.bodies = {.max = BODIES_BYTES_MAX}};
    struct spin_rng rng = {.seed = count, .stream = piece_max};
    run.limits = (struct spin_http_limits){
        .header_bytes_max = HEADER_BYTES_MAX,
        .body_bytes_max = BODY_BYTES_MAX,
        .bodies = &run.bodies,
    };
    spin_http_parser_init(&run.parser, &run.limits);
    bool good = true;
    for (uint64_t at = 0; good && at < count;) {
        const uint64_t piece = 1 + spin_rng_below(&rng, piece_max);
        const uint64_t taken = SPIN_MIN(piece, count - at);
        good = feed(&run, (const char *)bytes + at, taken);
        at += taken;
    }
    SPIN_ASSERT_LE(run.bodies.used, run.bodies.max);
    spin_http_parser_deinit(&run.parser);
    SPIN_ASSERT_EQ(run.bodies.used, 0);
    return run.outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const uint32_t pieces[] = {1, 7, 64, UINT32_MAX};
    const struct outcome first = parse(bytes, count, pieces[0]);
    for (uint32_t i = 1; i < SPIN_ARRAY_COUNT(pieces); i++) {
        const struct outcome other = parse(bytes, count, pieces[i]);
        SPIN_ASSERT_EQ(other.requests, first.requests);
        SPIN_ASSERT_EQ(other.status, first.status);
        SPIN_ASSERT_EQ(other.hash, first.hash);
    }
    return 0;
}
