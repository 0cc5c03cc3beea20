"""Replays a stored oracle case under any module that speaks DyNet's Python API.

`make_numbers.py` runs these functions with the real DyNet and stores what they return; a test runs
them with `dist_dynet` and compares. So the meaning of a case is written once, here. Every function
takes the module (`dy`) and a case, and returns a result of the same form as `case["result"]`. The
JSON form is described in README.md.

Knows the API's names and the case format; knows neither how cases are chosen nor where files lie.
"""

import operator

import numpy as np

OPERATORS = {
    "op.add": operator.add,
    "op.sub": operator.sub,
    "op.mul": operator.mul,
    "op.div": operator.truediv,
    "op.pow": operator.pow,
    "op.neg": operator.neg,
    "op.getitem": operator.getitem,
}


# ---- numbers ---------------------------------------------------------------------------


def number(x):
    """A float rounded to 9 significant digits: enough to name every float32."""
    return float(f"{float(x):.9g}")


def flat(a):
    """The numbers of an array (or list or float) in column-major order, as a list."""
    return [number(x) for x in np.asarray(a, dtype=np.float64).flatten(order="F")]


def table_flat(a):
    """The numbers of a lookup table (n, d...) row after row, each row column-major."""
    a = np.asarray(a, dtype=np.float64)
    return [x for row in a for x in flat(row)]


def array(v, dim, batch=1):
    """NumPy array of a flat column-major list; the batch becomes the last axis if it is above 1."""
    shape = tuple(dim) + ((batch,) if batch > 1 else ())
    return np.asarray(v, dtype=np.float64).reshape(shape, order="F")


def differences(expected, got, tol=1e-5, path="result"):
    """Where two results differ: a list of texts, empty if |a - b| <= tol (1 + |b|) everywhere.

    An expected None means that the oracle has no right number there and is not compared.
    """
    if expected is None:
        return []
    if isinstance(expected, dict):
        keys = sorted(expected)
        if not isinstance(got, dict) or sorted(got) != keys:
            return [
                f"{path}: expected keys {keys}, got"
                f" {got if not isinstance(got, dict) else sorted(got)}"
            ]
        return [d for k in keys for d in differences(expected[k], got[k], tol, f"{path}.{k}")]
    if isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple) or len(got) != len(expected):
            return [f"{path}: expected {len(expected)} items, got {got!r:.200}"]
        return [
            d
            for i, (a, b) in enumerate(zip(expected, got, strict=True))
            for d in differences(a, b, tol, f"{path}[{i}]")
        ]
    if isinstance(expected, float):
        same = isinstance(got, int | float) and abs(got - expected) <= tol * (1 + abs(expected))
        return [] if same else [f"{path}: expected {expected!r}, got {got!r}"]
    return [] if expected == got else [f"{path}: expected {expected!r}, got {got!r}"]


# ---- parameters and inputs -------------------------------------------------------------


def add_parameter(collection, spec):
    """A parameter of `spec` = {dim, v} in `collection`."""
    p = collection.add_parameters(tuple(spec["dim"]))
    p.set_value(array(spec["v"], spec["dim"]))
    return p


def add_table(collection, spec):
    """A lookup table of `spec` = {rows, dim, v} in `collection`."""
    table = collection.add_lookup_parameters((spec["rows"], *spec["dim"]))
    size = len(spec["v"]) // spec["rows"]
    for i in range(spec["rows"]):
        table.init_row(i, spec["v"][i * size : (i + 1) * size])
    return table


def input_expression(dy, spec):
    """An input of `spec` = {dim, batch, v} in the current graph."""
    return dy.inputTensor(array(spec["v"], spec["dim"], spec["batch"]), batched=spec["batch"] > 1)


def tensor(expression):
    """{dim, batch, v} of an expression's value."""
    dim, batch = expression.dim()
    return {"dim": list(dim), "batch": batch, "v": [number(x) for x in expression.vec_value()]}


# ---- ops.json --------------------------------------------------------------------------


def _argument(a, xs):
    if isinstance(a, dict):
        ((kind, value),) = a.items()
        if kind == "x":
            return xs[value]
        if kind == "slice":
            return slice(*value)
        if kind == "tuple":
            return tuple(_argument(b, xs) for b in value)
        raise ValueError(f"unknown argument form {a!r}")
    if isinstance(a, list):
        return [_argument(b, xs) for b in a]
    return a


