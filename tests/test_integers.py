"""Integers as arguments: each public function takes for them what integer() takes, and nothing
else."""

import inspect
import re

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._integers import indices, integer, whole


def _x():
    return dy.inputTensor(np.arange(1, 25, dtype=float).reshape(2, 3, 4))


def _m():
    return dy.inputTensor(np.arange(1, 9, dtype=float).reshape(4, 2) / 7)


def _v():
    return dy.inputVector([3, 1, 4, 2])


def _b():
    return dy.inputTensor(np.arange(1, 9, dtype=float).reshape(4, 2), batched=True)


def _table():
    return dy.ParameterCollection().lookup_parameters_from_numpy(
        np.arange(12, dtype=float).reshape(4, 3)
    )


def _image():
    return dy.inputTensor(np.arange(16, dtype=float).reshape(4, 4))


def _filters():
    return dy.ones((2, 2, 1, 1))


# function.argument -> (the call with the integer n, an integer that it takes)
ONE = {
    "argmax.d": (lambda n: dy.argmax(_m(), "zero_gradient", n), 1),
    "concatenate.d": (lambda n: dy.concatenate([_m(), _m()], n), 1),
    "constant.dim": (lambda n: dy.constant(n, 2), 3),
    "constant.batch_size": (lambda n: dy.constant(2, 2, n), 3),
    "conv2d.stride": (lambda n: dy.conv2d(_image(), _filters(), [n, 1]), 2),
    "conv2d_bias.stride": (lambda n: dy.conv2d_bias(_image(), _filters(), dy.ones(1), [n, 1]), 2),
    "cross_entropy.v": (lambda n: dy.cross_entropy(_v(), n), 2),
    "cumsum.d": (lambda n: dy.cumsum(_m(), n), 1),
    "dropout_dim.d": (lambda n: dy.dropout_dim(_m(), n, 0), 1),
    "fold_rows.nrows": (lambda n: dy.fold_rows(_m(), n), 2),
    "hinge.v": (lambda n: dy.hinge(_v(), n), 2),
    "hinge_batch.vs": (lambda n: dy.hinge_batch(_b(), [n, 1]), 2),
    "hinge_dim.v": (lambda n: dy.hinge_dim(_m(), [n, 1]), 2),
    "hinge_dim.d": (lambda n: dy.hinge_dim(_m(), [0, 1, 0, 1], n), 1),
    "inputTensorTranspose.batch_size": (lambda n: dy.inputTensorTranspose([1, 2, 3, 4], 2, n), 2),
    "kmax_pooling.k": (lambda n: dy.kmax_pooling(_m(), n), 2),
    "kmax_pooling.d": (lambda n: dy.kmax_pooling(_m(), 1, n), 1),
    "kmh_ngram.v": (lambda n: dy.kmh_ngram(_m(), n), 2),
    "log_softmax.restrict": (lambda n: dy.log_softmax(_v(), [n, 1]), 2),
    "log_softmax.d": (lambda n: dy.log_softmax(_m(), None, n), 1),
    "logsumexp_dim.d": (lambda n: dy.logsumexp_dim(_m(), n), 1),
    "lookup.index": (lambda n: dy.lookup(_table(), n), 2),
    "lookup_batch.indices": (lambda n: dy.lookup_batch(_table(), [n, 1]), 2),
    "masked_log_softmax.d": (lambda n: dy.masked_log_softmax(_m(), np.ones((4, 2)), n), 1),
    "masked_softmax.d": (lambda n: dy.masked_softmax(_m(), np.ones((4, 2)), n), 1),
    "masked_pickneglogsoftmax_batch.vs": (
        lambda n: dy.masked_pickneglogsoftmax_batch(_b(), [n, 1], [1, 1]),
        2,
    ),
    "max_dim.d": (lambda n: dy.max_dim(_m(), n), 1),
    "maxpooling2d.ksize": (lambda n: dy.maxpooling2d(_image(), [n, 2], [1, 1]), 2),
    "maxpooling2d.stride": (lambda n: dy.maxpooling2d(_image(), [2, 2], [n, 1]), 2),
    "mean_dim.d": (lambda n: dy.mean_dim(_x(), n), 2),
    "mean_dim.n": (lambda n: dy.mean_dim(_x(), [1], False, n), 3),
    "min_dim.d": (lambda n: dy.min_dim(_m(), n), 1),
    "moment_batches.r": (lambda n: dy.moment_batches(_b(), n), 2),
    "moment_dim.d": (lambda n: dy.moment_dim(_x(), n, 2), 2),
    "moment_dim.r": (lambda n: dy.moment_dim(_x(), [1], n), 3),
    "moment_dim.n": (lambda n: dy.moment_dim(_x(), [1], 1, False, n), 3),
    "moment_elems.r": (lambda n: dy.moment_elems(_m(), n), 2),
    "one_hot.d": (lambda n: dy.one_hot(n, 1), 3),
    "one_hot.idx": (lambda n: dy.one_hot(4, n), 3),
    "ones.dim": (lambda n: dy.ones(n), 3),
    "ones.batch_size": (lambda n: dy.ones(2, batch_size=n), 3),
    "pick.index": (lambda n: dy.pick(_m(), n), 3),
    "pick.dim": (lambda n: dy.pick(_m(), 1, n), 1),
    "pick_batch.indices": (lambda n: dy.pick_batch(_b(), [n, 1]), 3),
    "pick_batch.dim": (lambda n: dy.pick_batch(_m(), [0, 1], n), 1),
    "pick_batch_elem.v": (lambda n: dy.pick_batch_elem(_b(), n), 1),
    "pick_batch_elems.vs": (lambda n: dy.pick_batch_elems(_b(), [n, 0]), 1),
    "pick_range.s": (lambda n: dy.pick_range(_v(), n, 3), 1),
    "pick_range.e": (lambda n: dy.pick_range(_v(), 1, n), 3),
    "pick_range.d": (lambda n: dy.pick_range(_m(), 0, 1, n), 1),
    "pickneglogsoftmax.v": (lambda n: dy.pickneglogsoftmax(_v(), n), 2),
    "pickneglogsoftmax_batch.vs": (lambda n: dy.pickneglogsoftmax_batch(_b(), [n, 1]), 2),
    "poisson_loss.x": (lambda n: dy.poisson_loss(dy.scalarInput(2), n), 3),
    "random_bernoulli.dim": (lambda n: dy.random_bernoulli(n, 1), 3),
    "random_bernoulli.batch_size": (lambda n: dy.random_bernoulli(2, 1, batch_size=n), 3),
    "random_gumbel.dim": (lambda n: dy.random_gumbel(n) * 0, 3),
    "random_gumbel.batch_size": (lambda n: dy.random_gumbel(2, batch_size=n) * 0, 3),
    "random_normal.dim": (lambda n: dy.random_normal(n) * 0, 3),
    "random_normal.batch_size": (lambda n: dy.random_normal(2, batch_size=n) * 0, 3),
    "random_uniform.dim": (lambda n: dy.random_uniform(n, 0, 1) * 0, 3),
    "random_uniform.batch_size": (lambda n: dy.random_uniform(2, 0, 1, batch_size=n) * 0, 3),
    "reshape.d": (lambda n: dy.reshape(_m(), (n, 2)), 4),
    "reshape.batch_size": (lambda n: dy.reshape(_m(), 2, batch_size=n), 4),
    "sample_categorical.n": (lambda n: dy.sample_categorical(_m(), n) * 0, 3),
    "sample_categorical.d": (lambda n: dy.sample_categorical(_m(), 2, n) * 0, 1),
    "select_cols.cs": (lambda n: dy.select_cols(_m(), [n, 0]), 1),
    "select_rows.rs": (lambda n: dy.select_rows(_m(), [n, 0]), 3),
    "softmax.d": (lambda n: dy.softmax(_m(), n), 1),
    "sparse_inputTensor.idxs": (lambda n: dy.sparse_inputTensor([[n, 1]], [5, 6], (4,)), 3),
    "sparse_inputTensor.shape": (lambda n: dy.sparse_inputTensor([[2, 1]], [5, 6], (n,)), 3),
    "sparsemax.d": (lambda n: dy.sparsemax(_m(), n), 1),
    "std_dim.d": (lambda n: dy.std_dim(_x(), n), 2),
    "std_dim.n": (lambda n: dy.std_dim(_x(), [1], False, n), 3),
    "strided_select.strides": (lambda n: dy.strided_select(_v(), [n], [0], [4]), 2),
    "strided_select.range_from": (lambda n: dy.strided_select(_v(), [1], [n], [4]), 2),
    "strided_select.range_to": (lambda n: dy.strided_select(_v(), [1], [0], [n]), 2),
    "sum_dim.d": (lambda n: dy.sum_dim(_x(), n), 2),
    "sum_dim.n": (lambda n: dy.sum_dim(_x(), [1], False, n), 3),
    "topk.k": (lambda n: dy.topk(_m(), n), 2),
    "topk.d": (lambda n: dy.topk(_m(), 1, n), 1),
    "transpose.dims": (lambda n: dy.transpose(_m(), [n, 0]), 1),
    "vecInput.dim": (lambda n: dy.vecInput(n), 3),
    "zeros.dim": (lambda n: dy.zeros(n), 3),
    "zeros.batch_size": (lambda n: dy.zeros(2, batch_size=n), 3),
}

