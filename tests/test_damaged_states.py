"""A state() holds all that changes. What takes it back takes all of it or nothing: each entry of
each state is damaged in each way, and an error has a message and leaves everything as it was.

A new class with state() and load_state() gets an entry in HOLDERS. One without an entry fails
test_every_holder_of_a_state_is_here.
"""

import inspect
import pkgutil
import re
from importlib import import_module

import numpy as np
import pytest
from checkpoints import equal
from table_followers import FOLLOWERS
from table_trainers import TRAINERS

import dist_dynet as dy

GONE = object()
DAMAGES = {
    "gone": GONE,
    "nan": np.nan,
    "negative": -5,
    "broken": 2.5,
    "infinite": np.inf,
    "text": "x",
    "texts": np.array(["a", "b"]),
    "None": None,
    "two numbers": np.array([1.0, 2.0]),
    "no number": np.zeros(0),
    "an object": {"a": 1},
}


def after_steps(make):
    """What make(collection, trainer) makes, after so many steps."""

    def made(steps):
        m = dy.ParameterCollection()
        w, table = m.add_parameters((2, 3), init=1), m.add_lookup_parameters((4, 2), init=1)
        trainer = dy.AdamTrainer(m)
        holder = make(m, trainer)
        trainer = holder if hasattr(holder, "update") and hasattr(holder, "status") else trainer
        for step in range(steps):
            dy.renew_cg()
            (dy.sum_elems(w) + dy.sum_elems(table[step])).backward()
            trainer.update()
            if isinstance(holder, dy.training.Best):
                holder.update(step)
            elif isinstance(holder, dy.training.Run):
                holder.log(loss=step)
            elif hasattr(holder, "state_dict"):
                holder.step(*[1.0] * isinstance(holder, dy.schedules.Plateau))
        return holder

    return made


def shard(steps):
    batches = dy.parallel.shard(range(10), batch_size=2)
    for _ in zip(range(steps), batches, strict=False):
        pass
    return batches


HOLDERS = {
    **{name: after_steps(lambda m, t, make=row.make: make(m)) for name, row in TRAINERS.items()},
    **{n: after_steps(lambda m, t, make=row.make: make(t)) for n, row in FOLLOWERS.items()},
    "Constant": after_steps(lambda m, t: dy.schedules.Constant(t, warmup=3)),
    "Cosine": after_steps(lambda m, t: dy.schedules.Cosine(t, 10)),
    "InverseSquareRoot": after_steps(lambda m, t: dy.schedules.InverseSquareRoot(t, 3)),
    "Linear": after_steps(lambda m, t: dy.schedules.Linear(t, 10)),
    "Plateau": after_steps(lambda m, t: dy.schedules.Plateau(t)),
    "Best": after_steps(lambda m, t: dy.training.Best(m)),
    "Run": after_steps(lambda m, t: dy.training.Run(t)),
    "shard": shard,
    "DistributedTrainer": after_steps(lambda m, t: dy.parallel.DistributedTrainer(t)),
    "LocalSGD": after_steps(lambda m, t: dy.parallel.LocalSGD(t, every=2)),
}


def state_of(holder):
    if isinstance(holder, dy.training.Run):
        return {**holder.state(), "attempt": 0}  # resuming counts it up
    return holder.state_dict() if hasattr(holder, "state_dict") else holder.state()


def load(holder, state):
    if hasattr(holder, "load_state_dict"):
        holder.load_state_dict(state)
    else:
        holder.load_state(state)


NO_STATES = (None, 3, 1.5, "x", b"", [], (), {1, 2}, np.zeros(2), np.float32(1), object(), dict)
NOT_OF_A_STATE = {
    "_address": "where this process has the trainer",
    "_attempt": "resuming counts it up",
    "_calls": "how many updates this process has asked for",
    "_followed": "whom this process has notified",
    "_resumes": "that the next loop goes on from the state",
    "_shown": "what status() has said in this process",
    "_since": "the time of this process",
}


def remembered(holder):
    """{attribute: value}: all that is made of numbers, texts and arrays."""

    def is_plain(value):
        if isinstance(value, dict):
            return all(map(is_plain, value.values()))
        if isinstance(value, list | tuple):
            return all(map(is_plain, value))
        return value is None or isinstance(value, bool | int | float | str | np.ndarray)

    slots = {name for cls in type(holder).__mro__ for name in getattr(cls, "__slots__", ())}
    names = (slots | {*getattr(holder, "__dict__", ())}) - NOT_OF_A_STATE.keys()
    found = {name: getattr(holder, name) for name in names if hasattr(holder, name)}
    found = {name: value for name, value in found.items() if is_plain(value)}
    # those of a model's parameters, which are others in each copy
    return {
        name: [*value.values()] if name == "_averages" else value for name, value in found.items()
    }


@pytest.mark.parametrize("name", HOLDERS)
def test_state_holds_all_that_changes(name):
    holder, ahead = HOLDERS[name](1), HOLDERS[name](4)
    load(holder, state_of(ahead))
    got, expected = remembered(holder), remembered(ahead)
    lost = [key for key in expected if key not in got or not equal(got[key], expected[key])]
    file = type(holder).__module__.replace(".", "/")
    assert not lost, f"{file}.py: the state of a {type(holder).__name__} leaves out {lost}"


def test_every_holder_of_a_state_is_here():
    known = {of for make in HOLDERS.values() for of in type(make(1)).__mro__}
    modules = [
        import_module(found.name)
        for found in pkgutil.walk_packages(dy.__path__, "dist_dynet.")
        if not found.name.endswith("__main__")
    ]
    holders = {
        thing
        for module in modules
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and thing.__module__.startswith("dist_dynet")
        and not getattr(thing, "_is_protocol", False)
        and any(hasattr(thing, takes) for takes in ("load_state", "load_state_dict"))
    }
    assert len(holders) > 15
    missing = {thing.__qualname__ for thing in holders - known if not thing.__subclasses__()}
    assert not missing, f"give {missing} entries in HOLDERS of tests/test_damaged_states.py"


@pytest.mark.parametrize("name", HOLDERS)
def test_damaged_state_gives_a_message_and_changes_nothing(name):
    holder, whole = HOLDERS[name](1), state_of(HOLDERS[name](2))
    faults = []
    for none in NO_STATES:
        before = state_of(holder)
        with pytest.raises(
            TypeError, match=r"^[\w. ]+: takes (what|a) state(\(\) gave|_dict\(\)); "
        ):
            load(holder, none)
        assert equal(before, state_of(holder)), none
    for key in whole:
        for how, value in DAMAGES.items():
            damaged = {k: v for k, v in {**whole, key: value}.items() if v is not GONE}
            before = state_of(holder)
            try:
                load(holder, damaged)
            except (ValueError, TypeError) as error:
                if not equal(before, state_of(holder)):
                    faults.append(f"{key} {how}: changed by what was refused: {error}")
                if not re.match(r"[A-Za-z][\w. ]*: \S", str(error)):
                    faults.append(f"{key} {how}: {error!r}")
            except Exception as error:
                faults.append(f"{key} {how}: {error!r}")
            load(holder, before)
            if not equal(before, state_of(holder)):
                faults.append(f"{key} {how}: loading the state before is not enough")
    assert not faults, "\n".join(faults)