def op_output(dy, case):
    """Builds the case in a new graph: (collection, inputs, expression)."""
    dy.renew_cg()
    collection = dy.ParameterCollection()
    make = {
        "param": lambda s: add_parameter(collection, s),
        "table": lambda s: add_table(collection, s),
        "input": lambda s: input_expression(dy, s),
    }
    xs = [make[s["kind"]](s) for s in case["inputs"]]
    function = OPERATORS.get(case["fn"]) or getattr(dy, case["fn"])
    args = [_argument(a, xs) for a in case["args"]]
    kwargs = {k: _argument(a, xs) for k, a in case.get("kwargs", {}).items()}
    return collection, xs, function(*args, **kwargs)


def op(dy, case):
    """Value of the case's expression and the gradients of sum(w * value) to every input.

    `case["w"]` has the value's size; w None means that only the value is wanted.
    """
    _collection, xs, out = op_output(dy, case)
    result = tensor(out)
    if case["w"] is None:
        return result
    weights = input_expression(dy, {"dim": result["dim"], "batch": result["batch"], "v": case["w"]})
    loss = dy.sum_batches(dy.dot_product(out, weights))
    loss.backward(full=True)
    result["grads"] = [
        (
            None
            if skip
            else (
                table_flat(x.grad_as_array())
                if s["kind"] == "table"
                else flat(x.grad_as_array())
                if s["kind"] == "param"
                else flat(x.gradient())
            )
        )
        for x, s, skip in zip(xs, case["inputs"], case["no_grad"], strict=True)
    ]
    return result


# ---- random.json -----------------------------------------------------------------------


def _initializer(dy, init):
    """None, a number, a string (as DyNet's `init=` takes them) or {class, args} for an initialiser
    object."""
    return getattr(dy, init["class"])(*init["args"]) if isinstance(init, dict) else init


def random(dy, case):
    """Seeds the generator, then makes the draws in order; a list of flat values, one per draw."""
    dy.reset_random_seed(case["seed"])
    dy.renew_cg()
    collection = dy.ParameterCollection()
    result = []
    for draw in case["draws"]:
        kind = draw["kind"]
        if kind == "parameters":
            p = collection.add_parameters(
                tuple(draw["dim"]), init=_initializer(dy, draw["init"]), **draw.get("kwargs", {})
            )
            result.append(flat(p.as_array()))
        elif kind == "lookup_parameters":
            p = collection.add_lookup_parameters(
                draw["rows"] if draw["dim"] is None else (draw["rows"], *draw["dim"]),
                init=_initializer(dy, draw["init"]),
                **draw.get("kwargs", {}),
            )
            result.append(table_flat(p.as_array()))
            if draw["dim"] is None:
                assert p.shape() == (draw["rows"], 1)
        elif kind == "node":
            args = [tuple(a["tuple"]) if isinstance(a, dict) else a for a in draw["args"]]
            if draw["on_ones"]:
                args = [dy.ones(args[0], batch_size=draw["on_ones"]), *args[1:]]
            e = getattr(dy, draw["fn"])(*args, **draw.get("kwargs", {}))
            result.append([number(x) for x in e.vec_value()])
        else:
            raise ValueError(f"unknown draw {kind!r}")
    return result


# ---- trainers.json ---------------------------------------------------------------------


def trainer(dy, case):
    """Runs the trainer on given gradients; values of all parameters after every `case["every"]`
    steps.

    Step t's loss is sum_p <p, g_t,p> + sum_rows <row, g_t,row>, so that the gradients are the
    stored numbers.
    """
    collection = dy.ParameterCollection()
    params = [add_parameter(collection, s) for s in case["params"]]
    tables = [add_table(collection, s) for s in case["tables"]]
    if case["weight_decay"]:
        collection.set_weight_decay(case["weight_decay"])
    t = getattr(dy, case["trainer"])(collection, **case["kwargs"])
    if case["clip"] is not None:
        t.set_clip_threshold(case["clip"])
    if not case["sparse_updates"]:
        t.set_sparse_updates(False)
    result = []
    for count, step in enumerate(case["steps"], 1):
        dy.renew_cg()
        terms = [
            dy.dot_product(p, dy.inputTensor(array(g, s["dim"])))
            for p, s, g in zip(params, case["params"], step["params"], strict=True)
            if g is not None
        ]
        terms += [
            dy.dot_product(
                dy.lookup(tables[i], row), dy.inputTensor(array(g, case["tables"][i]["dim"]))
            )
            for i, row, g in step["rows"]
        ]
        dy.esum(terms).backward()
        t.update()
        if count % case["every"] == 0:
            dy.renew_cg()
            rows = [
                [number(x) for i in range(s["rows"]) for x in dy.lookup(p, i).vec_value()]
                for p, s in zip(tables, case["tables"], strict=True)
            ]
            result.append(
                {
                    "step": count,
                    "params": [[number(x) for x in p.vec_value()] for p in params],
                    "tables": rows,
                    "learning_rate": number(t.learning_rate),
                }
            )
    return result


