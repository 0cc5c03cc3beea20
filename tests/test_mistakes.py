"""What beginners write, many of them by habit from PyTorch and NumPy: each is an error in words, or has the result that was meant.

How long: three seconds.
"""

import copy
import pickle
import re

import numpy as np
import pytest

import dist_dynet as dy


def surroundings():
    """The names that a line below may use."""
    m = dy.ParameterCollection()
    names = {"dy": dy, "np": np, "copy": copy, "pickle": pickle, "m": m, "W": m.add_parameters((2, 3)), "b": m.add_parameters(2)}
    names |= {"E": m.add_lookup_parameters((10, 3)), "lstm": dy.VanillaLSTMBuilder(1, 3, 2, m), "trainer": dy.SimpleSGDTrainer(m)}
    names |= {"x": dy.inputVector([1, 2, 3]), "y": dy.inputVector([3, 2, 1]), "M": dy.inputTensor([[0, 1, 2], [3, 4, 5]])}
    return names | {"xb": dy.inputTensor(np.ones((3, 2)), batched=True), "s": dy.sum_elems(names["W"] * names["x"])}


MISTAKES = [
    # sizes that are no whole numbers
    ("dy.Linear(5 / 2, 2, m)", TypeError, "Linear: sizes must be whole numbers; got 2.5."),
    ("dy.Linear('3', 2, m)", TypeError, "Linear: sizes must be whole numbers; got '3'."),
    ("dy.VanillaLSTMBuilder(1, 3, 5 / 2, m)", TypeError, "VanillaLSTMBuilder: sizes must be whole numbers; got 2.5."),
    ("dy.BiRNNBuilder(1, 3, '4', m, dy.GRUBuilder)", TypeError, "BiRNNBuilder: sizes must be whole numbers; got '4'."),
    ("dy.MLP(3, m)", TypeError, "MLP: sizes must be a list, of the input and of each layer; got 3."),
    ("dy.MLP([3, 2.5], m)", TypeError, "MLP: sizes must be whole numbers; got 2.5."),
    ("dy.CRF(m, 2.5)", TypeError, "CRF: sizes must be whole numbers; got 2.5."),
    ("dy.BiRNNBuilder(1, 3, 4, m, lstm)", TypeError, "BiRNNBuilder: rnn_builder_factory must make builders"),
]


@pytest.mark.parametrize(("line", "error", "words"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_mistake_is_an_error_in_words(line, error, words):
    with pytest.raises(error, match=re.escape(words)):
        exec(line, surroundings())
    assert dy.inputVector([1, 2]).value() == [1, 2]  # and all goes on


MEANT = [
    ("dy.Linear(6 / 2, np.int64(2), m).spec", (3, 2, True)),
    ("dy.VanillaLSTMBuilder(1, 3, 4 / 2, m).spec[:3]", (1, 3, 2)),
]


@pytest.mark.parametrize(("line", "result"), MEANT, ids=[line for line, _ in MEANT])
def test_habit_has_the_result_that_was_meant(line, result):
    assert eval(line, surroundings()) == result
