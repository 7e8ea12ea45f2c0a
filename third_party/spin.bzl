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
