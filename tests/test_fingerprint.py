"""A fingerprint of data: the same in every process, another one for other data, with bounded work
and without the user's code."""

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

from dist_dynet.parallel.fingerprint import fingerprint

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
    "float32": np.float32(1),
    "float64": np.float64(1),
    "numpy_str": np.str_("a"),
    "numbers": np.arange(6),
    "shape": np.arange(6).reshape(2, 3),
    "dtype": np.arange(6, dtype=np.int8),
    "strided": np.arange(12)[::2],
    "objects": np.array(["a", None, {"x", "y"}], object),
    "range": range(3),
    "enum": Colour.RED,
    "blue": Colour.BLUE,
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


def test_numbers_of_words_from_a_set_differ():
    words = [f"w{i}" for i in range(50)]
    program = (
        "from dist_dynet.parallel.fingerprint import fingerprint;"
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
def test_few_examples_are_read(n):
    data = Lazy(n)
    fingerprint(data)
    read = sorted({*data.fetched})
    assert len(read) == min(n, 8) and len(data.fetched) == 2 * len(read)
    if n:
        assert read[0] == 0 and read[-1] == n - 1
        assert all(fingerprint(Lazy(n, other)) != fingerprint(Lazy(n)) for other in read)
    assert fingerprint(Lazy(n + 1)) != fingerprint(Lazy(n))


def test_work_is_bounded():
    endless = []
    endless.append(endless)
    wide, many = [endless] * 10**6, set(range(10**5))
    numbers = [fingerprint([x]) for x in (endless, wide, [wide] * 1000, many, {"a": wide})]
    assert len(set(numbers)) == len(numbers)


def test_examples_that_change_between_two_accesses_have_no_checksum():
    class Noisy(list):
        def __getitem__(self, i):
            return [i, next(count)]

    count = iter(range(1000))
    assert fingerprint(Noisy([0] * 9)) == 0
