"""Every operation, from the rows of tests/op_table: values, gradients, batches, extremes, errors.

`pytest` runs the float build, and starts the double build and plain C instead of BLAS as processes
of their own. How long: about a minute.
"""

import re
from dataclasses import replace
from pathlib import Path

import gradients
import numpy as np
import op_table
import pytest
from op_table.row import Case, tensor
from op_table.run import Run, array_of, drawn, element, expected
from processes import passing_tests
from together import together

import dist_dynet as dy
from dist_dynet import ops
from dist_dynet._ffi import DTYPE, OPS

HERE = Path(__file__).parent
DOUBLE = DTYPE.itemsize == 8
TOLERANCE = 1e-12 if DOUBLE else 1e-5
"""|a - b| <= tolerance (1 + |b|), against arrays that NumPy computed in double."""
GRADIENT_TOLERANCE = 1e-7 if DOUBLE else 1e-5
"""The same, against differences of values."""
SMALL = 24
"""Up to this many numbers in inputs and value the whole Jacobian is checked."""

ROWS = [(family, row) for family, module in op_table.FAMILIES.items() for row in module.ROWS]


def cases(choose=lambda row, case: True):
    """Makes a test of each row, with all its cases for which choose(row, case)."""
    chosen = [
        pytest.param(row, case, id=f"{family}-{row.label(case)}")
        for family, row in ROWS
        for case in row.cases
        if choose(row, case)
    ]
    return together(("row", "case"), chosen)


def items(attribute):
    """The entries of an attribute of rows."""
    return [
        pytest.param(row, e, id=f"{family}-{row.name}[{i}]")
        for family, row in ROWS
        for i, e in enumerate(getattr(row, attribute))
    ]


def differentiable(row, case):
    return row.has_gradient and any(i.kind != "data" for i in case.inputs)


def deterministic(row, case):
    return row.reference is not None and differentiable(row, case)


def close(got, want, tolerance=TOLERANCE, name=""):
    """|got - want| <= tolerance (1 + |want|), infinities and NaN equal."""
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=name)


def all_close(got, want):
    assert len(got) == len(want)
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_allclose(g, w, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"input {k}")


def weights(rng, shape):
    """Weights of a loss, exact in the build's number type."""
    return rng.uniform(-1, 1, shape).astype(DTYPE).astype(np.float64)


# ---- the table is whole ----------------------------------------------------------------


def table_of(op):
    """The file of the op table that a row of this operation belongs to: the one named as its file
    in csrc/ops."""
    row = re.compile(rf"^[A-Z_]+\({op},", re.M)
    families = [
        path.stem
        for path in (HERE.parent / "csrc" / "ops").glob("*.c")
        if row.search(path.read_text())
    ]
    return f"tests/op_table/{families[0] if families and families[0] in op_table.FAMILIES else '<family>'}.py"  # noqa: E501


def test_table_has_every_operation_of_c():
    rows = {row.op for _, row in ROWS}
    missing = OPS.keys() - rows
    assert not missing, "\n".join(
        f"{op}: no row in {table_of(op)} for this operation of csrc/ops" for op in sorted(missing)
    )
    assert not rows - OPS.keys(), (
        "rows in tests/op_table name operations that csrc/ops does not have:"
        f" {sorted(rows - OPS.keys())}"
    )


def test_table_calls_every_public_function(monkeypatch):
    called = set()

    def record(owner, name):
        function = getattr(owner, name)

        def recorder(*args, **kwargs):
            called.add(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorder)

    operators = [
        name
        for name, f in vars(dy.Expression).items()
        if getattr(f, "__module__", "").startswith("dist_dynet.ops.")
    ]
    for name in operators:
        record(dy.Expression, name)
    for name in ops.__all__:
        record(dy, name)
    for _, row in ROWS:
        Run(row, row.cases[0], drawn(row, row.cases[0], np.random.default_rng(0)))
    missing = {*ops.__all__, *operators} - called - op_table.NOT_IN_THE_TABLE.keys()
    assert not missing, (
        f"no row in tests/op_table/<family>.py calls {sorted(missing)}; or give the reason in"
        " tests/op_table/__init__.py"
    )
    stale = called & op_table.NOT_IN_THE_TABLE.keys()
    assert not stale, (
        f"NOT_IN_THE_TABLE of tests/op_table/__init__.py lists {sorted(stale)}, which rows call"
    )


