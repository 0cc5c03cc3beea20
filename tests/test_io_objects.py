"""Saving and loading builders and parameters in one go."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from text_files import CONTENTS, DYNET_FILES, exact, members, refuse, small, state

import dist_dynet as dy
from dist_dynet._ffi import DTYPE
from dist_dynet.io import load, load_generator, objects, save


class Affine:
    """A layer of a user's program."""

    def __init__(self, model, size, act=dy.tanh, fails=False):
        self.collection = model.add_subcollection("affine")
        self.w = self.collection.add_parameters((size, size))
        self.e = self.collection.add_lookup_parameters((3, size))
        exact(self.w, self.e)
        self.spec = size, act, fails
        if fails == "now":
            raise ZeroDivisionError

    @classmethod
    def from_spec(cls, spec, model):
        size, act, fails = spec
        return cls(model, size, act, "now" if fails else False)

    def param_collection(self):
        return self.collection


class Plain:
    """Not a builder."""


@pytest.fixture
def other_builders(monkeypatch):
    """Stands in for builders in objects.meta that this version may not have."""

    def stand_in(name, shapes):
        def make(cls, spec, model):
            builder = cls()
            builder.spec, builder.collection = spec, model.add_subcollection(name)
            for shape in shapes:
                builder.collection.add_parameters(shape)
            return builder

        return type(
            name,
            (),
            {"from_spec": classmethod(make), "param_collection": lambda self: self.collection},
        )

    square = [(2, 2), (2, 2), 2]
    for name, collection, shapes in (
        ("SimpleRNNBuilder", "simple-rnn-builder", square),
        ("GRUBuilder", "gru-builder", square * 3),
    ):
        if not hasattr(dy, name):
            monkeypatch.setattr(dy, name, stand_in(collection, shapes), raising=False)


@pytest.mark.usefixtures("other_builders")
def test_objects_of_dynet_are_loaded():
    m = dy.ParameterCollection()
    loaded = load(DYNET_FILES / "objects", m)
    expected = CONTENTS["objects.data"]["objects"]
    assert len(loaded) == len(expected)
    assert isinstance(loaded[0], dy.VanillaLSTMBuilder)
    assert isinstance(loaded[3], dy.BiRNNBuilder)
    for thing, e in zip(loaded, expected, strict=True):
        assert (
            e.get("collection", e.get("name"))
            == (thing.param_collection() if "spec" in e else thing).name()
        )
    got = {p.name(): p for p in members(m)}
    for e in CONTENTS["objects.data"]["entries"]:
        np.testing.assert_allclose(got[e["name"]].storage(), e["v"], rtol=1e-7)


def test_objects_of_dynet_are_saved_as_dynet_saves_them(tmp_path):
    save(tmp_path / "o", load(DYNET_FILES / "objects", dy.ParameterCollection()))
    for suffix in (".data", ".meta"):
        assert (tmp_path / f"o{suffix}").read_bytes() == (
            DYNET_FILES / f"objects{suffix}"
        ).read_bytes()


def test_operations_are_stored_under_dynets_names_and_other_classes_under_their_own(tmp_path):
    save(tmp_path / "o", [Affine(dy.ParameterCollection(), 2, dy.rectify)])
    meta = (tmp_path / "o.meta").read_bytes()
    assert b"_dynet\x94\x8c\x07rectify" in meta and b"dist_dynet" not in meta
    assert (
        Affine.__module__.encode() in meta
        and type(load(tmp_path / "o", dy.ParameterCollection())[0]) is Affine
    )


def test_missing_class_is_named_and_nothing_is_added(monkeypatch):
    monkeypatch.delattr(dy, "GRUBuilder", raising=False)
    m = dy.ParameterCollection()
    with pytest.raises(RuntimeError, match=r"objects\.meta.*RNNBuilder|objects\.meta.*GRUBuilder"):
        load(DYNET_FILES / "objects", m)
    assert members(m) == []


