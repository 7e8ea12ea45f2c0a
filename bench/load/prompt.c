#include "bench/load/prompt.h"

#include "base/assert.h"
#include "base/rng.h"

#define WORD_STREAM UINT64_C(0x776f726473) /* no other use of a text's seed draws from it */
#define WORDS_A_BLOCK 8u                   /* two of each of its four numbers */

_Static_assert(SPIN_BENCH_WORDS == 512, "a word is drawn by nine bits");

static const char words[SPIN_BENCH_WORDS][SPIN_BENCH_WORD_BYTES] = {
    "able",      "about",      "accept",   "across",      "action",     "afraid",   "after",
    "again",     "age",        "ago",      "agree",       "all",        "allow",    "almost",
    "along",     "also",       "although", "always",      "among",      "and",      "another",
    "any",       "arms",       "army",     "around",      "art",        "asked",    "at",
    "ball",      "bank",       "basis",    "be",          "become",     "been",     "before",
    "began",     "begin",      "behind",   "being",       "believe",    "best",     "better",
    "big",       "bird",       "black",    "board",       "body",       "book",     "both",
    "break",     "bridge",     "bring",    "brought",     "build",      "business", "busy",
    "but",       "by",         "called",   "came",        "can",        "car",      "care",
    "carry",     "case",       "catch",    "center",      "century",    "certain",  "change",
    "cheap",     "check",      "child",    "children",    "choose",     "church",   "city",
    "class",     "clean",      "clear",    "climb",       "close",      "college",  "common",
    "company",   "control",    "cool",     "cost",        "could",      "count",    "country",
    "court",     "cut",        "dance",    "dangerous",   "day",        "days",     "deal",
    "death",     "decide",     "deep",     "development", "different",  "direct",   "dirty",
    "do",        "doctor",     "does",     "dog",         "doing",      "door",     "doubt",
    "down",      "draw",       "drink",    "during",      "each",       "early",    "earth",
    "east",      "easy",       "eat",      "effect",      "empty",      "end",      "enjoy",
    "enough",    "enter",      "even",     "ever",        "every",      "exact",    "eyes",
    "face",      "fact",       "fail",     "fall",        "family",     "far",      "fear",
    "feel",      "felt",       "few",      "field",       "figure",     "final",    "find",
    "fine",      "finish",     "fire",     "first",       "fish",       "fix",      "flat",
    "fly",       "follow",     "food",     "foot",        "for",        "force",    "forget",
    "form",      "found",      "four",     "free",        "from",       "front",    "full",
    "general",   "give",       "given",    "glass",       "go",         "god",      "going",
    "good",      "government", "great",    "green",       "ground",     "group",    "guess",
    "had",       "hand",       "happen",   "happy",       "hard",       "hate",     "have",
    "he",        "head",       "healthy",  "hear",        "heard",      "heart",    "heavy",
    "help",      "her",        "here",     "high",        "him",        "history",  "hit",
    "hold",      "horse",      "hour",     "however",     "human",      "idea",     "if",
    "important", "in",         "increase", "interest",    "is",         "it",       "its",
    "job",       "join",       "jump",     "just",        "keep",       "kick",     "king",
    "knew",      "known",      "land",     "language",    "large",      "last",     "late",
    "later",     "learn",      "least",    "leave",       "left",       "let",      "letter",
    "level",     "life",       "light",    "like",        "line",       "list",     "listen",
    "little",    "live",       "local",    "long",        "look",       "lose",     "lost",
    "loud",      "love",       "made",     "main",        "make",       "making",   "man",
    "many",      "map",        "market",   "matter",      "may",        "me",       "means",
    "measure",   "meet",       "meeting",  "members",     "minutes",    "model",    "modern",
    "moment",    "money",      "more",     "most",        "move",       "much",     "music",
    "my",        "name",       "narrow",   "national",    "natural",    "nature",   "need",
    "new",       "next",       "no",       "north",       "not",        "note",     "nothing",
    "notice",    "now",        "number",   "of",          "off",        "offer",    "office",
    "on",        "once",       "only",     "open",        "or",         "order",    "other",
    "others",    "our",        "out",      "over",        "own",        "page",     "paid",
    "paint",     "part",       "party",    "past",        "pay",        "per",      "period",
    "piece",     "place",      "plan",     "plane",       "play",       "point",    "poor",
    "position",  "possible",   "power",    "prefer",      "pressure",   "price",    "problem",
    "process",   "program",    "proud",    "public",      "pull",       "push",     "put",
    "question",  "quick",      "quiet",    "rare",        "rather",     "read",     "reading",
    "ready",     "receive",    "record",   "red",         "remember",   "research", "rest",
    "result",    "return",     "rich",     "right",       "rise",       "room",     "rough",
    "round",     "run",        "sad",      "safe",        "said",       "same",     "sat",
    "save",      "say",        "school",   "sea",         "second",     "see",      "seemed",
    "sell",      "send",       "sense",    "sent",        "service",    "several",  "share",
    "sharp",     "she",        "simple",   "since",       "sing",       "single",   "sleep",
    "slow",      "smooth",     "so",       "social",      "sound",      "south",    "space",
    "special",   "spend",      "spring",   "square",      "stage",      "start",    "state",
    "stay",      "step",       "still",    "stock",       "stop",       "straight", "strange",
    "street",    "strong",     "student",  "study",       "such",       "summer",   "sun",
    "support",   "surface",    "swim",     "talk",        "taste",      "teach",    "teacher",
    "than",      "that",       "their",    "them",        "themselves", "there",    "these",
    "they",      "thick",      "thin",     "thing",       "things",     "think",    "this",
    "those",     "though",     "three",    "through",     "throw",      "thus",     "time",
    "tired",     "to",         "today",    "too",         "took",       "touch",    "toward",
    "town",      "train",      "travel",   "trees",       "true",       "turn",     "turned",
    "two",       "type",       "under",    "united",      "until",      "up",       "us",
    "use",       "used",       "value",    "values",      "very",       "view",     "voice",
    "want",      "war",        "warm",     "was",         "watch",      "water",    "way",
    "week",      "weigh",      "well",     "were",        "west",       "what",     "which",
    "while",     "white",      "who",      "whole",       "why",        "wife",     "will",
    "win",       "window",     "winter",   "with",        "without",    "woman",    "word",
    "work",      "world",      "would",    "write",       "years",      "yet",      "you",
    "your",
};

