"""What calls give that can go two ways: by a fast path or by the general one. test_drift.py runs
this with and without the fast paths.

`python drift.py operations|operators|recurrent|nets` prints what came out of each call by name:
dims and a digest of all numbers, or the error with its words. Calls that say the same in another
form, such as with NumPy's numbers, are compared here; their names are printed, too. Everything
comes from the tables of operations, of operators and of nets.
"""

import itertools
import json
import re
import resource
import sys
from hashlib import blake2b
from zlib import crc32

import net_table
import numpy as np
import op_table
from net_table import recurrent
from op_table.run import Run, drawn

import dist_dynet as dy

MEMORY = 4 << 30
ODD_INTEGERS = (-1, 0, 1, 1000, 2**31 - 1, 2**31, 2**40, 2**70, True)
ODD_FLOATS = (0.0, -0.0, 2.0, -1.5, 1e39, 1e-320, float("inf"), float("nan"))


def digest(array):
    array = np.array(array, float, order="F")
    array[np.isnan(array)] = np.nan  # of either sign
    return blake2b(array.tobytes(order="F"), digest_size=8).hexdigest()


def outcome(call):
    """What a call gives in a new graph: lists of text and numbers."""
    try:
        results = call()
        return [
            [*e.dim(), digest(e.npvalue())] if isinstance(e, dy.Expression) else digest(e)
            for e in results
        ]
    except Exception as error:
        return [type(error).__name__, str(error)]


class Said:
    """Outcomes by name, and the names of calls that differ between forms."""

    def __init__(self):
        self.outcomes, self.differing = {}, {}

    def add(self, name, *forms):
        found = [outcome(form) for form in forms]
        assert name not in self.outcomes, f"two calls of one name: {name}"
        self.outcomes[name] = found[0]
        if any(f != found[0] for f in found):
            self.differing[name] = found


# ---- operations ------------------------------------------------------------------------


def as_numpy(value):
    """The same number or sequence, of types that fast paths leave alone."""
    if type(value) is int and -(2**63) <= value < 2**63:
        return np.int64(value)
    if type(value) is float:
        return np.float64(value)
    if type(value) is list:
        return [as_numpy(v) for v in value]
    return value


def computed(row, case, arrays, parameters=False):
    """Value and gradients of a case."""
    run = Run(row, case, arrays, parameters)
    w = np.random.default_rng(5).uniform(-1, 1, run.value().shape)
    return [run.expression, *(run.gradients(w) if row.has_gradient and w.size else [])]


def changed(case, **attributes):
    return type(case)(case.inputs, {**case.attributes, **attributes})


def odd(value):
    return ODD_INTEGERS if type(value) is int else ODD_FLOATS if type(value) is float else ()


def operations(said):
    for family, row in (
        (family, row) for family, module in op_table.FAMILIES.items() for row in module.ROWS
    ):
        for k, case in enumerate(row.cases):
            name = f"{family}-{row.label(case)}"
            arrays = drawn(row, case, np.random.default_rng(crc32(name.encode())))
            other = changed(case, **{a: as_numpy(v) for a, v in case.attributes.items()})
            said.add(
                name,
                *(
                    lambda c=c, row=row, arrays=arrays: computed(row, c, arrays)
                    for c in (case, other)
                ),
            )
            said.add(
                f"{name} of parameters",
                lambda row=row, case=case, arrays=arrays: computed(row, case, arrays, True),
            )
            for attribute, value in case.attributes.items() if k < 2 else ():
                for n in odd(value):
                    forms = [changed(case, **{attribute: form}) for form in (n, as_numpy(n))]
                    said.add(
                        f"{name} with {attribute}={n!r}",
                        *(
                            lambda c=c, row=row, arrays=arrays: computed(row, c, arrays)
                            for c in forms
                        ),
                    )
        for k, refusal in enumerate(row.errors):
            said.add(f"{family}-{row.name} refuses {k}", lambda refusal=refusal: [refusal.call()])


# ---- operators, subscripts and inputs --------------------------------------------------

OPERATORS = [
    name
    for name in dir(dy.Expression)
    if re.match(r"__(r?(add|sub|mul|matmul|truediv|pow)|neg|pos|getitem)__$", name)
]
ENDS = (None, -5, -1, 0, 1, 2, 9)
STEPS = (None, -1, 0, 1, 2, 2**40)


def matrix():
    dy.renew_cg()
    return dy.inputTensor(np.arange(1.0, 13.0).reshape(3, 4))


def used(name, *others):
    """The operator of x, through the type, as Python does."""

    def call():
        x = matrix()
        return [getattr(type(x), name)(x, *others)]

    return call


