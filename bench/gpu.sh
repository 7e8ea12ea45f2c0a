#!/bin/bash
# Everything that is checked and measured on a GPU.
#
#   bench/gpu.sh [--steps STEP,...] [FOLDER [AREA...]] [-- OPTION...]
#
#   STEP     every CUDA operation against its reference twin:
#              timed, memcheck, racecheck, initcheck
#            whole models (bench/gpu/model):
#              model                       the demo model against the reference and against itself
#              decode-32k, -64k, -128k     decode steps of a 14B shape beside floors and dense attention
#              trace                       of those, with choices recorded on real text (bench/kv)
#              ablation                    of those, what each tier adds
#              prefill                     a prompt of 32K tokens
#            default: all
#   FOLDER   for the logs, default .cache/bench/gpu-twins: machine.txt and one log per step
#   AREA     of tests/kernels/cuda/twins.h, default: all
#   OPTION   for the programs of whole models: --batches 8 (decode_step --help)
#
# Runs what bench/gpu/pack left in .gpu/, else what Bazel builds, else, the twins alone, what nvcc and
# gcc build on the spot: a machine with nothing but the CUDA toolkit will do. Areas are processes of
# their own, each with its own limit of time; timed ones run alone, sanitized ones side by side. Ends in
# RESULT lines, and with 1 when anything was BAD, failed or did not end. SPIN_SEED=N repeats a run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

timed_limit_s=150
sanitized_limit_s=240
program_limit_s=280
threads="$(nproc)"
threads=$((threads < 64 ? threads : 64))
model=.cache/model/SmolLM2-135M-Instruct.Q4_1.gguf # of the step `model`
trace=.cache/kv/shadowkv.trace                     # of the step `trace`
steps=timed,memcheck,racecheck,initcheck,model,decode-32k,decode-64k,decode-128k,trace,ablation,prefill
all_areas=(device rows attention matmul tables select draw)
objects=.cache/bench/gpu-twins-objects
nvcc="$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)"
sanitizer="$(command -v compute-sanitizer || echo "$(dirname "$nvcc")/compute-sanitizer")"

