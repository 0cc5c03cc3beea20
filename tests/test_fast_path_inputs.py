"""Fast paths and slow paths give the same: reads of few and of many numbers, makers, inputs, first
values, chunks.

How long: about two seconds.
"""

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._ffi import DTYPE, lib, view
from dist_dynet.params.initializers import GlorotInitializer
from dist_dynet.params.parameters import stored

# around DN_FAST_CAPACITY, the draws at once, and the longest list
SIZES = (1, 2, 255, 256, 257, 1000, 70_000)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_reads_of_all_sizes_are_the_numbers(n, batch):
    numbers = np.random.default_rng(n).normal(size=(n, batch)).astype(DTYPE)
    dy.renew_cg()
    x = dy.inputTensor(numbers, batched=True) * 1
    flat = numbers.ravel(order="F").tolist()
    shaped = numbers if batch > 1 else numbers[:, 0]
    assert x.vec_value() == flat
    assert x.value() == (flat if len(flat) > 1 else flat[0])
    np.testing.assert_array_equal(x.npvalue(), shaped)
    np.testing.assert_array_equal(x.tensor_value().as_numpy(), shaped)


def test_tensor_value_is_a_copy():
    x = dy.inputVector([1, 2]) * 1
    t = x.tensor_value()
    t.as_numpy()[:] = 0
    assert t.as_numpy().tolist() == x.value() == [1, 2]


@pytest.mark.parametrize("shape", [(1,), (2, 2), (256,), (257,), (4, 100), (0, 3)])
def test_parameters_and_gradients_are_read(shape):
    m = dy.ParameterCollection()
    values = np.random.default_rng(3).normal(size=shape).astype(DTYPE)
    p = m.parameters_from_numpy(values)
    np.testing.assert_array_equal(p.as_array(), values)
    assert p.as_array().shape == shape and p.as_array().dtype == np.float64
    if values.size:
        dy.renew_cg()
        y = p * 3
        dy.squared_norm(y).backward()
        np.testing.assert_allclose(y.gradient(), 6 * values, rtol=1e-6)
        np.testing.assert_allclose(p.grad_as_array(), 18 * values, rtol=1e-6)
        np.testing.assert_allclose(p.gradient(), 18 * values, rtol=1e-6)


def test_gradients_without_backward_are_errors():
    dy.renew_cg()
    with pytest.raises(RuntimeError, match="backward"):
        (dy.inputVector([1, 2]) * 2).gradient()


@pytest.mark.parametrize("row_dims", [(3,), (2, 3), (300,)])
def test_rows_are_read(row_dims):
    m = dy.ParameterCollection()
    values = np.random.default_rng(3).normal(size=(5, *row_dims)).astype(DTYPE)
    table = m.lookup_parameters_from_numpy(values)
    for i in range(5):
        np.testing.assert_array_equal(table.row_as_array(i), values[i])
    np.testing.assert_array_equal(table.as_array(), values)
    for outside in (-1, 5):
        with pytest.raises(ValueError, match=f"row {outside} is outside the table of 5 rows"):
            table.row_as_array(outside)


def test_rows_are_read_with_their_decay():
    m = dy.ParameterCollection()
    table = m.lookup_parameters_from_numpy(np.ones((3, 2)))
    m.set_weight_decay(0.5)
    trainer = dy.SimpleSGDTrainer(m)
    trainer.update()
    assert table.row_as_array(1).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("row_dims", [(3,), (2, 3), (1,), (100,)])
