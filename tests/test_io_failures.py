"""Model files are written whole or not at all, and damaged ones are refused: nothing is ever half
written or half read."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import stat
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from text_files import members, refuse, small, state

import dist_dynet as dy
from dist_dynet._ffi import DTYPE
from dist_dynet.io import files, save

IO = Path(files.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"

# ---- damaged files ---------------------------------------------------------------------


def unreadable(path, m, match=None):
    """Every way of reading the file fails and changes nothing."""
    before = state(m)
    with pytest.raises(RuntimeError, match=match) as info:
        m.populate(path)
    assert os.fspath(path) in str(info.value)
    assert state(m) == before
    return str(info.value)


def test_truncation_anywhere_is_found(tmp_path):
    m = small()
    path = tmp_path / "m"
    m.save(path)
    content = path.read_bytes()
    for p in members(m):
        p.scale(2)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        unreadable(path, m)


FORMATS = {
    "load": (
        lambda m, path: dy.save(path, m.parameters_list()),
        lambda m, path: dy.load(path, m),
    ),
    "load_safetensors": (
        lambda m, path: dy.save_safetensors(m, path),
        lambda m, path: dy.load_safetensors(m, path),
    ),
}
"""{what reads a format: (what writes it, what reads it)}."""
NOT_WHOLE = {"load_generator": "yields objects before it has read those behind them"}
OF_METHODS = {"load_parameter", "save_collection", "save_parameters"}
"""What methods of collections and parameters call."""


def test_every_format_is_public_documented_and_in_the_table():
    modules = [import_module(f"dist_dynet.io.{p.stem}") for p in IO.glob("[a-z]*.py")]
    made = {
        name
        for module in modules
        for name, f in vars(module).items()
        if re.match(r"(save|load)(_|$)", name) and f.__module__ == module.__name__
    } - OF_METHODS
    missing = made - {*dy.io.__all__}
    assert not missing, f"dist_dynet/io/__init__.py: __all__ leaves out {missing}"
    unnamed = made - {*dy.__all__}
    assert not unnamed, f"dist_dynet/__init__.py: _LATER leaves out {unnamed}"
    text = "".join(path.read_text() for path in DOCS.glob("*.md"))
    unsaid = {name for name in made if f"dy.{name}" not in text and f"`{name}" not in text}
    assert not unsaid, f"docs/training.md: does not name {unsaid}"
    unlike = {name for name in made if name.startswith("load")} ^ {*FORMATS, *NOT_WHOLE}
    assert not unlike, f"FORMATS of tests/test_io_failures.py: lacks, or has too much: {unlike}"


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_every_format_that_are_cut_short_change_nothing(name, tmp_path):
    write, read = FORMATS[name]
    m, folder = small(), tmp_path / "model"
    folder.mkdir()
    write(m, folder / "m")
    for p in members(m):
        p.scale(2)
    before = state(m)
    read(small(), folder / "m")
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for length in (0, 1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises((RuntimeError, ValueError)):
                read(m, folder / "m")
            assert state(m) == before, f"{name} of {length} bytes of {path.name} changes the model"
        path.write_bytes(content)


def test_missing_line_or_number_is_named_with_its_place(tmp_path):
    m = small()
    path = tmp_path / "m"
    m.save(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for i in range(len(lines)):
        path.write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        unreadable(path, m)
    at = len(b"".join(lines[:3])) + len(lines[3])
    for line, match in (
        (b"+1.00000000e+00 \n", f"entry /b at byte {at}: there are 1 numbers where {{2}} needs 2"),
        (b"1 2 3\n", "there are 3 numbers"),
        (b"\n", "there are 0 numbers"),
        (b"+1.00000000e+00 +2.0000x000e+00 \n", "could not convert"),
        (b"1 2,\n", "could not convert"),
        (b"+1.00000000e+00 +2.0\0\0\0\0\0\0\0\0\0\0\0 \n", "could not convert"),
        (b"+1.00000000e+00 " + b"\0" * 16 + b"\n", "there are|could not convert"),
        (b"1 2_0\n", "'_'"),
        (b"+1.00000000e+00 +2.00000_00e+00 \n", "'_'"),
    ):
        path.write_bytes(b"".join(lines[:4]) + line + b"".join(lines[5:]))
        assert "/b" in unreadable(path, m, re.escape(match) if "{" in match else match)


@pytest.mark.parametrize(
    "count",
    ["-81", "x", "81.0", "0x51", "", "0", "80", "82", "40", "97", "100000", "9" * 50, "081 81"],
)
@pytest.mark.parametrize("line", [3, 5])
def test_byte_count_that_is_nonsense_is_refused_with_a_message(tmp_path, count, line):
    """No number, negative, beyond the end of the file, or within a line: of the first entry that is
    read, or the last."""
    m = dy.ParameterCollection()
    a, _, table = (
        m.add_parameters(5, name="a"),
        m.add_parameters(5, name="b"),
        m.add_lookup_parameters((1, 5), name="t"),
    )
    path = tmp_path / "m"
    m.save(path)
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = lines[line - 1].replace(b" 81 ", f" {count} ".encode())
    path.write_bytes(b"\n".join(lines))
    what = (
        rf"entry /\w+ at byte {len(b' '.join(lines[: line - 1])) + 1}: its header says that \d+"
        r" bytes follow, where 81 do"
    )
    message = unreadable(
        path,
        m,
        rf"{what}|Bad parameter specification.*byte {len(b' '.join(lines[: line - 1])) + 1}",
    )
    assert message.endswith("take another copy of the file.")
    key = "/b" if line == 3 else "/t"
    load_one = (
        dy.ParameterCollection().load_param
        if line == 3
        else dy.ParameterCollection().load_lookup_param
    )
    with pytest.raises(RuntimeError, match="take another copy of the file"):
        load_one(path, key)
    a.populate(path, "/a")  # before the damage
    assert table.shape() == (1, 5)


@pytest.mark.skipif(DTYPE.name != "float32", reason="the number fits double")
def test_number_too_large_for_float_is_refused(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"#Parameter# /a {1} 17 ZERO_GRAD\n1e39 \n")
    m = dy.ParameterCollection()
    m.add_parameters(1)
    unreadable(path, m, "too large")


@pytest.mark.parametrize(
    "header",
    [
        b"garbage",
        b"",
        b"\x80\x04\x95 pickle",
        b"#Foo# /a {1} 17 ZERO_GRAD",
        b"#Parameter# /a {1 17 ZERO_GRAD",
        b"#Parameter# /a {} 17 ZERO_GRAD",
        b"#Parameter# /a {-1} 17 ZERO_GRAD",
        b"#Parameter# /a {1,} 17 ZERO_GRAD",
        b"#Parameter# /a {1} x ZERO_GRAD",
        b"#Parameter# /a {1} 17 HALF_GRAD",
        b"#Parameter# {1} 17 ZERO_GRAD",
        b"#Parameter# /\xff {1} 17 ZERO_GRAD",
        b"#Parameter# /a {1,1,1,1,1,1,1,1,1} 17 ZERO_GRAD",
        b"#Parameter# /a {9999999999,9999999999} 17 ZERO_GRAD",
        b"#LookupParameter# /a {1,0} 17 ZERO_GRAD",
    ],
)
def test_bad_header_is_refused(header, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(header + b"\n+1.00000000e+00 \n")
    m = dy.ParameterCollection()
    m.add_parameters(1)
    unreadable(path, m, "Bad parameter specification in model")
    with pytest.raises(RuntimeError, match="Bad parameter specification"):
        m.load_param(path, "/a")
    assert len(members(m)) == 1


def test_file_of_the_other_format_is_named_with_what_reads_it(tmp_path):
    m = small()
    m.save(tmp_path / "text")
    dy.save_safetensors(m, tmp_path / "safe")
    with pytest.raises(
        RuntimeError, match=r"safe' is a safetensors file. Read it by load_safetensors\(\)."
    ):
        m.populate(tmp_path / "safe")
    with pytest.raises(
        RuntimeError,
        match=r"text' is a file in DyNet's text format. Read it by the collection's populate\(\).",
    ):
        dy.load_safetensors(m, tmp_path / "text")


def test_size_without_numbers_takes_no_memory(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"#Parameter# /a {2000000000} 17 ZERO_GRAD\n+1.00000000e+00 \n")
    with pytest.raises(RuntimeError, match="there are 1 numbers"):
        dy.ParameterCollection().load_param(path, "/a")


def test_missing_file_and_folder_cannot_be_read(tmp_path):
    m = small()
    for path in (tmp_path / "none", tmp_path / "no" / "folder", tmp_path):
        unreadable(path, m, "Could not read model from")
        with pytest.raises(RuntimeError, match="Could not read model from"):
            m.load_param(path, "/w")


# ---- writing whole or not at all -------------------------------------------------------


class Full:
    """A parameter whose numbers cannot be fetched."""

    def __init__(self, root, error):
        self._root, self.error = root, error

    def name(self):
        return "/full"

    def _values(self):
        raise self.error


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("fails", ["fsync", "replace", "write", "memory", "interrupt"])
def test_failed_save_leaves_the_old_file(fails, append, tmp_path, monkeypatch):
    m, path = small(), tmp_path / "m"
    m.save(path)
    old = path.read_bytes()
    big = dy.ParameterCollection()
    big.add_parameters((400, 1000))
    expected, cause = RuntimeError, True
    if fails in ("fsync", "replace"):
        monkeypatch.setattr(os if fails == "fsync" else Path, fails, refuse)
    elif fails == "write":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    else:
        expected, cause = (MemoryError, False) if fails == "memory" else (KeyboardInterrupt, False)
        monkeypatch.setattr(big, "lookup_parameters_list", lambda: [Full(big._root, expected())])
    try:
        with pytest.raises(expected) as info:
            big.save(path, append=append)
    finally:
        if fails == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if cause:
        assert "could not write" in str(info.value)
        assert str(path) in str(info.value)
        assert isinstance(info.value.__cause__, OSError)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [PermissionError(1, "not permitted"), KeyboardInterrupt()])
def test_of_two_files_both_get_their_names_or_none(
    error, when, links, is_new, tmp_path, monkeypatch
):
    """The second one cannot have its own, or Ctrl-C comes before that, or right after the first.
    Without second names of files (links) only what is new can be taken back."""
    names = tmp_path / "m.data", tmp_path / "m.meta"
    if not is_new:
        for name in names:
            name.write_bytes(b"old")
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    replace, turns = Path.replace, iter(range(1, 9))

    def interrupted(self, target):
        turn = next(turns)
        if turn == 1 and when == "after":
            replace(self, target)
            raise error
        if turn == 2 and when == "before":
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    # the name is in place: the answer was lost
    lost = isinstance(error, OSError) and when == "after"
    expected = contextlib.nullcontext() if lost else pytest.raises((RuntimeError, type(error)))
    with expected, files.atomic_writes(names) as open_files:
        for file in open_files:
            file.write(b"new")
    found = [name.read_bytes() if name.exists() else None for name in names]
    if lost:
        assert found == [b"new", b"new"]
    elif is_new:
        assert found == [None, None]
    elif links:
        assert found == [b"old", b"old"]
    assert {*tmp_path.iterdir()} <= {*names}


def test_what_comes_last_may_refuse_a_file_that_is_on_the_disk(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"old")

    def last():
        (draft,) = {*tmp_path.iterdir()} - {path}
        assert (draft.read_bytes(), path.read_bytes()) == (b"new", b"old")
        raise LookupError("not now")

    with pytest.raises(LookupError, match="not now"), files.atomic_write(path, last=last) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


def test_places_that_cannot_be_written_are_refused(tmp_path):
    m = small()
    occupied = tmp_path / "file"
    occupied.write_text("x")
    for path in (
        tmp_path / "no" / "folder",
        tmp_path,
        occupied / "below",
        tmp_path / ("n" * 300),
        "/dev/full",
    ):
        with pytest.raises(RuntimeError, match="could not write"):
            m.save(path)
    assert list(tmp_path.iterdir()) == [occupied]
    m.save("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_append_to_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "m"
    small().save(path)
    content = path.read_bytes()[:-5]
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match="cut short"):
        small().save(path, append=True)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_append_adds_and_makes(tmp_path):
    m, path = small(), tmp_path / "m"
    m.save(path, "/a", append=True)
    first = path.read_bytes()
    m.save(path, "/b", append=True)
    assert path.read_bytes() == first + first.replace(b" /a/", b" /b/")
    m.populate(path, "/b")


SAVES = """
import resource
import sys
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

