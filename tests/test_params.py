"""Parameters: names, initial values, what may be read and written, freezing, chunks and their
gradients' memory.

How long: about four seconds.
"""

import gc
import pickle
import random

import numpy as np
import pytest
from processes import resident_megabytes

import dist_dynet as dy
from dist_dynet import params
from dist_dynet._ffi import DTYPE, ffi, lib, view

# ---- names and lists -------------------------------------------------------------------


def test_a_parent_that_is_given_to_a_root_is_ignored():
    """As in DyNet."""
    m = dy.ParameterCollection()
    for made in (dy.ParameterCollection(m), dy.ParameterCollection(parent=m), dy.Model(m)):
        p = made.add_parameters(2)
        assert (p.name(), made.parameters_list(), m.parameters_list()) == ("/_0", [p], [])


def test_names_count_by_name():
    m = dy.ParameterCollection()
    made = [
        m.add_parameters(1),
        m.add_parameters(1, name="w"),
        m.add_lookup_parameters((1, 1)),
        m.add_parameters(1),
        m.add_lookup_parameters((1, 1), name="w"),
        m.add_parameters(1, name="w"),
    ]
    assert [p.name() for p in made] == ["/_0", "/w", "/_1", "/_2", "/w_1", "/w_2"]


def test_subcollections_have_their_own_counters_and_belong_to_their_parents():
    m = dy.ParameterCollection()
    w = m.add_parameters(1)
    subs = [
        m.add_subcollection("s"),
        m.add_subcollection("s"),
        m.add_subcollection(),
        m.add_subcollection(),
    ]
    assert [s.name() for s in subs] == ["/s/", "/s_1/", "/_0/", "/_1/"]
    a = subs[0].add_parameters((2, 3))
    b = subs[0].add_subcollection("t").add_parameters(4, name="b")
    t = subs[1].add_lookup_parameters((5, 2))
    v = m.add_parameters(1)
    assert [p.name() for p in (a, b, t, v)] == ["/s/_0", "/s/t/b", "/s_1/_0", "/_1"]
    assert m.parameters_list() == [w, a, b, v]
    assert subs[0].parameters_list() == [a, b]
    assert m.lookup_parameters_list() == subs[1].lookup_parameters_list() == [t]
    assert (m.parameter_count(), subs[0].parameter_count(), subs[3].parameter_count()) == (
        1 + 6 + 4 + 10 + 1,
        10,
        0,
    )
    assert str(a) == "Parameter /s/_0" and str(t) == "LookupParameter /s_1/_0"


@pytest.mark.parametrize("name", ["a/b", "a_b", "/", "a b"])
def test_names_with_reserved_characters_are_refused(name):
    m = dy.ParameterCollection()
    for add in (
        lambda: m.add_parameters(1, name=name),
        lambda: m.add_lookup_parameters((1, 1), name=name),
        lambda: m.add_subcollection(name),
    ):
        with pytest.raises((RuntimeError, ValueError), match="name"):
            add()
    assert m.parameters_list() == m.lookup_parameters_list() == []


# ---- dims ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "shape"),
    [
        (3, (3,)),
        (3.0, (3,)),
        (np.int64(3), (3,)),
        ((2, 3), (2, 3)),
        ([2, 3], (2, 3)),
        ((2.0, 3), (2, 3)),
        ((1,) * 7, (1,) * 7),
        (0, (0,)),
        ((2, 0), (2, 0)),
    ],
)
def test_dims_may_be_numbers_tuples_and_lists(dim, shape):
    w = dy.ParameterCollection().add_parameters(dim)
    assert w.shape() == w.as_array().shape == shape
    assert w.dim() == (shape, 1)
    assert w.npvalue().shape == shape