def test_objects_round_trip(tmp_path):
    m = dy.ParameterCollection()
    w, e = m.add_parameters((2, 3), name="w"), m.add_lookup_parameters((3, 2), name="emb")
    things = [
        dy.VanillaLSTMBuilder(2, 3, 4, m),
        w,
        Affine(m, 2, dy.rectify),
        e,
        dy.BiRNNBuilder(1, 2, 4, m, dy.VanillaLSTMBuilder),
        dy.VanillaLSTMBuilder(1, 3, 4, m),
    ]
    w._set_flat_gradient(np.arange(6, dtype=DTYPE))
    exact(*members(m))
    save(tmp_path / "o", things)
    other = dy.ParameterCollection()
    loaded = load(os.fspath(tmp_path / "o"), other)
    assert [type(t) for t in loaded] == [type(t) for t in things]
    for old, new in zip(things, loaded, strict=True):
        if isinstance(old, dy.Parameters | dy.LookupParameters):
            assert (old.name(), old.shape(), old.storage().tobytes()) == (
                new.name(),
                new.shape(),
                new.storage().tobytes(),
            )
        else:
            assert old.spec == new.spec
            assert state(old.param_collection()) == state(new.param_collection())
    assert loaded[1].grad_as_array().tolist() == w.grad_as_array().tolist()
    save(tmp_path / "p", loaded)
    for suffix in (".data", ".meta"):
        assert (tmp_path / f"o{suffix}").read_bytes() == (tmp_path / f"p{suffix}").read_bytes()


class Encoder(dy.VanillaLSTMBuilder):
    """A builder's subclass with arguments of its own."""

    def __init__(self, model):
        super().__init__(1, 2, 3, model)


class Reader(dy.GRUBuilder):
    """One with the builder's arguments."""


def test_subclasses_of_builders_are_loaded(tmp_path):
    m = dy.ParameterCollection()
    encoder, reader = Encoder(m), Reader(1, 2, 3, m)
    exact(*members(m))
    save(tmp_path / "x", [encoder, reader])
    encoder2, reader2 = load(tmp_path / "x", dy.ParameterCollection())
    assert (type(encoder2), type(reader2)) == (dy.VanillaLSTMBuilder, Reader)
    x = dy.ones(2)
    for a, b in ((encoder, encoder2), (reader, reader2)):
        assert (
            a.initial_state().add_input(x).output().value()
            == b.initial_state().add_input(x).output().value()
        )


class Passing(dy.BiRNNBuilder):
    """One that takes whatever the builder takes."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.made = True


class Naming(dy.BiRNNBuilder):
    """One that names the builder's arguments, and one more."""

    def __init__(
        self,
        num_layers,
        input_dim,
        hidden_dim,
        model,
        rnn_builder_factory,
        builder_layers=None,
        n=1,
    ):
        super().__init__(
            num_layers, input_dim, hidden_dim, model, rnn_builder_factory, builder_layers
        )
        self.made = n


class Needing(dy.BiRNNBuilder):
    """One that cannot be made of the builder's arguments."""

    def __init__(self, *given, n):
        super().__init__(*given)
        self.made = n


class Choosing(dy.BiRNNBuilder):
    """One with fewer arguments."""

    def __init__(self, num_layers, input_dim, hidden_dim, model):
        super().__init__(num_layers, input_dim, hidden_dim, model, dy.GRUBuilder)


class Turning(dy.BiRNNBuilder):
    """One with the same arguments in another order."""

    def __init__(self, num_layers, input_dim, hidden_dim, rnn_builder_factory, model, *rest):
        super().__init__(num_layers, input_dim, hidden_dim, model, rnn_builder_factory, *rest)


def test_subclasses_of_birnn_builder_are_loaded_if_they_take_its_arguments(tmp_path):
    """As in DyNet, where the others cannot be loaded."""
    m = dy.ParameterCollection()
    made = [
        Passing(1, 2, 4, m, dy.GRUBuilder),
        Naming(1, 2, 4, m, dy.GRUBuilder),
        Needing(1, 2, 4, m, dy.GRUBuilder, n=1),
        Choosing(1, 2, 4, m),
        Turning(1, 2, 4, dy.GRUBuilder, m),
    ]
    save(tmp_path / "x", made)
    loaded = load(tmp_path / "x", dy.ParameterCollection())
    assert [type(thing) for thing in loaded] == [Passing, Naming, *[dy.BiRNNBuilder] * 3]
    assert loaded[0].made is True and loaded[1].made == 1


