"""Saving and loading in DyNet's text format: DyNet's files byte for byte, round trips, keys."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from text_files import CONTENTS, DYNET_FILES, members, model_of, small, state

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

MODELS = sorted(name for name in CONTENTS if name.endswith(".model"))

# ---- files of DyNet --------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MODELS, "objects.data"])
def test_file_of_dynet_loaded_by_name_and_saved_is_identical(name, tmp_path):
    entries = CONTENTS[name]["entries"]
    m = dy.ParameterCollection()
    out = tmp_path / "out"
    for e in entries:
        p = (m.load_param if e["tag"] == "Parameter" else m.load_lookup_param)(
            DYNET_FILES / name, e["name"]
        )
        assert p.name() == e["name"]
        np.testing.assert_allclose(p.storage(), e["v"], rtol=1e-7)
        assert p.has_gradient() == (e["grad"] is not None)
        np.testing.assert_allclose(
            p._flat_gradient(), e["grad"] or np.zeros(len(e["v"])), rtol=1e-7
        )
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
    """The model that subcollections.model, subcollection.model and keyed.model were saved from,
    with its subcollection."""
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


def test_key_chooses_entries_of_a_collection(tmp_path):
    m, s = nested()
    m.populate(DYNET_FILES / "keyed.model", key="/foo")
    before = state(s)
    for p in members(s):
        p.zero()
    s.populate(DYNET_FILES / "keyed.model", key="/bar/")
    assert state(s) == before
    with pytest.raises(
        RuntimeError, match=r"Too many parameters to load in populated model at /bar/_0"
    ):
        m.populate(DYNET_FILES / "keyed.model")
    with pytest.raises(
        RuntimeError, match=r"loaded from file \(0/0\) did not match number to be populated \(4/2\)"
    ):
        m.populate(DYNET_FILES / "keyed.model", key="/baz")
    alike = dy.ParameterCollection()
    parts = [alike.add_subcollection("part") for _ in range(3)]
    for number, part in enumerate(parts):
        part.add_parameters(1, init=number)
    parts[0].add_subcollection("part").add_parameters(1, init=9)
    alike.save(tmp_path / "alike")
    for key, wanted in ("/part_1", [1]), ("/part_2/", [2]), ("/part", [0, 9]), ("/part/part", [9]):
        some = dy.ParameterCollection()
        for _ in wanted:
            some.add_parameters(1)
        some.populate(tmp_path / "alike", key)
        assert [p.as_array().item() for p in some.parameters_list()] == wanted, key


# ---- round trips -----------------------------------------------------------------------

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
        copy.add_parameters(p.shape(), init=7, name=p.name()[1:])._set_flat_gradient(
            np.ones(p.storage().size, DTYPE)
        )
    for p in m.lookup_parameters_list():
        copy.add_lookup_parameters(p.shape(), init=7, name=p.name()[1:])
    copy.populate(path)
    for p, q in zip(members(m), members(copy), strict=True):
        np.testing.assert_array_equal(
            p.storage().astype(np.float32), q.storage().astype(np.float32)
        )
        np.testing.assert_array_equal(
            p._flat_gradient().astype(np.float32), q._flat_gradient().astype(np.float32)
        )
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
    assert (
        (tmp_path / "m").read_bytes()
        == b"#Parameter# /a {4} 68 ZERO_GRAD\n+1.00000000e+300 -1.00000000e+100 +1.00000000e-200 +1.00000000e+00 \n"  # noqa: E501
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
    path.write_bytes(
        b"#Parameter# /a {4} 1 ZERO_GRAD\r\n1 -.5\t+2e0 3.25E-1\r\n#Parameter# /old {1} 99\n1\n2\n"
    )
    m = dy.ParameterCollection()
    np.testing.assert_allclose(m.load_param(path, "/a").as_array(), [1, -0.5, 2, 0.325], rtol=1e-7)
    old = m.load_param(path, "/old")  # no flag: a line of gradients follows
    assert (old.as_array().tolist(), old.grad_as_array().tolist()) == ([1.0], [2.0])


@pytest.mark.parametrize("spelling", ["%+.8e ", "%.9g\t ", " %r"])
@pytest.mark.parametrize("buffer", [32, 33, 64])
def test_lines_longer_than_the_buffer_are_read(buffer, spelling, tmp_path, monkeypatch, rng):
    """Whatever number lies across the end of what is read at once."""
    monkeypatch.setattr("dist_dynet.io.text.BUFFER", buffer)
    numbers = rng.normal(size=150).tolist()
    line = "".join(spelling % x for x in numbers)
    header = f"#Parameter# /w {{3,50}} {2 * len(line) + 2} FULL_GRAD"
    (tmp_path / "m").write_text(
        f"{header}\n{line}\n{line}\n#Parameter# /last {{1}} 2 ZERO_GRAD\n7\n"
    )
    m = dy.ParameterCollection()
    w, last = m.load_param(tmp_path / "m", "/w"), m.load_param(tmp_path / "m", "/last")
    np.testing.assert_allclose(w.as_array().T.ravel(), numbers, rtol=2e-7)
    assert np.array_equal(w.grad_as_array(), w.as_array()) and last.as_array().tolist() == [7]


def test_reading_needs_little_more_memory_than_the_numbers(tmp_path):
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((20_000, 100), init=dy.NormalInitializer())
    m.save(tmp_path / "m")
    before = table.as_array()
    table.zero()
    tracemalloc.start()
    try:
        m.populate(tmp_path / "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(table.as_array(), before, rtol=1e-7)
    assert peak < 2 * before.nbytes


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


# ---- keys ------------------------------------------------------------------------------


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
    for call in (
        lambda: other.load_lookup_param(path, "/b"),
        lambda: b.populate(path, "/c"),
        lambda: table.populate(path),
    ):
        with pytest.raises(RuntimeError, match=r"Could not find key .*: (any:key|any:key, /b)\)"):
            call()
    with pytest.raises(
        RuntimeError,
        match=(
            r"Dimensions of parameter any:key looked up from file \(\{2,3\}\) do not match .*"
            r" \(\{2\}\)"
        ),
    ):
        b.populate(path, "any:key")
    with pytest.raises(ValueError, match="takes a key"):
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
        (
            [(2, 3), 2, 2],
            [(4, 2)],
            r"loaded from file \(2/1\) did not match number to be populated \(3/1\)",
        ),
        (
            [(2, 3), 3],
            [(4, 2)],
            (
                r"Dimensions of parameter /b looked up from file \(\{2\}\) do not match parameters"
                r" to be populated \(\{3\}\)"
            ),
        ),
        ([(2, 3), 2], [(2, 4)], r"Dimensions of parameter /sub/E"),
    ):
        m = model(parameters, tables)
        before = state(m)
        with pytest.raises(RuntimeError, match=message):
            m.populate(path)
        assert state(m) == before