# the same for subscripts
SUBSCRIPTS = {
    "x[i]": (lambda n: _m()[n], 2),
    "x[a:]": (lambda n: _m()[n:3], 1),
    "x[:b]": (lambda n: _m()[:n], 3),
    "x[::s]": (lambda n: _m()[::n], 2),
    "x[i, a:b]": (lambda n: _m()[n, 0:1], 2),
}

# Arguments with `int` in their annotation that are no sizes, indices, dims or counts of a node
OTHER = {
    "check_gradient.max_entries": "a bound of a test",
    "init.autobatch": "a choice; settings refuse by ValueError (test_integers_of_methods.py)",
    "init.mem": "as before",
    "init.profiling": "as before",
    "init.random_seed": "as before",
    "init.threads": "as before",
    "inputMatrix.d": "raises DeprecationWarning",
    "matInput.d1": "raises DeprecationWarning",
    "matInput.d2": "raises DeprecationWarning",
    "renew_cg.autobatching": "as before",
    "reset_random_seed.seed": "in test_integers_of_methods.py",
}
SAME = {"zeroes": "zeros", "pickrange": "pick_range"}

ALL = {**ONE, **SUBSCRIPTS}
GOOD = (
    float,
    np.float32,
    np.float64,
    np.int64,
    np.int32,
    np.uint64,
    type("Derived", (np.int64,), {}),
    np.array,
    lambda n: np.array(float(n)),
    lambda n: np.array([n]),
)
BAD = (
    2.5,
    float("nan"),
    float("inf"),
    "1",
    None,
    np.bool_(True),
    np.timedelta64(1, "s"),
    np.array([0.5]),
    1j,
    np.float32(0.5),
)