@pytest.mark.parametrize(
    ("dim", "error"),
    [
        (-1, ValueError),
        ((2, -3), ValueError),
        ((1,) * 8, ValueError),
        ((), ValueError),
        (2.5, TypeError),
        ("3", TypeError),
        (None, TypeError),
        ((2, None), TypeError),
        ((2, "3"), TypeError),
        ((1 << 16, 1 << 16), ValueError),
        (1 << 40, ValueError),
        (1 << 80, ValueError),
    ],
)
def test_dims_that_cannot_be_are_refused(dim, error):
    m = dy.ParameterCollection()
    with pytest.raises(error, match="add_parameters"):
        m.add_parameters(dim, init=0)
    assert m.parameters_list() == []


@pytest.mark.parametrize("array", [np.zeros((1,) * 8), np.zeros((1,) * 9), np.array(3.0)])
def test_arrays_with_too_many_or_no_dims_are_refused(array):
    m = dy.ParameterCollection()
    for add in (
        lambda: m.add_parameters(1, init=array),
        lambda: m.parameters_from_numpy(array),
        lambda: m.lookup_parameters_from_numpy(array),
    ):
        with pytest.raises(ValueError, match="dims"):
            add()


@pytest.mark.parametrize("dim", [(0, 3), (2,) * 8, -1, (3, -1)])
def test_tables_that_cannot_be_are_refused(dim):
    with pytest.raises(ValueError, match="add_lookup_parameters"):
        dy.ParameterCollection().add_lookup_parameters(dim)


# ---- initial values --------------------------------------------------------------------


def drawn(dim, **options):
    dy.reset_random_seed(5)
    return dy.ParameterCollection().add_parameters(dim, **options).as_array()


def test_glorot_draws_are_those_of_dynet():
    np.testing.assert_allclose(
        drawn((2, 2)), [[-0.680975, 0.908105], [-1.089582, 0.811584]], atol=1e-6
    )
    assert np.array_equal(drawn((2, 2)), drawn((2, 2), init="glorot"))


@pytest.mark.parametrize(
    ("dim", "bound"),
    [
        (400, np.sqrt(3 / 400)),
        ((30, 50), np.sqrt(6 / 80)),
        ((9, 10, 11), np.sqrt(9 / 30)),
        ((3, 4, 5, 6), np.sqrt(6 / (12 * 11))),
        ((4, 4, 4, 4, 4), np.sqrt(15 / 20)),
    ],
)
def test_glorot_bound_of_each_number_of_dims(dim, bound):
    values = np.abs(drawn(dim))
    assert 0.97 * bound < values.max() <= bound * (1 + 1e-6)
    np.testing.assert_allclose(values.mean(), bound / 2, rtol=0.1)


def test_init_variants():
    assert np.array_equal(drawn((2, 3), init=7), np.full((2, 3), 7))
    assert np.array_equal(drawn(2, init=True), [1, 1])
    assert np.array_equal(drawn(2, init=np.float32(0.5)), [0.5, 0.5])
    assert np.array_equal(drawn((3, 3), init="identity"), np.eye(3))
    array = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(drawn(1, init=array), array)
    assert np.array_equal(drawn((2, 3), init=dy.NumpyInitializer(array)), array)
    assert np.array_equal(dy.ParameterCollection().parameters_from_numpy(array).as_array(), array)
    assert np.array_equal(drawn(3, init=dy.ConstInitializer(2)), [2, 2, 2])
    uniform = drawn(5000, init="uniform", scale=0.3)
    assert 0.29 < np.abs(uniform).max() <= 0.3 and abs(uniform.mean()) < 0.01
    normal = drawn(5000, init="normal", mean=2, std=0.5)
    np.testing.assert_allclose([normal.mean(), normal.std()], [2, 0.5], rtol=0.05)
    by_variance = drawn(5000, init=dy.NormalInitializer(2, 0.25))
    assert np.array_equal(normal, by_variance)
    he = drawn((50, 200), init="he")
    np.testing.assert_allclose(he.std(), np.sqrt(1 / 400), rtol=0.05)
    saxe = drawn((20, 20), init=dy.SaxeInitializer(0.5))
    np.testing.assert_allclose(saxe @ saxe.T, 0.25 * np.eye(20), atol=1e-6)
    assert np.abs(drawn(5, init=dy.UniformInitializer(0))).max() == 0


