/* rows: embed, rms_norm, rope and swiglu against their references, on the same numbers.
 *
 * A BF16 result is right when it is the reference's, rounded, or a neighbour of it; embed is exact.
 * Rows alone and in place are compared as bits, and so is what must not be touched. */
#include "tests/kernels/cuda/twin_array.cuh"

namespace
{

constexpr double COPY_GB_PER_S = 4263;
/* What F32 may lose where two numbers cancel, of the largest of them. */
constexpr double SLACK = 1e-6;
constexpr double MEAN_ULP_MAX = 0.3;

/* A host matrix in floats and its device twin in BF16. */
struct matrix {
    std::vector<float> host;
    spin_twin_array<uint16_t> device;
    uint32_t rows;
    uint32_t cols;
    uint64_t stride;

    matrix(struct spin_twins *twins, uint32_t rows_, uint32_t cols_, uint32_t padding)
        : host((uint64_t)rows_ * (cols_ + padding), NAN),
          device(twins, (uint64_t)rows_ * (cols_ + padding)), rows(rows_), cols(cols_),
          stride((uint64_t)cols_ + padding)
    {
    }
    /* The first `own` rows have numbers of their own, the others those of the last of them. */
    void fill(struct spin_rng *rng, double deviation, uint32_t own = UINT32_MAX)
    {
        std::vector<float> row;
        for (uint32_t r = 0; r < rows; r++) {
            if (r < own) {
                row = spin_twin_normal(rng, cols, deviation);
            }
            std::copy(row.begin(), row.end(), host.begin() + (int64_t)(r * stride));
        }
        reset();
    }
    /* The device has what the host has; padding is NaN. */
    void reset()
    {
        std::vector<uint16_t> bits = spin_twin_narrow(host);
        for (uint64_t i = 0; i < bits.size(); i++) {
            bits[i] = i % stride < cols ? bits[i] : 0xffff;
        }
        device.write(bits);
    }
    struct spin_matrix ref()
    {
        return {host.data(), SPIN_DTYPE_F32, rows, cols, stride};
    }
    struct spin_matrix gpu(uint32_t first, uint32_t count) const
    {
        return {device.data() + first * stride, SPIN_DTYPE_BF16, count, cols, stride};
    }
    struct spin_matrix gpu() const
    {
        return gpu(0, rows);
    }
};

struct difference {
    uint64_t wrong; /* more than a neighbour; or touched and not of the matrix */
    double mean_ulp;
    double worst_ulp;
};

struct difference compare(const std::vector<uint16_t> &bits, const struct matrix &y, double largest,
                          int32_t ulp_max)
{
    struct difference d = {0, 0, 0};
    for (uint64_t i = 0; i < bits.size(); i++) {
        if (i % y.stride >= y.cols) {
            d.wrong += bits[i] != 0xffff;
            continue;
        }
        const uint16_t expected = spin_bf16_from_f32(y.host[i]);
        const int32_t ulp = abs(spin_twin_place(bits[i]) - spin_twin_place(expected));
        const double error = fabs((double)spin_f32_from_bf16(bits[i]) - (double)y.host[i]);
        d.mean_ulp += ulp / ((double)y.rows * y.cols);
        if (ulp > ulp_max && !(error <= SLACK * largest && ulp_max > 0)) {
            d.wrong++;
            d.worst_ulp = fmax(d.worst_ulp, ulp);
        }
    }
    return d;
}

std::string name_of(const char *op, std::initializer_list<uint32_t> shape)
{
    std::string name = op;
    for (const uint32_t value : shape) {
        name += "_" + std::to_string(value);
    }
    return name;
}

void check(struct spin_twins *twins, const std::string &name, const struct difference &d)
{
    spin_twin_check(twins, name.c_str(), d.wrong == 0 && d.mean_ulp < MEAN_ULP_MAX,
                    d.wrong == 0 ? d.mean_ulp : d.worst_ulp);
}

/* --- rms_norm --- */

void check_rms_norm(struct spin_twins *twins, uint32_t rows, uint32_t cols, uint32_t padding)
{
    struct spin_rng rng = {twins->seed, 100 + cols, rows};
    struct matrix x(twins, rows, cols, padding);
    struct matrix y(twins, rows, cols, padding);
    x.fill(&rng, 3);
    const std::vector<float> weight = spin_twin_normal(&rng, cols, 1);
    spin_twin_array<float> device_weight(twins, weight);
    struct spin_rms_norm_args args = {y.ref(), x.ref(), weight.data(), 1e-6F};
    bool ok = spin_rms_norm_ref(&args, twins->cpu) == SPIN_OK;
    args = {y.gpu(), x.gpu(), device_weight.data(), 1e-6F};
    ok = ok && spin_rms_norm_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> all = y.device.read();
    struct difference d = compare(all, y, 0, 1);
    d.wrong += !ok || !y.device.canaries_live();
    check(twins, name_of("rms_norm", {rows, cols, padding}), d);
    /* The last row alone, then the whole in place. */
    y.device.poison();
    args.y = y.gpu(rows - 1, 1);
    args.x = x.gpu(rows - 1, 1);
    ok = spin_rms_norm_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> alone = y.device.read();
    const uint64_t at = (rows - 1) * y.stride;
    ok = ok && memcmp(&alone[at], &all[at], cols * sizeof(uint16_t)) == 0;
    args.x = x.gpu();
    args.y = args.x;
    ok = ok && spin_rms_norm_cuda(&args, twins->cuda) == SPIN_OK && x.device.read() == all;
    spin_twin_check(twins, name_of("rms_norm_same_bits", {rows, cols, padding}).c_str(), ok, ok);
}

/* Rows of the residual stream: F32 numbers that BF16 cannot hold. */
void check_rms_norm_f32(struct spin_twins *twins, uint32_t rows, uint32_t cols, uint32_t padding)
{
    struct spin_rng rng = {twins->seed, 150 + cols, rows};
    const uint64_t stride = (uint64_t)cols + padding;
    struct matrix y(twins, rows, cols, padding);
    std::vector<float> x(rows * stride, NAN);
    for (uint64_t i = 0; i < x.size(); i++) {
        x[i] = i % stride < cols ? (float)(50 * spin_rng_normal(&rng)) : NAN;
    }
    const std::vector<float> weight = spin_twin_normal(&rng, cols, 1);
    spin_twin_array<float> device_weight(twins, weight);
    spin_twin_array<float> device_x(twins, x);
    const struct spin_matrix host = {x.data(), SPIN_DTYPE_F32, rows, cols, stride};
    struct spin_rms_norm_args args = {y.ref(), host, weight.data(), 1e-5F};
    bool ok = spin_rms_norm_ref(&args, twins->cpu) == SPIN_OK;
    args = {y.gpu(),
            {device_x.data(), SPIN_DTYPE_F32, rows, cols, stride},
            device_weight.data(),
            1e-5F};
    ok = ok && spin_rms_norm_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> all = y.device.read();
    struct difference d = compare(all, y, 0, 1);
    d.wrong += !ok || !y.device.canaries_live();
    check(twins, name_of("rms_norm_f32", {rows, cols, padding}), d);
    y.device.poison();
    const uint64_t at = (rows - 1) * stride;
    args.y = y.gpu(rows - 1, 1);
    args.x = {device_x.data() + at, SPIN_DTYPE_F32, 1, cols, stride};
    ok = spin_rms_norm_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> alone = y.device.read();
    const std::vector<float> after = device_x.read();
    ok = ok && memcmp(&alone[at], &all[at], cols * sizeof(uint16_t)) == 0 &&
         memcmp(after.data(), x.data(), x.size() * sizeof(float)) == 0;
    spin_twin_check(twins, name_of("rms_norm_f32_same_bits", {rows, cols, padding}).c_str(), ok,
                    ok);
}

/* --- rope --- */

struct rope_shape {
    uint32_t rows;
    uint32_t heads;
    uint32_t head_dim;
    uint32_t rotary_dim;
    uint32_t padding;
};

/* Heads are normed by weights of their own: bit 0, the first third of them; bit 1, the others. */
void check_rope(struct spin_twins *twins, const struct rope_shape &shape,
                enum spin_rope_pairs pairs, uint32_t norms)
{
    constexpr uint32_t POSITIONS = 1000;
    const uint32_t half = shape.rotary_dim / 2;
    struct spin_rng rng = {twins->seed, 200 + shape.head_dim, shape.rows};
    struct matrix x(twins, shape.rows, shape.heads * shape.head_dim, shape.padding);
    x.fill(&rng, 2);
    std::vector<float> table;
    for (uint32_t i = 0; i < POSITIONS * half; i++) {
        const double angle = (i / half) * pow(10000, -(double)(i % half) / half);
        table.push_back((float)cos(angle));
        table.push_back((float)sin(angle));
    }
    std::vector<uint32_t> positions;
    for (uint32_t i = 0; i < shape.rows; i++) {
        positions.push_back(spin_rng_below(&rng, POSITIONS));
    }
    positions[0] = POSITIONS - 1;
    spin_twin_array<float> device_table(twins, table);
    spin_twin_array<uint32_t> device_positions(twins, positions);
    const std::vector<float> weights = spin_twin_normal(&rng, 2 * shape.head_dim, 1);
    spin_twin_array<float> device_weights(twins, weights);
    const auto norm = [&](const float *all) -> struct spin_rope_norm {
        return {{norms % 2 == 1 ? all : NULL, norms / 2 == 1 ? all + shape.head_dim : NULL},
                (shape.heads + 2) / 3,
                1e-6F};
    };
    struct spin_rope_args args = {x.gpu(),
                                  shape.heads,
                                  shape.head_dim,
                                  device_positions.data(),
                                  {device_table.data(), POSITIONS, shape.rotary_dim, pairs},
                                  norm(device_weights.data())};
    bool ok = spin_rope_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> all = x.device.read();
    const uint32_t last = shape.rows - 1;
    x.reset();
    args.x = x.gpu(last, 1);
    args.positions += last;
    ok = ok && spin_rope_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> alone = x.device.read();
    ok = ok && memcmp(&alone[last * x.stride], &all[last * x.stride], x.cols * 2) == 0;
    args.x = x.ref();
    args.positions = positions.data();
    args.table.cos_sin = table.data();
    args.norm = norm(weights.data());
    ok = ok && spin_rope_ref(&args, twins->cpu) == SPIN_OK;
    struct difference d = compare(all, x, 10, 1);
    d.wrong += !ok || !x.device.canaries_live();
    const char *name = pairs == SPIN_ROPE_HALVES ? "rope_halves" : "rope_interleaved";
    check(twins,
          name_of(name, {norms, shape.rows, shape.heads, shape.head_dim, shape.rotary_dim,
                         shape.padding}),
          d);
}

/* --- swiglu --- */

void check_swiglu(struct spin_twins *twins, uint32_t rows, uint32_t cols, uint32_t padding)
{
    struct spin_rng rng = {twins->seed, 300 + cols, rows};
    struct matrix gate(twins, rows, cols, padding);
    struct matrix up(twins, rows, cols, padding);
    struct matrix y(twins, rows, cols, padding);
    gate.fill(&rng, 3);
    up.fill(&rng, 1);
    gate.host[0] = 200;         /* exp(-a) is nothing */
    gate.host[cols - 1] = -200; /* and more than a float holds */
    gate.reset();
    struct spin_swiglu_args args = {y.ref(), gate.ref(), up.ref()};
    bool ok = spin_swiglu_ref(&args, twins->cpu) == SPIN_OK;
    args = {y.gpu(), gate.gpu(), up.gpu()};
    ok = ok && spin_swiglu_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> all = y.device.read();
    args = {gate.gpu(), gate.gpu(), up.gpu()};
    ok = ok && spin_swiglu_cuda(&args, twins->cuda) == SPIN_OK && gate.device.read() == all;
    gate.reset();
    args = {up.gpu(rows - 1, 1), gate.gpu(rows - 1, 1), up.gpu(rows - 1, 1)};
    ok = ok && spin_swiglu_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<uint16_t> alone = up.device.read();
    const uint64_t at = (rows - 1) * y.stride;
    ok = ok && memcmp(&alone[at], &all[at], cols * sizeof(uint16_t)) == 0;
    struct difference d = compare(all, y, 0, 1);
    d.wrong += !ok || !y.device.canaries_live();
    check(twins, name_of("swiglu", {rows, cols, padding}), d);
}

/* --- embed --- */

void put_f16(uint8_t *target, double value)
{
    const uint16_t bits = spin_f16_from_f32((float)value);
    memcpy(target, &bits, sizeof bits);
}

/* Random bytes are random quants; what is left are the floats of a block. */
void set_floats(enum spin_dtype dtype, uint8_t *block, struct spin_rng *rng)
{
    const double d = spin_rng_normal(rng) * 0.01;
    const float plain = (float)d;
    const uint16_t bf16 = spin_bf16_from_f32(plain);
    switch (dtype) {
    case SPIN_DTYPE_F32:
        memcpy(block, &plain, sizeof plain);
        break;
    case SPIN_DTYPE_BF16:
        memcpy(block, &bf16, sizeof bf16);
        break;
    case SPIN_DTYPE_Q4_1:
    case SPIN_DTYPE_Q4_K:
        put_f16(block, d);
        put_f16(block + 2, d * 7);
        break;
    case SPIN_DTYPE_Q6_K:
        put_f16(block + 208, d);
        break;
    default:
        put_f16(block, d);
        break;
    }
}

void check_embed(struct spin_twins *twins, enum spin_dtype dtype, uint32_t rows, uint32_t cols,
                 uint32_t padding)
{
    constexpr uint32_t VOCAB = 97;
    struct spin_rng rng = {twins->seed, 400 + (uint64_t)dtype, rows};
    std::vector<uint8_t> table(VOCAB * spin_dtype_row_bytes(dtype, cols));
    const uint32_t block_bytes = spin_dtype_block_bytes(dtype);
    for (uint64_t i = 0; i < table.size(); i++) {
        table[i] = (uint8_t)spin_rng_u32(&rng);
    }
    for (uint64_t i = 0; i < table.size(); i += block_bytes) {
        set_floats(dtype, &table[i], &rng);
    }
    std::vector<int32_t> tokens;
    for (uint32_t i = 0; i < rows; i++) {
        tokens.push_back((int32_t)spin_rng_below(&rng, VOCAB));
    }
    tokens[0] = VOCAB - 1;
    const uint64_t stride = (uint64_t)cols + padding;
    std::vector<float> expected(rows * stride);
    memset(expected.data(), 0xff, expected.size() * sizeof(float)); /* as fresh arrays are */
    spin_twin_array<float> y(twins, rows * stride);
    spin_twin_array<uint8_t> device_table(twins, table);
    spin_twin_array<int32_t> device_tokens(twins, tokens);
    struct spin_embed_args args = {{expected.data(), SPIN_DTYPE_F32, rows, cols, stride},
                                   tokens.data(),
                                   {table.data(), dtype, VOCAB, cols}};
    bool ok = spin_embed_ref(&args, twins->cpu) == SPIN_OK;
    args.y.data = y.data();
    args.tokens = device_tokens.data();
    args.table.data = device_table.data();
    ok = ok && spin_embed_cuda(&args, twins->cuda) == SPIN_OK;
    const std::vector<float> values = y.read();
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < values.size(); i++) {
        wrong += memcmp(&values[i], &expected[i], sizeof(float)) != 0;
    }
    const std::string name = std::string("embed_") + spin_dtype_name(dtype);
    spin_twin_check(twins, name_of(name.c_str(), {rows, cols, padding}).c_str(),
                    ok && wrong == 0 && y.canaries_live(), (double)wrong);
}

