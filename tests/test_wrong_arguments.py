"""Wrong arguments of what reads, writes, keeps and resumes: each call with each of its arguments
replaced by something that nobody means. It works, or is an error of ours that leaves everything as
it was.

A function of these modules without a row in CALLS fails test_whatever_takes_arguments_is_there.
"""

import inspect
import os
import re
from pathlib import Path

import numpy as np
import pytest
from checkpoints import equal
from test_public_names import public_functions

import dist_dynet as dy

MODULES = (
    *("dist_dynet.io", "dist_dynet.vocabulary", "dist_dynet._best", "dist_dynet.training"),
    *("dist_dynet._entities", "dist_dynet._random_state", "dist_dynet.params.text_files"),
    *("dist_dynet.parallel.checkpoint", "dist_dynet.settings"),
)
DRAWN = 8
"""Of so many wrong things for each argument."""


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Nothing:
    pass


def wrong():
    """One of each kind, made anew, since some are used up."""
    numbers = [None, True, 0, -1, 1.5, np.nan, np.inf, -np.inf, 1 << 63, -(10**400), 1j]
    texts = ["", "a", "a b", "\ud800", "x\0", "9" * 5000, b"", b"a", Text("s"), Path("p")]
    holders = [(), [], {}, set(), [None], ["a"], [1], [[1], [2, 3]], [{}], [()], [("a",)]]
    dicts = [{"a": 1}, {1: 2}, {"\ud800": "\ud800"}, {"state": 1}, {"__array__": "a"}]
    arrays = [np.array([]), np.array(1), np.array([1, 2]), np.array(["a"]), np.array([None])]
    arrays += [np.arange(12.0).reshape(3, 4)[:, ::2], np.ma.array([1, 2], mask=[0, 1])]
    scalars = [np.float32(2), np.int64(3), np.bool_(True), Whole(2), Nothing()]
    things = [object, len, lambda: None, range(3), slice(1), ..., iter([3])]
    m = dy.ParameterCollection()
    own = [m, dy.ParameterCollection, dy.scalarInput(1), dy.SimpleSGDTrainer(m)]
    return [*numbers, *texts, *holders, *dicts, *arrays, *scalars, *things, *own]