INITIALIZERS = {
    "ConstInitializer": lambda path: dy.ConstInitializer(0.3),
    "FromFileInitializer": lambda path: dy.FromFileInitializer(path),
    "GlorotInitializer": lambda path: dy.GlorotInitializer(),
    "HeInitializer": lambda path: dy.HeInitializer(),
    "IdentityInitializer": lambda path: dy.IdentityInitializer(),
    "NormalInitializer": lambda path: dy.NormalInitializer(0.1, 0.3),
    "NumpyInitializer": lambda path: dy.NumpyInitializer(np.arange(9).reshape(3, 3) / 8),
    "SaxeInitializer": lambda path: dy.SaxeInitializer(),
    "UniformInitializer": lambda path: dy.UniformInitializer(0.3),
}


def test_initializers_draw_from_the_generator_of_the_package_alone(tmp_path):
    classes = {n for n in params.__all__ if n.endswith("Initializer")} - {"PyInitializer"}
    gap = classes ^ INITIALIZERS.keys()
    assert not gap, f"give {gap} rows in INITIALIZERS of tests/test_params.py"
    (tmp_path / "numbers").write_text(" ".join(str(i / 8) for i in range(9)))

    def seeded(make, others):
        dy.reset_random_seed(5)
        np.random.seed(others)
        random.seed(others)
        return np.ravel(make(), order="F")

    for name, make in INITIALIZERS.items():
        init = make(tmp_path / "numbers")
        where = f"{type(init).__module__.replace('.', '/')}.py: {name}"
        one, again = (seeded(lambda init=init: drawn((3, 3), init=init), n) for n in (1, 2))
        assert np.array_equal(one, again), f"{where} must draw from dist_dynet._random alone"
        given = seeded(lambda init=init: init.values((3, 3), False), 1)
        assert np.array_equal(one, given), f"{where}: values() gives others than add_parameters()"
        assert np.array_equal(one, one.astype(np.float32)), f"{where}: must give float32"


@pytest.mark.parametrize("values", [[[1, 2, 3], [4, 5, 6]], 0.5])
def test_init_may_be_an_array_of_another_library(values):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.array(values, dtype or np.float32)

    m = dy.ParameterCollection()
    for add in m.add_parameters, m.add_lookup_parameters:
        added = add((2, 3), init=Tensor())
        assert np.array_equal(added.as_array(), np.broadcast_to(values, (2, 3)))


@pytest.mark.parametrize(
    ("dim", "init", "error"),
    [
        ((2, 3), "identity", ValueError),
        (2, "identity", ValueError),
        ((2, 3), dy.SaxeInitializer(), RuntimeError),
        (2, "nonsense", ValueError),
        (2, object(), ValueError),
        ((2, 2), dy.NumpyInitializer(np.zeros(5)), ValueError),
        (2, dy.PyInitializer(), AssertionError),
    ],
)
def test_init_that_does_not_fit_is_refused(dim, init, error):
    m = dy.ParameterCollection()
    with pytest.raises(error, match=r"[iI]nitializer"):
        m.add_parameters(dim, init=init)
    assert m.parameters_list() == [] and m.add_parameters(1).name() == "/_0"


def test_init_from_file(tmp_path):
    (tmp_path / "numbers").write_text("1 2\n3 4 5 6")
    assert drawn((2, 3), init=dy.FromFileInitializer(tmp_path / "numbers")).tolist() == [
        [1, 3, 5],
        [2, 4, 6],
    ]
    for name, dim, error in (
        ("numbers", 5, ValueError),
        ("missing", 6, RuntimeError),
        ("", 6, RuntimeError),
    ):
        with pytest.raises(error, match="FromFileInitializer"):
            drawn(dim, init=dy.FromFileInitializer(tmp_path / name))


