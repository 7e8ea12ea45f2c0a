"""Macros for the project's own targets."""

def spin_c_test(name, srcs, deps = [], copts = [], tags = [], **kwargs):
    """A cmocka test. Every file of the name <thing>_test.c mirrors <thing>.c in the source tree."""
    native.cc_test(
        name = name,
        srcs = srcs,
        copts = copts,
        deps = deps + ["//tests:spin_test", "//third_party:cmocka"],
        tags = tags,
        **kwargs
    )

def spin_py_test(name, srcs, data = [], paths = {}, args = [], tags = [], **kwargs):
    """A pytest run, cached by Bazel like any other test; tests/README.md shows how to use it.

    srcs: test_*.py or *_test.py are run, other files are helpers they import from the root
    (from tests.reference import llama). paths: environment variable -> label; the test sees the
    absolute path, and runs again when the file changes: {"SPIN_MODEL": "@demo_model//:gguf"}."""
    tests = [
        source
        for source in srcs
        if source.split(":")[-1].split("/")[-1].startswith("test_") or source.endswith("_test.py")
    ]
    native.sh_test(
        name = name,
        srcs = ["//third_party:py_test.sh"],
        args = ["%s=$(rootpath %s)" % (variable, paths[variable]) for variable in sorted(paths)] +
               ["$(rootpath %s)" % source for source in tests] + args,
        data = srcs + data + sorted({label: None for label in paths.values()}) +
               ["//tests:requirements.txt"],
        # The sanitizers watch our C; Python tests run once, against the optimised build.
        tags = tags + ["no-sanitizer"],
        **kwargs
    )
