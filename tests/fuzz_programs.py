"""Random programs for fuzz.py, and how they are drawn; fuzz_source.py has their lines of Python.

A program is a list of steps, which make nodes, or do something with the graph or the parameters. A
step names those that it depends on by their numbers; where one of these is gone, by a revert or
because shrinking has taken it out, the step does nothing.
"""

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
READERS = ("npvalue()", "value()", "vec_value()", "tensor_value().as_numpy()")


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
                    tuple(self.vector(3) for _ in range(draw.randrange(1, 8))),
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
            number = self.add("sequence", factory, layers, way, (x,) * self.draw.randrange(1, 9))
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