# ---- reading and writing ---------------------------------------------------------------


def test_dense_parameter_reads_what_was_written(rng):
    w = dy.ParameterCollection().add_parameters((2, 3, 4))
    array = rng.normal(size=(2, 3, 4))
    w.set_value(array)
    np.testing.assert_allclose(w.as_array(), array, rtol=1e-6)
    assert w.as_array().dtype == np.float64
    assert np.array_equal(w.npvalue(), w.as_array())
    assert w.vec_value() == w.as_array().ravel(order="F").tolist()
    copy = w.as_array()
    copy[:] = 0
    assert np.abs(w.as_array()).min() > 0
    w.scale(2)
    np.testing.assert_allclose(w.as_array(), 2 * array, rtol=1e-6)
    w.clip_inplace(-0.5, 0.25)
    np.testing.assert_allclose(w.as_array(), np.clip(2 * array, -0.5, 0.25), rtol=1e-6)
    w.set_value(np.full((2, 3, 4), np.nan))
    w.clip_inplace(-1, 1)
    assert np.isnan(w.as_array()).all()
    w.set_value(np.clip(2 * array, -0.5, 0.25))
    for wrong in (np.zeros(24), np.zeros((3, 2, 4)), 5):
        with pytest.raises(ValueError):
            w.set_value(wrong)
    with pytest.raises(TypeError, match="set_value: takes numbers"):
        w.set_value([[1, 2], [3]])
    np.testing.assert_allclose(w.as_array(), np.clip(2 * array, -0.5, 0.25), rtol=1e-6)


def test_gradient_is_scaled_cleared_and_zeroed():
    w = dy.ParameterCollection().add_parameters((2, 2), init=1)
    assert not w.has_gradient() and np.array_equal(w.grad_as_array(), np.zeros((2, 2)))
    dy.dot_product(w, dy.inputTensor([[1, 2], [3, 4]])).backward()
    assert w.has_gradient() and w.grad_as_array().tolist() == [[1, 2], [3, 4]]
    w.scale_gradient(-2)
    assert w.grad_as_array().tolist() == [[-2, -4], [-6, -8]]
    w.zero()
    assert (
        not w.has_gradient() and np.abs(w.as_array()).max() == np.abs(w.grad_as_array()).max() == 0
    )


@pytest.mark.parametrize("row_dims", [(3,), (2, 3), (2, 3, 2)])
def test_table_against_numpy(row_dims, rng):
    array = rng.normal(size=(5, *row_dims)).astype(np.float32).astype(float)
    m = dy.ParameterCollection()
    t = m.lookup_parameters_from_numpy(array)
    assert t.shape() == array.shape and len(t) == 5
    assert np.array_equal(t.as_array(), array)
    assert np.array_equal(t.row_as_array(3), array[3])
    assert np.array_equal(t.rows_as_array([4, 0, 4]), array[[4, 0, 4]])
    assert t[2].dim() == (row_dims, 1)
    assert np.array_equal(t[2].npvalue(), array[2])
    assert np.array_equal(dy.lookup_batch(t, [4, 1]).npvalue(), np.moveaxis(array[[4, 1]], 0, -1))
    assert np.array_equal(t.batch([4, 1]).npvalue(), np.moveaxis(array[[4, 1]], 0, -1))
    assert t.expr().dim() == ((*row_dims, 5), 1)
    assert np.array_equal(t.expr().npvalue(), np.moveaxis(array, 0, -1))
    assert len(list(t)) == 5
    g = rng.integers(-5, 5, size=(*row_dims, 3)).astype(float)
    dy.sum_batches(
        dy.dot_product(dy.lookup_batch(t, [1, 4, 1]), dy.inputTensor(g, batched=True))
    ).backward()
    expected = np.zeros_like(array)
    np.add.at(expected, [1, 4, 1], np.moveaxis(g, -1, 0))
    assert np.array_equal(t.grad_as_array(), expected)
    assert np.array_equal(t.row_grad_as_array(1), expected[1])
    assert np.array_equal(t.rows_grad_as_array([0, 4]), expected[[0, 4]])
    assert sorted(t.touched_rows()) == [1, 4]
    t.scale_gradient(3)
    assert np.array_equal(t.grad_as_array(), 3 * expected)
    row = rng.integers(-9, 9, size=row_dims).astype(float)
    t.init_row(2, row.ravel(order="F"))
    array[2] = row
    t.init_from_array(-array[:2])
    array[:2] *= -1
    assert np.array_equal(t.as_array(), array)
    t.scale(2)
    assert np.array_equal(t.as_array(), 2 * array)
    m.set_weight_decay(0.5)
    dy.SimpleSGDTrainer(m, learning_rate=0).update()  # t is half of what is stored
    t.scale(2)
    assert np.array_equal(t.as_array(), 2 * array)
    t.set_gradient(array)
    t.zero()
    assert np.abs(t.as_array()).max() == 0 and t.has_gradient()