# ---- lstm.json, rnn.json ---------------------------------------------------------------


def rnn_builder(dy, case):
    """(collection, builder, parameters), with the case's parameter values if it has any yet.

    The caller must hold the collection: in the wheel a parameter that outlives it has a wrong value
    (its weight decay factor is read from freed memory).
    """
    collection = dy.ParameterCollection()
    layers, input_dim, hidden_dim = case["sizes"]
    if case["builder"] == "BiRNNBuilder":
        factory = getattr(dy, case["factory"])
        builder = dy.BiRNNBuilder(layers, input_dim, hidden_dim, collection, factory)
    else:
        builder = getattr(dy, case["builder"])(
            layers, input_dim, hidden_dim, collection, **case["kwargs"]
        )
    params = collection.parameters_list()
    if "params" in case:
        for p, s in zip(params, case["params"], strict=True):
            p.set_value(array(s["v"], s["dim"]))
    return collection, builder, params


def rnn(dy, case):
    """Outputs, final state, and gradients of sum_t <w_t, output_t> to parameters, inputs, initial
    vectors, outputs and states."""
    dy.renew_cg()
    _collection, builder, params = rnn_builder(dy, case)
    xs = [input_expression(dy, s) for s in case["xs"]]
    vecs = [input_expression(dy, s) for s in case["vecs"]]
    final, states = [], []
    if case["builder"] == "BiRNNBuilder":
        if case["method"] == "transduce":
            outputs = builder.transduce(xs)
        else:
            pairs = builder.add_inputs(xs)
            outputs = [dy.concatenate([f.output(), b.output()]) for f, b in pairs]
    else:
        state = builder.initial_state(vecs) if vecs else builder.initial_state()
        if case["method"] == "transduce":
            outputs = state.transduce(xs)
        elif case["method"] == "add_inputs":
            states = state.add_inputs(xs)
            outputs = [s.output() for s in states]
            final = list(states[-1].s())
        else:
            for x in xs:
                state = state.add_input(x)
                states.append(state)
            outputs = [s.output() for s in states]
            final = list(state.s())
    result = {
        "names": [p.name() for p in params],
        "outputs": [tensor(e) for e in outputs],
        "final": [tensor(e) for e in final],
    }
    dots = [
        dy.sum_batches(
            dy.dot_product(
                e, input_expression(dy, {"dim": e.dim()[0], "batch": e.dim()[1], "v": w})
            )
        )
        for e, w in zip(outputs, case["w"], strict=True)
    ]
    dy.esum(dots).backward(full=True)
    result["grads"] = [flat(p.grad_as_array()) for p in params]
    result["grad_xs"] = [flat(e.gradient()) for e in xs]
    result["grad_vecs"] = [flat(e.gradient()) for e in vecs]
    result["grad_outputs"] = [flat(e.gradient()) for e in outputs]
    result["grad_states"] = [flat(e.gradient()) for s in states for e in s.s()]
    return result


def rnn_expected(case):
    """The stored result; without names where layers are normalised: DyNet puts those parameters
    outside of the builder's collection."""
    return case["result"] | ({"names": None} if case["kwargs"].get("ln_lstm") else {})


# ---- xor.json --------------------------------------------------------------------------


def xor(dy, case):
    """The tutorial's xor program (static or dynamic graph) on `case["examples"]` examples after a
    seed."""
    dy.reset_random_seed(case["seed"])
    collection = dy.ParameterCollection()
    w = collection.add_parameters((8, 2))
    v = collection.add_parameters((1, 8))
    b = collection.add_parameters(8)
    result = {"W": flat(w.as_array()), "V": flat(v.as_array()), "b": flat(b.as_array())}
    t = dy.SimpleSGDTrainer(collection)

    def network(question, answer):
        dy.renew_cg()
        x = dy.vecInput(2)
        x.set(question)
        y = dy.scalarInput(answer)
        output = dy.logistic(v * dy.tanh(w * x + b))
        return x, y, dy.binary_log_loss(output, y)

    if case["graph"] == "static":
        x, y, loss = network((0, 0), 0)
    total, losses, averages = 0.0, [], {}
    for i in range(case["examples"]):
        question = (i >> 1 & 1, i & 1)
        answer = question[0] ^ question[1]
        if case["graph"] == "static":
            x.set(question)
            y.set(answer)
        else:
            x, y, loss = network(question, answer)
        value = loss.value()
        loss.backward()
        t.update()
        total += value
        if i < 20:
            losses.append(number(value))
        if i + 1 in (100, 1000, 4000, 8000):
            averages[str(i + 1)] = number(total / (i + 1))
    result["first_losses"] = losses
    result["average_loss"] = averages
    return result