def operators(said):
    for name in OPERATORS:
        if name in ("__neg__", "__pos__"):
            said.add(name, used(name))
        elif name == "__getitem__":
            for i in (*range(-5, 5), 2**31, 2**40, 2**70, True):
                said.add(
                    f"{name} {i!r}",
                    used(name, i),
                    *([used(name, np.int64(i))] if type(i) is int and abs(i) < 2**63 else []),
                )
            for ends in itertools.product(ENDS, ENDS, STEPS):
                said.add(
                    f"{name} {slice(*ends)}", used(name, slice(*ends)), used(name, (slice(*ends),))
                )
        else:
            for n in (*ODD_FLOATS, 3, 2**70):
                said.add(f"{name} {n!r}", used(name, n), used(name, np.float64(n)))
            others = {
                "an expression": lambda: dy.inputTensor(np.ones((3, 4))),
                "an array": lambda: np.ones((3, 4)),
                "None": lambda: None,
                "text": lambda: "a",
                "a complex number": lambda: 1j,
                "a parameter": lambda: _parameter(),
            }
            for what, other in others.items():
                said.add(
                    f"{name} {what}",
                    lambda name=name, other=other: (
                        x := matrix(),
                        [getattr(type(x), name)(x, other())],
                    )[1],
                )
    for n in (*ODD_FLOATS, 1, 2**70, True, None, "1"):
        said.add(
            f"scalarInput {n!r}",
            *(
                lambda form=form: [dy.renew_cg(), dy.scalarInput(form)][1:]
                for form in (n, as_numpy(n))
            ),
        )
    for numbers in (
        [1, 2],
        [],
        [1e39],
        [float("nan")],
        [True, 2],
        [*range(100)],
        [2**70],
        [None],
        ["1"],
        [[1]],
    ):
        forms = [lambda n=numbers: n, lambda n=numbers: iter(n)]
        said.add(
            f"inputVector {numbers!r:.40}",
            *(lambda form=form: [dy.renew_cg(), dy.inputVector(form())][1:] for form in forms),
        )


def _parameter():
    return dy.ParameterCollection().parameters_from_numpy(np.full((3, 4), 2.0))


# ---- nets ------------------------------------------------------------------------------


def with_gradients(m, outputs):
    """The outputs, and the gradients of all parameters."""
    terms = [dy.sum_batches(dy.squared_norm(e)) for e in outputs]
    if terms:
        dy.esum(terms).backward()
    return [
        *outputs,
        *(p.grad_as_array() for p in [*m.parameters_list(), *m.lookup_parameters_list()]),
    ]


def all_of(states):
    return [e for state in states for e in (state.output(), *state.s()) if e is not None]


def by_add_input(state, xs):
    states = []
    for x in xs:
        states.append(state := state.add_input(x))
    return all_of(states)


def by_step(state, xs):
    states = []
    for x in xs:
        states.append(state := state._step.after(state, x))
    return all_of(states)


WAYS = {
    "add_inputs": [
        lambda state, xs, form=form: all_of(state.add_inputs(form(xs)))
        for form in (list, tuple, iter)
    ],
    "transduce": [
        lambda state, xs, form=form: state.transduce(form(xs)) for form in (list, tuple, iter)
    ],
    "add_input": [by_add_input, by_step],
}


def sequence(make, layers, rate, batched, given, way, masks=False):
    dy.reset_random_seed(4)
    m, rng = dy.ParameterCollection(), np.random.default_rng(2)
    builder = make(layers, 4, 4, m)
    builder.set_dropout(rate)
    dy.renew_cg()
    shape = (4, 3) if batched else (4, 1)
    xs, start = (
        [dy.inputTensor(rng.normal(size=shape), batched=True) for _ in range(n)]
        for n in (5, 2 * layers)
    )
    state = builder.initial_state(
        start[: (1 + recurrent.cells(builder)) * layers] if given and layers else None
    )
    if masks:
        builder.set_dropout_masks(3 if batched else 1)
    return with_gradients(m, [e for e in way(state, xs) if e is not None])


def recurrent_networks(said):
    both = False, True
    for (name, make), layers, rate, batched, given in itertools.product(
        recurrent.FACTORIES.items(), (0, 1, 2), (0, 0.4), both, both
    ):
        for what, ways in WAYS.items():
            label = (
                f"{name} of {layers} layers, dropout"
                f" {rate}{', batches' * batched}{', from a state' * given}, {what}"
            )
            said.add(
                label,
                *(lambda a=(make, layers, rate, batched, given, way): sequence(*a) for way in ways),
            )


def nets(said):
    for name, net in net_table.NETS.items():
        for batch in (1, 3):

            def run(net=net, batch=batch):
                dy.reset_random_seed(6)
                m, rng = dy.ParameterCollection(), np.random.default_rng(3)
                made = net.make(m)
                dy.renew_cg()
                xs = [
                    dy.inputTensor(rng.normal(size=(*dims, batch)), batched=True)
                    for dims in net.inputs
                ]
                return with_gradients(m, [net.value(made, xs)])

            said.add(f"{name} x {batch}", run)


TABLES = {
    "operations": operations,
    "operators": operators,
    "recurrent": recurrent_networks,
    "nets": nets,
}

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    np.seterr(all="ignore")
    result = Said()
    TABLES[sys.argv[1]](result)
    print(json.dumps([result.outcomes, result.differing]))