def test_whole_table_as_expression_has_a_dense_gradient(rng):
    t = dy.ParameterCollection().add_lookup_parameters((4, 3))
    g = rng.integers(-5, 5, size=(3, 4)).astype(float)
    dy.esum([dy.dot_product(t, dy.inputTensor(g)), dy.sum_elems(t[2])]).backward()
    g[:, 2] += 1
    assert np.array_equal(t.grad_as_array(), g.T)
    assert sorted(t.touched_rows()) == [0, 1, 2, 3]


def test_table_refuses_rows_outside():
    t = dy.ParameterCollection().add_lookup_parameters((4, 3))
    for i in (-1, 4, 1 << 31, -(1 << 40)):
        for use in (
            lambda i: t[i],
            lambda i: dy.lookup(t, i),
            lambda i: dy.lookup_batch(t, [0, i]),
            lambda i: t.init_row(i, [1, 2, 3]),
            t.row_as_array,
            lambda i: t.rows_as_array([0, i]),
            t.row_grad_as_array,
            lambda i: t[0].set(i),
        ):
            with pytest.raises((ValueError, OverflowError)):
                use(i)
    for row in ([1, 2], [1, 2, 3, 4], 5, []):
        with pytest.raises(ValueError, match="init_row: a row has 3 numbers"):
            t.init_row(0, row)
    for array in (np.zeros((5, 3)), np.zeros((4, 2)), np.zeros(3), 1):
        with pytest.raises(ValueError, match="init_from_array"):
            t.init_from_array(array)


def test_number_of_rows_alone_makes_rows_of_one_dim(tmp_path):
    """As in DyNet, whose files of such a table have the dims {1,4}."""
    for rows in (4, 4.0, np.int64(4), np.array(4)):
        m = dy.ParameterCollection()
        t = m.add_lookup_parameters(rows, init=2)
        assert t.shape() == t.as_array().shape == t.rows_as_array([0, 1, 2, 3]).shape == (4, 1)
        m.save(tmp_path / "m")
        assert (tmp_path / "m").read_text().startswith("#LookupParameter# /_0 {1,4} ")
    assert m.add_lookup_parameters([4]).shape() == (4,)