const char *spin_bench_word(uint32_t index)
{
    SPIN_ASSERT_LT(index, SPIN_BENCH_WORDS);
    return words[index];
}

uint64_t spin_bench_prompt_bytes_max(const struct spin_bench_plan *plan)
{
    return (uint64_t)plan->prompt_tokens * SPIN_BENCH_WORD_BYTES;
}

static char *write_word(char *out, uint32_t bits)
{
    for (const char *word = words[bits % SPIN_BENCH_WORDS]; *word != '\0'; word++) {
        *out++ = *word;
    }
    *out++ = ' ';
    return out;
}

/* The first `count` words of the text of `seed`, each with a space behind it. */
static char *write_text(char *out, uint64_t seed, uint32_t count)
{
    struct spin_philox_block block = {0};
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t place = i % WORDS_A_BLOCK;
        if (place == 0) {
            block = spin_philox(seed, WORD_STREAM, i / WORDS_A_BLOCK);
        }
        out = write_word(out, block.word[place / 2] >> (place % 2 * 16));
    }
    return out;
}

uint64_t spin_bench_prompt_write(const struct spin_bench_plan *plan, char *out)
{
    char *end = out;
    uint32_t left = plan->prompt_tokens;
    for (uint32_t i = 0; i < plan->block_count && left != 0; i++) {
        const uint32_t count = SPIN_MIN(left, plan->block_tokens);
        end = write_text(end, plan->blocks[i], count);
        left -= count;
    }
    end = write_text(end, plan->text_seed, left);
    SPIN_ASSERT_NE(end, out);
    return (uint64_t)(end - out) - 1; /* without the last space */
}
