/* Between sequences: who has how many slabs. Room is made by pressing the sequence that is furthest
 * above its level: first everybody to the target, then, for what must be, to the floor. */
#include "kvstore/manager/kv_internal.h"

/* Slabs of all rows of a sequence whose layers have at least `least` and at most `most`, and
 * otherwise what they have now. */
static uint32_t slabs_between(const struct spin_kv *kv, uint32_t seq, enum spin_kv_level least,
                              enum spin_kv_level most)
{
    uint32_t slabs = 0;
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        const uint32_t at_most =
            SPIN_MIN(*spin_kv_count_of(kv, seq, layer), spin_kv_level_row(kv, seq, layer, most));
        slabs += SPIN_MAX(at_most, spin_kv_level_row(kv, seq, layer, least));
    }
    return slabs * kv->config.layout.kv_heads;
}

/* What a sequence keeps when it is pressed to a level. A prompt in prefill is pressed at the floor
 * alone: its arena is that. */
static uint32_t slabs_kept(const struct spin_kv *kv, uint32_t seq, enum spin_kv_level level)
{
    const struct spin_kv_sequence *sequence = &kv->sequences[seq];
    if (!spin_kv_is_active(sequence)) {
        return 0;
    }
    if (sequence->phase == SPIN_KV_DECODE) {
        return slabs_between(kv, seq, SPIN_KV_LEVEL_NONE, level);
    }
    if (level == SPIN_KV_TARGET || !spin_kv_is_resident_now(kv, seq)) {
        return sequence->slabs;
    }
    return *spin_kv_count_of(kv, seq, 0) * kv->config.layout.kv_heads;
}

/* Slabs that sequence `seq` lacks for a level in every layer. */
static uint32_t slabs_missing(const struct spin_kv *kv, uint32_t seq, enum spin_kv_level level)
{
    uint32_t slabs = 0;
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        const uint32_t wanted = spin_kv_level_row(kv, seq, layer, level);
        const uint32_t count = *spin_kv_count_of(kv, seq, layer);
        slabs += wanted > count ? wanted - count : 0;
    }
    return slabs * kv->config.layout.kv_heads;
}

/* Slabs that are free once all others are pressed to a level. */
static uint32_t slabs_reachable(const struct spin_kv *kv, uint32_t spared, enum spin_kv_level level)
{
    uint32_t slabs = kv->slabs_free;
    for (uint32_t i = 0; i < kv->config.sequences_max; i++) {
        if (i != spared) {
            slabs += kv->sequences[i].slabs - slabs_kept(kv, i, level);
        }
    }
    return slabs;
}

/* The sequence that is furthest above a level, or NOBODY. */
static uint32_t furthest_above(const struct spin_kv *kv, uint32_t spared, enum spin_kv_level level)
{
    uint32_t best = SPIN_KV_NOBODY;
    uint32_t best_surplus = 0;
    for (uint32_t i = 0; i < kv->config.sequences_max; i++) {
        const uint32_t surplus = kv->sequences[i].slabs - slabs_kept(kv, i, level);
        if (i != spared && surplus > best_surplus) {
            best = i;
            best_surplus = surplus;
        }
    }
    return best;
}

/* Presses others until `wanted` slabs are free, or nobody is above the level. Every turn frees a
 * slab at least. */
static spin_status make_room(struct spin_kv *kv, uint32_t spared, enum spin_kv_level level,
                             uint32_t wanted)
{
    while (kv->slabs_free < wanted) {
        const uint32_t before = kv->slabs_free;
        const uint32_t victim = furthest_above(kv, spared, level);
        if (victim == SPIN_KV_NOBODY) {
            return SPIN_OK;
        }
        SPIN_TRY(spin_kv_shrink(kv, victim, level, wanted));
        SPIN_ASSERT_GT(kv->slabs_free, before);
    }
    return SPIN_OK;
}

/* Rows of a BUFFERED one grow to `least`, for which there is room once others are at their floors;
 * to the target where nobody has to go below his for it. */
static spin_status raise_rows(struct spin_kv *kv, uint32_t seq, enum spin_kv_level least)
{
    enum spin_kv_level level = SPIN_KV_TARGET;
    if (least == SPIN_KV_MANDATORY ||
        slabs_reachable(kv, seq, SPIN_KV_TARGET) < slabs_missing(kv, seq, SPIN_KV_TARGET)) {
        level = least;
    }
    const uint32_t missing = slabs_missing(kv, seq, level);
    SPIN_TRY(make_room(kv, seq, SPIN_KV_TARGET, missing));
    SPIN_TRY(make_room(kv, seq, SPIN_KV_FLOOR, missing));
    if (kv->slabs_free < missing) { /* of its other layers */
        SPIN_TRY(spin_kv_shrink(kv, seq, SPIN_KV_FLOOR, missing));
    }
    SPIN_ASSERT_GE(kv->slabs_free, missing);
    return spin_kv_grow_rows(kv, seq, level);
}

