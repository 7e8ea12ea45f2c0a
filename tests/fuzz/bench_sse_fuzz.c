/* Any bytes as a stream of events: the same events whether they come at once, one byte at a time or
 * in pieces, none over the limit, and each is read or refused as a completion's event. */
#include "base/assert.h"
#include "bench/load/openai_event.h"
#include "bench/load/sse.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

struct outcome {
    uint64_t hash;
    uint64_t events;
    spin_status status;
};

static void mix(struct outcome *outcome, const char *bytes, uint64_t count)
{
    const uint64_t prime = UINT64_C(1099511628211); /* FNV-1a */
    outcome->hash = (outcome->hash ^ count) * prime;
    for (uint64_t i = 0; i < count; i++) {
        outcome->hash = (outcome->hash ^ (unsigned char)bytes[i]) * prime;
    }
}

static bool on_event(void *context, const char *data, uint64_t bytes)
{
    struct outcome *outcome = context;
    struct spin_openai_event event;
    char text[200];
    SPIN_ASSERT_LT(bytes, SPIN_SSE_EVENT_BYTES_MAX);
    SPIN_ASSERT_EQ(data[bytes], '\0');
    outcome->events++;
    mix(outcome, data, bytes);
    if (spin_openai_event_read(data, bytes, &event)) {
        SPIN_ASSERT_LT(strlen(event.error), sizeof event.error);
    }
    spin_openai_error_read(data, bytes, text, sizeof text);
    SPIN_ASSERT_LT(strlen(text), sizeof text);
    if (spin_openai_model_read(data, bytes, text, sizeof text)) {
        SPIN_ASSERT_LT(strlen(text), sizeof text);
    }
    return true;
}

static struct outcome feed(const uint8_t *bytes, size_t count, size_t piece)
{
    struct spin_sse sse = {0};
    struct outcome outcome = {0};
    for (size_t at = 0; at < count && outcome.status == SPIN_OK; at += piece) {
        const size_t part = SPIN_MIN(piece, count - at);
        outcome.status = spin_sse_feed(&sse, (const char *)bytes + at, part, on_event, &outcome);
    }
    spin_sse_deinit(&sse);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    const struct outcome whole = feed(bytes, count, SPIN_MAX(count, 1));
    const size_t pieces[] = {1, 2, 7};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(pieces); i++) {
        const struct outcome cut = feed(bytes, count, pieces[i]);
        SPIN_ASSERT_EQ(cut.status, whole.status);
        SPIN_ASSERT_EQ(cut.events, whole.events);
        SPIN_ASSERT_EQ(cut.hash, whole.hash);
    }
    return 0;
}