def _annotated():
    for name in dy.__all__:
        function = getattr(dy, name)
        if inspect.isfunction(function) and name not in SAME:
            for argument in inspect.signature(function).parameters.values():
                if re.search(r"\bint\b", str(argument.annotation)):
                    yield f"{name}.{argument.name}"


def test_integers_each_annotated_argument_has_a_row():
    missing = sorted(set(_annotated()) - set(ONE) - set(OTHER))
    assert not missing, f"add rows to ONE (or OTHER, with the reason) in {__file__} for {missing}"


@pytest.mark.parametrize("name", ALL)
def test_integers_of_all_types_are_the_same(name):
    call, n = ALL[name]
    dy.renew_cg()
    wanted = call(n).npvalue()
    for kind in GOOD:
        given = kind(n)
        if name.startswith("x[") and isinstance(given, np.ndarray) and given.ndim:
            continue  # in NumPy a list of indices, refused (test_mistakes.py)
        made = call(given)
        assert made.npvalue().shape == wanted.shape, f"{name} of {given!r}"
        np.testing.assert_array_equal(made.npvalue(), wanted, err_msg=f"{name} of {given!r}")


@pytest.mark.parametrize("name", ALL)
def test_integers_nothing_else_is_taken(name):
    call = ALL[name][0]
    for bad in BAD:
        if bad is None and (name == "sparsemax.d" or (name.startswith("x[") and ":" in name)):
            continue  # not given; an open end
        dy.renew_cg()
        with pytest.raises(TypeError, match=r"integer|takes numbers|dims must be") as caught:
            call(bad)
        assert ": " in str(caught.value), f"{name} of {bad!r}: {caught.value}"


NAMED = (
    "fold_rows.nrows",
    "kmh_ngram.v",
    "mean_dim.n",
    "moment_dim.r",
    "reshape.batch_size",
    "topk.k",
    "zeros.batch_size",
)


@pytest.mark.parametrize("name", NAMED)
def test_integers_errors_name_the_argument(name):
    argument = name.split(".")[1]
    with pytest.raises(TypeError, match=rf"\w+: {argument} must be an integer; got 2\.5\."):
        ALL[name][0](2.5)
    with pytest.raises(
        OverflowError, match=rf"\w+: {argument} must have at most 31 bits; got {1 << 40}\."
    ):
        ALL[name][0](1 << 40)


def test_integers_have_32_bits_and_no_more():
    for kind in (int, float, np.int64, np.float64):
        for n in (-(1 << 31), (1 << 31) - 1):
            assert whole(kind(n), "f") == n and [*indices([kind(n)], "f")] == [n]
        for n in (-(1 << 31) - 1, 1 << 31):
            for function, given in (whole, kind(n)), (indices, [kind(n)]):
                with pytest.raises(OverflowError, match=r"^f: the index must have at most 31 bits"):
                    function(given, "f")


def test_integer_true_is_one():
    assert (
        integer(True) == 1
        and dy.moment_elems(_m(), True).npvalue() == dy.moment_elems(_m(), 1).npvalue()
    )
    with pytest.raises(TypeError):
        integer(np.True_)