def test_table_of_one_dim_has_single_numbers(tmp_path):
    """Which arrays and files show without an axis, as in DyNet."""
    m = dy.ParameterCollection()
    t = m.add_lookup_parameters((4,), init=2)
    assert t.shape() == (4,) and t[1].value() == 2
    t.init_row(1, [5])
    t.init_row(2, 7)
    dy.renew_cg()
    dy.sum_batches(t[1] * dy.lookup_batch(t, [2, 2])).backward()
    assert t.as_array().tolist() == [2, 5, 7, 2] and t.row_as_array(1).tolist() == [5]
    assert t.grad_as_array().tolist() == [0, 14, 10, 0]
    dy.SimpleSGDTrainer(m, 1).update()
    m.save(tmp_path / "m")
    assert (tmp_path / "m").read_text().startswith("#LookupParameter# /_0 {4} ")
    read = dy.ParameterCollection().load_lookup_param(tmp_path / "m", "/_0")
    copied = pickle.loads(pickle.dumps(m)).lookup_parameters_list()[0]
    made = dy.ParameterCollection().lookup_parameters_from_numpy(t.as_array())
    dy.save_safetensors(m, tmp_path / "s")
    other = dy.ParameterCollection()
    again = other.add_lookup_parameters((4,))
    dy.load_safetensors(other, tmp_path / "s")
    for table in (read, copied, made, again):
        assert table.shape() == (4,) and (table.as_array() == t.as_array()).all()
    with pytest.raises(RuntimeError, match=r"\{4\}.*do not match.*\{1,4\}"):
        dy.ParameterCollection().add_lookup_parameters((4, 1)).populate(tmp_path / "m", "/_0")


BAD = {
    "masked": np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]]),
    "None": [[1, 2], [3, None]],
    "text": np.array([["1", "2"], ["3", "4"]]),
    "dates": np.zeros((2, 2), "M8[D]"),
    "complex": 1j * np.ones((2, 2)),
    "expressions": [[dy.ones(1)] * 2] * 2,
}
WRITES = {
    "set_value": lambda m, p, t, x: p.set_value(x),
    "set_gradient": lambda m, p, t, x: p.set_gradient(x),
    "set_gradient of a table": lambda m, p, t, x: t.set_gradient(x),
    "init_row": lambda m, p, t, x: m.add_lookup_parameters((3, 2, 2)).init_row(0, x),
    "init_from_array": lambda m, p, t, x: t.init_from_array(x),
    "add_gradients": lambda m, p, t, x: t.add_gradients([0, 1], x),
    "init": lambda m, p, t, x: m.add_parameters((2, 2), init=dy.NumpyInitializer(x)),
    "parameters_from_numpy": lambda m, p, t, x: m.parameters_from_numpy(x),
    "lookup_parameters_from_numpy": lambda m, p, t, x: m.lookup_parameters_from_numpy(x),
    "dy.function": lambda m, p, t, x: dy.function(lambda a: x, None, lambda d: d)(p).value(),
}


@pytest.mark.parametrize("given", BAD)
@pytest.mark.parametrize("way", WRITES)
def test_what_is_no_number_goes_into_no_parameter(way, given):
    m = dy.ParameterCollection()
    p, t = m.add_parameters((2, 2)), m.add_lookup_parameters((2, 2))
    before = p.as_array(), t.as_array()
    with pytest.raises(
        TypeError, match=r"^[\w .<>]+: (takes|forward and backward must return) numbers; "
    ):
        WRITES[way](m, p, t, BAD[given])
    assert all(map(np.array_equal, before, (p.as_array(), t.as_array())))
    assert not p.has_gradient() and not t.has_gradient()


# ---- frozen parameters, constants ------------------------------------------------------


def test_freezing_drops_a_pending_gradient_and_leaves_the_norm():
    m = dy.ParameterCollection()
    w, t = m.add_parameters(4, init=1), m.add_lookup_parameters((3, 4), init=1)
    trainer = dy.SimpleSGDTrainer(m, learning_rate=1)
    trainer.set_clip_threshold(0)
    dy.esum([dy.sum_elems(w), dy.sum_elems(t[1])]).backward()
    np.testing.assert_allclose(trainer.gradient_norm(), np.sqrt(8))
    w.set_updated(False)
    assert not w.is_updated() and not w.has_gradient()
    np.testing.assert_allclose(trainer.gradient_norm(), 2)
    trainer.update()
    assert w.as_array().tolist() == [1] * 4 and t.row_as_array(1).tolist() == [0] * 4
    w.set_updated(True)
    dy.renew_cg()
    dy.sum_elems(w).backward()
    trainer.update()
    assert w.as_array().tolist() == [0] * 4


