"""NaN, infinity, denormal and huge numbers in recurrent networks, CRFs and attention: what PyTorch
gives, stored in tests/data/special_networks.json. Each network is built in each way that there is.

How long: about ten seconds.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from op_table.crf import node as crf_node
from op_table.lstm import parts
from processes import passing_tests

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME, OPS
from dist_dynet.ops._nodes import many

STORED = json.loads((Path(__file__).parent / "data" / "special_networks.json").read_text())
NAN, INF = float("nan"), float("inf")

# ---- the ways to build a network: inputs by name -> its value ------------------------------------


def recurrent(op, cells):
    """The node of all steps."""

    def build(**inputs):
        node = many(OPS[op], op, list(inputs.values()), (2, 1), (0.0,) if op == "lstm" else ())
        return dy.concatenate(parts(node, 0, 2 * (1 + cells), inputs["h"].dim()[0][0]))

    return build


def builder(kind, states):
    """A builder, from its states of two steps."""

    def build(**inputs):
        x1, x2, h = (inputs.pop(name) for name in ("x1", "x2", "h"))
        c = inputs.pop("c", None)
        rnn = kind(1, 2, h.dim()[0][0], dy.ParameterCollection())
        unused = (
            [p for p in rnn.get_parameters()[0] if p.shape()[1:] == (1,)]
            if kind is dy.FastLSTMBuilder
            else []
        )
        own = [p for p in rnn.get_parameters()[0] if p not in unused]
        for p, array in zip(own, inputs.values(), strict=True):
            p.set_value(array)
        first = rnn.initial_state([h] if c is None else [c, h])
        if kind is dy.VanillaLSTMBuilder:
            own[2].set_value(inputs["b"] - np.repeat([0, 1, 0, 0], 2))  # the builder adds 1
        two = states(first, [x1, x2])
        return own, dy.concatenate(
            [s.s()[-1] for s in two] + ([] if c is None else [s.s()[0] for s in two])
        )

    build.parameters = True
    return build


def one_by_one(state, xs):
    first = state.add_input(xs[0])
    return [first, first.add_input(xs[1])]


def at_once(state, xs):
    return state.add_inputs(xs)


def three_nodes(Wx, Wh, b, h, c, x1, x2):
    """DyNet's operations."""
    hs, cs, minus = [], [], dy.inputVector([0, 0, -1, -1, 0, 0, 0, 0])
    for x in (x1, x2):
        gates = dy.vanilla_lstm_gates(x, h, Wx, Wh, b + minus)
        c = dy.vanilla_lstm_c(c, gates)
        h = dy.vanilla_lstm_h(c, gates)
        hs.append(h)
        cs.append(c)
    return dy.concatenate(hs + cs)


def crf(weights):
    return lambda A, start, stop, E: crf_node(
        A, start, stop, E, tags=[[1, 0, 1]] if weights[1] else (), weights=weights
    )


def block(kind, names, use, *sizes):
    """A block with parameters of these names, and what `use` does with it and the other inputs."""

    def build(**inputs):
        collection = dy.ParameterCollection()
        made = kind(collection, *sizes) if kind is dy.CRF else kind(*sizes, collection)
        for p, name in zip(collection.parameters_list(), names.split(), strict=True):
            p.set_value(inputs.pop(name))
        return collection.parameters_list(), use(made, **inputs)

    build.parameters = True
    return build


def attention_by_operations(q, k, v, mask=None):
    scores = dy.transpose(k) * q * 2**-0.5
    return v * (dy.softmax(scores) if mask is None else dy.masked_softmax(scores, mask))


HEADS = {
    "block": block(
        dy.MultiHeadAttention,
        "Wq Wk Wv Wo",
        lambda heads, q, k, mask=None: heads(q, k, mask=mask),
        4,
        2,
    )
}


def crf_block(method, *tags):
    return block(dy.CRF, "A start stop", lambda made, E: getattr(made, method)(E, *tags), 2)


STEPS = {"one by one": one_by_one, "at once": at_once}