/* --- a decode step --- */

/* True when a step can go ahead with the slabs that the sequence has. */
static bool has_enough(const struct spin_kv *kv, uint32_t seq)
{
    return slabs_missing(kv, seq,
                         spin_kv_is_resident_now(kv, seq) ? SPIN_KV_FULL : SPIN_KV_MANDATORY) == 0;
}

/* All slabs in use once everybody named has `least` and all are pressed to their floors. */
static uint64_t slabs_least(const struct spin_kv *kv, const struct spin_kv_step *steps,
                            uint32_t count, enum spin_kv_level least)
{
    uint64_t slabs = 0;
    for (uint32_t i = 0; i < kv->config.sequences_max; i++) {
        slabs += slabs_kept(kv, i, SPIN_KV_FLOOR);
    }
    for (uint32_t i = 0; i < count; i++) {
        slabs -= slabs_kept(kv, steps[i].seq.v, SPIN_KV_FLOOR);
        slabs += slabs_between(kv, steps[i].seq.v, least, SPIN_KV_FLOOR);
    }
    return slabs;
}

/* A RESIDENT one that its slabs do not hold any more: others give first if they are further above
 * their targets; where a step needs every page anyway, nothing is gained by giving up. */
static spin_status stay_resident(struct spin_kv *kv, uint32_t seq)
{
    const uint32_t missing = slabs_missing(kv, seq, SPIN_KV_FULL);
    while (kv->slabs_free < missing) {
        const uint32_t victim = furthest_above(kv, SPIN_KV_NOBODY, SPIN_KV_TARGET);
        if (victim == SPIN_KV_NOBODY) {
            break;
        }
        SPIN_TRY(spin_kv_shrink(kv, victim, SPIN_KV_TARGET, missing));
        if (victim == seq) {
            return SPIN_OK;
        }
    }
    if (kv->slabs_free < missing && slabs_missing(kv, seq, SPIN_KV_MANDATORY) == missing) {
        SPIN_TRY(make_room(kv, seq, SPIN_KV_FLOOR, missing));
    }
    if (kv->slabs_free < missing) {
        return spin_kv_shrink(kv, seq, SPIN_KV_TARGET, missing);
    }
    spin_kv_grow_resident(kv, seq, kv->sequences[seq].planned);
    return SPIN_OK;
}

static spin_status grant_one(struct spin_kv *kv, uint32_t seq, enum spin_kv_level least)
{
    if (has_enough(kv, seq)) {
        return SPIN_OK;
    }
    if (spin_kv_is_resident_now(kv, seq)) {
        SPIN_TRY(stay_resident(kv, seq));
        if (has_enough(kv, seq)) {
            return SPIN_OK;
        }
    }
    return raise_rows(kv, seq, least);
}

spin_status spin_kv_grant_step(struct spin_kv *kv, const struct spin_kv_step *steps, uint32_t count)
{
    bool enough = true;
    for (uint32_t i = 0; i < count; i++) {
        enough = enough && has_enough(kv, steps[i].seq.v);
    }
    enum spin_kv_level least = SPIN_KV_FLOOR;
    if (!enough && slabs_least(kv, steps, count, least) > kv->slabs) {
        least = SPIN_KV_MANDATORY;
        if (slabs_least(kv, steps, count, least) > kv->slabs) {
            return SPIN_ERR_AGAIN;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        struct spin_kv_sequence *sequence = &kv->sequences[steps[i].seq.v];
        sequence->phase = SPIN_KV_DECODE;
        if (sequence->arena_row > 0) {
            spin_kv_release_slabs(kv, steps[i].seq.v); /* its pages are on the host */
        }
    }
    for (uint32_t i = 0; i < count && !enough; i++) {
        SPIN_TRY(grant_one(kv, steps[i].seq.v, least));
    }
    return SPIN_OK;
}

spin_status spin_kv_follow(struct spin_kv *kv, uint32_t seq)
{
    /* Where slabs are free alone: shrinking waits until somebody needs them. */
    return spin_kv_grow_rows(kv, seq, SPIN_KV_TARGET);
}

/* --- coming and going --- */

static spin_status become_resident(struct spin_kv *kv, uint32_t seq, uint32_t slabs)
{
    const struct spin_kv_sequence *sequence = &kv->sequences[seq];
    SPIN_TRY(make_room(kv, seq, SPIN_KV_TARGET, slabs));
    SPIN_ASSERT_GE(kv->slabs_free, slabs);
    spin_kv_grant_resident(kv, seq, sequence->goal);
    const uint32_t pages = spin_kv_pages_of(kv, sequence->tokens);
    for (uint32_t layer = 0; pages > 0 && layer < kv->config.layout.layers; layer++) {
        SPIN_TRY(spin_kv_read_back(kv, seq, layer, layer, pages));
    }
    return SPIN_OK;
}

static spin_status become_buffered(struct spin_kv *kv, uint32_t seq)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    spin_kv_set_residency(kv, seq, SPIN_KV_BUFFERED);
    sequence->steps_buffered = 0;
    if (sequence->phase == SPIN_KV_DECODE) {
        return raise_rows(kv, seq, SPIN_KV_FLOOR);
    }
    const uint32_t slabs = spin_kv_arena_slabs(&kv->budget, sequence->goal);
    SPIN_TRY(make_room(kv, seq, SPIN_KV_TARGET, slabs));
    SPIN_TRY(make_room(kv, seq, SPIN_KV_FLOOR, slabs));
    SPIN_ASSERT_GE(kv->slabs_free, slabs);
    spin_kv_grant_arena(kv, seq, sequence->goal);
    return SPIN_OK;
}

