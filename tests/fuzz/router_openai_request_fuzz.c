/* Any bytes as the body of every endpoint: they are refused with an error that a client can read,
 * or become values within the API's limits, and tokens. */
#include "base/assert.h"
#include "router/http/intake.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define MAX_MODEL_LEN 4096u

static struct spin_tokenizer *tokenizer; /* a token per byte, and ChatML's special ones */
static struct spin_prompt_model model;

static void check_error(const struct spin_openai_error *error)
{
    SPIN_ASSERT(error->http_status >= 400 && error->http_status < 500);
    SPIN_ASSERT(error->message[0] != '\0');
    SPIN_ASSERT(memchr(error->message, '\0', sizeof error->message) != NULL);
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, 1 << 16);
    spin_openai_error_write(error, &writer);
    SPIN_ASSERT(!writer.failed);
    spin_json_writer_deinit(&writer);
}

static void check_request(const struct spin_openai_request *request)
{
    SPIN_ASSERT(request->n >= 1);
    SPIN_ASSERT_LE(request->n * SPIN_MAX(request->prompt_count, 1), SPIN_GENERATIONS_MAX);
    SPIN_ASSERT_LE(request->stop.count, SPIN_STOP_STRINGS_MAX);
    SPIN_ASSERT_LE(request->sampling.top_logprobs, SPIN_TOP_LOGPROBS_LIMIT);
    SPIN_ASSERT(request->sampling.temperature >= 0);
    SPIN_ASSERT(request->sampling.top_p > 0);
    SPIN_ASSERT(request->sampling.repetition_penalty > 0);
}

static void check_prompts(const struct spin_intake *intake)
{
    for (uint32_t i = 0; i < intake->prompt_count; i++) {
        SPIN_ASSERT(intake->prompts[i].count >= 1);
        SPIN_ASSERT_LE(intake->prompts[i].count, MAX_MODEL_LEN);
    }
    if (!intake->request->echo) {
        return;
    }
    struct spin_json_writer text;
    spin_json_writer_init(&text, 1 << 20);
    for (uint32_t i = 0; i < intake->request->prompt_count; i++) {
        spin_json_writer_reset(&text);
        spin_intake_echo(intake, i, &text);
        (void)spin_intake_added_bos(intake, i);
    }
    spin_json_writer_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const enum spin_openai_endpoint endpoints[] = {
        SPIN_OPENAI_CHAT, SPIN_OPENAI_COMPLETIONS, SPIN_OPENAI_TOKENIZE, SPIN_OPENAI_DETOKENIZE};
    if (tokenizer == NULL) {
        SPIN_ASSERT_EQ(spin_tokenizer_open("random:", &tokenizer, NULL), SPIN_OK);
        model.tokenizer = tokenizer;
        SPIN_ASSERT_EQ(spin_chat_format_find(NULL, "chatml", &model.chat_format, NULL), SPIN_OK);
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(endpoints); i++) {
        struct spin_intake intake = {.endpoint = endpoints[i],
                                     .body = (const char *)bytes,
                                     .body_bytes = count,
                                     .model = &model,
                                     .model_name = "m",
                                     .max_model_len = MAX_MODEL_LEN};
        spin_intake_run(&intake);
        if (intake.status != SPIN_OK) {
            check_error(&intake.error);
        } else {
            check_request(intake.request);
            check_prompts(&intake);
        }
        spin_intake_deinit(&intake);
    }
    return 0;
}
