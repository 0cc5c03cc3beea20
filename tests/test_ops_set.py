"""Nodes that can be set anew: inputs, rows of tables, chosen indices. What depends on them is
computed anew, as in a new graph."""

import numpy as np
import pytest

import dist_dynet as dy


@pytest.fixture
def table():
    return dy.ParameterCollection().lookup_parameters_from_numpy(np.arange(8.0).reshape(4, 2))


def gradient_of(y, table):
    """The gradient of the sum of y to the table."""
    dy.sum_batches(dy.sum_elems(y)).backward()
    gradient = table.grad_as_array().tolist()
    table.clear_gradient()
    return gradient


def test_set_of_scalar_input_changes_what_depends_on_it():
    x = dy.scalarInput(2)
    y = dy.square(x) + 1
    assert y.value() == 5
    x.set(-3)
    assert y.value() == 10
    assert x.value() == -3


@pytest.mark.parametrize(
    "numbers",
    [
        [4, 5, 6],
        (4, 5, 6),
        np.array([4, 5, 6]),
        np.array([4, 0, 5, 0, 6, 0], np.float64)[::2],
        range(4, 7),
    ],
)
def test_set_of_vector_input_takes_any_sequence(numbers):
    x = dy.vecInput(3)
    y = 2 * x
    assert y.value() == [0, 0, 0]
    x.set(numbers)
    assert y.value() == [8, 10, 12]


def test_set_of_tensor_input_takes_arrays_and_flat_column_major_lists():
    x = dy.inputTensor(np.zeros((2, 2, 2)), batched=True, reusable_expr=True)
    y = x + 0
    a = np.arange(8.0).reshape(2, 2, 2)
    x.set(a)
    assert y.npvalue().tolist() == a.tolist()
    x.set(list(range(8)))
    assert y.npvalue().tolist() == np.arange(8.0).reshape(2, 2, 2, order="F").tolist()


def test_set_of_lookup_changes_row_and_gradient(table):
    row = dy.lookup(table, 1)
    y = 3 * row
    assert y.value() == [6, 9]
    row.set(3)
    assert y.value() == [18, 21]
    assert gradient_of(y, table) == [[0, 0], [0, 0], [0, 0], [3, 3]]


def test_set_of_lookup_batch_changes_rows_and_gradients(table):
    rows = dy.lookup_batch(table, [0, 1, 1])
    y = 3 * rows
    assert y.npvalue().T.tolist() == [[0, 3], [6, 9], [6, 9]]
    rows.set([3, 3, 0])
    assert y.npvalue().T.tolist() == [[18, 21], [18, 21], [0, 3]]
    assert gradient_of(y, table) == [[3, 3], [0, 0], [0, 0], [6, 6]]


def test_set_of_lookup_refuses_a_row_outside_and_keeps_the_old(table):
    row = dy.lookup(table, 1)
    y = 3 * row
    with pytest.raises(ValueError, match=r"^lookup: index 4 is outside the table\."):
        row.set(4)
    assert y.value() == [6, 9]


def test_lookup_without_update_sends_no_gradient(table):
    y = dy.lookup(table, 1, update=False) + dy.lookup(table, 2)
    assert gradient_of(y, table) == [[0, 0], [0, 0], [1, 1], [0, 0]]
    y = dy.lookup_batch(table, [1, 2], update=False)
    assert gradient_of(y + dy.lookup(table, 0), table) == [[2, 2], [0, 0], [0, 0], [0, 0]]


def test_constant_use_of_a_parameter_sends_no_gradient():
    p = dy.ParameterCollection().parameters_from_numpy([2.0, 3.0])
    dy.dot_product(p.expr(update=False), p).backward()
    assert p.grad_as_array().tolist() == [2, 3]


def test_set_index_of_pick_changes_value_and_gradient():
    p = dy.ParameterCollection().parameters_from_numpy([5.0, 6.0, 7.0])
    picked = dy.pick(p, 2)
    y = dy.square(picked)
    assert y.value() == 49
    picked.set_index(0)
    assert y.value() == 25
    y.backward()
    assert p.grad_as_array().tolist() == [10, 0, 0]


def test_set_index_of_pick_keeps_the_dim():
    picked = dy.pick(dy.inputTensor([[1, 2, 3], [4, 5, 6]]), 2, dim=1)
    assert picked.value() == [3, 6]
    picked.set_index(0)
    assert picked.value() == [1, 4]


def test_set_index_of_pick_batch_changes_values():
    picked = dy.pick_batch(dy.inputTensor([[1, 2], [3, 4]], batched=True), [0, 1])
    assert picked.npvalue().ravel().tolist() == [1, 4]
    picked.set_index([1, 0])
    assert picked.npvalue().ravel().tolist() == [3, 2]


def test_set_index_of_pickneglogsoftmax_changes_the_class():
    x = dy.inputVector([0.0, 1.0, 3.0])
    loss = dy.pickneglogsoftmax(x, 0)
    first = loss.value()
    loss.set_index(2)
    assert first - loss.value() == pytest.approx(3, abs=1e-6)
    with pytest.raises(ValueError, match=r"^pickneglogsoftmax: index 3 is outside"):
        loss.set_index(3)


def test_set_of_a_stale_input_is_refused(table):
    old = [
        dy.scalarInput(1),
        dy.vecInput(2),
        dy.inputTensor([1.0], reusable_expr=True),
        dy.lookup(table, 0),
        dy.lookup_batch(table, [0]),
    ]
    picked = dy.pick(dy.zeros(3), 0)
    dy.renew_cg()
    for x, new in zip(old, [1, [1, 2], [1.0], 1, [1]], strict=True):
        with pytest.raises(RuntimeError, match=r"^Stale Expression"):
            x.set(new)
    with pytest.raises(RuntimeError, match=r"^Stale Expression"):
        picked.set_index(1)
