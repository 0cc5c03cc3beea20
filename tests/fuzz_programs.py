"""Random programs for fuzz.py: how they are drawn, and the lines of Python that they are in each
mode of computing.

A program is a list of steps, which make nodes, or do something with the graph or the parameters. A
step names those that it depends on by their numbers; where one of these is gone, by a revert or
because shrinking has taken it out, the step does nothing. `source()` gives the lines of a program:
as it is (a *live* run, in a mode of autobatching, with cells), or *plain*: whenever something is
read, all nodes that there are then are made anew, in a new graph that is computed node by node,
without tracing, checkpoints, or values that are kept. Both must give the same.
"""

import itertools
import json
import random
from typing import NamedTuple

import op_table
from net_table import recurrent

ROWS = [
    (family, k, row)
    for family, module in op_table.FAMILIES.items()
    for k, row in enumerate(module.ROWS)
]
LARGEST = 3000
"""Numbers in the inputs of a case; the tests of operations have the larger ones."""
SIZES = (2, 3)
TABLE_ROWS = 5
TRAINERS = ("SimpleSGDTrainer(m, 0.1)", "MomentumSGDTrainer(m, 0.05)")
TABLES = ("E", "E", "F")
# Numbers stay finite however long a chain gets: otherwise most losses would be NaN, and tell
# nothing. Infinite ones are beside the loss: POISON.
UNARY = (
    "dy.tanh({})",
    "dy.tanh(dy.square({}))",
    "{} * 0.7 - 0.1",
    "dy.tanh(dy.cmult({0}, {0}))",
    "dy.logistic({})",
    "1 - {}",
    "dy.softmax({})",
    "dy.concatenate([dy.pick_range({0}, 1, 2), {0}[0:1], {0}])[0:{n}]",
    "dy.reshape({}, (1, {n}))[0]",
    "-{}",
    "dy.nobackprop({})",
    "dy.rectify({} + 0.3)",
    "dy.log_softmax({})",
)
SEVERAL = (
    "dy.esum([{}])",
    "dy.average([{}])",
    "dy.emax([{} * 1.01, {}])",
    "dy.tanh(dy.cmult({}, {}))",
    "{} + {}",
    "dy.tanh({}) - {}",
    "dy.tanh(dy.cmult(dy.dot_product({}, {}), {}))",
    "dy.tanh(dy.concatenate_cols([{}]) * dy.inputVector([0.3] * {count}))",
)
WEIGHT = (
    "dy.tanh(W{n}{k} * {x})",
    "W{n}{k} * {x}",
    "dy.affine_transform([B{n}, W{n}{k}, {x}])",
    "dy.tanh(W{n}{k} * {x} + B{n})",
    "dy.logistic(dy.affine_transform([B{n}, W{n}{k}, {x}, W{n}{n}, B{n}]))",
)
POISON = (
    "dy.cmult({}, dy.inputVector([np.inf, 0.0, 1.0][:{n}]))",
    "dy.log({} * 0)",
    "dy.sqrt({0} * 0) + dy.nobackprop({0})",
    "dy.cdiv({0}, {0} * 0)",
    "dy.cmult({}, dy.inputVector([1.0, np.nan, -np.inf][:{n}]))",
)
"""Nodes whose values or derivatives are infinite; no loss is made of them."""
CELLS = {  # what each is called with, a vector of 3 numbers, and how many results
    "one": ("lambda x: dy.tanh(W33 * x + B3)", 1, 1),
    "two": ("lambda x, y: dy.cmult(dy.tanh(W33 * x), dy.logistic(y))", 2, 1),
    "pair": ("lambda h, c: (dy.tanh(W33 * h) + c, dy.tanh(dy.cmult(h, c)))", 2, 2),
    "five": ("lambda *xs: dy.tanh(dy.affine_transform([B3, W33, dy.esum(list(xs))]))", 5, 1),
}
NO_CELLS = {
    "traced": "its rows look at the graph",
    "function": "operations written in Python cannot be traced",
    "gradients": "a node that lets no gradient through has none; a cell that contains it has one",
    "choice": "its rows read values",
}
"""Families whose rows are not called in cells, with the reasons."""
MODEL = -1
"""In place of a step: lines that make the model and begin the first graph."""
READERS = ("npvalue()", "value()", "vec_value()", "tensor_value().as_numpy()")


