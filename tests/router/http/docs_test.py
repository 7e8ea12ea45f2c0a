"""docs/http-api.md names what the code knows: every field and every error, and no error that is none."""

import os
import pathlib
import re

PAGE = pathlib.Path(os.environ["SPIN_PAGE"]).read_text()
REQUEST = pathlib.Path(os.environ["SPIN_REQUEST"]).read_text()
ERRORS = pathlib.Path(os.environ["SPIN_ERRORS"]).read_text()


def test_fields():
    table = REQUEST[REQUEST.index("static const field_t fields[]"):]
    names = set(re.findall(r'^    \{"(\w+)"', table[:table.index("};")], re.MULTILINE))
    assert len(names) > 50
    assert not {name for name in names if f"`{name}" not in PAGE}


def test_errors():
    known = set(re.findall(r'X\(\w+, (\d+), "(\w+)", "(\w+)"\)', ERRORS))
    assert len(known) > 15
    rows = re.findall(r"^\| ([\d, ]+) \| `(\w+)` \| `(\w+)` \|", PAGE, re.MULTILINE)
    shown = {(status, kind, code) for statuses, kind, code in rows
             for status in statuses.split(", ")}
    assert known <= shown
    assert {(kind, code) for _, kind, code in shown} == {(kind, code) for _, kind, code in known}