def test_expr_is_constant_by_default():
    w = dy.ParameterCollection().add_parameters(2, init=3)
    dy.sum_elems(dy.square(w.expr())).backward(full=True)
    assert not w.has_gradient()
    dy.sum_elems(dy.square(w.expr(update=True))).backward()
    assert w.grad_as_array().tolist() == [6, 6]


def test_parameter_is_one_node_per_graph():
    w = dy.ParameterCollection().add_parameters(2)
    for _ in range(3):
        w + w
        w.expr(True).value()
    assert len(dy.cg()) == 4
    w.expr()
    w.expr()
    assert len(dy.cg()) == 5


# ---- chunks ----------------------------------------------------------------------------

SIZES = [
    (3,),
    (40, 40),
    (1,),
    (500, 30),
    (17,),
    (16,),
    (200, 100),
    (7, 9),
    (900, 900),
    (5,),
    (2100, 2100),
    (3, 3),
]


def layout(m):
    return [(lib.dn_param_chunk(p._c), lib.dn_param_offset(p._c)) for p in m.parameters_list()]


def test_chunk_layout_depends_on_the_model_only():
    models = [dy.ParameterCollection(), dy.ParameterCollection()]
    for size in SIZES:
        for m in models:
            m.add_parameters(size, init=0)
        models[1].add_lookup_parameters((2, 3))
    assert layout(models[0]) == layout(models[1])


