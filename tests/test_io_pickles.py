"""Specs of saved objects: whatever pickle stores is saved, and what is on a list is loaded."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import functools
import os
import pathlib
import pickle
import random
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import spec_classes
from pickled_classes import (
    Closing,
    Colour,
    Derived,
    Factory,
    Host,
    Layer,
    Level,
    Mode,
    Numbers,
    Point,
    Restoring,
    Slotted,
    Vocabulary,
    Watched,
    Words,
    calls,
    filled,
)
from text_files import CONTENTS, DYNET_FILES, members, small, state

import dist_dynet as dy
from dist_dynet.io import load, save


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def round_trip(folder, spec):
    save(folder / "o", [Layer(dy.ParameterCollection(), spec)])
    calls.clear()
    (layer,) = load(folder / "o", dy.ParameterCollection())
    return layer.spec


RECORD_ARRAY = np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", ">f8")])
HARMLESS = [
    {
        "a": [1, -2.5, None, True, b"x", 3 + 4j, ...],
        (1, ("x",)): {1, 2},
        frozenset([3]): range(4),
        "long": 10**400,
    },
    collections.Counter("hello"),
    collections.OrderedDict(b=1, a=2),
    collections.deque([1, 2], 5),
    collections.defaultdict(list, {"a": [1]}),
    argparse.Namespace(size=3, names=["x"]),
    types.SimpleNamespace(a=1, b="c"),
    bytearray(b"abc"),
    slice(1, None, 2),
    decimal.Decimal("1.50"),
    fractions.Fraction(-3, 7),
    pathlib.Path("a/b"),
    pathlib.PureWindowsPath("c:/x"),
    pathlib.PurePosixPath("/"),
    datetime.datetime(2020, 1, 2, 3, 4, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    datetime.date(2020, 1, 2),
    datetime.time(1, 2),
    datetime.timedelta(3, 4, 5),
    np.float32(2.5),
    np.int64(3),
    np.bool_(True),
    np.str_("ab"),
    np.float32,
    int,
    Colour.RED,
    Colour.BLUE,
    Mode.READ | Mode.RUN,
    Level.LOW,
    Point(1, [2]),
    {Point(1, 2): Level.LOW, Colour.RED: 1, Level.LOW: 2},
    Words(["a"]),
    collections.Counter(),
    [Layer, dy.rectify, dy.VanillaLSTMBuilder],
]


def as_protocol(folder, protocol, spec):
    """Loads a spec that another pickler has written."""
    save(folder / "o", [Layer(dy.ParameterCollection(), 0)])
    Path(folder, "o.meta").write_bytes(pickle.dumps((Layer, spec, "/layer/"), protocol))
    return load(folder / "o", dy.ParameterCollection())[0].spec


@pytest.mark.parametrize("protocol", ["save", *range(pickle.HIGHEST_PROTOCOL + 1)])
@pytest.mark.parametrize("spec", HARMLESS, ids=lambda s: type(s).__name__)
def test_harmless_things_are_loaded(tmp_path, spec, protocol):
    found = (
        round_trip(tmp_path, spec) if protocol == "save" else as_protocol(tmp_path, protocol, spec)
    )
    assert found == spec and type(found) is type(spec)
    if isinstance(spec, collections.defaultdict):
        assert found.default_factory is list
    if isinstance(spec, collections.deque):
        assert found.maxlen == 5
    assert not set(calls) - {"point"}
    assert "point" not in calls or protocol in (0, 1)  # comparing by == makes none


@pytest.mark.parametrize("protocol", ["save", *range(pickle.HIGHEST_PROTOCOL + 1)])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.array(["ab", "c"]),
        np.array(3.5),
        np.array([b"x"]),
        np.zeros((0, 4)),
        np.array(["a", [1], None], dtype=object),
        RECORD_ARRAY,
        np.arange(3, dtype=">i4"),
        np.array(["2020-01-02"], "M8[D]"),
        np.array([True]),
        RECORD_ARRAY.dtype,
        np.dtype("<f4"),
        np.array([5], "m8[25s]"),
    ],
    ids=lambda a: f"{getattr(a, 'dtype', a)}",
)
def test_arrays_are_loaded(tmp_path, array, protocol):
    found = (
        round_trip(tmp_path, array)
        if protocol == "save"
        else as_protocol(tmp_path, protocol, array)
    )
    if isinstance(array, np.dtype):
        assert found == array and found.__reduce__()[2] == array.__reduce__()[2]
        return
    # NumPy changes the order of bytes to the machine's
    usual = pickle.loads(pickle.dumps(array, 4 if protocol == "save" else protocol))
    assert (
        found.dtype == usual.dtype
        and found.shape == array.shape
        and found.tolist() == array.tolist()
    )
    assert found.flags.f_contiguous == array.flags.f_contiguous and found.flags.writeable


@pytest.mark.parametrize("protocol", ["save", *range(2, pickle.HIGHEST_PROTOCOL + 1)])
def test_objects_of_the_programs_classes_get_attributes_and_nothing_is_called(tmp_path, protocol):
    thing = filled(Watched, a=1)
    words = Vocabulary(["x"])
    words.itself, words.of = words, thing
    numbers, more = Numbers({"a": 1}), Factory(int, a=1)
    numbers.note = "kept"
    spec = [words, Slotted(), numbers, more, Host.Inner(), Words("ab")]
    found = (
        round_trip(tmp_path, spec) if protocol == "save" else as_protocol(tmp_path, protocol, spec)
    )
    words2, slotted, numbers2, more2, inner, list2 = found
    calls.clear()
    again = load(tmp_path / "o", dy.ParameterCollection())[0].spec[0]
    assert calls == [] and type(again) is Vocabulary and type(vars(again)["of"]) is Watched
    assert (
        words2.words == ["x"]
        and words2.itself is words2
        and object.__getattribute__(words2.of, "a") == 1
    )
    assert slotted.words == ["a"] and slotted.hidden() == 3
    assert dict(numbers2) == {"a": 1} and numbers2.note == "kept" and type(numbers2) is Numbers
    assert (
        type(more2) is Factory
        and more2["b"] == 0
        and type(inner) is Host.Inner
        and list(list2) == ["a", "b"]
    )


def test_local_variables_are_a_spec(tmp_path):
    tagger = spec_classes.example(dy.ParameterCollection())
    save(tmp_path / "o", [tagger])
    (found,) = load(tmp_path / "o", dy.ParameterCollection())
    assert type(found) is spec_classes.Tagger and found.spec["vocabulary"].words == [
        "the",
        "dog",
        "barks",
    ]
    assert found.matrix.as_array().tolist() == tagger.matrix.as_array().tolist()


def test_specs_that_dynet_has_stored_are_loaded():
    m = dy.ParameterCollection()
    (tagger,) = load(DYNET_FILES / "specs", m)
    spec = tagger.spec
    assert (
        spec["vocabulary"].numbers == {"the": 0, "dog": 1, "barks": 2}
        and spec["vocabulary"].counts["dog"] == 1
    )
    assert spec["case"] is spec_classes.Case.LOWER and spec["sizes"] == spec_classes.Sizes(2, 3)
    assert spec["options"] == {
        "rate": 0.5,
        "others": {spec_classes.Case.KEEP},
        "same": spec["vocabulary"],
    }
    assert type(spec["options"]) is collections.OrderedDict and spec["vector"].tolist() == [
        [1.5, -2]
    ]
    got = {p.name(): p for p in members(m)}
    for e in CONTENTS["specs.data"]["entries"]:
        np.testing.assert_allclose(got[e["name"]].storage(), e["v"], rtol=1e-7)


# ---- what is saved, but loaded only where that is wanted -------------------------------


NOT_ALLOWED = [
    (os.getcwd, "getcwd"),
    (functools.partial(int, base=2), "functools.partial"),
    (len, "builtins.len"),
    (Vocabulary, "Vocabulary is kept"),
    (filled(Restoring, a=1), "Restoring has a __setstate__"),
    (random.Random(1), "random.Random"),
    (as_protocol, "as_protocol"),
    (np.random.RandomState(1), "numpy.random"),
    (Path("a").joinpath, "an attribute of something is taken"),
    ({filled(Watched): 1}, "__hash__"),
    (collections.defaultdict(os.getcwd), "getcwd"),
    (collections.OrderedDict.fromkeys, "OrderedDict.fromkeys"),
    (Derived((1,)), "Derived"),
    (type(None), "builtins.type"),
]


@pytest.mark.parametrize(("spec", "named"), NOT_ALLOWED, ids=[n for _, n in NOT_ALLOWED])
def test_other_specs_are_loaded_only_if_pickle_is_allowed(tmp_path, capsys, spec, named):
    dy.settings._said.clear()
    save(tmp_path / "o", [Layer(dy.ParameterCollection(), spec)])
    assert "allow_pickle=True) is needed: in the spec of Layer" in capsys.readouterr().err
    m = small()
    before = state(m)
    with pytest.raises(RuntimeError, match=rf"o\.meta'.*{named}.*allow_pickle=True"):
        load(tmp_path / "o", m)
    with pytest.raises(RuntimeError, match=rf"o\.meta'.*{named}.*allow_pickle=True"):
        next(dy.load_generator(tmp_path / "o", m))
    assert state(m) == before
    (layer,) = load(tmp_path / "o", dy.ParameterCollection(), allow_pickle=True)
    assert type(layer.spec) is type(spec)
    (layer,) = dy.load_generator(tmp_path / "o", dy.ParameterCollection(), allow_pickle=True)
    assert type(layer.spec) is type(spec)


def test_an_object_with_del_is_refused(tmp_path):
    save(tmp_path / "o", [Layer(dy.ParameterCollection(), Closing())])
    calls.clear()
    with pytest.raises(RuntimeError, match=r"Closing has a __del__.*allow_pickle=True"):
        load(tmp_path / "o", dy.ParameterCollection())
    assert calls == []


def test_what_cannot_be_pickled_is_refused_by_save(tmp_path):
    m = small()
    w = m.parameters_list()[0]
    for spec, what in (
        (lambda x: x, "lambda"),
        ({"a": [w]}, "it holds a Parameters"),
        ((m,), "it holds a ParameterCollection"),
        (dy.ones(1), "it holds a Expression"),
        (Layer(m, 1), "it holds a"),
    ):
        with pytest.raises(TypeError, match=rf"the spec of Layer must be picklable.*{what}"):
            save(tmp_path / "o", [Layer(m, spec)])
    assert not Path(tmp_path, "o.meta").exists()


PROGRAM = """
    import os, sys
    import dynet as dy

    class Layer:
        def __init__(self, model, spec):
            self.spec, self.collection = spec, model.add_subcollection("layer")
            self.collection.add_parameters(2)

        from_spec = classmethod(lambda cls, spec, model: cls(model, spec))

        def param_collection(self):
            return self.collection

    dy.save("o", [Layer(dy.ParameterCollection(), (os.path.join, 3))])
    dy.save("p", [Layer(dy.ParameterCollection(), {"a": 3})])
    for name in "oop":
        (layer,) = dy.load(name, dy.ParameterCollection())
        print(layer.spec)
    try:
        dy.load("o", dy.ParameterCollection(), allow_pickle=False)
    except RuntimeError as error:
        print("refused:", error)
"""


def test_programs_for_dynet_load_what_dynet_loads_with_a_notice(tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, "-m", "dist_dynet.compat", "program.py"]
    job = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert job.returncode == 0, job.stderr
    lines = job.stdout.splitlines()
    assert lines[0] == lines[1] and "function join" in lines[0] and lines[2] == "{'a': 3}"
    assert "posixpath.join is named" in lines[3] and lines[3].startswith("refused: ")
    assert (
        job.stderr.count("by pickle") == 1
        and "'o.meta' made posixpath.join by pickle" in job.stderr
    )
