#include "worker/service/options.h"

#include "base/assert.h"
#include "kvstore/block/layout.h"

/* A constant of its own: ranges are doubles, and this one comes out of a division of integers. */
enum { CONTEXT_MAX = SPIN_KV_TOKENS_MAX };

#define FIELD(name) .offset = offsetof(struct spin_worker_options, name)
#define NO_RANGE .min = 0, .max = -1

static const struct spin_option options[] = {
    {.name = "model",
     .type = SPIN_OPTION_STRING,
     FIELD(model),
     .required = true,
     NO_RANGE,
     .help = "The model: a .gguf file, a folder with config.json and *.safetensors, or "
             "random:<shape>."},
    {.name = "served-model-name",
     .type = SPIN_OPTION_STRING,
     FIELD(served_model_name),
     NO_RANGE,
     .help = "The name that clients know the model by; without it the model's own."},
    {.name = "listen",
     .type = SPIN_OPTION_STRING,
     FIELD(listen),
     .default_value = "127.0.0.1:9100",
     NO_RANGE,
     .help = "host:port of the gRPC service; port 0 takes any free one."},
    {.name = "http-listen",
     .type = SPIN_OPTION_STRING,
     FIELD(http_listen),
     .default_value = "127.0.0.1:9101",
     NO_RANGE,
     .help = "host:port of /metrics, /health and /config; port 0 takes any free one, off serves "
             "none."},
    {.name = "port-file",
     .type = SPIN_OPTION_STRING,
     FIELD(port_file),
     NO_RANGE,
     .help = "A file to write to when the worker is ready, for scripts: the gRPC host:port, then a "
             "line \"http host:port\"."},
    {.name = "router",
     .type = SPIN_OPTION_STRING,
     FIELD(router),
     NO_RANGE,
     .help = "host:port,... of the gRPC of routers to join; every address that a name resolves to "
             "is one. Without it the worker serves whoever calls it."},
    {.name = "advertise-address",
     .type = SPIN_OPTION_STRING,
     FIELD(advertise_address),
     NO_RANGE,
     .help = "host:port where routers reach this worker, and its name in the cluster; without it "
             "the listening address. Port 0 stands for the listening port."},
    {.name = "cluster-secret",
     .type = SPIN_OPTION_STRING,
     FIELD(cluster_secret),
     .secret = true,
     NO_RANGE,
     .help = "What the processes of one cluster share: with it, only they may call this worker."},
    {.name = "tls-cert",
     .type = SPIN_OPTION_STRING,
     FIELD(tls.cert_file),
     NO_RANGE,
     .help = "PEM chain of this worker's certificate: its gRPC is encrypted."},
    {.name = "tls-key",
     .type = SPIN_OPTION_STRING,
     FIELD(tls.key_file),
     NO_RANGE,
     .help = "PEM key of tls-cert."},
    {.name = "tls-ca",
     .type = SPIN_OPTION_STRING,
     FIELD(tls.ca_file),
     NO_RANGE,
     .help = "PEM authorities: callers must show a certificate of theirs."},
    {.name = "router-tls",
     .type = SPIN_OPTION_BOOL,
     FIELD(router_tls.enabled),
     .default_value = "false",
     NO_RANGE,
     .help = "Encrypts the connections to routers; on when one of the next three is given."},
    {.name = "router-tls-ca",
     .type = SPIN_OPTION_STRING,
     FIELD(router_tls.ca_file),
     NO_RANGE,
     .help = "PEM authorities of the routers' certificates; without it the system's."},
    {.name = "router-tls-cert",
     .type = SPIN_OPTION_STRING,
     FIELD(router_tls.cert_file),
     NO_RANGE,
     .help = "PEM chain that this worker shows to routers."},
    {.name = "router-tls-key",
     .type = SPIN_OPTION_STRING,
     FIELD(router_tls.key_file),
     NO_RANGE,
     .help = "PEM key of router-tls-cert."},
    {.name = "max-model-len",
     .type = SPIN_OPTION_U32,
     FIELD(max_model_len),
     .default_value = "0",
     .min = 0,
     .max = CONTEXT_MAX,
     .unit = "tokens",
     .help = "Longest sequence, prompt and output together; 0: what the model was made for, "
             "or what the tiers hold if that is less."},
    {.name = "max-num-seqs",
     .type = SPIN_OPTION_U32,
     FIELD(max_num_seqs),
     .default_value = "32",
     .min = 1,
     .max = 1024,
     .help = "Sequences that run at once; 64 at most on a GPU."},
    {.name = "max-num-batched-tokens",
     .type = SPIN_OPTION_U32,
     FIELD(max_num_batched_tokens),
     .default_value = "0",
     .min = 0,
     .max = 1 << 20,
     .unit = "tokens",
     .help = "Prompt tokens, all layers, that may run between two decode steps; 0: 256 on the CPU, "
             "2048 on a GPU."},
    {.name = "super-chunk-tokens",
     .type = SPIN_OPTION_U32,
     FIELD(super_chunk_tokens),
     .default_value = "0",
     .min = 0,
     .max = 1 << 20,
     .unit = "tokens",
     .help = "Part of a prompt that goes through all layers before the next; a multiple of 128; 0: "
             "2048 on the CPU, 8192 on a GPU."},
    {.name = "prefill-chunk-tokens",
     .type = SPIN_OPTION_U32,
     FIELD(prefill_chunk_tokens),
     .default_value = "0",
     .min = 0,
     .max = 1 << 16,
     .unit = "tokens",
     .help = "Rows of one prefill unit; cancels and deadlines act between units; 0: 128 on the "
             "CPU, 2048 on a GPU."},
    {.name = "max-waiting",
     .type = SPIN_OPTION_U32,
     FIELD(max_waiting),
     .default_value = "256",
     .min = 1,
     .max = 32768,
     .help = "Requests that may wait for a place; more are refused."},
    {.name = "threads",
     .type = SPIN_OPTION_U32,
     FIELD(threads),
     .default_value = "0",
     .min = 0,
     .max = 1024,
     .help = "Compute threads of the CPU's operations; 0: one per core."},
    {.name = "device",
     .type = SPIN_OPTION_CHOICE,
     FIELD(device),
     .default_value = "auto",
     .choices = "auto,cuda,cpu",
     NO_RANGE,
     .help = "Where the model runs: cuda, the first GPU (CUDA_VISIBLE_DEVICES says which that is), "
             "of sm_90a; auto, a GPU where build, machine and model allow it, else the CPU: a line "
             "of the log says which, and why."},
    {.name = "gpu-memory-utilization",
     .type = SPIN_OPTION_DOUBLE,
     FIELD(gpu_memory_utilization),
     .default_value = "0.9",
     .min = 0.01,
     .max = 1,
     .help = "How much of a GPU's memory may be in use, whoever uses it: slots of KV get what is "
             "left of that beside the weights, the activations and other processes."},
    {.name = "kv-hbm-bytes",
     .type = SPIN_OPTION_BYTES,
     FIELD(kv_hbm_bytes),
     .default_value = "0",
     NO_RANGE,
     .help = "The HBM tier: slots for the KV pages that the next steps read; 0: room for "
             "max-num-seqs sequences, but on a GPU no more than gpu-memory-utilization leaves, and "
             "on the CPU an eighth of the memory, or room for one of max-model-len if that is "
             "more; tiers without a size take half of the memory at most there."},
    {.name = "kv-host-bytes",
     .type = SPIN_OPTION_BYTES,
     FIELD(kv_host_bytes),
     .default_value = "0",
     NO_RANGE,
     .help = "The host tier: blocks for the KV of every token in flight; 0: on the CPU the same "
             "rule as for kv-hbm-bytes; with a GPU, where it is pinned, room for max-num-seqs "
             "sequences, but no more than half of the memory."},
    {.name = "kv-replacement",
     .type = SPIN_OPTION_CHOICE,
     FIELD(kv_replacement),
     .default_value = "slot_lru",
     .choices = "slot_lru,bucketed", /* the order of enum spin_kv_replacement */
     NO_RANGE,
     .help = "Which pages of a buffered sequence give up their slots: slot_lru, the least recently "
             "read by an age per slot; bucketed, those of the oldest of 64 buckets."},
    {.name = "sparse-attention",
     .type = SPIN_OPTION_CHOICE,
     FIELD(sparse_attention),
     .default_value = "dense",
     .choices = "dense,quest,shadowkv", /* the order of spin_sparse_algorithms */
     NO_RANGE,
     .help = "What a decode step reads of its context: dense, all of it; quest and shadowkv, the "
             "pages that they score highest. All workers of a cluster should run the same, with "
             "the same sparse-budget and sparse-min-context: an answer depends on all three."},
    {.name = "sparse-budget",
     .type = SPIN_OPTION_U32,
     FIELD(sparse_budget),
     .default_value = "0",
     .min = 0,
     .max = CONTEXT_MAX,
     .unit = "tokens",
     .help = "Chosen by a sparse step for each layer and KV head; 0: the algorithm's default, "
             "1024 for quest, the larger of 256 and a 64th of the context for shadowkv. At least "
             "16 for quest, whose first two layers read everything, and 8 for shadowkv."},
    {.name = "sparse-min-context",
     .type = SPIN_OPTION_U32,
     FIELD(sparse_min_context),
     .default_value = "4096",
     .min = 0,
     .max = CONTEXT_MAX,
     .unit = "tokens",
     .help = "Steps over shorter contexts run dense, and are counted as such."},
    {.name = "sparse-verify",
     .type = SPIN_OPTION_BOOL,
     FIELD(sparse_verify),
     .default_value = "false",
     NO_RANGE,
     .help = "Lets every step choose its whole context through the sparse path, without a short "
             "cut: the output must be that of dense. For tests; slow."},
    {.name = "ops",
     .type = SPIN_OPTION_CHOICE,
     FIELD(ops),
     .default_value = "auto",
     .choices = "auto,cpu,ref",
     NO_RANGE,
     .help = "The table of operations on the CPU: cpu is fast (AVX2), ref is the slow oracle, "
             "auto is the best that this machine runs; with another value than auto, device auto "
             "is the CPU."},
    {.name = "log-level",
     .type = SPIN_OPTION_CHOICE,
     FIELD(log_level),
     .default_value = "info",
     .choices = "error,warn,info,debug,trace", /* the order of enum spin_log_level */
     NO_RANGE,
     .help = "How much is written to standard error."},
    {.name = "shutdown-grace",
     .type = SPIN_OPTION_DURATION,
     FIELD(shutdown_grace_ns),
     .default_value = "30s",
     NO_RANGE,
     .help = "How long running streams may go on after SIGTERM; a second signal ends at once."},
};