@pytest.mark.parametrize("decay", [0, 0.5])
def test_rows_are_set(row_dims, decay):
    """From all that holds numbers, column-major; the others stay, also with a decay."""
    m = dy.ParameterCollection()
    m.set_weight_decay(decay)
    values = np.random.default_rng(3).normal(size=(5, *row_dims)).astype(DTYPE)
    table = m.lookup_parameters_from_numpy(values)
    dy.SimpleSGDTrainer(m).update()
    dy.renew_cg()
    looked_up = [table[3], table[4]]
    before = [x.npvalue() for x in looked_up]
    row = np.random.default_rng(4).normal(size=row_dims).astype(DTYPE)
    flat = row.ravel(order="F").tolist()
    for given in (flat, tuple(flat), row, row.tolist(), np.array(flat)):
        table.init_row(3, np.zeros(len(flat)))
        table.init_row(3, given)
        np.testing.assert_array_equal(table.row_as_array(3), row)
        expected = (1 - decay) * values
        expected[3] = row
        np.testing.assert_array_equal(table.as_array(), expected)
    for x, value in zip(looked_up, before, strict=True):
        np.testing.assert_array_equal(x.npvalue(), value)
    dy.renew_cg()
    np.testing.assert_array_equal(table[3].npvalue(), row)


def test_rows_are_set_to_all_that_are_numbers():
    table = dy.ParameterCollection().add_lookup_parameters((5, 2))
    for given, expected in {
        (1, True): [1, 1],
        (2, -3.5): [2, -3.5],
        (float("inf"), -1): [np.inf, -1],
        (np.float32(0.25), np.int64(7)): [0.25, 7],
    }.items():
        table.init_row(np.int64(1), list(given))
        assert table.row_as_array(1).tolist() == expected
    table.init_row(1, [float("nan"), 0])
    assert np.isnan(table.row_as_array(1)[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5, [1, 2]), ValueError, "row 5 is outside the table of 5 rows"),
        ((-1, [1, 2]), ValueError, "row -1 is outside the table of 5 rows"),
        ((2**40, [1, 2]), ValueError, "row 1099511627776 is outside the table of 5 rows"),
        (("a", [1, 2]), TypeError, "row must be an integer"),
        ((1, [1]), ValueError, "a row has 2 numbers; got 1"),
        ((1, []), ValueError, "a row has 2 numbers; got 0"),
        ((1, [1] * 200), ValueError, "a row has 2 numbers; got 200"),
        ((1, [1, None]), TypeError, "init_row: takes numbers"),
        ((1, "ab"), TypeError, "init_row: takes numbers"),
    ],
)
def test_rows_that_cannot_be_set_stay(arguments, error, message):
    table = dy.ParameterCollection().add_lookup_parameters((5, 2), init=3)
    with pytest.raises(error, match=message):
        table.init_row(*arguments)
    assert (table.as_array() == 3).all()


def test_nodes_of_parameters_are_one_for_each_kind():
    w = dy.ParameterCollection().add_parameters(2, init=1)
    dy.renew_cg()
    assert w.expr(True).index() == w.expr(1).index() == w.expr(update=True).index()
    assert w.expr().index() == w.expr(0).index() == w.expr(False).index()
    assert w.expr().index() != w.expr(True).index()
    assert type(w.expr()) is type(w.expr(True)) is dy.Expression
    dy.sum_elems(w.expr()).backward()
    assert not w.has_gradient()
    dy.sum_elems(w.expr(True)).backward()
    assert w.has_gradient()