/* --- times --- */

void result(const char *op, uint32_t rows, double us, double bytes)
{
    const std::string name = name_of(op, {rows});
    spin_twin_result((name + "_time").c_str(), us, "us");
    spin_twin_result((name + "_over_floor").c_str(), us / (bytes / COPY_GB_PER_S / 1e3), "ratio");
}

/* Rows of a 14B model's step. Buffers are small: what a step before wrote, the next one reads. */
void time_all(struct spin_twins *twins, uint32_t rows)
{
    constexpr uint32_t HIDDEN = 5120;
    constexpr uint32_t FFN = 17408;
    constexpr uint32_t HEADS = 40;
    constexpr uint32_t HEAD_DIM = 128;
    constexpr uint32_t CALLS = 64;
    struct spin_rng rng = {twins->seed, 500, rows};
    struct matrix a(twins, rows, FFN, 0);
    struct matrix b(twins, rows, FFN, 0);
    struct matrix c(twins, rows, FFN, 0);
    a.fill(&rng, 1, 8);
    b.fill(&rng, 1, 8);
    spin_twin_array<float> table(twins, spin_twin_normal(&rng, 1024 * HEAD_DIM, 1));
    spin_twin_array<uint32_t> positions(twins, std::vector<uint32_t>(rows, 77));
    struct spin_swiglu_args swiglu = {c.gpu(), a.gpu(), b.gpu()};
    result("swiglu_17408", rows,
           spin_twin_time_us(twins, CALLS,
                             [&](uint32_t i) {
                                 (void)i;
                                 (void)spin_swiglu_cuda(&swiglu, twins->cuda);
                             }),
           6.0 * rows * FFN);
    struct spin_rms_norm_args norm = {c.gpu(), a.gpu(), table.data(), 1e-6F};
    norm.x.cols = norm.y.cols = HIDDEN;
    result("rms_norm_5120", rows,
           spin_twin_time_us(twins, CALLS,
                             [&](uint32_t i) {
                                 (void)i;
                                 (void)spin_rms_norm_cuda(&norm, twins->cuda);
                             }),
           4.0 * rows * HIDDEN);
    spin_twin_array<float> residual(twins, spin_twin_normal(&rng, (uint64_t)rows * HIDDEN, 1));
    norm.x = {residual.data(), SPIN_DTYPE_F32, rows, HIDDEN, HIDDEN};
    result("rms_norm_f32_5120", rows,
           spin_twin_time_us(twins, CALLS,
                             [&](uint32_t i) {
                                 (void)i;
                                 (void)spin_rms_norm_cuda(&norm, twins->cuda);
                             }),
           6.0 * rows * HIDDEN);
    norm.x = {a.device.data(), SPIN_DTYPE_BF16, rows * HEADS, HEAD_DIM, HEAD_DIM};
    norm.y = norm.x;
    result("rms_norm_128_heads", rows,
           spin_twin_time_us(twins, CALLS,
                             [&](uint32_t i) {
                                 (void)i;
                                 (void)spin_rms_norm_cuda(&norm, twins->cuda);
                             }),
           4.0 * rows * HEADS * HEAD_DIM);
    struct spin_rope_args rope = {a.gpu(),
                                  HEADS,
                                  HEAD_DIM,
                                  positions.data(),
                                  {table.data(), 1024, HEAD_DIM, SPIN_ROPE_HALVES}};
    rope.x.cols = HEADS * HEAD_DIM;
    result("rope_5120", rows,
           spin_twin_time_us(twins, CALLS,
                             [&](uint32_t i) {
                                 (void)i;
                                 (void)spin_rope_cuda(&rope, twins->cuda);
                             }),
           4.0 * rows * HEADS * HEAD_DIM);
    /* With the KV heads beside them and norms: what a layer has before it appends. */
    constexpr uint32_t ALL_HEADS = HEADS + 8;
    rope.x.cols = ALL_HEADS * HEAD_DIM;
    rope.heads = ALL_HEADS;
    rope.norm = {{table.data(), table.data() + HEAD_DIM}, HEADS, 1e-6F};
    result("rope_normed_6144", rows,
           spin_twin_time_us(twins, CALLS,
                             [&](uint32_t i) {
                                 (void)i;
                                 (void)spin_rope_cuda(&rope, twins->cuda);
                             }),
           4.0 * rows * ALL_HEADS * HEAD_DIM);
}

} // namespace