/* What is known of a sequence when it gets slots. */
static void start(struct spin_kv *kv, uint32_t seq, uint32_t tokens, uint32_t written)
{
    struct spin_kv_sequence *sequence = &kv->sequences[seq];
    sequence->phase = written == tokens ? SPIN_KV_DECODE : SPIN_KV_PREFILL;
    sequence->goal = tokens;
    sequence->planned = tokens;
    sequence->tokens = written;
    if (written == tokens) {
        spin_kv_plan_next(kv, seq);
    }
    sequence->open_page_dirty = false;
    sequence->working_set = 0;
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        *spin_kv_layer_tokens_of(kv, seq, layer) = written;
        kv->working_set[(uint64_t)seq * kv->config.layout.layers + layer] = 0;
    }
}

spin_status spin_kv_activate(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens, uint32_t written)
{
    struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, seq);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_NONE);
    SPIN_ASSERT_EQ(sequence->phase, SPIN_KV_IDLE);
    SPIN_ASSERT_GE(tokens, 1);
    SPIN_ASSERT_LE(written, tokens);
    SPIN_ASSERT_LE(spin_kv_blocks_for(tokens), sequence->blocks);
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        SPIN_ASSERT_LE(written, *spin_kv_layer_tokens_of(kv, seq.v, layer));
    }
    const uint32_t full = spin_kv_full_row(&kv->budget, tokens) * kv->rows;
    const bool fits = !kv->config.buffered && slabs_reachable(kv, seq.v, SPIN_KV_TARGET) >= full;
    const uint32_t next = SPIN_MIN(tokens + 1, kv->config.tokens_max);
    const uint32_t least = written == tokens ? spin_kv_floor_slabs(&kv->budget, next)
                                             : spin_kv_arena_slabs(&kv->budget, tokens);
    if (!fits && slabs_reachable(kv, seq.v, SPIN_KV_FLOOR) < least) {
        return SPIN_ERR_AGAIN;
    }
    start(kv, seq.v, tokens, written);
    return fits ? become_resident(kv, seq.v, full) : become_buffered(kv, seq.v);
}

void spin_kv_adopt(struct spin_kv *kv, spin_kv_seq seq, uint32_t tokens)
{
    struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, seq);
    SPIN_ASSERT_EQ(sequence->phase, SPIN_KV_IDLE);
    SPIN_ASSERT_GE(tokens, sequence->tokens);
    SPIN_ASSERT_LE(tokens, kv->config.tokens_max);
    SPIN_ASSERT_LE(spin_kv_blocks_for(tokens), sequence->blocks);
    sequence->tokens = tokens;
    for (uint32_t layer = 0; layer < kv->config.layout.layers; layer++) {
        *spin_kv_layer_tokens_of(kv, seq.v, layer) = tokens;
    }
}

spin_status spin_kv_suspend(struct spin_kv *kv, spin_kv_seq seq)
{
    struct spin_kv_sequence *sequence = spin_kv_sequence_of(kv, seq);
    SPIN_ASSERT_EQ(kv->pass, SPIN_KV_PASS_NONE);
    SPIN_ASSERT(spin_kv_is_active(sequence));
    SPIN_TRY(spin_kv_write_open_page(kv, seq.v));
    spin_kv_count_dropped(kv, seq.v);
    spin_kv_release_slabs(kv, seq.v);
    sequence->phase = SPIN_KV_IDLE;
    kv->stats.suspensions++;
    return SPIN_OK;
}