class Projected(dy.VanillaLSTMBuilder):
    """One with a parameter of its own."""

    def __init__(self, model):
        super().__init__(1, 2, 3, model)
        self.projection = self.param_collection().add_parameters((3, 3))


class Respecified(Projected):
    """The same with a spec that makes it again."""

    @classmethod
    def from_spec(cls, spec, model):
        return cls(model)


def test_no_parameter_of_a_subclass_is_lost(tmp_path):
    m = dy.ParameterCollection()
    save(tmp_path / "x", [Projected(m), m.add_parameters(2)])
    target = dy.ParameterCollection()
    words = (
        r"load: VanillaLSTMBuilder.from_spec\(\) must make all parameters that"
        r" '/vanilla-lstm-builder/' had in the file; got none for entry 3,.* needs a from_spec"
    )
    with pytest.raises(RuntimeError, match=words):
        load(tmp_path / "x", target)
    assert not target.parameters_list()
    old = Respecified(m)
    exact(old.projection)
    save(tmp_path / "x", [old, m.add_parameters(2)])
    new, _ = load(tmp_path / "x", dy.ParameterCollection())
    assert type(new) is Respecified
    assert new.projection.storage().tobytes() == old.projection.storage().tobytes()


def test_objects_of_equal_names_are_kept_apart(tmp_path):
    models = [dy.ParameterCollection() for _ in range(3)]
    things = [Affine(m, 2) for m in models] + [
        m.load_param(saved(m, tmp_path), "/affine/_0") for m in models
    ]
    save(tmp_path / "o", things)
    loaded = load(tmp_path / "o", dy.ParameterCollection())
    for old, new in zip(things[:3], loaded[:3], strict=True):
        assert (old.w.storage() == new.w.storage()).all()
        assert (old.e.storage() == new.e.storage()).all()
    for old, new in zip(things[3:], loaded[3:], strict=True):
        assert (old.storage() == new.storage()).all()


def saved(m, folder):
    m.save(folder / "one")
    return folder / "one"


def test_entries_in_another_order_are_found(tmp_path):
    m = dy.ParameterCollection()
    a, b = Affine(m, 2), m.add_parameters(3, name="b", init=0.25)
    save(tmp_path / "o", [a, b])
    b.save(tmp_path / "o.data")
    a.collection.save(tmp_path / "o.data", append=True)
    a2, b2 = load(tmp_path / "o", dy.ParameterCollection())
    assert a2.w.storage().tobytes() == a.w.storage().tobytes()
    assert b2.storage().tobytes() == b.storage().tobytes()


def test_generator_makes_objects_one_by_one(tmp_path):
    m = small()
    save(tmp_path / "o", members(m))
    other = dy.ParameterCollection()
    generator = load_generator(tmp_path / "o", other)
    assert members(other) == []
    assert next(generator).name() == "/w"
    assert len(members(other)) == 1
    assert [p.name() for p in generator] == ["/b", "/sub/E"]


def test_numpy_numbers_in_a_spec_are_kept(tmp_path):
    save(tmp_path / "o", [Affine(dy.ParameterCollection(), np.int64(2), {"a": np.arange(3.0)})])
    (affine,) = load(tmp_path / "o", dy.ParameterCollection())
    assert affine.spec[0] == 2
    assert affine.spec[1]["a"].tolist() == [0, 1, 2]


def test_objects_that_cannot_be_saved_are_named(tmp_path):
    m = small()
    save(tmp_path / "o", [])
    assert load(tmp_path / "o", m) == []
    for thing, name in (
        (m, "ParameterCollection"),
        (1, "int"),
        (Plain(), "Plain"),
        (None, "NoneType"),
    ):
        with pytest.raises(AttributeError, match=f"got {name}.*no spec"):
            save(tmp_path / "o", [m.parameters_list()[0], thing])
    for spec in (lambda x: x, m, dy.ones(1)):
        with pytest.raises(TypeError, match="the spec of Affine must be picklable"):
            save(tmp_path / "o", [Affine(m, 2, spec)])
    with pytest.raises(TypeError, match="must be a list"):
        save(tmp_path / "o", m.parameters_list()[0])
    assert (tmp_path / "o.meta").read_bytes() == b""


