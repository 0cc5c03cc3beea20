"""A fingerprint of data: the same in every process, another one for other data, with bounded work
and without the user's code."""

import array
import enum
import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from processes import PACKAGE

from dist_dynet.parallel.data.fingerprint import Sighting, fingerprint, stable_fingerprint

Pair = namedtuple("Pair", "words tags")


class Colour(enum.Enum):
    """A value without an order."""

    RED = 1
    BLUE = 2


@dataclass
class Sentence:
    """An example as programs have them."""

    words: list
    features: set = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Slotted:
    """The same without a __dict__."""

    words: tuple


class Hostile:
    """Whose every method is the user's."""

    def __init__(self, value):
        self.value = value

    def _refuse(self, *_):
        raise AssertionError("a method of the user's was called")

    __repr__ = __str__ = __hash__ = __eq__ = __lt__ = __len__ = __iter__ = __getattr__ = (
        __reduce__
    ) = __bool__ = _refuse


EXAMPLES = {
    "none": None,
    "bool": True,
    "int": 1,
    "negative": -1,
    "great": 10**30,
    "float": 1.0,
    "nan": float("nan"),
    "complex": 1j,
    "str": "a",
    "surrogate": "\ud800",
    "bytes": b"a",
    "bytearray": bytearray(b"a"),
    "array": array.array("d", [1, 2]),
    "list": [1, "a"],
    "tuple": (1, "a"),
    "nested": [[1], [2]],
    "flat": [[1, 2]],
    "dict": {"a": 1, "b": 2},
    "other_order": {"b": 2, "a": 1},
    "ordered": OrderedDict(a=1, b=2),
    "set": {"the", "cat", "sat", "on", "mat"},
    "frozenset": frozenset({("a", 1), ("b", frozenset("xyz"))}),
    "sets": [{"a", "b"}, {"c", "d"}],
    "named": Pair(["a"], [1]),
    "dataclass": Sentence(["a"], {"f", "g", "h"}),
    "slots": Slotted(("a",)),
    "other_slots": Slotted(("b",)),
    "float32": np.float32(1),
    "float64": np.float64(1),
    "numpy_str": np.str_("a"),
    "numbers": np.arange(6),
    "shape": np.arange(6).reshape(2, 3),
    "dtype": np.arange(6, dtype=np.int8),
    "strided": np.arange(12)[::2],
    "objects": np.array(["a", None, {"x", "y"}], object),
    "structured": np.array([(1, 2.5)], [("a", "i1"), ("b", "f8")]),
    "path": Path("a/b"),
    "range": range(3),
    "enum": Colour.RED,
    "blue": Colour.BLUE,
    "class": Sentence,
    "function": fingerprint,
    "hostile": Hostile([1]),
    "other_hostile": Hostile([2]),
    "empty": [],
    "empty_bytes": b"",
}


def test_different_examples_have_different_fingerprints():
    by_number = {}
    for name, example in EXAMPLES.items():
        number = fingerprint([example])
        assert (
            0 <= number < 2**63 and number == fingerprint([example]) and number not in by_number
        ), (name, by_number.get(number))
        by_number[number] = name


def test_every_process_finds_the_same():
    path = os.pathsep.join([str(Path(__file__).parent), str(PACKAGE)])
    program = (
        "import test_fingerprint as t; print([t.fingerprint([x]) for x in t.EXAMPLES.values()])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(printed) == 1


def test_numbering_by_a_set_is_notified_apart():
    words = [f"w{i}" for i in range(50)]
    program = (
        "from dist_dynet.parallel.data.fingerprint import fingerprint;"
        f" print(fingerprint([{{w: i for i, w in enumerate(set({words}))}}]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    numbers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(numbers) == 2


def test_slots_and_attributes_that_keep_hashes_do_not_count():
    a, b = Sentence(["a"]), Sentence(["a"])
    b._cached_hash = 17
    assert fingerprint([a]) == fingerprint([b])


class Lazy:
    """Counts what is fetched."""

    def __init__(self, n, other=-1):
        self.n, self.other, self.fetched = n, other, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.fetched.append(i)
        return -1 if i == self.other else i


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 1000, 10**12])
def test_few_examples_are_fetched_once(n):
    data = Lazy(n)
    fingerprint(data)
    assert (
        len(data.fetched) == len(set(data.fetched)) == min(n, 8)
        and sorted(data.fetched) == data.fetched
    )
    if n:
        assert data.fetched[0] == 0 and data.fetched[-1] == n - 1
        assert all(fingerprint(Lazy(n, other)) != fingerprint(Lazy(n)) for other in data.fetched)
    assert fingerprint(Lazy(n + 1)) != fingerprint(Lazy(n))