def test_table_has_distinct_names():
    labels = [f"{family}-{row.label(case)}" for family, row in ROWS for case in row.cases]
    assert sorted(labels) == sorted(set(labels)), "two cases of one name hide each other"


def test_table_has_a_case_of_one_element():
    for _, row in ROWS:
        sizes = [max(int(np.prod(i.dims)) for i in c.inputs) for c in row.cases if c.inputs]
        assert not sizes or min(sizes) <= 4, (
            f"row {row.name!r} of {row.op} has no case of one element in tests/op_table"
        )


# ---- values ----------------------------------------------------------------------------


@cases()
def test_value_agrees_with_numpy(row, case, rng):
    arrays = drawn(row, case, rng)
    run = Run(row, case, arrays)
    value = run.value()
    assert row.op in run.ops(), f"this row makes no node of {row.op}, but of {sorted(run.ops())}"
    if row.reference is not None:
        want = expected(row, arrays, case.attributes)
        assert value.shape == want.shape
        close(value, want)
    if row.check is not None:
        row.check(value, *arrays, **case.attributes)


@cases(lambda row, case: row.reference is None)
def test_draw_repeats_under_one_seed_and_differs_in_each_graph(row, case, rng):
    arrays = drawn(row, case, rng)
    run = Run(row, case, arrays)
    first, looked_at_again = run.value(), run.value()
    again = Run(row, case, arrays)
    np.testing.assert_array_equal(first, looked_at_again)
    np.testing.assert_array_equal(again.value(), first)
    if first.size >= 100 and np.std(first) > 0 and case.attributes.get("p") not in (0.0, 1.0):
        other_node = array_of(again.build())
        again.expression.value(recalculate=True)
        assert not np.array_equal(other_node, first)
        assert not np.array_equal(again.value(), first)


def edge_arrays(case, value):
    return [np.full(i.shape, value) for i in case.inputs]


@cases(lambda row, case: row.reference is not None and case.inputs and case in row.cases[:6])
def test_value_at_extremes_agrees_with_numpy(row, case):
    for edge in (0.0, 1.0, 1000.0, -1000.0):
        arrays = edge_arrays(case, edge)
        run = Run(row, case, arrays)
        with np.errstate(over="ignore"):
            want = expected(row, arrays, case.attributes).astype(DTYPE).astype(np.float64)
        close(run.value(), want, name=f"inputs of {edge}")
        if row.has_gradient and not row.undefined_gradient and np.isfinite(want).all():
            for g in run.gradients(np.ones(want.shape)):
                assert not np.isnan(g).any(), f"inputs of {edge}"


@together(("row", "extreme"), items("extremes"))
def test_extreme_gives_what_the_table_says(row, extreme):
    arrays = [np.array(x, float)[:, None] for x in extreme.inputs]
    case = Case(tuple(tensor(len(x)) for x in extreme.inputs), extreme.attributes)
    run = Run(row, case, arrays)
    close(run.value()[:, 0], np.asarray(extreme.value, float))
    if extreme.gradients:
        got = run.gradients(np.ones(run.value().shape))
        for g, want in zip(got, extreme.gradients, strict=True):
            if want is not None:
                close(g[:, 0], np.asarray(want, float))


# ---- gradients -------------------------------------------------------------------------


@cases(deterministic)
def test_gradient_agrees_with_differences_of_numpy(row, case, rng):
    arrays = drawn(row, case, rng)
    run = Run(row, case, arrays)
    w = weights(rng, run.value().shape)
    got = run.gradients(w)
    for k, a in enumerate(arrays):
        for i in rng.choice(a.size, min(a.size, 12), replace=False):
            direction = [np.zeros(b.shape) for b in arrays]
            direction[k].flat[i] = 1
            want = np.sum(
                w
                * gradients.slope(lambda *xs: expected(row, xs, case.attributes), arrays, direction)
            )
            assert abs(got[k].flat[i] - want) <= GRADIENT_TOLERANCE * (1 + abs(want)), (
                f"input {k}, number {i}: {got[k].flat[i]!r}, not {want!r}"
            )