def ways(op, kind, cells):
    return {"node": recurrent(op, cells)} | {
        f"builder, {name}": builder(kind, states) for name, states in STEPS.items()
    }


WAYS = {
    "lstm": ways("lstm", dy.VanillaLSTMBuilder, 1) | {"three nodes": three_nodes},
    "simple_rnn": ways("simple_rnn", dy.SimpleRNNBuilder, 0),
    "gru": ways("gru", dy.GRUBuilder, 0),
    "gru of one unit": ways("gru", dy.GRUBuilder, 0),
    "coupled_lstm": ways("coupled_lstm", dy.CoupledLSTMBuilder, 1),
    "fast_lstm": ways("fast_lstm", dy.FastLSTMBuilder, 1),
    "crf log_partition": {"node": crf((1.0, 0.0)), "block": crf_block("log_partition")},
    "crf score": {"node": crf((0.0, 1.0)), "block": crf_block("score", [1, 0, 1])},
    "crf neg_log_likelihood": {
        "node": crf((1.0, -1.0)),
        "block": crf_block("neg_log_likelihood", [1, 0, 1]),
    },
    "attention": {"node": dy.attention, "operations": attention_by_operations},
    "attention of one key": {"node": dy.attention},
    "attention with a mask": {"node": dy.attention, "operations": attention_by_operations},
    "DotAttention": {
        "block": block(
            dy.DotAttention, "Wq Wk", lambda attention, q, k: attention.attend(q, k), 3, 2, 2
        )
    },
    "MultiHeadAttention": HEADS,
    "MultiHeadAttention with a mask": HEADS,
    "masked_softmax": {"node": dy.masked_softmax},
    "masked_log_softmax": {"node": dy.masked_log_softmax},
}

# ---- where something else is given than PyTorch's ------------------------------------------------

SUMS = "where a gradient is infinite, PyTorch adds parts of it, dy g and -dy x, and has inf - inf"
DIGITS = "PyTorch loses the digits of all other scores beside a huge one; here sums are levelled"
MASKED = "the gradient at a masked place is NaN with all others; PyTorch's masked_fill makes it 0"
NO_SCORE = "a score of -inf counts as masked"
LOG_OF_INF = (
    "x - log sum exp(x) of an infinite sum is -inf for finite x, NaN in PyTorch; "
    "with NaN it is NaN at masked places, too"
)
SCORES = {"start": ("1e+30 1e+250", "A start stop E", DIGITS)}
SPECIAL = "nan inf -inf"
LIMITS = {
    "gru": {"dy": ("inf -inf", "NaN", SUMS)},
    "gru of one unit": {"dy": ("inf -inf", "NaN", SUMS)},
    "coupled_lstm": {"dy": ("inf -inf", "NaN", SUMS)},
    "fast_lstm": {name: ("inf -inf", "NaN", SUMS) for name in ("c", "dy")},
    "crf log_partition": SCORES,
    "crf neg_log_likelihood": SCORES,
    "attention with a mask": {name: (SPECIAL, "k", MASKED) for name in ("q", "v", "dy")},
    "MultiHeadAttention with a mask": {name: (SPECIAL, "k", MASKED) for name in ("Wv", "k")},
    "masked_softmax": {"x": ("nan inf", "x", MASKED), "dy": (SPECIAL, "x", MASKED)},
    "masked_log_softmax": {"x": (SPECIAL, "value x", f"{LOG_OF_INF}; {NO_SCORE}")},
}
"""Of networks: the changed input -> (numbers; what may differ: the value, gradients of inputs, or
"NaN", all that is NaN in PyTorch; why)."""

# ---- comparison ----------------------------------------------------------------------------------


