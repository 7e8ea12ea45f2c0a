"""local_cuda: finds nvcc on this machine, or says that there is none."""

_DEFS = """\
CUDA_AVAILABLE = {available}
NVCC = "{nvcc}"
"""

_BUILD_WITH = """\
package(default_visibility = ["//visibility:public"])

exports_files(["defs.bzl"])

cc_library(
    name = "cuda",
    linkopts = [
        "-L{lib}",
        "-lcudart_static",
        "-lstdc++",
        "-lpthread",
        "-ldl",
        "-lrt",
    ],
)

# For who looks the library up while it runs: where it is.
cc_library(
    name = "cublaslt_headers",
    linkopts = ["-Wl,-rpath,{lib}"],
    deps = [":cuda"],
)

# For who is linked with it.
cc_library(
    name = "cublaslt",
    linkopts = [
        "-L{lib}",
        "-lcublasLt",
    ],
    deps = [":cublaslt_headers"],
)
"""

_BUILD_WITHOUT = """\
package(default_visibility = ["//visibility:public"])

exports_files(["defs.bzl"])

cc_library(name = "cuda")

cc_library(name = "cublaslt")

cc_library(name = "cublaslt_headers")
"""

def _find_nvcc(repository):
    if repository.os.environ.get("SPIN_CUDA", "") == "off":
        return None
    usual = repository.path("/usr/local/cuda/bin/nvcc")
    if usual.exists:
        return usual
    return repository.which("nvcc")

def _local_cuda_impl(repository):
    nvcc = _find_nvcc(repository)
    repository.file("WORKSPACE", 'workspace(name = "%s")\n' % repository.name)
    repository.file("defs.bzl", _DEFS.format(
        available = nvcc != None,
        nvcc = nvcc or "",
    ))
    if nvcc == None:
        repository.file("BUILD", _BUILD_WITHOUT)
        return
    root = nvcc.dirname.dirname
    repository.file("BUILD", _BUILD_WITH.format(lib = root.get_child("lib64")))

local_cuda = repository_rule(
    implementation = _local_cuda_impl,
    environ = ["SPIN_CUDA"],
    local = True,
    doc = "@local_cuda: CUDA_AVAILABLE and NVCC in defs.bzl; :cuda and :cublaslt to link.",
)
