"""c_proto_library: a .proto compiled by protoc-c into a cc_library of the same name."""

def c_proto_library(name, src, imports = [], deps = [], **kwargs):
    """src is included as "<package>/<stem>.pb-c.h"; imports are the .proto files it imports."""
    stem = src[:-len(".proto")]
    native.genrule(
        name = name + "_protoc",
        srcs = [src] + imports,
        outs = [stem + ".pb-c.c", stem + ".pb-c.h"],
        cmd = "protoc-c --proto_path=proto --c_out=$(GENDIR)/proto $(location %s)" % src,
    )
    native.cc_library(
        name = name,
        srcs = [stem + ".pb-c.c"],
        hdrs = [stem + ".pb-c.h"],
        # Generated files include each other from the proto root; -isystem keeps them free of warnings.
        includes = [".."] if native.package_name() == "proto/spin" else ["../.."],
        copts = ["-w"],
        deps = deps + ["//third_party:protobuf_c"],
        **kwargs
    )