def run(build, inputs):
    """The value by columns, and the gradients by rows of all inputs but mask and dy."""
    dy.renew_cg()
    arrays = {name: np.array(array) for name, array in inputs.items() if name != "dy"}
    if hasattr(build, "parameters"):
        dims = {
            name for name in arrays if name not in ("x1", "x2", "h", "c", "E", "q", "k", "mask")
        }
        given = {
            name: array if name in dims else dy.inputTensor(array) for name, array in arrays.items()
        }
        parameters, y = build(**given)
        names = [name for name in given if name in dims]
        given.update(zip(names, parameters, strict=True))
    else:
        given = {name: dy.inputTensor(array) for name, array in arrays.items()}
        y = build(**given)
    value = y.npvalue().ravel(order="F")
    dy.dot_product(dy.reshape(y, (len(value),)), dy.inputVector(inputs["dy"])).backward(full=True)
    gradients = [
        (x.grad_as_array() if isinstance(x, dy.Parameters) else x.gradient()).ravel()
        for name, x in given.items()
        if name != "mask"
    ]
    return value, gradients


def close(got, want, scale=1.0):
    """NaN and infinities at the same places, numbers to 1e-5 of the scale."""
    with np.errstate(all="ignore"):
        return np.allclose(got, want, rtol=1e-5, atol=1e-5 * scale, equal_nan=True)


def scale_of(name, want):
    """Gradients are compared to the greatest of an input's, since others are what is left of it."""
    return 1.0 if name == "value" else max([1.0, *np.abs(want[np.isfinite(want)])])


def differences(network, build):
    """(changed input, number, what differs, got, want) of all cases.

    What differs is "value" or the input whose gradient it is.
    """
    stored = STORED[network]
    for case in stored["cases"]:
        if case["dtype"] not in ("", DTYPE_NAME):
            continue
        inputs = {name: np.array(array, float) for name, array in stored["inputs"].items()}
        inputs[case["input"]].flat[case["at"]] = case["number"]
        value, gradients = run(build, inputs)
        names = ["value", *(name for name in inputs if name not in ("mask", "dy"))]
        stored_arrays = map(np.array, [case["value"], *case["gradients"]])
        for name, got, want in zip(names, [value, *gradients], stored_arrays, strict=True):
            if not close(got, want, scale_of(name, want)):
                yield case["input"], str(case["number"]), name, got, want


def excepted(network, changed, number, name, got, want):
    numbers, what, _ = LIMITS.get(network, {}).get(changed, ("", "", ""))
    if number not in numbers.split():
        return False
    if what == "NaN":
        kept = ~np.isnan(want)
        return close(got[kept], want[kept], scale_of(name, want))
    return name in what.split()


def test_each_stored_network_is_built():
    assert WAYS.keys() == STORED.keys()


@pytest.mark.parametrize(
    ("network", "way"), [(network, way) for network, ways in WAYS.items() for way in ways]
)
def test_network_gives_pytorchs_special_values(network, way):
    found = [d for d in differences(network, WAYS[network][way]) if not excepted(network, *d)]
    assert not found, "\n".join(
        f"{changed} with {number}: {name} = {got}, not {want}"
        for changed, number, name, got, want in found
    )


@pytest.mark.float32
def test_double_build_gives_them():
    assert passing_tests(__file__, DIST_DYNET_DTYPE="float64")


@pytest.mark.float32
@pytest.mark.parametrize("network", LIMITS)
def test_every_exception_is_needed(network):
    ways = WAYS[network]
    found = {(d[0], d[2]) for d in differences(network, ways[next(iter(ways))])}
    for changed, (_, what, _) in LIMITS[network].items():
        names = {name for name_changed, name in found if name_changed == changed}
        assert names if what == "NaN" else names == set(what.split()), changed


def test_a_wrong_number_is_found(monkeypatch):
    right = [case["value"][0] for case in STORED["lstm"]["cases"]]
    for wrong, want in ((0.5, NAN), (INF, NAN), (NAN, 0.5), (-INF, INF), (0.5001, 0.5)):
        assert not close(np.array([wrong]), [want])
    monkeypatch.setitem(
        STORED["lstm"]["cases"][0],
        "value",
        [right[0] + 1e-3, *STORED["lstm"]["cases"][0]["value"][1:]],
    )
    assert [d[2] for d in differences("lstm", WAYS["lstm"]["node"])] == ["value"]
