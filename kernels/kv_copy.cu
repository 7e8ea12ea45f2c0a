/* One launch copies the pages of all rows, and all its warps share them, whoever they belong to:
 * one row can have all the misses. A warp has 4 KiB under way at a time, loaded before any of it is
 * stored; the few blocks there are keep 512 KiB under way, several times what the link to the host
 * holds (about 110 KB), and leave the other processors alone.
 *
 * Every block counts the pages of all rows itself, TILE_ROWS rows at a time, and finds the row of a
 * page by bisection; pieces of 4 KiB, numbered through all rows, go round the warps. */
#include "kernels/kv_copy.h"
#include "kernels/kv_row.cuh"

static constexpr uint32_t THREADS = 512;
static constexpr uint32_t BLOCKS = 8;
static constexpr uint32_t WARPS = BLOCKS * (THREADS / 32);
static constexpr uint32_t THREAD_ROWS = 4;
static constexpr uint32_t TILE_ROWS = THREADS * THREAD_ROWS;
static constexpr uint32_t UNIT = 16;              /* bytes of a load */
static constexpr uint32_t LOADS = 8;              /* of a lane, under way */
static constexpr uint32_t STRIDE = 32 * UNIT;     /* bytes of a warp's load */
static constexpr uint32_t PIECE = LOADS * STRIDE; /* bytes */

static_assert((WARPS & (WARPS - 1)) == 0, "counts of pieces may wrap");

struct job {
    struct spin_kv_view view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists;
    const struct spin_kv_range *ranges; /* offload */
    uint32_t page_bytes;
    uint32_t page_pieces;
};

struct shared {
    uint32_t begin[TILE_ROWS]; /* pages of lower rows of the tile */
    struct spin_scan_sums<THREADS> sums;
};

enum direction { GATHER, OFFLOAD };

/* No cache keeps what is read once. */
static __device__ __forceinline__ uint4 load(const uint8_t *from)
{
    uint4 value;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from)
                 : "memory");
    return value;
}

static __device__ __forceinline__ void store(uint8_t *to, uint4 value)
{
    asm volatile("st.global.cg.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(value.x),
                 "r"(value.y), "r"(value.z), "r"(value.w)
                 : "memory");
}