extern "C" void spin_twins_rows(struct spin_twins *twins)
{
    static const uint32_t row_counts[] = {1, 2, 5, 33, 67};
    static const uint32_t col_counts[] = {1, 7, 64, 80, 128, 1000, 1024, 1032, 5120, 8192, 8200};
    for (uint64_t i = 0; i < SPIN_ARRAY_COUNT(col_counts); i++) {
        const uint32_t rows = row_counts[i % SPIN_ARRAY_COUNT(row_counts)];
        check_rms_norm(twins, rows, col_counts[i], 8);
        check_rms_norm(twins, 3, col_counts[i], 3);
        check_rms_norm_f32(twins, rows, col_counts[i], 8);
        check_rms_norm_f32(twins, 3, col_counts[i], 3);
        check_swiglu(twins, rows, col_counts[i], 8);
        check_swiglu(twins, 3, col_counts[i], 3);
    }
    check_rms_norm(twins, 3, 65536, 0);
    check_rms_norm_f32(twins, 3, 65536, 0);
    check_swiglu(twins, 17, 17408, 0);
    static const struct rope_shape shapes[] = {
        {1, 1, 128, 128, 8}, {67, 40, 128, 128, 0}, {5, 3, 64, 64, 24}, {33, 8, 128, 64, 8},
        {3, 9, 80, 32, 8},   {3, 2, 24, 12, 8},     {2, 3, 10, 6, 3}};
    for (const struct rope_shape &shape : shapes) {
        for (uint32_t norms = 0; norms < 4; norms++) {
            check_rope(twins, shape, SPIN_ROPE_HALVES, norms);
            check_rope(twins, shape, SPIN_ROPE_INTERLEAVED, norms);
        }
    }
    for (uint32_t dtype = 0; dtype < SPIN_DTYPE_COUNT; dtype++) {
        check_embed(twins, (enum spin_dtype)dtype, 1, 5120, 0);
        check_embed(twins, (enum spin_dtype)dtype, 33, 512, 8);
        check_embed(twins, (enum spin_dtype)dtype, 7, 1280, 3);
    }
    check_embed(twins, SPIN_DTYPE_BF16, 5, 77, 0);
    check_embed(twins, SPIN_DTYPE_F32, 5, 77, 0);
    if (twins->timing) {
        time_all(twins, 1);
        time_all(twins, 8);
        time_all(twins, 32);
        time_all(twins, 2048);
    }
}
