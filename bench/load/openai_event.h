/* openai_event: what one event of a streamed completion says.
 *
 * Why        What /v1/completions and /v1/chat/completions stream differs from server to server;
 *            this reads what all have in common, and nothing that comes from outside can be worse
 *            than "not understood".
 * Ownership  Plain data.
 * Threading  Any thread; pure.
 * Units      Tokens.
 * Errors     False: no JSON object, or members of the wrong types. */
#pragma once

#include "base/base.h"

SPIN_BEGIN_DECLS

struct spin_openai_event {
    bool done;      /* [DONE] */
    bool has_text;  /* text, content, reasoning or a tool's call: tokens came */
    bool has_end;   /* a finish_reason */
    bool has_usage; /* the two counts are the server's */
    uint32_t prompt_tokens;
    uint32_t completion_tokens;
    char error[200]; /* an error in the stream; "" when there is none */
};

bool spin_openai_event_read(const char *data, uint64_t bytes, struct spin_openai_event *out);

/* The sentence in a reply that is no stream: {"error": {"message": ...}}, {"message": ...},
 * {"detail": ...}, else its first line. */
void spin_openai_error_read(const char *body, uint64_t bytes, char *out, uint64_t capacity);

/* The id of the first model of /v1/models. False: there is none. */
bool spin_openai_model_read(const char *body, uint64_t bytes, char *out, uint64_t capacity);

SPIN_END_DECLS