class Wrong(Affine):
    """As the program's author has not meant it."""

    collects, makes, is_method = (lambda self: None), (lambda made: made), True

    def __getattribute__(self, name):
        if name == "param_collection":
            collects = type(self).collects
            return (lambda: collects(self)) if type(self).is_method else collects(self)
        return super().__getattribute__(name)

    @classmethod
    def from_spec(cls, spec, model):
        return cls.makes(super().from_spec(spec, model))


def test_objects_whose_methods_return_something_else_are_named(tmp_path, monkeypatch):
    m, model = dy.ParameterCollection(), small()
    thing, before = Wrong(m, 2), state(model)
    collection = thing.collection
    calls = {
        "save": lambda: save(tmp_path / "o", [thing]),
        "load": lambda: load(tmp_path / "o", model),
    }
    for collects in (lambda _: None, lambda _: 3, lambda _: [collection], lambda _: type(m)):
        monkeypatch.setattr(Wrong, "collects", lambda _: collection)
        calls["save"]()
        files = {path: path.read_bytes() for path in tmp_path.iterdir()}
        monkeypatch.setattr(Wrong, "collects", collects)
        for name, call in calls.items():
            with pytest.raises(TypeError, match=f"^{name}: Wrong must have a method param_"):
                call()
        assert state(model) == before
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    monkeypatch.setattr(Wrong, "collects", lambda self: self.collection)
    for makes, words in (
        (lambda _: None, r"from_spec\(\) must return the object that it makes; got None"),
        (lambda _: 3, "int must have a method param_collection"),
        (lambda made: made.collection, "ParameterCollection must have a method param_collection"),
    ):
        monkeypatch.setattr(Wrong, "makes", makes)
        with pytest.raises(TypeError, match=f"^load: .*{words}"):
            load(tmp_path / "o", model)
        assert state(model) == before
    for params in (None, Affine(m, 2), "m", dy.ParameterCollection):
        for call in (load, load_generator):
            with pytest.raises(TypeError, match=r"^load: params must be a Par.*Write load\(name, "):
                call(tmp_path / "o", params)


def test_failed_save_of_objects_leaves_both_files(tmp_path, monkeypatch):
    m = small()
    save(tmp_path / "o", m.parameters_list())
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    m.parameters_list()[0].scale(2)
    for owner, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(RuntimeError, match=r"could not write '.*o\.data' and '.*o\.meta'"):
                save(tmp_path / "o", members(m))
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old


