"""c_proto_library: .proto files compiled by protoc-c into one cc_library."""

def c_proto_library(name, srcs, **kwargs):
    """srcs import each other from this package's directory and are included as "<stem>.pb-c.h"
    from there: #include "proto/spin/v1/worker.pb-c.h"."""
    package = native.package_name()
    stems = [src[:-len(".proto")] for src in srcs]
    native.genrule(
        name = name + "_protoc",
        srcs = srcs,
        outs = [stem + ".pb-c.c" for stem in stems] + [stem + ".pb-c.h" for stem in stems],
        cmd = "protoc-c --proto_path=%s --c_out=$(GENDIR)/%s $(SRCS)" % (package, package),
    )
    native.cc_library(
        name = name,
        srcs = [stem + ".pb-c.c" for stem in stems],
        hdrs = [stem + ".pb-c.h" for stem in stems],
        # Generated files include each other from here; a system directory causes no warnings.
        includes = ["."],
        copts = ["-w"],
        deps = ["//third_party:protobuf_c"],
        **kwargs
    )