/* Bytes [offset, offset + PIECE) of a page, as far as it goes; a warp's. No `from`: zeros. */
static __device__ __forceinline__ void copy_piece(uint8_t *to, const uint8_t *from, uint32_t offset,
                                                  uint32_t page_bytes)
{
    const uint32_t mine = offset + threadIdx.x % 32 * UNIT;
    uint4 values[LOADS];
#pragma unroll
    for (uint32_t i = 0; i < LOADS; i++) {
        values[i] = make_uint4(0, 0, 0, 0);
        if (from != NULL && mine + i * STRIDE < page_bytes) {
            values[i] = load(from + mine + i * STRIDE);
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < LOADS; i++) {
        if (mine + i * STRIDE < page_bytes) {
            store(to + mine + i * STRIDE, values[i]);
        }
    }
}

/* Piece `piece` of page `index` of the pages of a row. */
template <enum direction DIRECTION>
static __device__ __forceinline__ void copy(const struct job *job, uint32_t row, uint32_t index,
                                            uint32_t piece)
{
    const struct spin_kv_view *view = &job->view;
    const uint32_t i = row / view->layout.kv_heads;
    const uint32_t head = row % view->layout.kv_heads;
    const uint32_t sequence = job->batch.sequence[i];
    const uint64_t list = (uint64_t)row * job->lists.stride;
    if (DIRECTION == GATHER) {
        const struct spin_kv_miss miss = job->lists.misses[list + index];
        const uint8_t *frame = NULL;
        if (miss.fresh == 0) {
            frame = spin_kv_frame_bytes(view, sequence, job->batch.layer, head, miss.page);
        }
        copy_piece(spin_kv_slot_bytes(view, miss.slot), frame, piece * PIECE, job->page_bytes);
    } else {
        const struct spin_kv_range range = job->ranges[i];
        const uint32_t entry =
            spin_kv_list_entry(view, &job->batch, &job->lists, row, range.first + index);
        const uint32_t slot = job->lists.slots[list + entry];
        copy_piece(spin_kv_frame_bytes(view, sequence, job->batch.layer, head, range.first + index),
                   spin_kv_slot_bytes(view, slot), piece * PIECE, job->page_bytes);
    }
}

template <enum direction DIRECTION>
static __device__ __forceinline__ uint32_t pages_of(const struct job *job, uint32_t row)
{
    return DIRECTION == GATHER ? job->lists.miss_count[row]
                               : job->ranges[row / job->view.layout.kv_heads].count;
}

/* Fills shared->begin for the rows from `first` on. Returns their pages. */
template <enum direction DIRECTION>
static __device__ uint32_t count_pages(const struct job *job, struct shared *shared, uint32_t first,
                                       uint32_t rows, uint32_t *turn)
{
    uint32_t counts[THREAD_ROWS];
    uint32_t mine = 0;
#pragma unroll
    for (uint32_t i = 0; i < THREAD_ROWS; i++) {
        const uint32_t row = first + threadIdx.x * THREAD_ROWS + i;
        counts[i] = row < rows ? pages_of<DIRECTION>(job, row) : 0;
        mine += counts[i];
    }
    uint32_t total;
    uint32_t before = spin_block_scan(&shared->sums, turn, mine, &total);
#pragma unroll
    for (uint32_t i = 0; i < THREAD_ROWS; i++) {
        shared->begin[threadIdx.x * THREAD_ROWS + i] = before;
        before += counts[i];
    }
    __syncthreads();
    return total;
}

/* The last row of the tile that begins at or before page `page`: the one that has it. */
static __device__ __forceinline__ uint32_t row_of(const struct shared *shared, uint32_t page)
{
    uint32_t row = 0;
#pragma unroll
    for (uint32_t step = TILE_ROWS / 2; step > 0; step /= 2) {
        row += shared->begin[row + step] <= page ? step : 0;
    }
    return row;
}

template <enum direction DIRECTION>
static __global__ void __launch_bounds__(THREADS) copy_pages(const __grid_constant__ struct job job)
{
    __shared__ struct shared shared;
    const uint32_t warp = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const uint32_t rows = job.batch.count * job.view.layout.kv_heads;
    uint32_t turn = 0;
    uint32_t done = 0; /* pieces of earlier tiles; modulo 2^32 */
    for (uint32_t first = 0; first < rows; first += TILE_ROWS) {
        const uint32_t pages = count_pages<DIRECTION>(&job, &shared, first, rows, &turn);
        const uint32_t pieces = pages * job.page_pieces;
        for (uint32_t i = (warp - done) % WARPS; i < pieces; i += WARPS) {
            const uint32_t page = i / job.page_pieces;
            const uint32_t row = row_of(&shared, page);
            copy<DIRECTION>(&job, first + row, page - shared.begin[row], i % job.page_pieces);
        }
        done += pieces;
        __syncthreads();
    }
}

template <enum direction DIRECTION>
static spin_status launch(const struct spin_kv_view *view, const struct spin_kv_batch *batch,
                          const struct spin_kv_lists *lists, const struct spin_kv_range *ranges,
                          struct spin_stream *stream)
{
    struct job job;
    job.view = *view;
    job.batch = *batch;
    job.lists = *lists;
    job.ranges = ranges;
    job.page_bytes = (uint32_t)spin_page_bytes(&view->layout, view->page_tokens);
    job.page_pieces = (job.page_bytes + PIECE - 1) / PIECE;
    SPIN_ASSERT_EQ(job.page_bytes % UNIT, 0);
    if (batch->count == 0) {
        return SPIN_OK;
    }
    copy_pages<DIRECTION><<<BLOCKS, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched(DIRECTION == GATHER ? "kv_gather" : "kv_offload");
}

extern "C" spin_status spin_kv_gather_cuda(const struct spin_kv_gather_args *args,
                                           struct spin_stream *stream)
{
    return launch<GATHER>(args->view, &args->batch, &args->lists, NULL, stream);
}

extern "C" spin_status spin_kv_offload_cuda(const struct spin_kv_offload_args *args,
                                            struct spin_stream *stream)
{
    return launch<OFFLOAD>(args->view, &args->batch, &args->lists, args->ranges, stream);
}