@pytest.mark.float64
@cases(differentiable)
def test_gradient_agrees_with_slope(row, case, rng):
    arrays = drawn(row, case, rng)
    run = Run(row, case, arrays)
    w = weights(rng, run.value().shape)
    found = gradients.directional_difference(
        lambda *xs: Run(row, case, xs).value(), arrays, w, run.gradients(w), rng
    )
    assert found is None, found


@pytest.mark.float64
@cases(
    lambda row, case: (
        differentiable(row, case) and sum(int(np.prod(i.shape)) for i in case.inputs) <= SMALL
    )
)
def test_jacobian_agrees_with_differences(row, case, rng):
    arrays = drawn(row, case, rng)
    found = gradients.jacobian_difference(
        lambda *xs: Run(row, case, xs).value(),
        arrays,
        lambda w: Run(row, case, arrays).gradients(w),
    )
    assert found is None, found


@cases(
    lambda row, case: (
        differentiable(row, case) and any(i.kind != "data" and i.batch == 1 for i in case.inputs)
    )
)
def test_gradient_accumulates_in_parameters(row, case, rng):
    run = Run(row, case, drawn(row, case, rng), parameters=True)
    w = weights(rng, run.value().shape)
    once = run.gradients(w)
    run.loss(w).backward(full=True)
    params = [
        k for k, x in enumerate(run.inputs) if isinstance(x, dy.Parameters | dy.LookupParameters)
    ]
    assert params
    all_close([run.read_gradients()[k] for k in params], [2 * once[k] for k in params])


@cases(deterministic)
def test_gradients_of_two_uses_add_up(row, case, rng):
    run = Run(row, case, drawn(row, case, rng), parameters=True)
    w1, w2 = weights(rng, run.value().shape), weights(rng, run.value().shape)
    separate = [a + b for a, b in zip(run.gradients(w1), run.gradients(w2), strict=True)]
    run.collection.reset_gradients()
    (run.loss(w1) + run.loss(w2, run.build())).backward(full=True)
    all_close(run.read_gradients(), separate)


def test_gradient_of_a_distance_is_exact_where_it_is_small(rng):
    """By dy (x - y), not by dy x - dy y, which near convergence leaves nothing but rounding."""
    x = rng.normal(size=50).astype(np.float32)
    for y in np.nextafter(x, np.float32(0)), x:
        d = x.astype(float) - y
        for distance, slope in (
            (dy.squared_distance, 2 * d),
            (dy.huber_distance, d),
            (dy.l1_distance, np.sign(d)),
        ):
            dy.renew_cg()
            inputs = [dy.inputTensor(a) for a in (x, y)]
            (distance(*inputs) * 0.7).backward(full=True)
            for i, sign in zip(inputs, (1, -1), strict=True):
                np.testing.assert_allclose(i.gradient(), sign * 0.7 * slope, rtol=1e-6)


def first_two_alike(row, case):
    return (
        deterministic(row, case)
        and len(case.inputs) > 1
        and case.inputs[0] == case.inputs[1]
        and case.inputs[0].kind == "tensor"
    )


@cases(first_two_alike)
def test_gradient_of_one_input_used_twice_is_the_sum(row, case, rng):
    for parameters in (False, True):
        arrays = drawn(row, case, rng)
        arrays[1] = arrays[0]
        run = Run(row, case, arrays, parameters)
        value, w = run.value(), weights(rng, run.value().shape)
        first, second, *rest = run.gradients(w)
        twice = Run(row, case, arrays, parameters, shared=True)
        close(twice.value(), value)
        both, same, *others = twice.gradients(w)
        all_close([both, same, *others], [first + second, first + second, *rest])


@cases(lambda row, case: differentiable(row, case) and any(i.kind == "tensor" for i in case.inputs))
def test_parameters_give_what_plain_inputs_give(row, case, rng):
    arrays = drawn(row, case, rng)
    inputs = Run(row, case, arrays)
    value, w = inputs.value(), weights(rng, inputs.value().shape)
    of_inputs = inputs.gradients(w)
    parameters = Run(row, case, arrays, parameters=True)
    close(parameters.value(), value)
    all_close(parameters.gradients(w), of_inputs)


