"""Tests of the tests: a bug put into a source has to turn a test red."""

_COPTS = [
    "-O3",
    "-mavx2",
    "-mfma",
    "-mf16c",
    "-fopenmp-simd",
    "-w",  # a bug may leave a parameter unused
]

def _mutate(name, edits):
    """A copy of every source with its sed script applied; one that changes nothing is an error."""
    copies = []
    for source in sorted(edits):
        file = source.split(":")[1]
        copy = "%s_sources/%s" % (name, file)
        native.genrule(
            name = "%s_%s" % (name, file.replace(".", "_")),
            testonly = True,
            srcs = [source],
            outs = [copy],
            cmd = "sed -E '%s' $< > $@ && " % edits[source].replace("$", "$$") +
                  "if cmp -s $< $@; then echo '%s: no change in %s' >&2; exit 1; fi" % (name, file),
        )
        copies.append(copy)
    return copies

def spin_mutant_main(source, package = "//tests/kernels", deps = [
    "//tests/kernels:kernel_test",
    "//tests/kernels:kv_fixture",
]):
    """A test program's own part, compiled once for all mutants that run it."""
    native.cc_library(
        name = source.replace(".c", "_main"),
        testonly = True,
        srcs = [package + ":" + source],
        copts = ["-DSPIN_DEBUG"],  # of the test alone: fewer operations
        deps = deps + [
            "//tests:spin_test",
            "//third_party:cmocka",
        ],
        alwayslink = True,
    )

def spin_mutant(name, edits, test, wanted = "red", only = [""]):
    """Runs `test`, made by spin_mutant_main, with sources changed.

    edits: label of a source -> sed -E script. The copy's object stands in for the
    library's: the linker takes an archive's member only for what is still missing, so a copy has to
    define all that the original does.
    test: a *_test.c, or kv_oracle_test.py, which gets a kv_tool made of the copies.
    only: the tests by their names, each alone in a run of its own that has to be as wanted; of
    kv_oracle_test.py, those whose names contain this.
    wanted: "green" for a change that must not matter: proof that red is the bug's doing."""
    oracle = test.endswith(".py")
    main = "kv_tool.c" if oracle else test
    binary = name + "_program"
    native.cc_binary(
        name = binary,
        testonly = True,
        srcs = _mutate(name, edits),
        copts = _COPTS,
        tags = ["no-sanitizer"],
        deps = [":" + main.replace(".c", "_main")],
    )
    for each in only:
        if oracle:
            command = [
                "$(rootpath //third_party:py_test.sh)",
                "SPIN_KV_TOOL=$(rootpath :%s)" % binary,
                "$(rootpath //tests/kernels:%s)" % test,
                "-x",
            ] + (["-k", each] if each else [])
        else:
            command = ["$(rootpath :%s)" % binary] + ([each] if each else [])
        native.sh_test(
            name = name if len(only) == 1 else "%s_%s" % (name, each),
            size = "medium",
            srcs = ["expect.sh"],
            args = [wanted] + command,
            data = [":" + binary] + ([
                "//third_party:py_test.sh",
                "//tests/kernels:" + test,
                "//tests:requirements.txt",
            ] if oracle else []),
            # The bug is put in once, against the optimised build.
            tags = ["no-sanitizer"],
        )
