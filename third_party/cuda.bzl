"""CUDA targets. Where no nvcc is found they are left out of //..., and say so when asked for.

nvcc's own words (registers, shared memory, spills of every kernel) land in
<target>_nvcc/<file>.log beside the objects. Headers must be listed in hdrs or come with deps:
nvcc's includes are not scanned.
"""

load("@local_cuda//:defs.bzl", "CUDA_AVAILABLE", "NVCC")

_FLAGS = [
    "-std=c++17",
    "-O3",
    "-lineinfo",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-Xptxas=-v",
    "-Xcompiler=-fPIC",
    "-I.",
]

# nvcc writes the report of a good compilation to stderr: keep it out of Bazel's output. It names
# its temporary files by its process id, which is the same in all sandboxes, and those share /tmp.
_COMMAND = """\
TMPDIR="$(mktemp -d)" && export TMPDIR && trap 'rm -rf "$TMPDIR"' EXIT
log="$1"; shift
if ! "$@" 2>"$log"; then cat "$log" >&2; exit 1; fi
grep -E ' warning' "$log" >&2 || true
"""

def _nvcc_objects_impl(ctx):
    headers = depset(
        ctx.files.hdrs,
        transitive = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps],
    )
    objects = []
    logs = []
    for source in ctx.files.srcs:
        stem = "%s/%s" % (ctx.label.name, source.basename[:-len(".cu")])
        object = ctx.actions.declare_file(stem + ".o")
        log = ctx.actions.declare_file(stem + ".log")
        arguments = ctx.actions.args()
        arguments.add(log)
        arguments.add(NVCC)
        arguments.add_all(_FLAGS + ctx.attr.copts)
        arguments.add("-I" + ctx.bin_dir.path)
        arguments.add("-c", source)
        arguments.add("-o", object)
        ctx.actions.run_shell(
            command = _COMMAND,
            arguments = [arguments],
            inputs = depset([source], transitive = [headers]),
            outputs = [object, log],
            env = {"PATH": "/usr/bin:/bin"},
            mnemonic = "NvccCompile",
            progress_message = "Compiling %s" % source.short_path,
        )
        objects.append(object)
        logs.append(log)
    return [
        DefaultInfo(files = depset(objects)),
        OutputGroupInfo(nvcc_logs = depset(logs)),
    ]

_nvcc_objects = rule(
    implementation = _nvcc_objects_impl,
    attrs = {
        "copts": attr.string_list(),
        "deps": attr.label_list(providers = [CcInfo]),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "srcs": attr.label_list(allow_files = [".cu"], mandatory = True),
    },
)

def _objects(name, srcs, hdrs, deps, copts):
    _nvcc_objects(
        name = name + "_nvcc",
        srcs = srcs,
        hdrs = hdrs,
        deps = deps,
        copts = copts,
        visibility = ["//visibility:private"],
    )
    return [":" + name + "_nvcc"]

def cuda_library(name, srcs, hdrs = [], deps = [], copts = [], stub_srcs = [], **kwargs):
    """A cc_library of .cu files; without nvcc the same target is made of stub_srcs (C)."""
    native.cc_library(
        name = name,
        srcs = _objects(name, srcs, hdrs, deps, copts) if CUDA_AVAILABLE else stub_srcs,
        hdrs = hdrs,
        deps = deps + ["@local_cuda//:cuda"],
        **kwargs
    )

def cuda_binary(name, srcs, hdrs = [], deps = [], copts = [], **kwargs):
    """A program of .cu files; without nvcc it only says that it was left out."""
    if CUDA_AVAILABLE:
        native.cc_binary(
            name = name,
            srcs = _objects(name, srcs, hdrs, deps, copts),
            deps = deps + ["@local_cuda//:cuda"],
            **kwargs
        )
    else:
        native.sh_binary(name = name, srcs = ["//third_party:no_nvcc.sh"], tags = ["manual"])

def cuda_test(name, srcs, hdrs = [], deps = [], copts = [], tags = [], **kwargs):
    """A test with .c and .cu sources that needs a GPU; without nvcc it passes as one skipped case.

    It runs alone and outside the sandbox: there is one GPU, and forks do not share it."""
    if CUDA_AVAILABLE:
        cu = [source for source in srcs if source.endswith(".cu")]
        native.cc_test(
            name = name,
            srcs = [source for source in srcs if not source.endswith(".cu")] +
                   (_objects(name, cu, hdrs, deps, copts) if cu else []),
            deps = deps + ["@local_cuda//:cuda"],
            tags = tags + ["exclusive", "gpu", "local"],
            **kwargs
        )
    else:
        native.sh_test(name = name, srcs = ["//third_party:no_nvcc.sh"], tags = tags + ["gpu"])
