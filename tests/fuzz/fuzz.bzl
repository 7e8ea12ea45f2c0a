"""Fuzz targets: one entry point, two drivers."""

def spin_fuzz(name, srcs, deps = [], seeds = None, data = [], **kwargs):
    """A function LLVMFuzzerTestOneInput over bytes from outside.

    <name>_replay_test runs it over the committed seeds and some thousand mutations of them, with
    any compiler and under the sanitizers. <name> is the program of the long run: linked with
    libFuzzer under --config=fuzz (tests/fuzz/run), with the plain driver otherwise.

    seeds: files; default seeds/<name>/**. A target without seeds is a mistake."""
    files = seeds if seeds != None else native.glob(["seeds/%s/**" % name])
    if not files:
        fail("%s: no seeds: put some under seeds/%s" % (name, name))
    native.cc_test(
        name = name + "_replay_test",
        size = "small",
        srcs = srcs,
        args = ["$(location %s)" % file for file in files],
        data = files + data,
        deps = deps + ["//tests/fuzz:fuzz_main"],
        **kwargs
    )
    native.cc_binary(
        name = name,
        testonly = True,
        srcs = srcs,
        linkopts = select({
            "//tests/fuzz:libfuzzer": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        tags = ["manual", "spin_fuzz"],
        deps = deps + select({
            "//tests/fuzz:libfuzzer": [],
            "//conditions:default": ["//tests/fuzz:fuzz_main"],
        }),
        **kwargs
    )