# name: (call with numbers as users write them, the same with arguments that only the slow path
# takes)
FACTORIES = {
    "reshape": (lambda x: dy.reshape(x, (3, 2)), lambda x: dy.reshape(x, [3.0, 2.0])),
    "transpose": (
        lambda x: dy.transpose(x, [1, 0]),
        lambda x: dy.transpose(x, np.array([1.0, 0.0])),
    ),
    "sum_dim": (lambda x: dy.sum_dim(x, [0]), lambda x: dy.sum_dim(x, iter([0]))),
    "mean_dim, n": (
        lambda x: dy.mean_dim(x, 1, False, 2),
        lambda x: dy.mean_dim(x, np.array([1.0]), False, np.array(2)),
    ),
    "moment_dim": (
        lambda x: dy.moment_dim(x, (0, 1), 3),
        lambda x: dy.moment_dim(x, {0, 1}, np.array(3)),
    ),
    "std_dim": (lambda x: dy.std_dim(x, [1]), lambda x: dy.std_dim(x, np.array(1))),
    "pick_range": (
        lambda x: dy.pick_range(x, 1, 3, 1),
        lambda x: dy.pick_range(x, 1.0, np.array(3), np.array(1)),
    ),
    "strided_select": (
        lambda x: dy.strided_select(x, [1, 2], [0, 0], [2, 3]),
        lambda x: dy.strided_select(x, [1, 2], [], []),
    ),
    "dropout_dim": (
        lambda x: dy.dropout_dim(x, 1, 0.0),
        lambda x: dy.dropout_dim(x, np.array(1), np.array(0)),
    ),
    "hinge": (
        lambda x: dy.hinge(x[0], 1, 2.0),
        lambda x: dy.hinge(x[0], np.array(1), np.array(2)),
    ),
    "cross_entropy": (
        lambda x: dy.cross_entropy(x[0], 1, 0.5),
        lambda x: dy.cross_entropy(x[0], [1], np.array(0.5)),
    ),
    "poisson_loss": (
        lambda x: dy.poisson_loss(x[0][0], 3),
        lambda x: dy.poisson_loss(x[0][0], np.array([3.0])),
    ),
    "huber_distance": (
        lambda x: dy.huber_distance(x[0], x[1], 0.5),
        lambda x: dy.huber_distance(x[0], x[1], np.array(0.5)),
    ),
    "pairwise_rank_loss": (
        lambda x: dy.pairwise_rank_loss(x[0], x[1], 0.5),
        lambda x: dy.pairwise_rank_loss(x[0], x[1], np.array(0.5)),
    ),
    "constant": (
        lambda x: dy.constant((2, 1), 3),
        lambda x: dy.constant(np.array([2.0, 1.0]), np.array(3), np.array(1)),
    ),
    "zeros": (lambda x: dy.zeros(3, batch_size=2), lambda x: dy.zeros([3.0], np.array(2))),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_both_paths_make_the_same_node(name):
    quick, long = FACTORIES[name]
    dy.renew_cg()
    x = dy.inputTensor([[0.5, 2.0, -1.0], [1.5, 0.25, 3.0]])
    a, b = quick(x), long(x)
    assert a.dim() == b.dim()
    np.testing.assert_array_equal(a.npvalue(), b.npvalue())


# longer than what a call keeps beside it
MANY = [i % 7 for i in range(100)]
OF_MANY = {
    "pickneglogsoftmax_batch": lambda x, v: dy.pickneglogsoftmax_batch(x, v),
    "hinge_batch": lambda x, v: dy.hinge_batch(x, v, 0.5),
    "hinge_dim": lambda x, v: dy.hinge_dim(dy.concatenate_cols([x] * len(v)), v),
    "pick_batch": lambda x, v: dy.pick_batch(x, v),
    "pick_batch_elems": lambda x, v: dy.pick_batch_elems(
        dy.concatenate_to_batch([x * k for k in range(7)]), v
    ),
    "select_rows": lambda x, v: dy.select_rows(x, v),
    "select_cols": lambda x, v: dy.select_cols(dy.transpose(x), v),
}


@pytest.mark.parametrize("name", OF_MANY)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 100])
def test_long_lists_of_indices_are_taken_as_short_ones(name, n):
    dy.renew_cg()
    x = dy.inputVector([0.5, 2.0, -1.0, 1.5, 0.25, 3.0, 0.75])
    made = [
        OF_MANY[name](x, given).npvalue()
        for given in (
            MANY[:n],
            tuple(MANY[:n]),
            np.array(MANY[:n]),
            np.array(MANY[:n], np.uint8),
            np.array(MANY[:n], np.float32),
            list(np.array(MANY[:n])),
        )
    ]
    for other in made[1:]:
        np.testing.assert_array_equal(other, made[0])


