#include "model/text/tokenizer_parts.h"
#include "model/text/utf8.h"

#include <string.h>

/* Random weights come in any vocabulary size and answer with any id. */
#define VOCAB SPIN_TOKENIZER_VOCAB_MAX
#define BYTE_TOKENS 256u

static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
enum { ROWS = 256 + 3 };

spin_status spin_tokenizer_open_random(struct spin_tokenizer **out, struct spin_error *err)
{
    static const char chat_template[] =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    char letters[BYTE_TOKENS][4];
    struct spin_token_row rows[ROWS] = {0};
    for (uint32_t byte = 0; byte < BYTE_TOKENS; byte++) {
        const uint32_t bytes = spin_utf8_encode(spin_vocab_letter((uint8_t)byte), letters[byte]);
        rows[byte].text = (struct spin_string){letters[byte], bytes};
        rows[byte].kind = SPIN_TOKEN_NORMAL;
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(specials); i++) {
        rows[BYTE_TOKENS + i].text = (struct spin_string){specials[i], strlen(specials[i])};
        rows[BYTE_TOKENS + i].kind = SPIN_TOKEN_SPECIAL;
    }
    struct spin_tokenizer_parts parts = spin_tokenizer_parts_default();
    parts.rows = rows;
    parts.row_count = ROWS;
    parts.vocab = VOCAB;
    parts.bos = BYTE_TOKENS;
    parts.eos = BYTE_TOKENS;
    parts.chat_template = (struct spin_string){chat_template, strlen(chat_template)};
    return spin_tokenizer_build(&parts, out, err);
}