def test_work_is_bounded():
    endless = []
    endless.append(endless)
    wide = [endless] * 10**6
    deep = []
    for _ in range(10**5):
        deep = [deep]
    great = np.broadcast_to(np.float64(1), (10**6, 10**6))
    many = set(range(10**5))
    numbers = [
        fingerprint([x])
        for x in (endless, wide, [wide] * 1000, great, many, "x" * 10**7, {"a": wide, "b": [many]})
    ]
    assert len(set(numbers)) == len(numbers)
    assert fingerprint([deep]) == fingerprint([endless])  # as far as it looks


def test_long_values_count_by_their_ends_and_lengths():
    x = np.zeros(10**6)
    number = fingerprint([x])
    x[-1] = 1
    assert fingerprint([x]) != number and fingerprint(["x" * 10**6]) != fingerprint(
        ["x" * (10**6 + 1)]
    )


def sentences(n=40):
    return [Sentence([f"w{i}"]) for i in range(n)]


class Ranks:
    """Two processes that read the same data: what they say of them at each look."""

    def __init__(self, data):
        self.data = data
        self.sightings = [Sighting() for _ in data]

    def look(self):
        return [s.fingerprint(d) for s, d in zip(self.sightings, self.data, strict=True)]


def test_another_order_in_place_is_other_data_unless_it_is_the_same_everywhere():
    ranks = Ranks([sentences(), sentences()])
    first = ranks.look()
    assert first[0] == first[1] == fingerprint(sentences())
    assert ranks.look() == first
    for data in ranks.data:
        data.reverse()
    back = ranks.look()
    assert back[0] == back[1] != first[0]
    one, other = ranks.data
    other[3], other[4] = other[4], other[3]  # none of those that are looked at
    assert len({*ranks.look()}) == 2
    one[3], one[4] = one[4], one[3]
    assert len({*ranks.look()}) == 1
    del one[5], other[6]
    assert len({*ranks.look()}) == 2


@pytest.mark.parametrize("kind", [Sentence, dict, list])
def test_what_a_program_keeps_in_examples_makes_them_no_others(kind):
    """Each rank computes what it needs, and keeps it there; then orders change, examples come."""

    def example(i):
        return {Sentence: lambda: Sentence([i]), dict: lambda: {"n": i}, list: lambda: [i]}[kind]()

    def keep(x, value):
        if kind is Sentence:
            x.features = value
        elif kind is dict:
            x["features"] = value
        else:
            x.append(value)

    ranks = Ranks([[example(i) for i in range(40)] for _ in range(2)])
    first = ranks.look()
    for rank, data in enumerate(ranks.data):
        for i in range(rank, 40, 2):
            keep(data[i], rank)
    assert ranks.look() == first
    assert len({stable_fingerprint(data) for data in ranks.data}) == 1, "another shard()"
    for data in ranks.data:
        data[:] = data[::-1]
    assert len({*ranks.look()}) == 1
    for data in ranks.data:
        data.append(example(77))
    grown = ranks.look()
    assert grown[0] == grown[1]
    ranks.data[0][-1] = example(78)
    ranks.data[1][-1] = example(79)
    assert len({*ranks.look()}) == 2


def test_values_and_arrays_are_looked_at_anew():
    for data in [*range(40)], [f"{i}" for i in range(40)], np.arange(80.0).reshape(40, 2):
        sighting = Sighting()
        first = sighting.fingerprint(data)
        data[:] = data[::-1]
        assert sighting.fingerprint(data) == stable_fingerprint(data) != first


def test_data_that_make_examples_anew_each_time_are_looked_at_once():
    class Drawn:
        asked = 0

        def __len__(self):
            return 40

        def __getitem__(self, i):
            self.asked += 1
            return [i]

    data, sighting = Drawn(), Sighting()
    assert sighting.fingerprint(data) == sighting.fingerprint(data) and data.asked == 16


def test_examples_that_change_each_time_tell_nothing():
    class Noisy(list):
        def __getitem__(self, i):
            return [i, next(count)]

    count = iter(range(1000))
    assert stable_fingerprint(Noisy([0] * 9)) == 0


def test_empty_data_that_grow():
    sighting, data = Sighting(), []
    assert sighting.fingerprint(data) == fingerprint([])
    data.append(Sentence(["a"]))
    assert sighting.fingerprint(data) == sighting.fingerprint(data) != fingerprint([])