class World:
    """What the calls are about."""

    def __init__(self, folder):
        self.folder, self.m = folder, dy.ParameterCollection()
        folder.mkdir()
        self.W = self.m.add_parameters((2, 3), name="W", init=1)
        self.E = self.m.add_lookup_parameters((4, 2), name="E", init=1)
        self.layer, self.trainer = dy.Linear(2, 3, self.m), dy.AdamTrainer(self.m)
        self.best, self.run = dy.training.Best(self.m), dy.training.Run(self.trainer)
        self.best.update(0.5)
        self.words = dy.Vocabulary(["the", "cat", "saw", "the", "cat"])
        self.checkpointer = dy.parallel.Checkpointer(folder / "run", self.m, self.trainer)
        self.checkpointer.add("best", self.best)
        self.checkpointer.save()
        dy.save(folder / "objects", [self.layer, self.W])
        dy.save_safetensors(self.m, folder / "tensors", self.trainer, random=True)
        self.m.save(folder / "text")
        self.words.save(folder / "words")
        (folder / "vectors").write_text("the 1 2\ncat 3 4\n")

    def state(self):
        """All of it, and all files."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {
            "values": {name: p.as_array() for name, p in self.m.named_parameters().items()},
            "trainer": self.trainer.state(),
            "best": self.best.state(),
            "run": self.run.state(),
            "words": self.words.spec,
            "added": [*self.checkpointer._objects],
            "settings": [dy.random_state()["seed"], self.m.get_weight_decay()],
            "files": {path: path.read_bytes() for path in files},
        }


def new(name):
    return lambda w: w.folder / name


FLAG, NOTHING = (lambda w: False), (lambda w: None)
TEXT_FILE = {"fname": new("text"), "key": lambda w: "/W"}
LOADED = {"basename": new("objects"), "params": lambda w: dy.ParameterCollection()}
CALLS = {
    "save": (dy.save, {"basename": new("o"), "objects": lambda w: [w.layer, w.W]}),
    "load": (dy.load, {**LOADED, "allow_pickle": FLAG}),
    "load_generator": (lambda **k: [*dy.load_generator(**k)], {**LOADED, "allow_pickle": FLAG}),
    "save_safetensors": (
        dy.save_safetensors,
        {
            **{"collection": lambda w: w.m, "path": new("t"), "trainer": lambda w: w.trainer},
            **{"metadata": lambda w: {"a": "b"}, "random": FLAG},
        },
    ),
    "load_safetensors": (
        dy.load_safetensors,
        {
            **{"collection": lambda w: w.m, "path": new("tensors"), "strict": FLAG},
            **{"trainer": lambda w: w.trainer, "random": FLAG},
        },
    ),
    **{
        f"ParameterCollection.{method}": (
            lambda w, of=method, **k: getattr(w.m, of)(**k),
            {"fname": new("t"), key: lambda w: "/k", "append": FLAG},
        )
        for method, key in (("save", "name"), ("write_to_textfile", "key"))
    },
    **{
        f"ParameterCollection.{method}": (
            lambda w, of=method, **k: getattr(w.m, of)(**k),
            {**TEXT_FILE, "key": lambda w: ""},
        )
        for method in ("populate", "populate_from_textfile")
    },
    **{
        f"ParameterCollection.{method}": (
            lambda of=method, **k: getattr(dy.ParameterCollection(), of)(**k),
            {**TEXT_FILE, "key": lambda w, key=key: key},
        )
        for method, key in (("load_param", "/W"), ("load_lookup_param", "/E"))
    },
    "Parameters.save": (lambda w, **k: w.W.save(**k), {**TEXT_FILE, "fname": new("t")}),
    "Parameters.populate": (lambda w, **k: w.W.populate(**k), TEXT_FILE),
    "Checkpointer.__init__": (
        dy.parallel.Checkpointer,
        {
            **{"directory": new("run"), "model": lambda w: w.m, "trainer": lambda w: w.trainer},
            **{"sampler": NOTHING, "keep": lambda w: 3, "every": NOTHING},
        },
    ),
    "Checkpointer.add": (
        lambda w, **k: w.checkpointer.add(**k),
        {"name": lambda w: "x", "obj": lambda w: w.run, "per_rank": FLAG},
    ),
    "Best.__init__": (
        lambda **k: dy.training.Best(**k).update(1),
        {"model": lambda w: w.m, "file": new("best"), "patience": NOTHING, "lower": FLAG},
    ),
    "Best.update": (lambda w, **k: w.best.update(**k), {"score": lambda w: 1}),
    "Best.load_state": (lambda w, **k: w.best.load_state(**k), {"state": lambda w: w.best.state()}),
    "Run.__init__": (
        lambda **k: dy.training.Run(**k),
        {
            "trainer": lambda w: w.trainer,
            "metrics": new("a/run"),
            "every": lambda w: 3,
            "bar": FLAG,
        },
    ),
    "Run.epoch": (
        lambda w, **k: [*zip(w.run.epoch(**k), range(3), strict=False)],
        {"batches": lambda w: [[1], [2]], "description": NOTHING},
    ),
    "Run.log": (
        lambda w, weight, loss: w.run.log(weight, loss=loss),
        {"weight": NOTHING, "loss": lambda w: 1},
    ),
    "Run.write": (lambda w, loss: w.run.write(loss=loss), {"loss": lambda w: 1}),
    "Run.load_state": (lambda w, **k: w.run.load_state(**k), {"state": lambda w: w.run.state()}),
    "Run.load_states": (
        lambda w, **k: w.run.load_states(**k),
        {"states": lambda w: [w.run.state()], "rank": lambda w: 0},
    ),
    "Vocabulary.__init__": (
        dy.Vocabulary,
        {
            **{"names": lambda w: ["a", "b"], "min_count": lambda w: 1, "max_size": NOTHING},
            **{"unknown": NOTHING, "special": lambda w: []},
        },
    ),
    "Vocabulary.ids": (lambda w, **k: w.words.ids(**k), {"names": lambda w: ["cat"]}),
    "Vocabulary.ids_with_unknown": (
        lambda w, **k: w.words.ids_with_unknown(**k),
        {
            **{"names": lambda w: ["cat"], "rng": lambda w: np.random.default_rng(1)},
            "alpha": lambda w: 0.5,
        },
    ),
    "Vocabulary.name": (lambda w, **k: w.words.name(**k), {"number": lambda w: 1}),
    "Vocabulary.from_spec": (dy.Vocabulary.from_spec, {"spec": lambda w: w.words.spec}),
    "Vocabulary.save": (lambda w, **k: w.words.save(**k), {"name": new("w")}),
    "Vocabulary.load": (dy.Vocabulary.load, {"name": new("words")}),
    "Vocabulary.vectors": (
        lambda w, **k: w.words.vectors(**k),
        {"name": new("vectors"), "seed": lambda w: 0},
    ),
    "entities": (dy.training.entities, {"tags": lambda w: ["B-A"]}),
    "entity_scores": (
        dy.training.entity_scores,
        {"gold": lambda w: [["B-A"]], "guessed": lambda w: [["O"]]},
    ),
    **{
        f"DynetParams.{name}": (
            lambda of=name, **k: getattr(dy.DynetParams(), of)(**k),
            {argument: NOTHING},
        )
        for name, method in inspect.getmembers(dy.DynetParams, inspect.isfunction)
        if not name.startswith("_")
        for argument in [*inspect.signature(method).parameters][1:2]
    },
    "set_random_state": (dy.set_random_state, {"state": lambda w: dy.random_state()}),
}
ELSEWHERE = {
    "init": "tests/test_settings.py",
    "init_from_params": "tests/test_settings.py",
    "parameter": "takes anything",
    "const_parameter": "an operation: tests/test_ops.py",
}
OURS = re.compile(r"(\[rank|[\w.]+( [\w.]+)*: \S|Could not (read|find)|Number of parameter/lookup)")
"""How messages begin; two are DyNet's own."""