class Mode(NamedTuple):
    """How a program is computed."""

    autobatching: int = 0
    immediate: bool = False
    plain: bool = False
    anew: bool = False  # what losses need is computed, forgotten, and computed once more

    def renew(self):
        if self.plain:
            return "dy.renew_cg(autobatching=0)"
        return f"dy.renew_cg({'immediate_compute=True, ' * self.immediate}autobatching={self.autobatching})"  # noqa: E501


class Step(NamedTuple):
    """number: its name for others. kind: what it does. rest: by kind."""

    number: int
    kind: str
    rest: tuple


class Program(NamedTuple):
    """seed: of the random numbers. comparable: plain and live runs draw the same numbers, and know
    the same frozen parameters."""

    seed: int
    comparable: bool
    steps: tuple


# ---- drawing ---------------------------------------------------------------------------


def cases():
    """(index into ROWS, index of the case) for all cases of the table that are not too large; of
    each row at least one."""
    found = []
    for k, (_, _, row) in enumerate(ROWS):
        sizes = [sum(_count(i.shape) for i in case.inputs) for case in row.cases]
        numbers = [_largest_attribute(case) for case in row.cases]
        fitting = [
            c
            for c, (size, n) in enumerate(zip(sizes, numbers, strict=True))
            if size <= LARGEST and n <= LARGEST
        ]
        found += [
            (k, c)
            for c in fitting
            or [min(range(len(sizes)), key=lambda c, s=sizes, n=numbers: s[c] + n[c])]
        ]
    return found


