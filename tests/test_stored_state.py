"""What a checkpoint is made of: checksummed files, stored values, random draws, moving averages;
each goes on as if it had not been away."""

import random

import numpy as np
import pytest
from checkpoints import equal, model_of, train, values

import dist_dynet as dy
from dist_dynet.io.checksummed import DamagedError, add_checksum, verify_checksum
from dist_dynet.parallel import checkpoint
from dist_dynet.parallel.exchange import compression
from dist_dynet.params.stored import load_stored, stored


def test_checksummed_tree_is_the_tree(rng):
    tree = {
        "": {"/W": rng.random((2, 3), np.float32).T},
        "empty": np.zeros((0, 3)),
        "number": np.array(3, np.uint64),
        "text": 'a"b\\',
        "list": [1, 2.5, None, True, [rng.random(2)]],
        "a": {"b": np.arange(2)},
        "a:b": np.arange(3),
        "great": 1 << 100,
    }
    assert equal(verify_checksum(add_checksum(tree)), tree)
    assert verify_checksum(add_checksum({"x": np.float32(0.5), "y": (1,)})) == {"x": 0.5, "y": [1]}
    mixed = {"bytes": np.zeros(3, np.uint8), "wide": np.zeros(2)}
    wide = verify_checksum(bytearray(add_checksum(mixed)))["wide"]
    assert wide.flags.aligned and not wide.flags.writeable
    other_order = verify_checksum(add_checksum({"x": np.arange(3, dtype=">i4")}))
    assert other_order["x"].tolist() == [0, 1, 2]


def drawn(rng, levels=4):
    """A tree whose keys and texts are those that could be taken for something else."""
    keys = ["", "__array__", "a", "a:b", "a'", "\ud800", "__metadata__", '":"', "dist_dynet.tree"]
    leaves = [None, True, -(1 << 70), 0.1, np.inf, *keys, rng.random((2, 1)), np.zeros(0, "i2")]
    kind = rng.integers(levels == 4, 4 if levels else 1)
    if kind == 0:
        return leaves[rng.integers(len(leaves))]
    if kind == 1:
        return [drawn(rng, levels - 1) for _ in range(rng.integers(3))]
    chosen = ["__array__"] if kind == 2 else rng.choice(keys, rng.integers(4)).tolist()
    return {key: drawn(rng, levels - 1) for key in chosen}


def test_any_tree_is_the_tree(rng):
    for _ in range(300):
        tree = drawn(rng)
        assert equal(verify_checksum(add_checksum({"x": tree}))["x"], tree), tree


def test_each_changed_or_missing_byte_of_a_checksummed_tree_is_found(rng):
    content = add_checksum({"step": 3, "array": rng.random(5), "text": '"dist_dynet.checksum":"'})
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= 1 << int(rng.integers(8))
        for damaged in (bytes(changed), content[:i]):
            with pytest.raises(DamagedError):
                verify_checksum(damaged)
    with pytest.raises(DamagedError):
        verify_checksum(content + b"x")


def test_what_cannot_be_checksummed_is_named():
    itself, deep = [], None
    itself.append(itself)
    for _ in range(500):
        deep = {"": [deep]}
    for leaf, place in (
        (itself, "list at a:0:0:0:0.*Does it hold itself"),
        (deep, "list|dict at a:0:0:0:0.*Does it hold itself"),
        (10**5000, "an integer of 16610 bits at a"),
        (np.ma.array([1, 2], mask=[0, 1]), "MaskedArray at a"),
        (1j, "complex at a"),
        (b"x", "bytes at a"),
        ({1, 2}, "set at a"),
        (np.array(["2020"], "M8"), "ndarray at a"),
        (np.zeros(1, "g"), "ndarray at a"),
        (np.longdouble(1), "longdouble at a"),
        ({"b": [object()]}, "object at a:b:0"),
        (np.array(["x"]), "ndarray at a"),
        ({1: 2}, "int at a, a key"),
    ):
        with pytest.raises(TypeError, match=f"^checkpoint: .*; got {place}"):
            add_checksum({"a": leaf})


