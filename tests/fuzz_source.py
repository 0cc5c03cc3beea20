"""The lines of Python that a program of fuzz_programs.py is in each mode of computing.

`source()` gives the lines of a program: as it is (a *live* run, in a mode of autobatching, with
cells), or *plain*: whenever something is read, all nodes that there are then are made anew, in a
new graph that is computed node by node, without tracing, checkpoints, or values that are kept. Both
must give the same.
"""

import itertools
import json
import random
from typing import NamedTuple

from fuzz_programs import (
    CELLS,
    POISON,
    READERS,
    ROWS,
    SEVERAL,
    SIZES,
    TABLE_ROWS,
    TABLES,
    UNARY,
    WEIGHT,
)

TRAINERS = ("SimpleSGDTrainer(m, 0.1)", "MomentumSGDTrainer(m, 0.05)")
MODEL = -1
"""In place of a step: lines that make the model and begin the first graph."""


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
            begin, listed = f"{_builder(*rest[:2])}.initial_state()", ", ".join(xs)
            call, last = {
                "steps": (f"steps({begin}, [{listed}])", "{}[-1]"),
                "transduce": (f"{begin}.transduce([{listed}])", "{}[-1]"),
                "states": (f"{begin}.add_inputs([{listed}])", "dy.average(list({}[-1].s()))"),
            }[rest[2]]
            q = f"q{step.number}"
            return [f"{q} = {call}", f"{y} = {last.format(q)}"]
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
                *(
                    f"note({(i, 'gradients of states', x)}, gradients_of(q{x}))"
                    for x in chosen
                    if self.steps[x].kind == "sequence"
                ),
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