def _count(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def _largest_attribute(case):
    """Of those that may be sizes."""
    numbers = [0]
    for v in case.attributes.values():
        items = list(v) if isinstance(v, tuple | list) else [v]
        if all(type(i) is int for i in items):
            numbers.append(_count([abs(i) or 1 for i in items]))
    return max(numbers) if max(numbers) < 1 << 31 else 0


class Deck:
    """All cases of the table, in an order drawn anew each time round."""

    def __init__(self, draw):
        self._draw, self._cases, self._left = draw, cases(), []
        self.rows = {k for k, _ in self._cases}

    def next(self):
        if not self._left:
            self._left = self._draw.sample(self._cases, len(self._cases))
        return self._left.pop()


class _Drawing:
    """A program in the making. `vectors` are the numbers of nodes that are vectors of a known size,
    `nodes` those of all nodes."""

    def __init__(self, draw, deck):
        self.draw, self.deck, self.steps = draw, deck, []
        self.vectors, self.nodes = {n: [] for n in SIZES}, []
        self.marks = []
        self.trees = []  # those of them that are states of trees
        self.comparable = True

    def add(self, kind, *rest):
        number = len(self.steps)
        self.steps.append(Step(number, kind, rest))
        return number

    def one_of(self, numbers):
        """More often one of the last ones, so that chains arise."""
        return (
            numbers[-1 - min(int(self.draw.expovariate(0.25)), len(numbers) - 1)]
            if self.draw.random() < 0.6
            else self.draw.choice(numbers)
        )

    def vector(self, n):
        if not self.vectors[n]:
            self.leaf(n)
        return self.one_of(self.vectors[n])

    def made(self, number, n=None):
        self.nodes.append(number)
        if n is not None:
            self.vectors[n].append(number)

    def leaf(self, n):
        draw, kind = (
            self.draw,
            self.draw.choice(["input", "input", "lookup", "lookup", "rows", "parameter"]),
        )
        batch = draw.choice([1, 1, 1, 1, 3])
        if kind == "input":
            number = self.add("input", n, batch, draw.randrange(1 << 30))
        elif kind == "parameter":
            number = self.add("parameter", n)
        else:
            rows = (
                draw.randrange(TABLE_ROWS)
                if kind == "lookup"
                else [draw.randrange(TABLE_ROWS) for _ in range(3)]
            )
            number = self.add("lookup", n, rows, draw.choice(TABLES))
        self.made(number, n)

    def node(self, rows=4):
        draw, n = self.draw, self.draw.choice(SIZES)
        kind = draw.choices(
            ["leaf", "unary", "weight", "several", "row", "sequence", "cell", "fold"],
            [3, 3, 4, 3, rows, 1, 1, 1],
        )[0]
        if kind == "leaf":
            return self.leaf(n)
        if kind == "unary":
            return self.made(self.add("unary", n, draw.randrange(len(UNARY)), self.vector(n)), n)
        if kind == "weight":
            k = draw.choice(SIZES)
            return self.made(
                self.add("weight", n, k, draw.randrange(len(WEIGHT)), self.vector(k)), n
            )
        if kind == "several":
            form = draw.randrange(len(SEVERAL))
            count = SEVERAL[form].count("{}")
            count = draw.randrange(1, 5) if count == 1 else count
            return self.made(
                self.add("several", n, form, tuple(self.vector(n) for _ in range(count))), n
            )
        if kind == "sequence":
            factory, layers, way = (
                draw.choice(list(recurrent.FACTORIES)),
                draw.choice([1, 2]),
                draw.choice(["steps", "transduce", "states"]),
            )
            return self.made(
                self.add(
                    "sequence",
                    factory,
                    layers,
                    way,
                    tuple(self.vector(3) for _ in range(draw.randrange(1, 5))),
                ),
                3,
            )
        if kind == "cell":
            name = draw.choice(list(CELLS))
            return self.made(
                self.add("cell", name, tuple(self.vector(3) for _ in range(CELLS[name][1]))), 3
            )
        if kind == "fold":
            if self.nodes:
                self.made(self.add("fold", n, self.one_of(self.nodes), self.vector(n)), n)
            return None
        return self.row()

    def chorus(self):
        """Many copies of one small network, of different leaves and lengths: much to be batched,
        and rows that repeat."""
        draw, n = self.draw, self.draw.choice(SIZES)
        leaf, layers = draw.choice(["lookup", "lookup", "input", "any"]), []
        for _ in range(draw.randrange(1, 4)):
            kind = draw.choice(["unary", "weight", "several", "cell", "sequence", "tree"])
            layers.append((kind, draw.randrange(1 << 30)))
        for _ in range(draw.randrange(6, 20)):
            y, size = self.chorus_leaf(n, leaf), n
            for kind, seed in layers:
                y, size = self.layer(kind, random.Random(seed), y, size)

    def beside(self):
        """Nodes of infinite numbers, which nothing else reads; rows, some of which look at their
        values, are not among them."""
        draw, n, here = self.draw, self.draw.choice(SIZES), self.here()
        self.made(self.add("poison", n, draw.randrange(len(POISON)), self.vector(n)), n)
        for _ in range(draw.randrange(6)):
            self.node(rows=0)
        self.nodes, self.vectors, self.trees = here

    def chorus_leaf(self, n, kind):
        if kind == "any":
            return self.vector(n)
        rest = (
            (n, self.draw.randrange(TABLE_ROWS), self.draw.choice(TABLES))
            if kind == "lookup"
            else (n, 1, self.draw.randrange(1 << 30))
        )
        self.made(number := self.add(kind, *rest), n)
        return number

    def layer(self, kind, same, x, n):
        """One step of each copy: its form is drawn by `same`."""
        if kind == "unary":
            number = self.add("unary", n, same.randrange(len(UNARY)), x)
        elif kind == "several":
            form = same.randrange(len(SEVERAL))
            others = SEVERAL[form].count("{}") - 1
            number = self.add("several", n, form, (x, *(self.vector(n) for _ in range(others))))
        elif kind == "weight" or n != 3:
            n, k = 3 if kind != "weight" else same.choice(SIZES), n
            number = self.add("weight", n, k, same.randrange(len(WEIGHT)), x)
        elif kind == "cell":
            name = same.choice(list(CELLS))
            number = self.add("cell", name, (x,) * CELLS[name][1])
        elif kind == "tree":
            children = (
                [self.one_of(self.trees) for _ in range(2)]
                if self.trees and self.draw.random() < 0.6
                else []
            )
            number = self.add("tree", x, *children)
            self.trees.append(number)
        else:
            factory, layers, way = (
                same.choice(list(recurrent.FACTORIES)),
                same.choice([1, 2]),
                same.choice(["steps", "transduce", "states"]),
            )
            number = self.add("sequence", factory, layers, way, (x,) * self.draw.randrange(1, 6))
        self.made(number, n)
        return number, n

    def row(self):
        draw, (k, c) = self.draw, self.deck.next()
        family, _, row = ROWS[k]
        self.comparable &= row.reference is not None
        inputs = row.cases[c].inputs
        links = tuple(
            (
                self.one_of(self.nodes)
                if i.kind == "tensor" and self.nodes and draw.random() < 0.6
                else None
            )
            for i in inputs
        )
        parameters = tuple(
            i.kind == "tensor" and i.batch == 1 and draw.random() < 0.4 for i in inputs
        )
        may_be_cell = (
            row.has_gradient and inputs and row.reference is not None and family not in NO_CELLS
        )
        cell = (
            bool(may_be_cell) and all(i.kind == "tensor" for i in inputs) and draw.random() < 0.15
        )
        for _ in range(draw.choice([1, 1, 1, 2, 3])):  # like nodes, to be batched
            self.made(self.add("row", k, c, draw.randrange(1 << 30), links, parameters, cell))
        return None

    def observe(self):
        draw = self.draw
        if not self.nodes:
            return
        most = draw.choice([7, 7, 30])
        chosen = tuple(
            dict.fromkeys(self.one_of(self.nodes) for _ in range(draw.randrange(1, most)))
        )
        backward = draw.choice(["", "backward()", "backward()", "backward(full=True)"])
        self.add("observe", chosen, backward, draw.random() < 0.5, draw.randrange(len(READERS)))

    def action(self):
        draw = self.draw
        kind = draw.choices(
            [
                "node",
                "chorus",
                "beside",
                "observe",
                "checkpoint",
                "revert",
                "set",
                "recalculate",
                "update",
                "renew",
                "freeze",
                "clear",
            ],
            [40, 3, 4, 8, 3, 3, 3, 2, 1, 1, 0.3, 0.5],
        )[0]
        if kind == "node":
            for _ in range(draw.randrange(1, 6)):
                self.node()
        elif kind == "chorus":
            self.chorus()
        elif kind == "beside":
            self.beside()
        elif kind == "observe":
            self.observe()
        elif kind == "checkpoint":
            self.add("checkpoint")
            self.marks.append(self.here())
        elif kind == "revert" and self.marks:
            self.add("revert")
            self.nodes, self.vectors, self.trees = self.marks.pop()
        elif kind == "set":
            settable = [
                s
                for s in self.steps
                if s.number in self.nodes and s.kind in ("input", "lookup", "row")
            ]
            if settable:
                self.set(draw.choice(settable))
        elif kind == "recalculate" and self.nodes:
            self.add("recalculate", self.one_of(self.nodes))
        elif kind == "update" and self.nodes:
            self.add("update")
        elif kind == "renew":
            self.add("renew")
            self.nodes, self.vectors, self.trees, self.marks = [], {n: [] for n in SIZES}, [], []
        elif kind == "freeze":
            self.comparable = False  # what nodes know of it depends on when they are made
            self.add("freeze", draw.choice(["W33", "W23", "E3", "B2"]), draw.random() < 0.5)
        elif kind == "clear":
            self.add("clear")

    def here(self):
        return (
            list(self.nodes),
            {n: list(numbers) for n, numbers in self.vectors.items()},
            list(self.trees),
        )

    def set(self, step):
        if step.kind != "lookup":
            self.add("set", step.number, self.draw.randrange(1 << 30))
        else:
            rows = [self.draw.randrange(TABLE_ROWS) for _ in range(3)]
            self.add("set", step.number, rows if isinstance(step.rest[1], list) else rows[0])


def drawn(seed, deck):
    """A program."""
    draw = random.Random(seed)
    drawing = _Drawing(draw, deck)
    for _ in range(draw.choice([4, 8, 8, 16, 30])):
        drawing.action()
    drawing.observe()
    return Program(draw.randrange(1, 1 << 30), drawing.comparable, tuple(drawing.steps))


# ---- lines -----------------------------------------------------------------------------


class _Source:
    """The lines of a program in one mode, and what is known of its graph on the way."""

    def __init__(self, program, mode):
        self.program, self.mode = program, mode
        self.lines = []
        self.steps = {s.number: s for s in program.steps}
        self.live = []  # numbers of the nodes that there are, in their order
        self.marks = []
        self.numbers = {}  # what inputs were set to
        # what is random is drawn anew, too
        self.anew = mode.anew and not any(
            s.kind == "row" and ROWS[s.rest[0]][2].reference is None for s in program.steps
        )
        self.once = set()

    def add(self, number, *texts):
        self.lines += [(number, text) for text in texts]

    def all(self):
        self.add(
            MODEL, f"dy.reset_random_seed({self.program.seed})", "m = dy.ParameterCollection()"
        )
        for n in SIZES:
            self.add(MODEL, f"B{n} = m.add_parameters({n})")
            self.add(
                MODEL,
                *(
                    f"{t}{n} = m.add_lookup_parameters(({TABLE_ROWS}, {n}))"
                    for t in sorted(set(TABLES))
                ),
            )
            self.add(MODEL, *(f"W{n}{k} = m.add_parameters(({n}, {k}))" for k in SIZES))
        for factory, layers in sorted(
            {s.rest[:2] for s in self.program.steps if s.kind == "sequence"}
        ):
            self.add(
                MODEL,
                f"{_builder(factory, layers)} = recurrent.FACTORIES[{factory!r}]({layers}, 3,"
                " 3, m)",
            )
        if any(s.kind == "tree" for s in self.program.steps):
            self.add(MODEL, "tree = dy.BinaryTreeLSTMBuilder(3, 3, m)")
        for name in sorted({s.rest[0] for s in self.program.steps if s.kind == "cell"}):
            function = CELLS[name][0]
            self.add(
                MODEL,
                (
                    f"cell_{name} = {function}"
                    if self.mode.plain
                    else f"cell_{name} = dy.traced({function})"
                ),
            )
        if self.program.seed % 3 == 0:
            self.add(MODEL, "m.set_weight_decay(0.01)")
        self.add(
            MODEL, f"trainer = dy.{TRAINERS[self.program.seed % len(TRAINERS)]}", self.mode.renew()
        )
        for step in self.program.steps:
            getattr(self, f"_{step.kind}", self._node)(step)
        return self.lines

    def _node(self, step):
        if not all(x in self.live for x in _needs(step)):
            return
        self.live.append(step.number)
        texts = self._texts(step)
        if not self.mode.plain:
            self.add(step.number, *texts)

    def _texts(self, step):
        """The lines that make this node."""
        y, rest = f"v{step.number}", step.rest
        xs = [f"v{x}" for x in _needs(step)]
        if step.kind == "input":
            n, batch, seed = rest
            numbers = self.numbers.get(step.number, seed)
            return [
                f"{y} = dy.inputTensor({_numbers(numbers, n, batch)}, batched=True,"
                " reusable_expr=True)"
                if batch > 1
                else f"{y} = dy.inputVector({_numbers(numbers, n, batch)})"
            ]
        if step.kind == "parameter":
            return [f"{y} = B{rest[0]} * 1"]
        if step.kind == "lookup":
            rows = self.numbers.get(step.number, rest[1])
            table = f"{rest[2]}{rest[0]}"
            return [
                f"{y} = dy.lookup_batch({table}, {rows})"
                if isinstance(rows, list)
                else f"{y} = {table}[{rows}]"
            ]
        if step.kind == "unary":
            return [f"{y} = {UNARY[rest[1]].format(xs[0], n=rest[0])}"]
        if step.kind == "poison":
            return [f"{y} = {POISON[rest[1]].format(xs[0], n=rest[0])}"]
        if step.kind == "weight":
            return [f"{y} = {WEIGHT[rest[2]].format(n=rest[0], k=rest[1], x=xs[0])}"]
        if step.kind == "several":
            form = SEVERAL[rest[1]]
            return [
                f"{y} ="
                f" {form.format(', '.join(xs), count=len(xs)) if form.count('{}') == 1 else form.format(*xs)}"  # noqa: E501
            ]
        if step.kind == "tree":
            children = f", [{', '.join(f'state{x}' for x in rest[1:])}]" if rest[1:] else ""
            return [
                f"state{step.number} = tree.node({xs[0]}{children})",
                f"{y} = state{step.number}.output()",
            ]
        if step.kind == "fold":
            return [f"{y} = linked({xs[1]}, {xs[0]})"]
        if step.kind == "cell":
            call = f"cell_{rest[0]}({', '.join(xs)})"
            return [f"{y} = {call}" if CELLS[rest[0]][2] == 1 else f"{y} = dy.esum(list({call}))"]
        if step.kind == "sequence":
            builder, listed = _builder(*rest[:2]), ", ".join(xs)
            if rest[2] == "steps":
                return [
                    f"{y} = {builder}.initial_state()"
                    + "".join(f".add_input({x})" for x in xs)
                    + ".output()"
                ]
            if rest[2] == "transduce":
                return [f"{y} = {builder}.initial_state().transduce([{listed}])[-1]"]
            return [
                f"{y} = dy.average(list({builder}.initial_state().add_inputs([{listed}])[-1].s()))"
            ]
        return self._row_texts(step)

    def _row_texts(self, step):
        i, (k, c, seed, links, parameters, cell) = step.number, step.rest
        family, index, row = ROWS[k]
        self._once(
            i, f"s{i} = sample({family!r}, {index}, {c}, {seed})  # {row.label(row.cases[c])}"
        )
        texts, names = [], []
        for j, spec in enumerate(row.cases[c].inputs):
            name = f"a{i}_{j}"
            names.append(name)
            if spec.kind == "parameter" or (spec.kind == "tensor" and parameters[j]):
                self._once(i, f"{name} = m.parameters_from_numpy(s{i}[{j}][..., 0])")
            elif spec.kind == "table":
                self._once(
                    i,
                    f"{name} = m.lookup_parameters_from_numpy(np.moveaxis(s{i}[{j}][..., 0],"
                    " -1, 0))",
                )
            elif spec.kind == "data":
                texts.append(f"{name} = s{i}[{j}]{'' if spec.batch > 1 else '[..., 0]'}")
            else:
                texts.append(
                    f"{name} = dy.inputTensor(s{i}[{j}], batched=True, reusable_expr=True)"
                )
            if links[j] in self.live and links[j] < i:
                names[-1] = f"x{i}_{j}"
                texts.append(f"x{i}_{j} = linked({name} * 1, v{links[j]})")
        call = "row" if not cell or self.mode.plain else "cell_of_row"
        return [*texts, f"v{i} = {call}({', '.join([repr(family), str(index), str(c), *names])})"]

    def _once(self, number, text):
        """A line for what outlives graphs."""
        if text not in self.once:
            self.once.add(text)
            self.add(number, text)

    # ---- what makes no node

    def _checkpoint(self, step):
        self.marks.append(len(self.live))
        if not self.mode.plain:
            self.add(step.number, "dy.cg_checkpoint()")

    def _revert(self, step):
        if not self.marks:
            return
        length = self.marks.pop()
        dropped = self.live[length:]
        del self.live[length:]
        if not self.mode.plain:
            self.add(step.number, "dy.cg_revert()", *(f"del v{x}" for x in dropped))

    def _renew(self, step):
        self.add(
            step.number, self.mode.renew(), *(f"del v{x}" for x in self.live if not self.mode.plain)
        )
        self.live, self.marks = [], []

    def _set(self, step):
        number, to = step.rest
        if number not in self.live:
            return
        self.numbers[number] = to
        made = self.steps[number]
        if made.kind == "row":
            self._set_row(step.number, made, to)
        elif not self.mode.plain:
            self.add(
                step.number,
                f"v{number}.set({_numbers(to, *made.rest[:2]) if made.kind == 'input' else to})",
            )

    def _set_row(self, number, made, seed):
        """Other numbers for all inputs of a row's node that are no parameters."""
        i, (k, c, _, _, parameters, _) = made.number, made.rest
        family, index, row = ROWS[k]
        for j, spec in enumerate(row.cases[c].inputs):
            if spec.kind == "tensor" and not parameters[j]:
                self.add(number, f"s{i}[{j}] = sample({family!r}, {index}, {c}, {seed})[{j}]")
                self.add(number, *([] if self.mode.plain else [f"a{i}_{j}.set(s{i}[{j}])"]))

    def _recalculate(self, step):
        if step.rest[0] in self.live and not self.mode.plain:
            self.add(step.number, f"v{step.rest[0]}.npvalue(recalculate=True)")

    def _update(self, step):
        self.add(step.number, "trainer.update()")
        if self.live and not self.mode.plain:
            self.add(step.number, f"v{self.live[-1]}.npvalue(recalculate=True)")

    def _freeze(self, step):
        self.add(step.number, f"{step.rest[0]}.set_updated({step.rest[1]})")

    def _clear(self, step):
        self.add(step.number, "m.reset_gradients()")

    def _observe(self, step):
        chosen, backward, first, reader = step.rest
        together = len(chosen) % 3 == 0
        i, chosen = step.number, [x for x in chosen if x in self.live]
        if not chosen:
            return
        if self.mode.plain:
            self.add(i, self.mode.renew())
            for x in self.live:
                self.add(x, *self._texts(self.steps[x]))
        reads = [f"dy.forward([{', '.join(f'v{x}' for x in chosen)}])"] if together else []
        reads += [f"note({(i, 'value', x)}, v{x}.{READERS[reader]})" for x in chosen]
        for x in chosen:
            made = self.steps[x]
            if made.kind == "row" and ROWS[made.rest[0]][2].reference is not None:
                family, index, _ = ROWS[made.rest[0]]
                inputs = [
                    f"{'x' if link in self.live and link < x else 'a'}{x}_{j}"
                    for j, link in enumerate(made.rest[3])
                ]
                reads.append(
                    f"model({(i, 'model', x)},"
                    f" {', '.join([repr(family), str(index), str(made.rest[1]), f'v{x}', *inputs])})"  # noqa: E501
                )
        loss = [
            f"loss = total([{', '.join(f'v{x}' for x in chosen)}])",
            *(["loss.npvalue()", "loss.value(recalculate=True)"] if self.anew else []),
            f"note({(i, 'loss')}, loss.npvalue())",
        ]
        if backward:
            loss += [
                f"loss.{backward}",
                *(f"note({(i, 'gradient', x)}, v{x}.gradient())" for x in chosen),
            ]
            loss.append(f"gradients({i}, m)")
        self.add(i, *(reads + loss if first else loss + reads))


def _needs(step):
    """The nodes without which a step does nothing."""
    rest = step.rest
    places = {
        "unary": rest[2:3],
        "poison": rest[2:3],
        "weight": rest[3:4],
        "several": rest[2:3],
        "fold": rest[1:3],
        "cell": rest[1:2],
        "sequence": rest[3:4],
        "tree": rest,
    }
    found = places.get(step.kind, ())
    return list(itertools.chain.from_iterable(x if isinstance(x, tuple) else (x,) for x in found))


def _builder(factory, layers):
    return f"{factory.replace(' ', '_').replace('-', '_')}_{layers}"


def _numbers(seed, n, batch):
    """As text: few digits."""
    draw = random.Random(seed)
    numbers = [[round(draw.uniform(-1, 1), 3) for _ in range(batch)] for _ in range(n)]
    return json.dumps(numbers if batch > 1 else [row[0] for row in numbers])


def source(program, mode):
    """(number of the step, line) for each line."""
    return _Source(program, mode).all()
