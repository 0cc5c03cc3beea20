"""Saving and loading: DyNet's files byte for byte, round trips, and that nothing is ever half written or half read."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dist_dynet as dy
from dist_dynet._ffi import DTYPE
from dist_dynet.io import files, save

DYNET_FILES = Path(__file__).parent / "data" / "dynet_files"
CONTENTS = json.loads((DYNET_FILES / "contents.json").read_text())
MODELS = sorted(name for name in CONTENTS if name.endswith(".model"))
ENOSPC = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def model_of(entries):
    """A collection with the dims of these entries."""
    m = dy.ParameterCollection()
    for e in entries:
        if e["tag"] == "Parameter":
            m.add_parameters(tuple(e["dim"]), init=0)
        else:
            m.add_lookup_parameters((e["dim"][-1], *e["dim"][:-1]), init=0)
    return m


def members(m):
    return [*m.parameters_list(), *m.lookup_parameters_list()]


def exact(*things):
    """Rounds the values to what nine digits hold exactly in either build."""
    for p in things:
        p.storage()[:] = np.round(p.storage() * 64) / 64


def state(m):
    return [(p.name(), p.shape(), p.has_gradient(), p.storage().tobytes(), p._flat_gradient().tobytes()) for p in members(m)]


def small():
    """A model with a gradient: /w (2, 3), /b (2,), table /sub/E (4, 2)."""
    m = dy.ParameterCollection()
    w, b = m.add_parameters((2, 3), name="w"), m.add_parameters(2, name="b")
    e = m.add_subcollection("sub").add_lookup_parameters((4, 2), name="E")
    w._set_flat_gradient(np.arange(6, dtype=DTYPE))
    e._set_flat_gradient(np.array([0, 0, 1, 2, 0, 0, 3, 0], DTYPE))
    assert b.has_gradient() is False
    exact(w, b, e)
    return m


# ---- files of DyNet ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MODELS, "objects.data"])
def test_file_of_dynet_loaded_by_name_and_saved_is_identical(name, tmp_path):
    entries = CONTENTS[name]["entries"]
    m = dy.ParameterCollection()
    out = tmp_path / "out"
    for e in entries:
        p = (m.load_param if e["tag"] == "Parameter" else m.load_lookup_param)(DYNET_FILES / name, e["name"])
        assert p.name() == e["name"]
        np.testing.assert_allclose(p.storage(), e["v"], rtol=1e-7)
        assert p.has_gradient() == (e["grad"] is not None)
        np.testing.assert_allclose(p._flat_gradient(), e["grad"] or np.zeros(len(e["v"])), rtol=1e-7)
        p.save(out, append=True)
    assert out.read_bytes() == (DYNET_FILES / name).read_bytes()


@pytest.mark.parametrize("name", MODELS)
def test_file_of_dynet_populates_a_collection(name):
    entries = CONTENTS[name]["entries"]
    m = model_of(entries)
    m.populate(DYNET_FILES / name)
    expected = [e for tag in ("Parameter", "LookupParameter") for e in entries if e["tag"] == tag]
    for p, e in zip(members(m), expected, strict=True):
        np.testing.assert_allclose(p.storage(), e["v"], rtol=1e-7)


def nested():
    """The model that subcollections.model, subcollection.model and keyed.model were saved from, with its subcollection."""
    m = dy.ParameterCollection()
    m.add_parameters(2, name="w")
    s = m.add_subcollection("enc")
    s.add_lookup_parameters((2, 2), name="emb")
    s.add_parameters((2, 2))
    s.add_subcollection().add_parameters((1, 2), name="u")
    m.add_subcollection("enc").add_parameters(2)
    m.add_lookup_parameters((3, 1), name="last")
    return m, s


def test_collections_and_keys_save_as_dynet_does(tmp_path):
    m, s = nested()
    m.populate(DYNET_FILES / "subcollections.model")
    m.save(tmp_path / "subcollections.model")
    s.save(tmp_path / "subcollection.model")
    m.save(tmp_path / "keyed.model", name="/foo")
    s.save(tmp_path / "keyed.model", name="/bar/", append=True)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (DYNET_FILES / path.name).read_bytes()


def test_key_chooses_entries_by_their_beginning():
    m, s = nested()
    m.populate(DYNET_FILES / "keyed.model", key="/foo")
    before = state(s)
    for p in members(s):
        p.zero()
    s.populate(DYNET_FILES / "keyed.model", key="/bar/")
    assert state(s) == before
    with pytest.raises(RuntimeError, match=r"Too many parameters to load in populated model at /bar/_0"):
        m.populate(DYNET_FILES / "keyed.model")
    with pytest.raises(RuntimeError, match=r"loaded from file \(0/0\) did not match number to be populated \(4/2\)"):
        m.populate(DYNET_FILES / "keyed.model", key="/baz")


# ---- round trips ---------------------------------------------------------------------------------------------------------------------

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
ARRAYS = hnp.arrays(np.float32, SHAPES, elements=FLOATS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ARRAYS, st.booleans(), st.booleans()), max_size=4))
def test_round_trip_keeps_every_number(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("round") / "m"
    m = dy.ParameterCollection()
    for i, (array, is_table, with_gradient) in enumerate(arrays):
        if is_table and array.ndim > 1:
            p = m.add_lookup_parameters(array.shape, init=0, name=f"n{i}")
        else:
            p = m.add_parameters(array.shape, init=0, name=f"n{i}")
        p.storage()[:] = array.ravel()
        p._set_flat_gradient(array.ravel()[::-1].astype(DTYPE) if with_gradient else None)
    m.save(path)
    content = path.read_bytes()

    copy = dy.ParameterCollection()
    for p in m.parameters_list():
        copy.add_parameters(p.shape(), init=7, name=p.name()[1:])._set_flat_gradient(np.ones(p.storage().size, DTYPE))
    for p in m.lookup_parameters_list():
        copy.add_lookup_parameters(p.shape(), init=7, name=p.name()[1:])
    copy.populate(path)
    for p, q in zip(members(m), members(copy), strict=True):
        np.testing.assert_array_equal(p.storage().astype(np.float32), q.storage().astype(np.float32))
        np.testing.assert_array_equal(p._flat_gradient().astype(np.float32), q._flat_gradient().astype(np.float32))
        assert p.has_gradient() == q.has_gradient()
    copy.save(path)
    assert path.read_bytes() == content

    offset = 0  # BYTES leads from entry to entry whatever the numbers
    while offset < len(content):
        end = content.index(b"\n", offset) + 1
        assert content[offset : offset + 1] == b"#"
        offset = end + int(content[offset:end].split()[3])
    assert offset == len(content)


@pytest.mark.skipif(DTYPE.name != "float64", reason="float32 has no exponents of three digits")
def test_bytes_count_exponents_of_three_digits(tmp_path):
    m = dy.ParameterCollection()
    a = m.add_parameters(4, init=np.array([1e300, -9.999999999e99, 1e-200, 1.0]), name="a")
    m.save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == (
        b"#Parameter# /a {4} 68 ZERO_GRAD\n+1.00000000e+300 -1.00000000e+100 +1.00000000e-200 +1.00000000e+00 \n"
    )
    m.populate(tmp_path / "m")
    assert a.as_array().tolist() == [1e300, -1e100, 1e-200, 1.0]


def test_wrong_bytes_of_dynet_for_nan_do_not_hide_later_entries(tmp_path):
    path = tmp_path / "nan.model"
    # the overshoot of 11 a number lands within the second entry, or exactly on the third
    second = b"#Parameter# /b {1} 17 ZERO_GRAD\n" + b"+1.00000000e+00 \n"
    third = b"#Parameter# /c {2} 33 ZERO_GRAD\n" + b"+2.00000000e+00 +3.00000000e+00 \n"
    for line, claim in ((b"+nan +inf ", 33), (b"-nan -inf ", 11 + len(second))):
        path.write_bytes(b"#Parameter# /a {2} %d ZERO_GRAD\n%s\n" % (claim, line) + second + third)
        m = dy.ParameterCollection()
        a, b, c = (m.load_param(path, key) for key in ("/a", "/b", "/c"))
        assert np.isnan(a.as_array()[0])
        assert np.isinf(a.as_array()[1])
        assert (b.as_array().tolist(), c.as_array().tolist()) == ([1.0], [2.0, 3.0])
        m.populate(path)
        assert c.as_array().tolist() == [2.0, 3.0]


def test_any_spelling_of_numbers_is_read(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"#Parameter# /a {4} 1 ZERO_GRAD\r\n1 -.5\t+2e0 3.25E-1\r\n#Parameter# /old {1} 99\n1\n2\n")
    m = dy.ParameterCollection()
    np.testing.assert_allclose(m.load_param(path, "/a").as_array(), [1, -0.5, 2, 0.325], rtol=1e-7)
    old = m.load_param(path, "/old")  # no flag: a line of gradients follows
    assert (old.as_array().tolist(), old.grad_as_array().tolist()) == ([1.0], [2.0])


def test_populate_restores_gradients_and_clears_others(tmp_path):
    m = small()
    m.save(tmp_path / "m")
    before = state(m)
    w, b = m.parameters_list()
    m.reset_gradients()
    b._set_flat_gradient(np.ones(2, DTYPE))
    m.populate(tmp_path / "m")
    assert state(m) == before
    assert m.lookup_parameters_list()[0].touched_rows().tolist() == [1, 3]
    w.set_updated(False)
    m.populate(tmp_path / "m")
    assert not w.has_gradient()


def test_populate_is_seen_by_the_next_graph(tmp_path):
    m = dy.ParameterCollection()
    w = m.add_parameters(2, init=1)
    m.save(tmp_path / "m")
    w.scale(3)
    dy.renew_cg()
    assert (w + 0).value() == [3, 3]
    m.populate(tmp_path / "m")
    dy.renew_cg()
    assert (w + 0).value() == [1, 1]


def test_no_numbers_and_no_parameters(tmp_path):
    m = dy.ParameterCollection()
    m.save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == b""
    m.populate(tmp_path / "m")
    m.add_parameters((0,), init=0)
    m.save(tmp_path / "m")
    m.populate(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == b"#Parameter# /_0 {0} 1 ZERO_GRAD\n\n"


# ---- keys ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["/", "a b", "a#b", "a\tb", "a\nb"])
def test_bad_key_of_a_parameter_is_refused(key, tmp_path):
    with pytest.raises(ValueError, match="Key could not include ' ' or '#'"):
        small().parameters_list()[0].save(tmp_path / "m", key)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/", "//", "foo", "/f oo", "/f#"])
def test_bad_name_of_a_collection_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="Key should start with '/'"):
        small().save(tmp_path / "m", name)
    assert not list(tmp_path.iterdir())


def test_parameter_entries_go_by_exact_name_and_kind(tmp_path):
    m = small()
    path = tmp_path / "m"
    w, b = m.parameters_list()
    (table,) = m.lookup_parameters_list()
    w.save(path, "any:key")
    table.save(path, "any:key", append=True)
    b.save(path, append=True)
    other = dy.ParameterCollection()
    assert other.load_lookup_param(path, "any:key").shape() == (4, 2)
    assert other.add_subcollection("s").load_param(path, "/b").name() == "/b"
    for call in (lambda: other.load_lookup_param(path, "/b"), lambda: b.populate(path, "/c"), lambda: table.populate(path)):
        with pytest.raises(RuntimeError, match="Could not find key"):
            call()
    with pytest.raises(RuntimeError, match=r"Dimensions of parameter any:key looked up from file \(\{2,3\}\) do not match .* \(\{2\}\)"):
        b.populate(path, "any:key")
    with pytest.raises(ValueError, match="non-empty key"):
        other.load_param(path, "")
    w.populate(path, "any:key")
    b.populate_from_textfile(path)


def test_counts_and_dims_of_a_collection_must_agree(tmp_path):
    path = tmp_path / "m"
    small().save(path)

    def model(parameters, tables):
        m = dy.ParameterCollection()
        for dims in parameters:
            m.add_parameters(dims)
        for dims in tables:
            m.add_lookup_parameters(dims)
        return m

    for parameters, tables, message in (
        ([(2, 3)], [(4, 2)], "Too many parameters to load in populated model at /b"),
        ([(2, 3), 2], [], "Too many lookup parameters in populated model at /sub/E"),
        ([(2, 3), 2, 2], [(4, 2)], r"loaded from file \(2/1\) did not match number to be populated \(3/1\)"),
        ([(2, 3), 3], [(4, 2)], r"Dimensions of parameter /b looked up from file \(\{2\}\) do not match parameters to be populated \(\{3\}\)"),
        ([(2, 3), 2], [(2, 4)], r"Dimensions of parameter /sub/E"),
    ):
        m = model(parameters, tables)
        before = state(m)
        with pytest.raises(RuntimeError, match=message):
            m.populate(path)
        assert state(m) == before


# ---- damaged files -------------------------------------------------------------------------------------------------------------------


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
        b"#LookupParameter# /a {1} 17 ZERO_GRAD",
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


# ---- writing whole or not at all -----------------------------------------------------------------------------------------------------


def refuse(*args, **kwargs):
    raise ENOSPC


class Full:
    """A parameter whose numbers cannot be fetched."""

    def __init__(self, error):
        self.error = error

    def name(self):
        return "/full"

    def storage(self):
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
        monkeypatch.setattr(os, fails, refuse)
    elif fails == "write":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    else:
        expected, cause = (MemoryError, False) if fails == "memory" else (KeyboardInterrupt, False)
        monkeypatch.setattr(big, "lookup_parameters_list", lambda: [Full(expected())])
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


def test_places_that_cannot_be_written_are_refused(tmp_path):
    m = small()
    occupied = tmp_path / "file"
    occupied.write_text("x")
    for path in (tmp_path / "no" / "folder", tmp_path, occupied / "below", tmp_path / ("n" * 300), "/dev/full"):
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


def test_links_and_permissions_are_kept(tmp_path):
    m, path, link = small(), tmp_path / "m", tmp_path / "link"
    path.touch()
    path.chmod(0o640)
    link.symlink_to(path)
    m.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    m.populate(path)


def test_save_killed_at_any_time_leaves_a_whole_file(tmp_path):
    path = tmp_path / "m"
    program = (
        "import sys, dist_dynet as dy\nm = dy.ParameterCollection(); w = m.add_parameters((300, 1000), init=1)\n"
        "m.save(sys.argv[1]); print(flush=True)\nwhile True: m.save(sys.argv[1])"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, cwd=Path(dy.__file__).parents[1]) as process:
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

    def writes(self):
        return self._writes

    def finished(self, error):
        self.errors.append(error)


@pytest.mark.parametrize("writes", [True, False])
def test_policy_decides_who_writes_and_hears_of_the_end(writes, tmp_path):
    policy = Recorder(writes)
    former = files.set_policy(policy)
    try:
        m = small()
        m.save(tmp_path / "m")
        m.save(tmp_path / "m", append=True)
        save(tmp_path / "o", m.parameters_list())
        assert policy.errors == [None] * 3
        assert sorted(p.name for p in tmp_path.iterdir()) == (["m", "o.data", "o.meta"] if writes else [])
        with pytest.raises(ZeroDivisionError), files.atomic_write(tmp_path / "m"):
            1 / 0  # noqa: B018
        assert isinstance(policy.errors[-1], ZeroDivisionError)
        if writes:
            with pytest.raises(RuntimeError, match="could not write"):
                m.save(tmp_path)
            assert isinstance(policy.errors[-1], RuntimeError)
    finally:
        assert files.set_policy(former) is policy