const struct spin_config_spec spin_worker_config_spec = {
    .program = "spin-worker",
    .synopsis = "",
    .about = "Runs one model on this machine and serves it as gRPC spin.v1.Worker.",
    .options = options,
    .option_count = SPIN_ARRAY_COUNT(options),
};

struct spin_engine_config spin_worker_options_to_engine(const struct spin_worker_options *given)
{
    struct spin_engine_config config = spin_engine_config_default();
    config.max_model_len = given->max_model_len;
    config.max_num_seqs = given->max_num_seqs;
    config.max_num_batched_tokens = given->max_num_batched_tokens;
    config.super_chunk_tokens = given->super_chunk_tokens;
    config.chunk_tokens = given->prefill_chunk_tokens;
    config.max_waiting = given->max_waiting;
    config.threads = given->threads;
    config.gpu_memory_utilization = given->gpu_memory_utilization;
    config.kv_hbm_bytes = given->kv_hbm_bytes;
    config.kv_host_bytes = given->kv_host_bytes;
    SPIN_ASSERT_LT(given->kv_replacement, SPIN_KV_REPLACEMENTS);
    config.kv_replacement = (enum spin_kv_replacement)given->kv_replacement;
    SPIN_ASSERT_LT(given->sparse_attention, spin_sparse_algorithm_count);
    config.sparse =
        (struct spin_sparse_options){.algorithm = spin_sparse_algorithms[given->sparse_attention],
                                     .budget_tokens = given->sparse_budget,
                                     .min_context = given->sparse_min_context,
                                     .verify = given->sparse_verify};
    return config;
}
