#!/usr/bin/python3
"""Real long documents for the KV benchmarks: usage: texts.py PACKAGES FOLDER

PACKAGES holds the .deb files named below as `apt-get download` leaves them; nothing is installed. Every
document becomes FOLDER/NAME.txt, 64 KiB of text: over 8,192 tokens of the demo model. Size and digest of
each package and of each text are checked, so that two runs on two machines read the same words.

    novels      r-cran-janeaustenr (package: MIT; Jane Austen's novels: public domain)
    manuals     debian-policy (GPL-2+; the Filesystem Hierarchy Standard: its own free licence),
                developers-reference (GPL-2+)
    licences,   what tests/reference/text.py reads: base-files, which everyone may copy verbatim, and
    reference   the language reference in Python (PSF-2.0), whose words follow the installed Python: a
                digest that is not the recorded one is said, and is no error
"""

import dataclasses
import gzip
import hashlib
import io
import pathlib
import struct
import subprocess
import sys
import tarfile
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from tests.reference import text as reference  # noqa: E402 (the path comes first)

TEXT_BYTES = 64 << 10
TEXT_BYTES_MIN = 40 << 10  # 8,192 tokens and some
NOVELS = ("emma", "mansfield-park", "northanger-abbey", "persuasion", "pride-and-prejudice",
          "sense-and-sensibility")  # in the order of the package's data file


@dataclasses.dataclass(frozen=True)
class Package:
    file: str
    size: int
    sha256: str

    def read(self, folder):
        data = (folder / self.file).read_bytes()
        if len(data) != self.size or hashlib.sha256(data).hexdigest() != self.sha256:
            sys.exit(f"{self.file}: not the package that this benchmark knows; without the file it is fetched anew")
        return data

    def member(self, folder, name):
        self.read(folder)
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", folder / self.file], check=True,
                             stdout=subprocess.PIPE, timeout=60).stdout
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            data = archive.extractfile(name).read()
        return gzip.decompress(data) if name.endswith(".gz") else data


AUSTEN = Package("r-cran-janeaustenr_1.0.0-1_all.deb", 1626392,
                 "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95")
POLICY = Package("debian-policy_4.6.2.0_all.deb", 2300356,
                 "ef9d01b625c3b87c3a845c2cd1b66f1a16e9240b2b9e5bee53472a00e8457a39")
DEVELOPERS = Package("developers-reference_12.18_all.deb", 1117500,
                     "0dba82f6fa16e373f2a84ad07e7971aa9264ad2e7d2ae46b37edbc9c5fd57e2e")


def novel(packages, name):
    """One value of an R data file: a 4-byte length, then zlib; its strings are the novel's lines."""
    data = AUSTEN.member(packages, "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    at = 0
    for _ in range(NOVELS.index(name) + 1):
        size = struct.unpack_from(">I", data, at)[0]
        stream = zlib.decompressobj()
        value = stream.decompress(data[at + 4:])
        at = len(data) - len(stream.unused_data)
        assert len(value) == size, name
    return "\n".join(strings(value))


def strings(value):
    """Of R's XDR serialisation, version 3: a header, one character vector, what follows it not."""
    at = 14  # "X\n", three versions
    at += 4 + struct.unpack_from(">I", value, at)[0]  # the name of the encoding
    kind, count = struct.unpack_from(">II", value, at)
    assert kind & 0xFF == 16, "not a character vector"
    at += 8
    for _ in range(count):
        kind, size = struct.unpack_from(">II", value, at)
        assert kind & 0xFF == 9, "not a string"
        yield value[at + 8:at + 8 + size].decode()
        at += 8 + size


def manual(package, member):
    return lambda packages: package.member(packages, member).decode()


def passages(*names):
    return lambda _: "\n\n".join(reference.passages()[name] for name in names)


@dataclasses.dataclass(frozen=True)
class Document:
    name: str
    read: object  # a function of the folder of packages
    skip: int  # characters: contents and prefaces
    sha256: str
    strict: bool = True  # another digest is an error


POLICY_DOC = "./usr/share/doc/debian-policy/"
DOCUMENTS = (
    Document("emma", lambda packages: novel(packages, "emma"), 2000,
             "95ebcf27afdf029348dc85fd35893190097c5a6c2ab040f03be67bc315ee1cf5"),
    Document("northanger-abbey", lambda packages: novel(packages, "northanger-abbey"), 120000,
             "e3a7ea3e9bd3b2e987fb3dc8e12324b3c1f58bac73cf948c3c97d747d2f7d92c"),
    Document("pride-and-prejudice", lambda packages: novel(packages, "pride-and-prejudice"), 300000,
             "53e092681d841cc86d06bd028fc00d0477292be21dea7bb351cad4cd04483e2b"),
    Document("debian-policy", manual(POLICY, POLICY_DOC + "policy.txt.gz"), 40000,
             "45b483368cb188890c2c1811529c6a39b3f8f2b9d1d18d3307fd42db43ef8571"),
    Document("filesystem-hierarchy", manual(POLICY, POLICY_DOC + "fhs/fhs-3.0.txt.gz"), 6000,
             "105498719b59026390fd7e469a5f01530a0d699526f679586850d367d3e2458c"),
    Document("developers-reference",
             manual(DEVELOPERS, "./usr/share/developers-reference/developers-reference.txt.gz"), 30000,
             "226d1ee45aef6582a88da84117c9f45b6781db299cb35ae411c23d1a7f2a2dcf"),
    Document("licences", passages("GPL-3", "GFDL-1.3"), 0,
             "62e8aca31a86e8297153157b6725e807d11ffce28c523bc9308aec3d5583ba94"),
    Document("python-reference", passages(*(f"python:{topic}" for topic in reference.TOPICS)), 0,
             "5d87a87ed535cb91e6a1a9751a8725e1a4c7fbb807cfa88c31d6e7885630cf44", strict=False),
)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    packages, folder = map(pathlib.Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for document in DOCUMENTS:
        words = document.read(packages)[document.skip:].encode()[:TEXT_BYTES]
        words = words.decode(errors="ignore").encode()  # the cut may go through a character
        digest = hashlib.sha256(words).hexdigest()
        if len(words) < TEXT_BYTES_MIN:
            sys.exit(f"{document.name}: {len(words)} bytes; at least {TEXT_BYTES_MIN} are needed")
        if digest != document.sha256:
            if document.strict:
                sys.exit(f"{document.name}: sha256 {digest}; this benchmark knows {document.sha256}")
            print(f"note: {document.name} is not the text of the recorded results (another version)")
        (folder / f"{document.name}.txt").write_bytes(words)
        print(f"text: {document.name} {len(words)} bytes sha256 {digest[:16]}")


if __name__ == "__main__":
    main()