class Evil:
    """Calls a function when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_stray_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = pickle.dumps(("Parameters", "/w"))
    m = small()
    save("o", m.parameters_list()[:1])
    before = state(m)
    for content, match in (
        (pickle.dumps(Evil()), "mkdir is named"),
        (pickle.dumps((Plain, (), "/x/")), r"Plain is kept as a value"),
        (
            pickle.dumps((Affine, (2,), "/x/")).replace(b"Affine", b"Afines"),
            "this program does not have",
        ),
        (
            pickle.dumps((Affine, (2,), "/x/")).replace(
                Affine.__module__.encode(), b"x" * len(Affine.__module__)
            ),
            "Define it first",
        ),
        (pickle.dumps(("Parameters", "/w", "/w")), "must describe objects"),
        (pickle.dumps(("Foo", "/w")), "must describe objects"),
        (pickle.dumps(3), "must describe objects"),
        (b"garbage", "must be readable"),
        (good[:-1], "must be readable"),
        (good + good[:5], "object 1 at byte"),
        (good + good, "/w"),
    ):
        Path("o.meta").write_bytes(content)
        if content == good + good:  # an entry may be loaded twice
            assert [p.name() for p in load("o", dy.ParameterCollection())] == ["/w", "/w"]
            continue
        with pytest.raises(RuntimeError, match=match):
            load("o", m)
        assert state(m) == before
    assert not Path("evil").exists()


def test_failed_load_takes_out_what_it_has_added(tmp_path):
    source = dy.ParameterCollection()
    things = [source.add_parameters(2, name="p"), Affine(source, 2), Affine(source, 3)]
    save(tmp_path / "failing", [*things, Affine(source, 3, fails=True)])
    save(tmp_path / "o", things)
    root = small()
    sub = root.add_subcollection("sub")
    before = state(root), sub._counts.copy(), sub._subcollection_counts.copy()
    with pytest.raises(ZeroDivisionError):
        load(tmp_path / "failing", sub)
    data = (tmp_path / "o.data").read_bytes()
    for damaged in (
        data[:-40],
        b"",
        data.replace(b"/affine_1/", b"/unfine_1/"),
        data.replace(b"{2,2}", b"{4,1}"),
        data.replace(b"e+00", b"e+x0"),
    ):
        (tmp_path / "o.data").write_bytes(damaged)
        with pytest.raises(RuntimeError):
            load(tmp_path / "o", sub)
        assert (state(root), sub._counts, sub._subcollection_counts) == before
    for suffix in (".data", ".meta"):
        (tmp_path / f"o{suffix}").unlink()
        with pytest.raises(RuntimeError, match="Could not read model from"):
            load(tmp_path / "o", sub)
    assert (state(root), sub._counts, sub._subcollection_counts) == before
    sub.add_subcollection("affine")
    assert sub.add_parameters(1).name() == f"{sub.name()}_0"


def test_meta_file_that_is_cut_short(tmp_path):
    m = dy.ParameterCollection()
    things = [dy.LSTMBuilder(1, 2, 2, m), m.add_parameters(2), m.add_lookup_parameters((3, 2))]
    things += [dy.LSTMBuilder(1, 2, 2, dy.ParameterCollection()), things[1]]
    save(tmp_path / "z", things)
    assert len(load(tmp_path / "z", dy.ParameterCollection())) == 5
    meta = (tmp_path / "z.meta").read_bytes()
    ends = [i + 1 for i, byte in enumerate(meta) if byte == ord(".")]
    cut = 0
    for end in (0, *ends[:-1]):
        (tmp_path / "z.meta").write_bytes(meta[:end])
        target = dy.ParameterCollection()
        with pytest.raises(RuntimeError, match="load: ") as info:
            load(tmp_path / "z", target)
        cut += "must describe all that the .data file holds" in str(info.value)
        assert not target.parameters_list() and not target.lookup_parameters_list()
    assert cut == 5


def test_failed_load_draws_nothing(tmp_path):
    m = dy.ParameterCollection()
    save(tmp_path / "z", [dy.LSTMBuilder(1, 2, 2, m), m.add_parameters(2)])
    damaged = (tmp_path / "z.data").read_bytes()[:-40]
    (tmp_path / "z.data").write_bytes(damaged)
    dy.reset_random_seed(3)
    want = dy.ParameterCollection().add_parameters(4).as_array()
    dy.reset_random_seed(3)
    with pytest.raises(RuntimeError):
        load(tmp_path / "z", dy.ParameterCollection())
    with pytest.raises(RuntimeError):
        next(load_generator(tmp_path / "z", dy.ParameterCollection()))
    assert (dy.ParameterCollection().add_parameters(4).as_array() == want).all()


def test_load_waits_until_both_files_are_of_one_save(tmp_path, monkeypatch):
    """Another process saves while this one has read the first file; or always."""
    first, second = dy.ParameterCollection(), dy.ParameterCollection()
    save(tmp_path / "m", [first.add_parameters(1, init=1)])
    W, b = second.add_parameters(2, init=2), second.add_parameters(2, init=2)
    records, times = objects._records, iter(range(9))

    def saved_meanwhile(saves):
        def read(*args):
            found = records(*args)
            if next(times) in saves:
                save(tmp_path / "m", [W, b])
            return found

        return read

    monkeypatch.setattr(objects, "_records", saved_meanwhile({0}))
    loaded = load(tmp_path / "m", dy.ParameterCollection())
    assert [p.as_array().tolist() for p in loaded] == [[2, 2], [2, 2]]
    monkeypatch.setattr(objects, "_records", saved_meanwhile({*range(9)}))
    m = dy.ParameterCollection()
    with pytest.raises(RuntimeError, match=r"must stay while they are read; got another save\(\)"):
        load(tmp_path / "m", m)
    assert not m.parameters_list()