@pytest.mark.parametrize("name", OF_MANY)
@pytest.mark.parametrize("dtype", ["m8[ns]", "M8[ns]", "m8[s]", "bool", "complex64", "U1"], ids=str)
def test_arrays_of_other_things_are_no_indices(name, dtype):
    x = dy.inputVector([0.5, 2.0, -1.0, 1.5, 0.25, 3.0, 0.75])
    for given in (np.array([1, 0]).astype(dtype), list(np.array([1, 0]).astype(dtype))):
        with pytest.raises(TypeError, match=f"^{name}: .*integers"):
            OF_MANY[name](x, given)


@pytest.mark.parametrize("wrong", [7, -9, 2**31, 2**40, -(2**40)])
@pytest.mark.parametrize("name", OF_MANY)
def test_an_index_that_is_wrong_is_found_in_a_long_list(name, wrong):
    x = dy.inputVector([0.5, 2.0, -1.0, 1.5, 0.25, 3.0, 0.75])
    texts = set()
    for given in ([*MANY, wrong], np.array([*MANY, wrong])):
        with pytest.raises((ValueError, OverflowError, IndexError)) as error:
            OF_MANY[name](x, given).value()
        texts.add(str(error.value))
    assert len(texts) == 1 and texts.pop().startswith(f"{name}: ")


def test_lists_are_taken_only_where_they_belong():
    x = dy.inputTensor([[[1, 2], [3, 4]]], batched=True)
    for call in (
        lambda: dy.pick_batch_elem(x, [0, 1]),
        lambda: dy.pick_range(x, 0, 1, [0]),
        lambda: dy.mean_dim(x, [0], False, [1]),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int32])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (4, 4, 4), (5, 13), (1, 1, 2, 1)])
def test_arrays_go_in_as_they_are(dtype, shape):
    numbers = (np.arange(np.prod(shape)) - 3).reshape(shape).astype(dtype)
    for array in (numbers, np.asfortranarray(numbers), numbers[..., ::-1]):
        dy.renew_cg()
        np.testing.assert_array_equal(dy.inputTensor(array).npvalue(), array)
        assert dy.inputTensor(array).dim() == (shape, 1)
        batched = dy.inputTensor(array, batched=True)
        assert batched.dim() == (shape[:-1] or (1,), shape[-1])
        assert batched.vec_value() == array.ravel(order="F").tolist()
        if array.ndim == 1:
            assert dy.inputVector(array).vec_value() == array.tolist()


@pytest.mark.parametrize("n", [1, 16, 17, 30])
@pytest.mark.parametrize("default", [0, -1.5])
@pytest.mark.parametrize("batched", [False, True])
def test_sparse_inputs_hold_the_numbers(n, default, batched):
    rng = np.random.default_rng(n)
    shape = (3, 4, 5)
    columns, numbers = (
        [rng.integers(0, size, n).tolist() for size in shape],
        rng.normal(size=n).astype(DTYPE).tolist(),
    )
    expected = np.full(shape, default, np.float64)
    for place, number in zip(zip(*columns, strict=True), numbers, strict=True):
        expected[place] = number  # of several for one place the last
    for given, values in ((columns, numbers), (list(map(np.array, columns)), np.array(numbers))):
        x = dy.sparse_inputTensor(given, values, shape, batched, default)
        assert x.dim() == ((shape[:-1], shape[-1]) if batched else (shape, 1))
        np.testing.assert_array_equal(x.npvalue(), expected)


def test_few_numbers_are_rounded_once():
    near = np.array([1 + 2**-24 + 2**-50, 1e-46, 3e38, np.nan, -0.0])
    dy.renew_cg()
    for x in (dy.inputVector(near), dy.inputTensor(near)):
        np.testing.assert_array_equal(x.npvalue(), near.astype(DTYPE))
        assert np.signbit(x.npvalue()[4])