def test_chunks_hold_parameters_side_by_side():
    m = dy.ParameterCollection()
    parameters = [m.add_parameters(size, init=i + 1) for i, size in enumerate(SIZES)]
    root, ends = m._root, {}
    assert root.chunks() > 2
    for p, (chunk, offset) in zip(parameters, layout(m), strict=True):
        assert offset == ends.get(chunk, 0) and offset % 16 == 0
        n = int(np.prod(p.shape()))
        ends[chunk] = -(-(offset + n) // 16) * 16
        assert (
            ends[chunk] <= lib.dn_chunk_size(root.c, chunk) <= lib.dn_chunk_capacity(root.c, chunk)
        )
        assert int(ffi.cast("intptr_t", lib.dn_param_values(p._c))) % 64 == 0
        # padding is zero
        assert not view(lib.dn_param_values(p._c), ends[chunk] - offset)[n:].any()
    assert [np.unique(p.as_array()).tolist() for p in parameters] == [
        [i + 1] for i in range(len(SIZES))
    ]
    assert sum(lib.dn_chunk_size(root.c, c) for c in range(root.chunks())) == sum(ends.values())


def test_neighbours_do_not_leak_into_each_other(rng):
    m = dy.ParameterCollection()
    parameters = [m.add_parameters(size, init=0) for size in (3, 1, 16, 5)]
    trainer = dy.AdamTrainer(m)
    for _ in range(5):
        dy.renew_cg()
        dy.dot_product(parameters[1], dy.inputVector(rng.normal(size=1))).backward()
        dy.dot_product(parameters[3], dy.inputVector(rng.normal(size=5))).backward()
        trainer.update()
    assert np.abs(parameters[0].as_array()).max() == np.abs(parameters[2].as_array()).max() == 0
    assert np.abs(parameters[3].as_array()).min() > 0
    values = view(lib.dn_param_values(parameters[0]._c), lib.dn_chunk_size(m._root.c, 0))
    assert np.abs(values[16 + 1 : 48]).max() == np.abs(values[48 + 5 :]).max() == 0


def aligned(n):
    memory = np.full(n + 16, np.nan, DTYPE)
    start = -memory.ctypes.data % 64 // memory.itemsize
    return memory[start : start + n]


def train(move, steps=12):
    """The bits of a small model's parameters after some steps, with gradients moved at the steps in
    `move`."""
    dy.reset_random_seed(3)
    m = dy.ParameterCollection()
    lstm = dy.VanillaLSTMBuilder(1, 20, 30, m)
    W, b, t = m.add_parameters((150, 30)), m.add_parameters(150), m.add_lookup_parameters((9, 20))
    trainer, kept = dy.AdamTrainer(m), []
    for step in range(steps):
        if step in move:
            for c in range(m._root.chunks()):
                memory = aligned(lib.dn_chunk_capacity(m._root.c, c)) if move[step] else None
                kept.append(memory)
                pointer = ffi.NULL if memory is None else ffi.cast("dn_real *", memory.ctypes.data)
                assert lib.dn_chunk_move_gradients(m._root.c, c, pointer) == 0
        dy.renew_cg()
        for k in range(2):  # the second adds to the first
            h = lstm.initial_state().transduce([t[step % 9], t[k]])[-1]
            dy.pickneglogsoftmax(W * h + b, step % 150).backward()
            if step in move and k == 0 and move[step] == "between":
                for c in range(m._root.chunks()):
                    kept.append(aligned(lib.dn_chunk_capacity(m._root.c, c)))
                    lib.dn_chunk_move_gradients(
                        m._root.c, c, ffi.cast("dn_real *", kept[-1].ctypes.data)
                    )
        trainer.update()
    return b"".join(p.storage().tobytes() for p in (*m.parameters_list(), t)), m, kept


@pytest.mark.parametrize(
    "move", [{0: "out"}, {5: "out"}, {3: "out", 6: ""}, {2: "out", 4: "out", 9: ""}, {4: "between"}]
)
def test_moved_gradients_leave_training_bit_equal(move):
    assert train(move)[0] == train({})[0]


def test_moved_gradients_are_read_where_they_are():
    _, m, kept = train({1: "out"}, steps=2)
    dy.renew_cg()
    w = m.parameters_list()[-1]
    dy.sum_elems(w * 2).backward()
    memory = kept[lib.dn_param_chunk(w._c)]
    offset = lib.dn_param_offset(w._c)
    assert memory[offset : offset + 150].tolist() == w.grad_as_array().tolist() == [2] * 150
    assert np.shares_memory(
        view(lib.dn_chunk_gradients(m._root.c, lib.dn_param_chunk(w._c)), 16), memory
    )


# ---- memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("trainer", [dy.SimpleSGDTrainer, dy.AdamTrainer])
def test_1000_models_made_trained_and_dropped_leave_no_memory_behind(trainer):
    def one():
        m = dy.ParameterCollection()
        w, t = m.add_parameters((100, 100)), m.add_lookup_parameters((50, 100))
        lstm = dy.VanillaLSTMBuilder(1, 100, 20, m.add_subcollection())
        dy.renew_cg()
        dy.sum_elems(lstm.initial_state().transduce([w * t[3], t[4]])[-1]).backward()
        trainer(m).update()

    for _ in range(100):
        one()
    gc.collect()
    before = resident_megabytes()
    for _ in range(900):
        one()
    gc.collect()
    # 900 models of 0.3 MB; a process with a history wanders by some 20
    assert resident_megabytes() - before < 60


def test_marks_of_gradients_tell_of_clearing_and_scaling():
    from dist_dynet._ffi import ffi, lib

    m = dy.ParameterCollection()
    parameters = [m.add_parameters(2), m.add_lookup_parameters((3, 2))]

    def marks():
        clears, scales = np.empty(2, np.int64), np.empty(2)
        lib.dn_gradient_marks(
            2,
            [p._c for p in parameters],
            ffi.from_buffer("int64_t *", clears),
            ffi.from_buffer("double *", scales),
        )
        return clears, scales

    (clears, scales) = marks()
    parameters[0].clear_gradient()
    parameters[1].scale_gradient(4)
    parameters[1].scale_gradient(0.5)
    assert (marks()[0] - clears).tolist() == [1, 0]
    assert (marks()[1] / scales).tolist() == [1, 2]
