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
from dist_dynet._ffi import DTYPE_NAME
from dist_dynet.ops import _nodes

STORED = json.loads((Path(__file__).parent / "data" / "special_networks.json").read_text())
NAN, INF = float("nan"), float("inf")

# ---- the ways to build a network: inputs by name -> its value ------------------------------------


def recurrent(op, cells):
    """The node of all steps."""

    def build(**inputs):
        node = _nodes.node(op, list(inputs.values()), (2, 1), (0.0,) if op == "lstm" else ())
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
        A, start, stop, E, tags=[[1, 0, 1]] * E.dim()[1] if weights[1] else (), weights=weights
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


PER_EXAMPLE = ("x1", "x2", "h", "c", "E", "q", "k", "v", "x", "mask", "dy")
"""Inputs that differ from example to example; the others are weights."""


def run(build, inputs):
    """The value by columns, and the gradients by rows of all inputs but mask and dy; by name."""
    dy.renew_cg()
    given = {name: array for name, array in inputs.items() if name != "dy"}
    weights = set(given) - set(PER_EXAMPLE) if hasattr(build, "parameters") else set()
    given.update((n, dy.inputTensor(a)) for n, a in given.items() if n not in weights)
    y = build(**given)
    if weights:
        parameters, y = y
        given.update(zip((name for name in given if name in weights), parameters, strict=True))
    value = y.npvalue().ravel(order="F")
    dy.dot_product(dy.reshape(y, (len(value),)), dy.inputVector(inputs["dy"])).backward(full=True)
    return {"value": value} | {
        name: (x.grad_as_array() if isinstance(x, dy.Parameters) else x.gradient()).ravel()
        for name, x in given.items()
        if name != "mask"
    }


def close(got, want, scale=1.0):
    """NaN and infinities at the same places, numbers to 1e-5 of the scale."""
    with np.errstate(all="ignore"):
        return np.allclose(got, want, rtol=1e-5, atol=1e-5 * scale, equal_nan=True)


def scale_of(name, want):
    """Gradients are compared to the greatest of an input's, since others are what is left of it."""
    return 1.0 if name == "value" else max([1.0, *np.abs(want[np.isfinite(want)])])


def cases(network):
    """(changed input, number, all inputs, what PyTorch gives by name) of each case."""
    stored = STORED[network]
    names = ["value", *(name for name in stored["inputs"] if name not in ("mask", "dy"))]
    for case in stored["cases"]:
        if case["dtype"] in ("", DTYPE_NAME):
            inputs = {name: np.array(array, float) for name, array in stored["inputs"].items()}
            inputs[case["input"]].flat[case["at"]] = case["number"]
            want = map(np.array, [case["value"], *case["gradients"]])
            yield case["input"], str(case["number"]), inputs, dict(zip(names, want, strict=True))


def differing(got, want):
    """(name, got, want) of what is not the same."""
    for name in got:
        if not close(got[name], want[name], scale_of(name, want[name])):
            yield name, got[name], want[name]


def differences(network, build):
    """(changed input, number, what differs, got, want) of all cases.

    What differs is "value" or the input whose gradient it is.
    """
    for changed, number, inputs, want in cases(network):
        for difference in differing(run(build, inputs), want):
            yield changed, number, *difference


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


def batched(build, examples):
    """run() of examples in one batch; the gradients of weights are left out."""
    dy.renew_cg()
    given = {
        name: dy.inputTensor(np.stack([e[name] for e in examples], -1), batched=True)
        if name in PER_EXAMPLE
        else dy.inputTensor(array)
        for name, array in examples[0].items()
    }
    w = given.pop("dy")
    y = build(**given)
    dy.sum_batches(dy.dot_product(dy.reshape(y, w.dim()[0], len(examples)), w)).backward(full=True)
    names = [name for name in given if name in PER_EXAMPLE and name != "mask"]
    for b, value in enumerate(y.npvalue().reshape((-1, len(examples)), order="F").T):
        yield {"value": value} | {name: given[name].gradient()[..., b].ravel() for name in names}


def autobatched(build, examples):
    """The same of examples that are batched automatically."""
    dy.renew_cg(autobatching=2)
    weights = {n: dy.inputTensor(a) for n, a in examples[0].items() if n not in PER_EXAMPLE}
    given = [
        {n: weights[n] if n in weights else dy.inputTensor(array) for n, array in example.items()}
        for example in examples
    ]
    ws = [one.pop("dy") for one in given]
    ys = [build(**one) for one in given]
    products = [dy.dot_product(dy.reshape(y, w.dim()[0]), w) for y, w in zip(ys, ws, strict=True)]
    dy.esum(products).backward(full=True)
    for one, y in zip(given, ys, strict=True):
        names = [name for name in one if name in PER_EXAMPLE and name != "mask"]
        value = y.npvalue().ravel(order="F")
        yield {"value": value} | {name: one[name].gradient().ravel() for name in names}


@pytest.mark.parametrize("together", [batched, autobatched])
@pytest.mark.parametrize("network", [network for network, ways in WAYS.items() if "node" in ways])
def test_special_number_stays_in_its_example(network, together):
    build, place = WAYS[network]["node"], 5
    usual = {name: np.array(array, float) for name, array in STORED[network]["inputs"].items()}
    expected_result = run(build, usual)
    for changed, number, inputs, want in cases(network):
        if changed not in PER_EXAMPLE:
            continue
        examples = [usual] * place + [inputs] + [usual] * 3
        for b, got in enumerate(together(build, examples)):
            for d in differing(got, want if b == place else expected_result):
                assert b == place and excepted(network, changed, number, *d), (
                    b,
                    changed,
                    number,
                    *d,
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
