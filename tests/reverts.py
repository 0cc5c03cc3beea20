"""Run by test_reverts.py: checkpoints, reverts, set() and recalculation in graphs that are drawn at
random, in all modes of autobatching.

After each step some values are compared with those of the same program in a new graph, computed
node by node; at the end gradients, too. `python reverts.py SEED PROGRAMS MODE`
"""

import random
import sys

import numpy as np

import dist_dynet as dy

m = dy.ParameterCollection()
WEIGHTS = {(a, b): m.add_parameters((a, b)) for a in (2, 3) for b in (2, 3)}
TABLES = {n: m.add_lookup_parameters((5, n)) for n in (2, 3)}
UNARY = [dy.tanh, dy.square, lambda x: x * 0.7, lambda x: dy.cmult(x, x), dy.logistic]


class Program:
    """What was done so far, so that it can be done again: instructions, and the numbers of the
    inputs."""

    def __init__(self, draw):
        self.draw, self.steps, self.numbers = draw, [], {}

    def extend(self, n):
        """New instructions, of sizes that fit."""
        for _ in range(n):
            at, draw = len(self.steps), self.draw
            kind = (
                "leaf"
                if at < 3
                else draw.choice(["leaf", "unary", "weight", "weight", "both", "most"])
            )
            size = draw.choice([2, 3])
            if kind == "leaf" and draw.random() < 0.5:
                self.numbers[at] = [draw.uniform(-1, 1) for _ in range(size)]
                self.steps.append(("input", size))
                continue
            fitting = [k for k in range(at) if self.size(k) == size]
            if kind == "leaf" or not fitting:
                self.steps.append(("row", size, draw.randrange(5)))
            elif kind == "unary":
                self.steps.append(("unary", size, draw.randrange(len(UNARY)), draw.choice(fitting)))
            elif kind == "weight":
                x = draw.choice(range(at))
                self.steps.append(("weight", size, self.size(x), x))
            else:
                self.steps.append(
                    (kind, size, *(draw.choice(fitting) for _ in range(draw.choice([2, 2, 3]))))
                )

    def size(self, k):
        return self.steps[k][1]

    def run(self, nodes, start=0):
        """Makes the nodes of the instructions from `start` on."""
        for k in range(start, len(self.steps)):
            kind, size, *rest = self.steps[k]
            if kind == "input":
                nodes.append(dy.inputVector(self.numbers[k]))
            elif kind == "row":
                nodes.append(TABLES[size][rest[0]])
            elif kind == "unary":
                nodes.append(UNARY[rest[0]](nodes[rest[1]]))
            elif kind == "weight":
                nodes.append(dy.tanh(WEIGHTS[size, rest[0]] * nodes[rest[1]]))
            else:
                nodes.append((dy.esum if kind == "both" else dy.emax)([nodes[x] for x in rest]))

    def total(self, nodes, chosen):
        return dy.esum([dy.sum_elems(dy.tanh(nodes[k])) for k in chosen])


def result(program, nodes, chosen, backward):
    for p in [*m.parameters_list(), *m.lookup_parameters_list()]:
        p.clear_gradient()
    loss = program.total(nodes, chosen)
    value = loss.value()
    if backward:
        loss.backward()
    return value, [p.grad_as_array() for p in [*m.parameters_list(), *m.lookup_parameters_list()]]


def check(program, mode, happened):
    """Drawn actions on one graph. The other results are computed afterwards, in graphs of their
    own."""
    draw, nodes, marks, wanted = program.draw, [], [], []
    dy.renew_cg(autobatching=mode)
    for _ in range(draw.randrange(4, 10)):
        before = len(nodes)
        action = draw.choice(
            ["extend", "extend", "checkpoint", "revert", "set", "recalculate", "compare", "compare"]
        )
        happened.append(action)
        if action == "extend" or not nodes:
            program.extend(draw.randrange(4, 30))
            program.run(nodes, before)
        elif action == "checkpoint":
            dy.cg_checkpoint()
            marks.append(before)
        elif action == "revert" and marks:
            dy.cg_revert()
            length = marks.pop()
            del nodes[length:], program.steps[length:]
            program.numbers = {k: v for k, v in program.numbers.items() if k < length}
        elif action == "set" and program.numbers:
            k = draw.choice(sorted(program.numbers))
            program.numbers[k] = [draw.uniform(-1, 1) for _ in range(program.size(k))]
            nodes[k].set(program.numbers[k])
        elif action == "recalculate":
            nodes[draw.randrange(before)].value(recalculate=True)
        elif action == "compare":
            chosen = [draw.randrange(before) for _ in range(draw.randrange(1, 12))]
            copy = Program(draw)
            copy.steps, copy.numbers = list(program.steps), dict(program.numbers)
            wanted.append(
                (
                    copy,
                    chosen,
                    backward := draw.random() < 0.7,
                    result(program, nodes, chosen, backward),
                )
            )
    for copy, chosen, backward, (value, gradients) in wanted:
        dy.renew_cg(autobatching=0)
        fresh = []
        copy.run(fresh)
        right, right_gradients = result(copy, fresh, chosen, backward)
        assert np.isclose(value, right, rtol=1e-4, atol=1e-5), (value, right, happened)
        for x, y in zip(gradients, right_gradients, strict=True):
            assert np.allclose(x, y, rtol=1e-3, atol=1e-5), happened


def main(seed, count, mode):
    dy.reset_random_seed(seed)
    for number in range(count):
        check(Program(random.Random(f"{seed} {number} {mode}")), mode, [number])
    print("done")


if __name__ == "__main__":
    main(*(int(x) for x in sys.argv[1:]))