@cases(deterministic)
def test_gradient_goes_to_parameters_alone_unless_full(row, case, rng):
    """Each input alone a parameter, the others constants: what is not wanted changes nothing."""
    arrays = drawn(row, case, rng)
    run = Run(row, case, arrays)
    w = weights(rng, run.value().shape)
    want = run.gradients(w)
    for k, spec in enumerate(case.inputs):
        if spec.kind != "tensor" or spec.batch > 1:
            continue
        only = replace(
            case,
            inputs=tuple(
                replace(i, kind="parameter") if j == k else i for j, i in enumerate(case.inputs)
            ),
        )
        run = Run(row, only, arrays)
        run.loss(w).backward()
        got = run.read_gradients()
        close(got[k], want[k])
        for j, g in enumerate(got):
            assert j == k or case.inputs[j].kind != "tensor" or not g.any()


# ---- batches, changed inputs -----------------------------------------------------------


def batched(row, case):
    n = max([case.batch, *(len(case.attributes[a]) for a in row.batched_attributes)])
    return row.per_element and row.reference is not None and n > 1


@cases(batched)
def test_batch_gives_what_its_elements_give(row, case, rng):
    arrays = drawn(row, case, rng)
    whole = Run(row, case, arrays)
    value, w = whole.value(), weights(rng, whole.value().shape)
    got = whole.gradients(w) if row.has_gradient else []
    sums = [np.zeros(g.shape) for g in got]
    for b in range(value.shape[-1]):
        run = Run(row, *element(case, arrays, b, row.batched_attributes))
        close(value[..., b : b + 1], run.value())
        if row.has_gradient:
            for total, g, spec in zip(
                sums, run.gradients(w[..., b : b + 1]), case.inputs, strict=True
            ):
                total[..., b : b + 1 if spec.batch > 1 else None] += (
                    g if spec.batch > 1 or b == 0 else 0
                )
                if spec.batch == 1 and b > 0:
                    total += g
    all_close(got, sums)


@cases(lambda row, case: row.reference is not None and any(i.kind == "tensor" for i in case.inputs))
def test_set_gives_what_a_new_graph_gives(row, case, rng):
    before, after = drawn(row, case, rng), drawn(row, case, rng)
    run = Run(row, case, before)
    w = weights(rng, run.value().shape)
    run.gradients(w)
    for spec, x, a in zip(case.inputs, run.inputs, after, strict=True):
        assert spec.kind == "tensor"
        x.set(a)
    close(run.value(), expected(row, after, case.attributes))
    if row.has_gradient:
        changed = run.gradients(w)
        all_close(changed, Run(row, case, after).gradients(w))


# ---- errors ----------------------------------------------------------------------------


@together(("row", "refusal"), items("errors"))
def test_wrong_input_is_refused(row, refusal):
    with pytest.raises(refusal.exception, match=refusal.message):
        refusal.call()
    assert dy.scalarInput(2).value() == 2, "the graph is unusable after the error"


@cases(
    lambda row, case: (
        case is row.cases[-1] and row.op != "input" and any(i.kind == "tensor" for i in case.inputs)
    )
)
def test_stale_input_is_refused(row, case, rng):
    """The first one, and the last one."""
    arrays = drawn(row, case, rng)
    for k in {0, len(case.inputs) - 1}:
        old = Run(row, case, arrays).inputs
        new = Run(row, case, arrays)
        new.inputs[k] = old[k]
        with pytest.raises(
            RuntimeError, match=r"^Stale Expression: expression belongs to a graph that renew_cg"
        ):
            new.build()


@cases(
    lambda row, case: (
        case is row.cases[-1] and row.op != "input" and any(i.kind == "tensor" for i in case.inputs)
    )
)
def test_input_that_is_no_expression_is_refused(row, case, rng):
    for thing in (object(), dy.Expression()):
        run = Run(row, case, drawn(row, case, rng))
        run.inputs[-1] = thing
        with pytest.raises((TypeError, ValueError)):
            run.build()


# ---- the other builds ------------------------------------------------------------------


@pytest.mark.float32
@pytest.mark.slow
def test_double_build_passes():
    assert passing_tests(
        *(str(HERE / f"test_{name}.py") for name in ("ops", "ops_set", "checker", "tiny")),
        DIST_DYNET_DTYPE="float64",
    )


@pytest.mark.float32
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plain_c_instead_of_blas_passes(dtype):
    assert passing_tests(
        str(HERE / "test_ops.py"),
        "-k",
        "(linear or lstm) and not instead",
        DIST_DYNET_DTYPE=dtype,
        DIST_DYNET_BLAS="none",
    )