path, size = sys.argv[1], 20_000_000
m = dy.ParameterCollection()
dy.save_safetensors(m, path)  # what it imports
m.add_parameters(size, init=0.5)
value = np.dtype(DTYPE).itemsize * size
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(value * {copies})
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    dy.save_safetensors(m, path)
except MemoryError:
    print("none")
else:
    print(Path(path).stat().st_size >= value)
"""


@pytest.mark.parametrize("copies, printed", [(0.5, "none"), (1.5, "True")])
def test_saving_out_of_memory_raises_and_needs_memory_for_one_copy(copies, printed, tmp_path):
    """The process was ended, and three copies were needed."""
    program = SAVES.format(copies=copies)
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "m"], capture_output=True, text=True
    )
    assert (run.stdout.strip(), run.stderr) == (printed, "")


def test_links_and_permissions_are_kept(tmp_path):
    m, path, link = small(), tmp_path / "m", tmp_path / "link"
    path.touch()
    path.chmod(0o640)
    link.symlink_to(path)
    m.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    m.populate(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the rights of root")
def test_owner_and_group_are_kept(tmp_path):
    """So that they can still read what root has saved."""
    path = tmp_path / "m"
    path.touch()
    path.chmod(0o640)
    os.chown(path, 12, 34)
    for append in False, True:
        small().save(path, append=append)
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o640)


def test_save_killed_at_any_time_leaves_a_whole_file(tmp_path):
    path = tmp_path / "m"
    program = (
        "import sys, dist_dynet as dy\nm = dy.ParameterCollection(); w = m.add_parameters((300,"
        " 1000), init=1)\nm.save(sys.argv[1]); print(flush=True)\nwhile True: m.save(sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdout=subprocess.PIPE,
        cwd=Path(dy.__file__).parents[1],
    ) as process:
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.kill()
    m = dy.ParameterCollection()
    m.add_parameters((300, 1000))
    m.populate(path)


class Recorder:
    """A policy that writes or not, and remembers."""

    def __init__(self, writes):
        self._writes, self.errors = writes, []

    def writes(self, paths):
        return self._writes

    def keeps_gradients(self):
        return False

    def finished(self, error):
        self.errors.append(error)


@pytest.mark.parametrize("writes", [True, False])
def test_policy_decides_who_writes_and_is_notified_of_the_end(writes, tmp_path):
    policy = Recorder(writes)
    former = files.set_policy(policy)
    try:
        m = small()
        m.save(tmp_path / "m")
        m.save(tmp_path / "m", append=True)
        save(tmp_path / "o", m.parameters_list())
        assert policy.errors == [None] * 3
        assert sorted(p.name for p in tmp_path.iterdir()) == (
            ["m", "o.data", "o.meta"] if writes else []
        )
        with pytest.raises(ZeroDivisionError), files.atomic_write(tmp_path / "m"):
            1 / 0  # noqa: B018
        assert isinstance(policy.errors[-1], ZeroDivisionError)
        if writes:
            with pytest.raises(RuntimeError, match="could not write"):
                m.save(tmp_path)
            assert isinstance(policy.errors[-1], RuntimeError)
    finally:
        assert files.set_policy(former) is policy