def test_whatever_takes_arguments_is_there():
    taking = {
        name
        for name, f in public_functions().items()
        if f.__module__.startswith(MODULES)
        if {*inspect.signature(f).parameters} - {"self", "cls"}
    }
    missing = taking - {*CALLS, *ELSEWHERE}
    assert not missing, f"give {sorted(missing)} rows in CALLS of tests/test_wrong_arguments.py"


def message_of(error):
    return str(error.args[0] if isinstance(error, KeyError) else error)


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_work_or_are_errors_of_ours(name, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.chdir(tmp_path)
    call, arguments = CALLS[name]
    takes_world = "w" in inspect.signature(call).parameters
    draws, worlds, w, faults = dy.random_state(), 0, None, []
    for argument, good in arguments.items():
        for i in rng.permutation(len(wrong()))[:DRAWN].tolist():
            thing = wrong()[i]
            if good is FLAG and isinstance(thing, np.ndarray):
                continue  # NumPy says itself that it is neither true nor false
            if w is None:
                w, worlds = World(tmp_path / f"{worlds}"), worlds + 1
            before, shown = w.state(), f"{argument} = {type(thing).__name__} {i}"
            given = {key: make(w) for key, make in arguments.items()} | {argument: thing}
            try:
                call(**({"w": w} if takes_world else {}), **given)
                w = None  # it may be another one now
            except Exception as error:
                if not OURS.match(message_of(error)):
                    faults.append(f"{shown}: {error!r:.200}")
                if not equal(before, w.state()):
                    faults.append(f"{shown}: changed by what was refused: {error!r:.200}")
                    w = None
    dy.set_random_state(draws)
    assert not faults, "\n".join(faults)


BUILT = [
    *(dy.BiRNNBuilder, dy.VanillaLSTMBuilder, dy.GRUBuilder, dy.CRF, dy.Linear, dy.SampledSoftmax),
    *(dy.StandardSoftmaxBuilder, dy.ClassFactoredSoftmaxBuilder, dy.HierarchicalSoftmaxBuilder),
]
ITEMS = {
    "spec": {cls.__name__: cls.from_spec for cls in BUILT},
    "more": {
        "neg_log_softmax_batch": lambda wrong, m: dy.StandardSoftmaxBuilder(
            2, 3, m
        ).neg_log_softmax_batch(dy.zeros(2), wrong),
        "CRF.bio": lambda wrong, m: dy.CRF.bio(wrong),
        "CRF.from_spec": lambda wrong, m: dy.CRF.from_spec((3, wrong), m),
        "LocalSGD.load_states": lambda wrong, m: dy.parallel.LocalSGD(
            dy.SimpleSGDTrainer(m)
        ).load_states(wrong, 0),
    },
}


@pytest.mark.parametrize("kind", ITEMS)
def test_items_that_are_none_are_errors_of_ours(kind):
    for name, call in ITEMS[kind].items():
        for wrong in (None, 2, np.array(1), Nothing(), *([[3]] if kind == "spec" else [])):
            m = dy.ParameterCollection()
            with pytest.raises((TypeError, ValueError)) as caught:
                call(wrong, m)
            words = f"{name}.from_spec: takes (" if kind == "spec" else f"{name}: "
            assert str(caught.value).startswith(words), (name, wrong, caught.value)
            assert kind != "spec" or not m.parameters_list()