# What the twins need of the C code, without the libraries that the rest of it needs.
c_files=(base/{assert,clock,dtype,log,rng,status}.c kvstore/block/layout.c
    kernels/{attention,device,dtype,kv_row,kv_select,matmul,rope_table,ops_cuda}.c
    kernels/*_{ref,cpu,avx512}.c)
c_flags=(-std=c17 -O3 -g1 -D_GNU_SOURCE -fno-math-errno -ffp-contract=off -I.)
avx2=(-mavx2 -mfma -mf16c)
avx512=("${avx2[@]}" -mavx512f -mavx512bw -mavx512vl -mavx512vnni)
cu_flags=(-std=c++17 -O3 -lineinfo "-gencode=arch=compute_90a,code=sm_90a" -I.)

if [[ ${1:-} == --steps ]]; then
    steps="$2"
    shift 2
fi
options=()
for ((i = 1; i <= $#; i++)); do
    if [[ ${!i} == -- ]]; then
        options=("${@:i+1}")
        set -- "${@:1:i-1}"
        break
    fi
done
folder="${1:-.cache/bench/gpu-twins}"
areas=("${@:2}")
if [[ ${#areas[@]} -eq 0 ]]; then
    areas=("${all_areas[@]}")
fi
seed="${SPIN_SEED:-$(date +%s%N)}"

# A file's object keeps its folders in its name.
build_here() {
    mkdir -p "$objects"
    local jobs
    jobs="$(nproc)"
    compile() {
        local object="$objects/${1//\//-}.o"
        case "$1" in
            *.cu) "$nvcc" "${cu_flags[@]}" -c "$1" -o "$object" ;;
            *_avx512.c) gcc "${c_flags[@]}" "${avx512[@]}" -c "$1" -o "$object" ;;
            */device_cpu.c | */ops_cpu.c) gcc "${c_flags[@]}" -c "$1" -o "$object" ;;
            *_cpu.c) gcc "${c_flags[@]}" "${avx2[@]}" -c "$1" -o "$object" ;;
            *) gcc "${c_flags[@]}" -fopenmp-simd -c "$1" -o "$object" ;;
        esac
    }
    rm -f "$objects"/*.o
    local file running=0 failed=0
    for file in kernels/*.cu tests/kernels/cuda/*.cu "${c_files[@]}"; do
        if ((running == jobs)); then
            wait -n || failed=1
            running=$((running - 1))
        fi
        compile "$file" &
        running=$((running + 1))
    done
    while ((running > 0)); do
        wait -n || failed=1
        running=$((running - 1))
    done
    ((failed == 0))
    "$nvcc" "$objects"/*.o -o "$objects/twins" -lcublasLt -lpthread -lm \
        -Xlinker "-rpath,$(dirname "$nvcc")/../lib64"
}

# Where the twins are; and, if this is a place that has them, the programs of whole models.
find_programs() {
    programs=
    if [[ -x .gpu/twins ]]; then
        twins=.gpu/twins
        programs=.gpu
        if [[ -f .gpu/shadowkv.trace ]]; then
            trace=.gpu/shadowkv.trace
        fi
        libraries="$PWD/.gpu:$(dirname "$nvcc")/../lib64"
        export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    elif command -v bazel >/dev/null; then
        bazel build --noshow_progress --ui_event_filters=-info //tests/kernels/cuda:twins \
            //bench/gpu/model:all >&2
        twins="$(bazel info --noshow_progress bazel-bin)/tests/kernels/cuda/twins"
        programs="$(bazel info --noshow_progress bazel-bin)/bench/gpu/model"
    else
        build_here
        twins="$objects/twins"
    fi
}

commit() {
    if [[ $twins == .gpu/twins ]]; then
        cat .gpu/commit
    else
        git describe --always --dirty 2>/dev/null || echo unknown
    fi
}

describe_machine() {
    date --utc '+%F %T UTC'
    uname -srm
    sed -n 's/^model name[^:]*: /cpu /p' /proc/cpuinfo | sort | uniq -c
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    printf 'commit %s\nseed %s\n' "$(commit)" "$seed"
}

# run_area STEP AREA: one process; its output and how it ended.
run_area() {
    local step="$1" area="$2" code=0 limit_s=$sanitized_limit_s
    local command=("$sanitizer" --tool "$step" --error-exitcode 9 --print-limit 20)
    case "$step" in
        timed)
            command=("$twins" --seed "$seed")
            limit_s=$timed_limit_s
            ;;
        memcheck) # errors that the twins provoke in the API are theirs to judge
            command+=(--report-api-errors no "$twins" --no-timing --seed "$seed")
            ;;
        *) command+=("$twins" --no-timing --seed "$seed") ;;
    esac
    timeout --kill-after=10 "$limit_s" "${command[@]}" "$area" 2>&1 || code=$?
    printf '== exit %d: %s %s\n' "$code" "$step" "$area"
}

run_step() {
    local step="$1" area parts
    if [[ $step == timed ]]; then
        for area in "${areas[@]}"; do
            run_area timed "$area"
        done >"$folder/timed.log"
        return
    fi
    parts="$(mktemp -d)"
    for area in "${areas[@]}"; do
        if [[ $step == racecheck && $area == matmul ]]; then
            continue # the library's kernels
        fi
        run_area "$step" "$area" >"$parts/$area" &
    done
    wait
    cat "$parts"/* >"$folder/$step.log"
    rm -r "$parts"
}

# run_program STEP: one whole model, one process.
run_program() {
    local step="$1" code=0 command=()
    case "$step" in
        model) command=(model_check --model "$model") ;;
        decode-*k)
            local thousands="${step#decode-}"
            command=(decode_step --contexts $((${thousands%k} * 1024)) --seed "$seed")
            ;;
        trace) command=(decode_step --trace "$trace" --algorithms "dense,shadowkv" --seed "$seed") ;;
        ablation)
            command=(decode_step --ablation --algorithms shadowkv --contexts "32768,131072"
                --batches "8,16" --seed "$seed")
            ;;
        prefill) command=(prefill --seed "$seed") ;;
    esac
    command+=(--device cuda --threads "$threads" "${options[@]}")
    printf '%s\n' "${command[*]}"
    timeout --kill-after=10 "$program_limit_s" "$programs/${command[0]}" "${command[@]:1}" 2>&1 || code=$?
    printf '== exit %d: %s\n' "$code" "$step"
}

# Why a step cannot be run here; nothing where it can.
missing() {
    case "$1" in
        timed) ;;
        memcheck | racecheck | initcheck) [[ -x $sanitizer ]] || echo "no compute-sanitizer" ;;
        model)
            [[ -n $programs ]] || echo "no program; bench/gpu/pack"
            [[ -f $model ]] || echo "no $model; bench/gpu/model_pieces"
            ;;
        trace)
            [[ -n $programs ]] || echo "no program; bench/gpu/pack"
            [[ -f $trace ]] || echo "no $trace; bench/run kv-locality"
            ;;
        decode-32k | decode-64k | decode-128k | ablation | prefill)
            [[ -n $programs ]] || echo "no program; bench/gpu/pack"
            ;;
        *)
            printf 'no step %s\n' "$1" >&2
            exit 2
            ;;
    esac
}

if ! command -v nvidia-smi >/dev/null; then
    printf 'skipped: no NVIDIA driver\n'
    exit 0
fi
find_programs
mkdir -p "$folder"
rm -f "$folder/machine.txt"
describe_machine 2>&1 | tee "$folder/machine.txt"
logs=()
for step in ${steps//,/ }; do
    log="$folder/$step.log"
    why="$(missing "$step")"
    rm -f "$log"
    if [[ -n $why ]]; then
        printf 'skipped: %s: %s\n' "$step" "$why"
        continue
    fi
    case "$step" in
        timed | memcheck | racecheck | initcheck)
            run_step "$step"
            printf '%s: %d ok, %d BAD\n' "$step" "$(grep -c '^CHECK .* ok ' "$log" || true)" \
                "$(grep -c '^CHECK .* BAD ' "$log" || true)"
            ;;
        *) { cat "$folder/machine.txt" && run_program "$step"; } 2>&1 | tee "$log" ;;
    esac
    logs+=("$log")
done

# What went wrong, in short; the logs have the rest.
bad='^CHECK .*BAD |^FAIL|assertion failed|device lost|^========= (ERROR SUMMARY: [1-9]|RACECHECK SUMMARY: [1-9])'
status=0
if [[ ${#logs[@]} -eq 0 ]]; then
    exit 0
fi
if grep -HE "$bad|^== exit [1-9]" "${logs[@]}" | grep -vE 'device lost: gpu=0 what=wait why=not done in time'; then
    status=1
fi
grep -h '^RESULT ' "${logs[@]}" || true
exit "$status"