def test_few_numbers_may_be_set_anew():
    x = dy.inputTensor(np.array([[1.0, 2.0], [3.0, 4.0]]), reusable_expr=True)
    x.set([5, 6, 7, 8])
    assert x.npvalue().tolist() == [[5, 7], [6, 8]]
    with pytest.raises(ValueError, match="reusable_expr=True"):
        dy.inputTensor(np.ones(2)).set([1, 2])


@pytest.mark.parametrize(
    "init",
    [None, "uniform", "normal", "he", 0.1, dy.HeInitializer(2.0), dy.GlorotInitializer(gain=0.1)],
)
@pytest.mark.parametrize("n", SIZES)
def test_values_drawn_in_place_are_those_of_the_initialiser(init, n):
    class Own(GlorotInitializer):
        """Overrides values(), which is therefore what counts."""

        def values(self, dims, is_lookup):
            return dy_init.values(dims, is_lookup)

    from dist_dynet.params import initializers

    dy_init = initializers.make(init, (n, 1), 0.3, 0.5, 2.0)
    drawn = []
    for given in (init, Own()):
        dy.reset_random_seed(7)
        m = dy.ParameterCollection()
        first = m.add_parameters((n, 1), init=given, scale=0.3, mean=0.5, std=2.0)
        drawn.append([first.as_array(), m.add_parameters(5).as_array()])
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])


class Valueless(dy.PyInitializer):
    """Its `values` raises, or gives what are no values of two numbers."""

    def __init__(self, given):
        self._given = given

    def values(self, dims, is_lookup):
        if self._given is None:
            raise ValueError("no values")
        return self._given


@pytest.mark.parametrize("given", [None, "x", [1.0], [[1.0, 2.0]], [1.0] * 3])
def test_a_parameter_without_values_is_not_made(given):
    m = dy.ParameterCollection()
    for add in m.add_parameters, m.add_lookup_parameters:
        with pytest.raises((TypeError, ValueError), match=r"no values|^Valueless\.values: "):
            add((2, 1), init=Valueless(given))
    assert m.parameters_list() == m.lookup_parameters_list() == [] and m._root.made == []
    assert m.add_parameters(2).name() == "/_0"
    assert m.add_parameters(2, init=Valueless(0.5)).as_array().tolist() == [0.5, 0.5]


def test_more_chunks_than_a_few_keep_their_parameters():
    m = dy.ParameterCollection()
    # each larger than the largest chunk
    parameters = [m.add_parameters((1 << 22) + k, init=k) for k in range(1, 9)]
    small = m.add_parameters(3, init=9)
    assert m._root.chunks() == 9
    assert [float(p.storage()[0]) for p in parameters] == list(range(1, 9))
    assert [float(p.storage()[-1]) for p in parameters] == list(range(1, 9))
    dy.renew_cg()
    (dy.pick(parameters[0], 1) * dy.pick(small, 0)).backward()
    assert float(parameters[0].grad_as_array()[1]) == 9
    assert small.grad_as_array().tolist() == [1, 0, 0]


def test_padding_between_parameters_is_zero():
    for _ in range(3):  # memory that others have used
        m = dy.ParameterCollection()
        first, *_ = [m.add_parameters(3, init=1) for _ in range(40)]
        assert lib.dn_chunk_size(m._root.c, 0) == 640
        values, gradients = view(lib.dn_param_values(first._c), 640), m._root.chunk_gradients(0)
        assert values.reshape(40, 16)[:, 3:].any() == gradients.any() == False  # noqa: E712
        gradients[:] = np.nan
        values[:] = np.nan
        del values, gradients


def test_stored_values_of_no_parameter_are_refused():
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((3, 2), init=1)
    for row in (3, 1 << 40):
        with pytest.raises(ValueError, match=f"row {row} is outside the table of 3 rows"):
            stored(table, row)
    assert stored(m.add_parameters(257, init=2), -1)[0].tolist() == [2] * 257