def test_packed_residuals_are_the_residuals(rng):
    kept = {
        "whole": rng.random((5, 7), np.float32),
        "rows": np.zeros((40, 6), np.float32),
        "stripe": np.zeros(100),
        "end": np.zeros(37),
        "few": np.array([0, 0.0, 1]),
        "none": np.zeros(50),
    }
    kept["rows"][[3, 17, 18]] = rng.random((3, 6))
    kept["stripe"][32:64], kept["end"][36] = rng.random(32), 1
    content = compression.packed(kept)
    back = compression.unpacked(verify_checksum(add_checksum(content)))
    assert equal(back, {name: array for name, array in kept.items() if name != "none"})
    assert len(content["stripe"]["values"]) == 32 and len(content["end"]["values"]) == 1
    twice = compression.added_up([content, compression.packed({"end": np.ones(37)})])
    assert equal(twice["end"], kept["end"] + 1) and equal(twice["rows"], kept["rows"])


def test_reading_stored_values_changes_no_later_bit():
    results = []
    for reads in (False, True):
        dy.reset_random_seed(3)
        m = model_of()
        m.set_weight_decay(0.03)
        trainer = dy.AdamTrainer(m)
        for step in range(20):
            train(m, trainer, row=step % 3)
            if reads:
                state = verify_checksum(add_checksum(stored(m)))
        results.append(values(m))
    assert equal(*results)
    assert state["factors"]["/E"] < 1  # the decay was pending, or this says nothing
    other = model_of()
    load_stored(other, state)
    assert equal(values(other), results[0])


def test_draws_continue_and_derived_ones_differ():
    def some():
        return [
            random.random(),
            random.gauss(0, 1),
            *np.random.randn(3),
            *np.random.permutation(5),
            *dy.cg().uniform(2),
        ]

    random.gauss(0, 1)
    np.random.randn(1)  # the other number of each pair is kept
    state = verify_checksum(add_checksum(checkpoint.random_states()))
    first = some()
    checkpoint.set_random_states(state)
    assert some() == first
    derived = []
    for rank in (1, 2):
        checkpoint.set_random_states(state)
        checkpoint.derive_random_states(state, rank)
        derived.append(some())
    checkpoint.set_random_states(state)
    checkpoint.derive_random_states(state, 1)
    assert some() == derived[0] != derived[1] and first != derived[0]


@pytest.mark.parametrize("decay", [0.9, None])
def test_moving_average_continues(decay):
    m, other = model_of(), model_of()
    averages = []
    for model in (m, other):
        trainer = dy.AdamTrainer(model)
        averages.append(dy.MovingAverage(trainer, decay, every=2))
        train(model, trainer, 3)
    averages[1].load_state(averages[0].state())
    other.copy_from(m)
    for average in averages:
        average.update()
        average.swap_in()
    assert equal(values(m), values(other))
    with pytest.raises(RuntimeError, match="swapped in"):
        averages[0].state()
    with pytest.raises(RuntimeError, match="swapped in"):
        averages[0].load_state({})
    averages[0].swap_out()
    state = averages[0].state()
    for wrong in (
        {**state, "decay": np.array(0.5)},
        {**state, "average:/W": np.zeros(2)},
        {**state, "average:/X": np.zeros(2)},
        {},
    ):
        with pytest.raises(ValueError, match=r"^MovingAverage: "):
            averages[0].load_state(wrong)
    assert equal(averages[0].state(), state)


def test_reading_a_table_with_decay_changes_nothing():
    def trained(read):
        m = dy.ParameterCollection()
        table = m.lookup_parameters_from_numpy(np.random.default_rng(3).random((4, 3)))
        trainer = dy.SimpleSGDTrainer(m, 0.1)
        m.set_weight_decay_lambda(0.01)
        for i in range(5):
            dy.renew_cg()
            dy.sum_elems(dy.square(table[i % 2])).backward()
            trainer.update()
            read(table)
        return table.as_array()

    def reads(table):
        array = table.as_array()
        assert np.array_equal(table.rows_as_array([2, 3]), array[2:])
        assert np.array_equal(table.row_as_array(1), array[1])

    assert np.array_equal(trained(reads), trained(lambda table: None))
