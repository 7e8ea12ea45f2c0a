/* kv_tool: runs Index and Select on cases from a file, for kv_oracle_test.py.
 *
 *   kv_tool <cases >results
 *
 * A case, little endian: u32 of struct header, u32[4] per sequence (tokens, sink_end, local_begin,
 * k), BF16 keys [row][token][head_dim], F32 queries [sequence][q_heads * head_dim]. Its result:
 * the summaries of each row's sealed partitions, then u32 page_count and u16 pages of each row. */
#include "tests/kernels/kv_fixture.h"

#define SEQUENCES_MAX 64u

struct header {
    uint32_t fast; /* 0: the reference */
    uint32_t threads;
    uint32_t summary;
    uint32_t kv_heads;
    uint32_t group;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t partition_tokens;
    uint32_t always_score;
    uint32_t sequences;
    float scale;
};

struct sequence {
    uint32_t tokens;
    struct spin_kv_window window;
};
_Static_assert(sizeof(struct sequence) == 16, "as in the file");

static void take(void *bytes, uint64_t count)
{
    if (fread(bytes, 1, count, stdin) != count) {
        (void)fprintf(stderr, "kv_tool: the input ends inside a case\n");
        exit(1);
    }
}

static void put(const void *bytes, uint64_t count)
{
    if (fwrite(bytes, 1, count, stdout) != count) {
        (void)fprintf(stderr, "kv_tool: cannot write\n");
        exit(1);
    }
}

static void take_keys(const struct fixture *fixture)
{
    const struct spin_kv_layout *layout = &fixture->view.layout;
    for (uint64_t row = 0; row < (uint64_t)fixture->batch.count * layout->kv_heads; row++) {
        for (uint32_t t = 0; t < fixture->tokens[row / layout->kv_heads]; t++) {
            take(spin_test_fixture_key(fixture, row, t), layout->head_dim * sizeof(uint16_t));
        }
    }
}

static void run_index(const struct header *header, const struct fixture *fixture,
                      struct spin_stream *stream)
{
    const struct spin_kv_view *view = &fixture->view;
    struct spin_kv_range ranges[SEQUENCES_MAX];
    for (uint32_t s = 0; s < header->sequences; s++) {
        const uint32_t pages = view->partition_tokens / view->page_tokens;
        ranges[s] = (struct spin_kv_range){0, spin_test_fixture_sealed(fixture, s) * pages};
    }
    const struct spin_kv_index_args args = {.view = view,
                                            .batch = fixture->batch,
                                            .lists = spin_test_fixture_list(fixture, NULL),
                                            .summary = fixture->summary,
                                            .ranges = ranges};
    SPIN_EXPECT_OK((header->fast != 0 ? spin_kv_index_cpu : spin_kv_index_ref)(&args, stream),
                   NULL);
    for (uint64_t row = 0; row < (uint64_t)header->sequences * header->kv_heads; row++) {
        const uint32_t sealed =
            spin_test_fixture_sealed(fixture, (uint32_t)(row / header->kv_heads));
        for (uint32_t p = 0; p < sealed; p++) {
            put(spin_test_fixture_summary(fixture, row, p), view->summary_bytes);
        }
    }
}

static void run_select(const struct header *header, const struct fixture *fixture,
                       const struct sequence *sequences, struct spin_stream *stream)
{
    const uint32_t q_heads = header->kv_heads * header->group;
    struct spin_kv_window windows[SEQUENCES_MAX];
    for (uint32_t s = 0; s < header->sequences; s++) {
        windows[s] = sequences[s].window;
    }
    struct test_matrix q =
        spin_test_matrix_create(header->sequences, q_heads * header->head_dim, 8);
    for (uint32_t s = 0; s < header->sequences; s++) {
        take(spin_test_row(&q, s), (uint64_t)q_heads * header->head_dim * sizeof(float));
    }
    struct spin_kv_select_args args = {.view = &fixture->view,
                                       .batch = fixture->batch,
                                       .lists = fixture->lists,
                                       .summary = fixture->summary,
                                       .always_score = header->always_score != 0,
                                       .q = q.view,
                                       .q_heads = q_heads,
                                       .scale = header->scale,
                                       .windows = windows};
    struct test_memory workspace = spin_test_memory_create(spin_kv_select_workspace_bytes(&args));
    args.workspace = spin_test_memory_data(&workspace);
    SPIN_EXPECT_OK((header->fast != 0 ? spin_kv_select_cpu : spin_kv_select_ref)(&args, stream),
                   NULL);
    for (uint64_t row = 0; row < (uint64_t)header->sequences * header->kv_heads; row++) {
        put(&fixture->lists.page_count[row], sizeof(uint32_t));
        put(fixture->lists.pages + row * fixture->lists.stride,
            fixture->lists.page_count[row] * sizeof(uint16_t));
    }
    spin_test_memory_destroy(&workspace);
    spin_test_matrix_destroy(&q);
}

static void run_case(const struct header *header, uint64_t number)
{
    struct sequence sequences[SEQUENCES_MAX];
    uint32_t tokens[SEQUENCES_MAX];
    struct spin_rng rng = {31, number, 0};
    if (header->sequences > SEQUENCES_MAX) {
        (void)fprintf(stderr, "kv_tool: %u sequences\n", header->sequences);
        exit(1);
    }
    take(sequences, header->sequences * sizeof *sequences);
    for (uint32_t s = 0; s < header->sequences; s++) {
        tokens[s] = sequences[s].tokens;
    }
    const struct fixture_config config = {.summary = (enum spin_summary)header->summary,
                                          .kv_heads = header->kv_heads,
                                          .group = header->group,
                                          .head_dim = header->head_dim,
                                          .page_tokens = header->page_tokens,
                                          .partition_tokens = header->partition_tokens,
                                          .sequences = header->sequences,
                                          .tokens = tokens};
    struct fixture fixture = spin_test_fixture_create(&config, &rng);
    struct spin_stream *stream = spin_test_stream(header->threads);
    take_keys(&fixture);
    run_index(header, &fixture, stream);
    run_select(header, &fixture, sequences, stream);
    spin_stream_destroy(stream);
    spin_test_fixture_destroy(&fixture);
}

int main(void)
{
    struct header header;
    for (uint64_t number = 0; fread(&header, sizeof header, 1, stdin) == 1; number++) {
        run_case(&header, number);
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
