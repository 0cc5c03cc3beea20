"""NaN and infinity. Elementwise functions: what PyTorch gives, stored in tests/data/special.json.
Everything else in the op table: a value is finite exactly where its definition in NumPy is.

How long: about ten seconds.
"""

import json
from pathlib import Path

import numpy as np
import op_table
import pytest
from op_table.run import Run, drawn, expected
from together import together

import dist_dynet as dy
from dist_dynet.ops import elementwise

STORED = json.loads((Path(__file__).parent / "data" / "special.json").read_text())
NAN, INF = float("nan"), float("inf")
LIMITS = {
    # x Phi(x); PyTorch's formula rounds to NaN, and to infinity
    "gelu": {INF: (INF, NAN), 3e38: (3e38, 1)},
    "softsign": {INF: (1, 0), -INF: (-1, 0)},  # x / (1 + |x|); inf / inf there
}
"""Functions whose limits are given where PyTorch rounds to something else: x -> (value, slope)."""

# ---- elementwise functions -------------------------------------------------------------


def _close(got, want):
    """To float32's rounding and that of PyTorch's gelu, whose error function is short of 1e-4;
    numbers below 1e-12 count as 0."""
    return (
        (np.isnan(got) and np.isnan(want))
        or got == want
        or abs(got - want) <= 1e-12 + 2e-4 * abs(want)
    )


def test_special_values_are_stored_of_elementwise_functions():
    """Of those that PyTorch has; for the others the definition in the op table stands in, below."""
    gone = {*STORED["functions"]} - {*elementwise.__all__}
    assert not gone, (
        f"tests/oracle/make_special_numbers.py and tests/data/special.json: {sorted(gone)} are no"
        " functions"
    )
    assert LIMITS.keys() <= STORED["functions"].keys()


@pytest.mark.float32
@pytest.mark.parametrize("name", STORED["functions"])
def test_elementwise_function_gives_pytorchs_special_values(name):
    function, stored = getattr(dy, name), STORED["functions"][name]
    for k, number in enumerate(STORED["x"]):
        limit = LIMITS.get(name, {}).get(number)
        for dy_, gradients in zip(STORED["dy"], stored["gradients"], strict=True):
            dy.renew_cg()
            x = dy.inputVector([number] * 9)  # for vector loops, and what is left of them
            y = function(x)
            dy.dot_product(y, dy.inputVector([dy_] * 9)).backward(full=True)
            value, gradient = limit if limit else (stored["value"][k], gradients[k])
            gradient = gradient if not limit else gradient * dy_
            for got in y.npvalue():
                assert _close(got, value), f"{name}({number}) = {got}, not {value}"
            for got in x.gradient():
                assert _close(got, gradient), f"{name}'({number}) {dy_} = {got}, not {gradient}"


# ---- all operations --------------------------------------------------------------------

CHOICE = "which one is chosen among NaN and infinity is another matter (extremes of the table)"
FALLBACKS = {
    "constrained_softmax": CHOICE,
    "crf_viterbi": CHOICE,
    "crf_viterbi of a padded batch": CHOICE,
    "inverse": "one NaN in the decomposition is NaN throughout",
    "inverse without a diagonal": "as inverse",
    "kmax_pooling": CHOICE,
    "masked_log_softmax with a mask of each": (
        "exp of x - inf is 0, where the reference has inf / inf"
    ),
    "sparsemax": CHOICE,
    "sparsemax of a vector": CHOICE,
    "topk": CHOICE,
    "topk of NaN": CHOICE,
}
"""Rows whose reference is not the definition for such numbers, each with the reason."""


def test_exceptions_are_rows_of_the_table():
    rows = {row.name for module in op_table.FAMILIES.values() for row in module.ROWS}
    assert FALLBACKS.keys() <= rows


def _specials():
    for family, module in op_table.FAMILIES.items():
        for row in module.ROWS:
            for case in (
                row.cases[:4] if row.reference is not None and row.name not in FALLBACKS else ()
            ):
                if case.attributes.get("state") == 0:
                    continue  # the reference multiplies zeros; without a state there is no product
                for k, spec in enumerate(case.inputs):
                    if spec.kind != "data" and np.prod(spec.shape):
                        yield pytest.param(row, case, k, id=f"{family}-{row.label(case)}-{k}")


@together(("row", "case", "k"), _specials())
def test_value_is_finite_where_its_definition_is(row, case, k, rng):
    for special in (NAN, INF, -INF):
        arrays = drawn(row, case, rng)
        arrays[k].flat[rng.integers(arrays[k].size)] = special
        want = expected(row, arrays, case.attributes)
        got = Run(row, case, arrays).value()
        words = f"of {special}: {got.ravel()} instead of {want.ravel()}"
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want), err_msg=words)
        finite = np.isfinite(want)
        np.testing.assert_allclose(got[finite], want[finite], rtol=1e-4, atol=1e-4, err_msg=words)
