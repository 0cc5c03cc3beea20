"""Loops as they are written for real tasks, for rank_programs.py: several trainers and models in
one loop, targets that are copies, decisions by scores, whatever a step does beside its update.
"""

import re

from rank_local import LocalPrograms
from rank_writer import RULES

ROUND_ROBIN = (
    "alternate",  # a step of one task, then one of the other, whichever is shorter begins anew
    "drawn",  # the next task is drawn, alike on all ranks
    "planned",  # all steps of both, in a drawn order
)
CALLS = (
    "all(map({f}, {s}))",
    "any(not {f}(x) for x in {s})",
    "sum({f}(x) for x in {s})",
    "[{f}(x) for x in {s}]",
    "max(map({f}, {s}), default=0)",
    "dict(enumerate(map({f}, {s})))",
    "[*itertools.accumulate({s}, lambda n, x: n + {f}(x), initial=0)]",
    "[*itertools.takewhile({f}, {s})]",
    "[*itertools.filterfalse({f}, {s})]",
    "[*itertools.starmap({f}, zip({s}))]",
    "next((x for x in {s} if not {f}(x)), None)",
    "sorted({s}, key={f})",
    "in_pool({f}, {s})",
)
"""Of a function that trains on a batch."""


class IdiomPrograms(LocalPrograms):
    """Programs of many kinds; what each draws beside is that of `beside()`."""

    def plain_task(self, name="a", number=0, m="", average=""):
        """A task without what changes the meaning of a loop of these: subsets, waiting passes."""
        t = self.task(name, number, m, average)
        t.subset = False
        self.line(f"t{name}.set_accumulation(1)")
        self.waits = self.silent = False
        return t

    def unweighted(self):
        """No weights of examples by shard()."""
        counts = r", weight=cost(s\(\w+\.data\))?"
        self.lines = [(depth, re.sub(counts, "", text)) for depth, text in self.lines]

    def unscheduled(self, t):
        """The rate is the program's."""
        t.schedule = ""
        self.lines = [x for x in self.lines if not x[1].startswith("ra = ")]

    def again(self, t, header="", steps=0, act=()):
        """One epoch of usual steps; act: what is done after each update."""
        b = self.new("b")
        with self.block((header or "for {b} in {s}:").format(b=b, s=t.shard)):
            self.backward(t, b)
            self.update(t, b)
            for text in act:
                self.line(text.format(a=t.name, t=t.trainer, b=b, s=t.shard))
            if steps:
                with self.block(f"if {b}.step == {steps - 1}:"):
                    self.line("break")
        return b

    # ---- one model ---------------------------------------------------------------------

    def target(self):
        """A copy of the model, frozen or without a trainer, which its targets come from."""
        where = self.pick(["apart", "same", "below"])
        if where == "below":
            self.line("root = dy.ParameterCollection()")
            t = self.plain_task("a", 0, "root.add_subcollection('a')")
        else:
            t = self.plain_task()
        made = {"apart": "None", "same": "a.m.add_subcollection('z')"}
        self.line(
            f"z = Task({self.seed}, 0, {made.get(where, 'root.add_subcollection(chr(122))')})"
        )
        if where == "same":
            for p in "WbE":
                self.line(f"z.{p}.set_updated(False)")
        every, tau = self.pick([1, 2, 3]), self.pick([1, 0.5, 0.1])
        how = "" if t.how == "mean" else f", {t.how!r}"
        for _ in range(self.pick([1, 2])):
            b = self.new("b")
            with self.block(f"for {b} in {t.shard}:"):
                if t.n_is_set:
                    self.line(f"{b}.n = tokens({b})")
                self.line(f"a.backward(labelled(z, {b}){how})")
                self.update(t, b)
                with self.block(f"if {self.pick([f'{b}.step', 'ta.updates'])} % {every} == 0:"):
                    self.line(f"blend(z, a, {tau})")
            if self.chance(0.3):
                self.beside(t, amid=False)

    def teacher(self):
        """Targets by the moving average of the model itself."""
        t = self.plain_task()
        if not t.average_of:
            t.average_of = "emaa"
            self.line(f"emaa = moving_average(ta, decay={self.pick(['0.5', 'None'])})")
        how = "" if t.how == "mean" else f", {t.how!r}"
        b = self.new("b")
        with self.block(f"for {b} in {t.shard}:"):
            if t.n_is_set:
                self.line(f"{b}.n = tokens({b})")
            with self.block("with applied(emaa):"):
                self.line(f"labels = labelled(a, {b})")
            self.line(f"a.backward(labels{how})")
            self.update(t, b)
        self.note("scores(a)")

    def converges(self):
        """Epochs until a score says so: the best is kept, or restored with half the rate."""
        t = self.plain_task()
        self.unscheduled(t)
        self.line("best, bad, kept, epochs = float('inf'), 0, None, 0")
        with self.block(f"while bad < {self.pick([1, 2])} and epochs < 4:"):
            self.line("epochs += 1")
            self.again(t)
            self.line("score = sum(scores(a))")
            if self.chance(0.3):
                self.beside(t, amid=False)
            with self.block(f"if score < best - {self.pick(['0', '1e-3', '0.5'])}:"):
                self.line("best, bad, kept = score, 0, copied(a)")
                self.line("continue")
            self.line("bad += 1")
            way = self.pick(["restore", "restore and state", "halve", "both"])
            with self.block("if kept is not None:"):
                if way != "halve":
                    self.line("put(a, kept)")
                self.line("ta.learning_rate *= 0.5" if way in ("halve", "both") else "pass")
                self.line("ta.restart()" if way == "restore and state" else "pass")
        self.note("(best, bad, epochs)")

    def finder(self):
        """A search for the learning rate, whose steps are taken back."""
        t = self.plain_task()
        self.unscheduled(t)
        self.line("values_before, state, rate = copied(a), ta.state(), ta.learning_rate")
        self.line("losses, factor = [], 0.001")
        b = self.new("b")
        loop = self.pick(
            ["for {b} in {s}:", "for {b} in itertools.islice({s}, 3):", "for {b} in forever({s}):"]
        )
        with self.block(loop.format(b=b, s=t.shard)):
            self.line("ta.learning_rate = factor")
            self.line("factor *= 3")
            self.line(f"losses.append(parallel.all_reduce(a.score({b})))")
            self.backward(t, b)
            self.update(t, b)
            with self.block("if losses[-1] > 4 * losses[0] or len(losses) > 4:"):
                self.line("break")
        self.note("losses")
        self.line("put(a, values_before)")
        self.line(self.pick(["ta.load_state(state)", "ta.restart()"]))
        self.line("ta.learning_rate = rate")
        if self.chance(0.5):
            self.line("a.m.reset_gradients()")
        for _ in range(self.pick([1, 2])):
            self.again(t)

    def grows(self):
        """Parts of the model are frozen, and are added, from epoch to epoch."""
        t = self.plain_task()
        for _ in range(self.pick([2, 3])):
            for act in self.rng.sample(
                [
                    "a.W.set_updated(False)",
                    "a.W.set_updated(True)",
                    "a.E.set_updated(False)",
                    "a.E.set_updated(True)",
                    "a.add()",
                    "a.add(table=True)",
                    "renewed(a)",
                    "ta.learning_rate *= 1",
                    "ta.restart()",
                    "a.m.set_weight_decay(0.02)",
                ],
                self.pick([1, 2, 3]),
            ):
                if act.startswith("renewed") and any(
                    word in text for _, text in self.lines for word in ("emaa", "besta")
                ):
                    continue
                self.line(act)
            act = []
            if self.chance(0.3):
                act = [
                    f"if {{b}}.step == 1: {self.pick(['{a}.add()', '{a}.b.set_updated(False)'])}"
                ]
            self.again(t, act=act, steps=self.pick([0, 0, 2]))

    def curriculum(self):
        """Longer or harder examples later, by what all ranks know."""
        t = self.plain_task()
        made = next(text for _, text in self.lines[::-1] if text.startswith("sa = shard("))
        weight = ", weight=cost" if "weight=cost" in made else ""
        self.line("order = sorted(a.data, key=cost)")
        self.line("share = 2")
        with self.block(f"while share < len(order) + {self.pick([0, 3])}:"):
            self.shard("sa", self.pick(["order[:share]", "hard(a)[:share]"]), weight)
            self.again(t)
            if self.chance(0.5):
                self.line("share += 1 + (sum(scores(a)) > 3)")
            self.line("share *= 2")

    def leaves(self):
        """Loops that are left in all ways, of which the program knows."""
        t = self.plain_task()
        for _ in range(self.pick([1, 2])):
            b, k = self.new("b"), self.pick([0, 1, 2])
            way = self.pick(
                [
                    *("stop", "raise", "continue", "forever", "nested", "else", "next", "zip"),
                    *("return", "call", "call", "passes"),
                ]
            )
            if way == "stop":
                with self.block(f"for {b} in {t.shard}:"):
                    with self.block(f"if {b}.step == {k}:"):
                        self.line("break")
                    self.step(t, b)
            elif way == "raise":
                with self.block("try:"), self.block(f"for {b} in {t.shard}:"):
                    self.step(t, b)
                    with self.block(f"if {b}.step == {k}:"):
                        self.line("raise StopIteration")
                with self.block("except StopIteration:"):
                    self.line("pass")
            elif way == "continue":
                self.may_refuse()
                with self.block(f"for {b} in {t.shard}:"):
                    with self.block(f"if {b}.step == {k}:"):
                        self.line(self.pick([f"a.score({b})", "pass"]))
                        self.line("continue")
                    self.step(t, b)
            elif way == "forever":
                self.may_refuse()
                header = self.pick(
                    [
                        f"for _, {b} in zip(range({k + 3}), forever({t.shard})):",
                        f"for {b}, _ in zip(forever({t.shard}), range({k + 3})):",
                        f"for {b} in itertools.islice(forever({t.shard}), {k + 3}):",
                        f"for {b} in itertools.chain({t.shard}, {t.shard}):",
                        f"for _, {b} in itertools.product([1], {t.shard}):",
                        f"for {b}, _ in itertools.zip_longest({t.shard}, []):",
                    ]
                )
                with self.block(header):
                    self.step(t, b)
            elif way == "nested":
                with self.block("for part in range(2):"):
                    with self.block(f"for {b} in {t.shard}:"):
                        self.step(t, b)
                        with self.block(f"if {b}.step == {k} and part == 0:"):
                            self.line("break")
                    with self.block("else:"):
                        self.line("continue")
                    self.line("a.W.scale(0.9)")
            elif way == "else":
                with self.block(f"for {b} in {t.shard}:"):
                    self.backward(t, b)
                    with self.block(f"if {b}.step == {k}:"):
                        self.line("a.m.reset_gradients()")
                    with self.block("else:"):
                        self.update(t, b)
                self.may_refuse()
            elif way == "next":
                self.may_refuse()  # of what begins while that loop has not ended
                self.line(f"it = iter({t.shard})")
                with self.block(f"for _ in range({k + 2}):"):
                    with self.block("try:"):
                        self.line(f"{b} = next(it)")
                    with self.block("except StopIteration:"):
                        self.line(f"it = iter({t.shard})")
                        with self.block("try:"):
                            self.line(f"{b} = next(it)")
                        with self.block("except StopIteration:"):
                            self.line("break")
                    self.step(t, b)
                if self.chance(0.5):
                    self.line("del it")
            elif way == "call":
                with self.block(f"def train{b}({b}):"):
                    self.step(t, b)
                    self.line("return True")
                self.may_refuse()
                self.line(self.pick(CALLS).format(f=f"train{b}", s=t.shard))
            elif way == "passes":  # of one batch, each with its update, while the loss is large
                with self.block(f"for {b} in {t.shard}:"), self.block(f"for _ in range({k + 1}):"):
                    self.step(t, b)
                    self.line(f"loss = parallel.all_reduce(a.score({b}))")
                    with self.block("if loss < 1:"):
                        self.line("break")
            elif way == "zip":
                with self.block(f"for number, {b} in zip(itertools.count(), {t.shard}):"):
                    self.step(t, b)
            else:
                with self.block(f"def epoch{b}():"), self.block(f"for {b} in {t.shard}:"):
                    self.step(t, b)
                    with self.block(f"if {b}.step == {k}:"):
                        self.line("return")
                self.line(f"epoch{b}()")
            if self.chance(0.4):
                self.beside(t, amid=False)

    def by_hand(self):
        """Gradients are added up, or parts of a batch are, without accumulate=."""
        t = self.plain_task()
        b, k = self.new("b"), self.pick([2, 3])
        way = self.pick(["chunks", "no_sync", "every k", "two losses", "examples"])
        how = f", {t.how!r}"
        if way in ("every k", "no_sync"):
            self.may_refuse()
            if t.how == "tokens" and t.naming == "number" and way == "every k":
                t.naming = "batch"  # their number may be that of all examples by chance
            with self.block(f"for {b} in {t.shard}:"):
                if t.n_is_set:
                    self.line(f"{b}.n = tokens({b})")
                self.line(f"a.backward({b}{how}, {1 / k})")
                if way == "no_sync":
                    between = f"if ({b}.step + 1) % {k}:"
                    with self.block(between), self.block("with ta.no_sync():"):
                        self.update(t, b)
                    with self.block("else:"):
                        self.update(t, b)
                else:
                    with self.block(f"if ({b}.step + 1) % {k} == 0:"):
                        self.update(t, b)
            self.line("a.m.reset_gradients()")
            return
        with self.block(f"for {b} in {t.shard}:"):
            if t.n_is_set:
                self.line(f"{b}.n = tokens({b})")
            if way == "chunks":
                with self.block(f"for k in range(0, len({b}), 2):"):
                    self.line(f"part = {b}[k : k + 2]")
                    self.line(f"a.backward(part, 'sum', 1 / a.count({b}{how}))")
            elif way == "two losses":
                self.line(f"a.backward({b}{how}, 0.3)")
                self.line(f"a.backward({b}{how}, 0.7)")
            else:
                with self.block(f"for example in {b}:"):
                    self.line(f"a.backward([example], 'sum', 1 / a.count({b}{how}))")
            self.update(t, b)

    def meta(self):
        """Inner steps on a rank's examples by a trainer of their own, whose way is the gradient."""
        t = self.plain_task(average="mean")
        t.how, t.n_is_set = "mean", ""
        t.naming = self.pick(["", "batch", "number"])
        self.unweighted()
        self.lines = [x for x in self.lines if "set_weight_decay" not in x[1]]
        self.line("a.E.set_updated(False)")
        self.line("inner = dy.SimpleSGDTrainer(a.m, 0.05)")
        self.line("inner.set_clip_threshold(0)")
        b = self.new("b")
        self.may_refuse()
        with self.block(f"for {b} in {t.shard}:"):
            self.line("before, ways = copied(a), None")
            with self.block(f"for example in {b}:"):
                with self.block(f"for _ in range({self.pick([1, 2])}):"):
                    self.line("a.backward([example])")
                    self.line("inner.update()")
                self.line(f"ways = moved(a, before, ways, 1 / len({b}))")
                self.line("put(a, before)")
            with self.block(f"if {b}:"):
                self.line("follow(a, ways)")
            self.update(t, b)

    # ---- several -----------------------------------------------------------------------

    def groups(self):
        """A trainer for each group of one model's parameters, after one backward pass."""
        self.line("root = dy.ParameterCollection()")
        average = self.pick(["mean", "sum"])
        a = self.plain_task("a", 0, "root.add_subcollection('a')", average)
        a.how, a.n_is_set = {"mean": "mean", "sum": "sum"}[average], ""
        a.naming = (
            self.pick(["", "batch"]) if average == "sum" or a.naming == "number" else a.naming
        )
        self.unweighted()
        self.line(f"b = Task({self.seed}, 1, root.add_subcollection('b'), n=1)")
        self.line(f"tb = dist(dy.{self.pick(RULES).format(m='b.m')}, {average!r})")
        how = "" if average == "mean" else ", 'sum'"
        every = self.pick([1, 1, 2])
        if every > 1:
            self.may_refuse()
        x = self.new("x")
        with self.block(f"for {x} in {a.shard}:"):
            self.line(f"a.against(b, {x}{how})")
            first, second = self.rng.sample(["a", "b"], 2)
            for name in (first, second):
                text = f"update(t{name}{self.named(a, x)})"
                if name == "b" and every > 1:
                    with self.block(f"if {x}.step % {every} == 0:"):
                        self.line(text)
                    with self.block("else:"):
                        self.line("b.m.reset_gradients()")
                else:
                    self.line(text)
            if self.chance(0.2):
                self.line("tb.learning_rate *= 0.9")

    def players(self):
        """A loss of two models, which are trained in turn: each with so many steps, clipped, or
        held."""
        self.line("root = dy.ParameterCollection()")
        average = self.pick(["mean", "sum"])
        a = self.plain_task("a", 0, self.pick(["root.add_subcollection('a')", ""]), average)
        b = self.plain_task("b", 1, self.pick(["root.add_subcollection('b')", ""]), average)
        for t in (a, b):
            t.how, t.n_is_set = {"mean": "mean", "sum": "sum"}[average], ""
            t.naming = self.pick(["", "batch"])
        self.unweighted()
        how = "" if average == "mean" else ", 'sum'"
        x, k = self.new("x"), self.pick([1, 2])
        clip = self.pick(["", "clip_inplace(-0.4, 0.4)"])
        held = self.pick(["reset", "freeze", "values"])
        with self.block(f"for {x} in {a.shard}:"):
            with self.block(f"for _ in range({k}):"):
                self.turn(a, b, x, how, held)
                if clip:
                    self.line(f"a.W.{clip}")
            if self.chance(0.5):
                self.turn(b, a, x, how, held)
            else:
                with self.block(f"if {x}.step % 2:"):
                    self.turn(b, a, x, how, held)
        if self.chance(0.4):
            self.beside(a, amid=False)

    def turn(self, t, other, x, how, held):
        """A step of one player."""
        if held == "values":
            self.line(f"{t.name}.backward(labelled({other.name}, {x}){how})")
            self.update(t, x)
            return
        if held == "freeze":
            for p in "WbE":
                self.line(f"{other.name}.{p}.set_updated(False)")
        self.line(f"{t.name}.against({other.name}, {x}{how})")
        if held == "reset":
            self.line(f"{other.name}.m.reset_gradients()")
        self.update(t, x)
        if held == "freeze":
            for p in "WbE":
                self.line(f"{other.name}.{p}.set_updated(True)")

    def tasks(self):
        """Steps of two tasks in turn, with a trainer each or one of a shared model."""
        shares = self.chance(0.5)
        if shares:
            self.line("root = dy.ParameterCollection()")
            self.line(f"ga = Task({self.seed}, 7, root.add_subcollection('shared'), n=1)")
            a = self.plain_task("a", 0, "root.add_subcollection('a')")
            self.lines = [x for x in self.lines if not x[1].startswith("ra = ")]
            a.schedule = a.average_of = a.best = ""
            self.lines = [x for x in self.lines if not x[1].startswith(("ema", "best"))]
            self.line(f"b = Task({self.seed}, 1, root.add_subcollection('b'))")
            self.shard(
                "sb",
                "b.data",
                ", weight=cost"
                if a.how == "tokens" and not (a.n_is_set or a.naming == "number")
                else "",
            )
            self.line(f"ta = dist(dy.{self.pick(RULES).format(m='root')}, {a.average!r})")
            trainers = ("ta", "ta")
        else:
            a, b = self.plain_task("a", 0), self.plain_task("b", 1)
            trainers = ("ta", "tb")
        way = self.pick(ROUND_ROBIN)
        self.may_refuse()
        if way == "planned":
            self.line("plan = [(0, x) for x in sa] + [(1, x) for x in sb]")
            self.line("random.Random(3).shuffle(plan)")
            header = "for which, x in plan:"
        else:
            self.line("its = [iter(sa), iter(sb)]")
            header = f"for number in range({self.pick([3, 6])}):"
        with self.block(header):
            if way != "planned":
                drawn = "number % 2" if way == "alternate" else "random.Random(number).randrange(2)"
                self.line(f"which = {drawn}")
                self.line("x = next(its[which], None)")
                with self.block("if x is None:"):
                    self.line("its[which] = iter([sa, sb][which])")
                    self.line("x = next(its[which], None)")
                with self.block("if x is None:"):
                    self.line("continue")
            with self.block("if which:"):
                self.one_of(a if shares else b, "b", trainers[1], "x", shares)
            with self.block("else:"):
                self.one_of(a, "a", trainers[0], "x", shares)

    def one_of(self, t, name, trainer, x, shares):
        how = "" if t.how == "mean" else f", {t.how!r}"
        if t.n_is_set:
            self.line(f"{x}.n = tokens({x})")
        self.line(f"{name}.backward({x}{how})")
        if shares and t.how != "tokens":
            self.line(f"ga.against({name}, {x}{', ' + repr('sum') if t.how == 'sum' else ''})")
        self.line(f"update({trainer}{self.named(t, x)})")

    def local_players(self):
        """Two models that are trained in turn, of which each has a LocalSGD."""
        self.local = self.threads = True
        below = self.chance(0.5)
        if below:
            self.line("root = dy.ParameterCollection()")
        for k, name in enumerate("ab"):
            m = f"root.add_subcollection('{name}')" if below else None
            self.line(f"{name} = Task({self.seed}, {k}, {m})")
            rule = self.pick(RULES).format(m=f"{name}.m")
            moments = self.pick(["", ", moments='average'", ", momentum=0.5"])
            self.line(f"t{name} = local(dy.{rule}, every={self.pick([1, 2, 3])}{moments})")
            if self.chance(0.3):
                self.line(f"t{name}.set_clip_threshold(0.5)")
        self.shard("sa", "a.data")
        turns, named = [("a", "b"), ("b", "a")], self.pick(["", ", {x}", ", len({x})"])
        if self.chance(0.3):
            turns.insert(0, turns[0])
        for _ in range(self.pick([1, 2, 3])):
            x = self.new("x")
            with self.block(f"for {x} in sa:"):
                for name, other in turns:
                    self.line(f"{name}.against({other}, {x})")
                    self.line(f"{other}.m.reset_gradients()")
                    self.line(f"update(t{name}{named.format(x=x)}, noted=False)")
                if self.chance(0.2):
                    self.line("note(what='own')")
            self.line("ta.average()")
            self.line("average(tb)")
            if self.chance(0.4):
                act = ["ta.learning_rate *= 0.5", "b.W.scale(0.9)", "a.add()", "tb.restart()"]
                self.line(self.pick([*act, "blend(b, a, 0.5)", "b.W.set_updated(False)"]))

    # ---- the same bits for every number of ranks ---------------------------------------

    def micro_acts(self):
        """What is done once a step: where update() says so, or in a loop over the step's parts."""
        if self.chance(0.4):
            return self.micro_turns()
        t = self.micro_task("a", 0)
        self.line(f"z = Task({self.seed}, 0)")
        acts = [
            "blend(z, a, 0.5)",
            "a.W.scale(0.9)",
            "a.b.clip_inplace(-0.3, 0.3)",
            "a.E.init_row(0, [0, 0, 0])",
            "ta.learning_rate *= 0.9",
            "ta.restart()",
            "ta.set_clip_threshold(0.2)",
            "a.E.set_updated(ta.updates % 2)",
            "a.m.set_weight_decay(0.02)",
            "best = min([best, (sum(scores(a)), copied(a))], key=lambda one: one[0])",
            "put(a, best[1])",
            "a.add()",
            "parallel.all_reduce(1.0); parallel.gather(1)",
            "seen = parallel.all_reduce(seen)",
        ]
        self.line("best, seen = (float('inf'), copied(a)), 0")
        labels = self.pick(["", "labelled(z, {b})"])
        how = "" if t.how == "mean" else f", {t.how!r}"
        for _ in range(self.pick([1, 2])):
            b = self.new("b")
            with self.block(f"for {b} in {t.shard}:"):
                self.line(f"seen += len({b})")
                if labels:
                    self.line(f"a.backward({labels.format(b=b)}{how})")
                else:
                    self.backward(t, b)
                if self.chance(0.5):
                    with self.block(f"if update(ta{self.named(t, b)}):"):
                        self.micro_act(acts)
                else:
                    self.update(t, b)
                    with self.block(f"if {b}.ends_step:"):
                        self.micro_act(acts)
        return None

    def micro_task(self, name, number, average=""):
        """One that is trained in micro-batches."""
        average = average or self.pick(["mean", "sum"])
        t = self.task(name, number, micro=self.pick([1, 2, 3, 4]), average=average)
        self.unscheduled(t)
        t.subset, t.average_of, t.best = False, "", ""
        self.lines = [x for x in self.lines if not x[1].startswith(("ema", "best"))]
        self.line(f"t{name}.set_accumulation(1)")
        self.law, self.quiet, self.waits = "bits", True, False
        if self.chance(0.4):
            self.line(f"{name}.dropout = 0.3")
            self.plain = False
        return t

    def micro_act(self, acts):
        """Some of these, now and then."""
        with self.block(f"if ta.updates % {self.pick([1, 1, 2, 3])} == 0:"):
            for text in self.rng.sample(acts, self.pick([1, 2])):
                self.line(text)

    def micro_turns(self):
        """Two models that are trained in turn, on all parts of a step."""
        average = self.pick(["mean", "sum"])
        a, b = (self.micro_task(name, k, average) for k, name in enumerate("ab"))
        a.naming = b.naming = "batch"
        for t in (a, b):
            t.how = average
        self.unweighted()
        x, held = self.new("x"), self.pick(["reset", "values"])
        how = "" if average == "mean" else ", 'sum'"
        self.line("step = []")
        with self.block(f"for {x} in {a.shard}:"):
            self.line(f"step.append({x})")
            with self.block(f"if {x}.ends_step:"):
                for t, other in ((a, b), (b, a)) * self.pick([1, 2]):
                    with self.block("for part in step:"):
                        self.turn(t, other, "part", how, held)
                self.line("step.clear()")

    # ---- averages of models that go apart ----------------------------------------------

    def local_idioms(self):
        """LocalSGD in such loops, which averages before each decision."""
        t, _ = self.local_task()
        t.schedule = t.average_of = t.best = ""
        self.lines = [x for x in self.lines if not x[1].startswith(("ra = ", "ema", "best"))]
        self.line("best, kept = float('inf'), None")
        with self.block(f"for _ in range({self.pick([2, 3])}):"):
            b = self.new("b")
            with self.block(f"for {b} in {t.shard}:"):
                self.line(f"a.backward({b}{'' if t.how == 'mean' else ', ' + repr(t.how)})")
                self.line(f"update(ta{self.named(t, b)})")
                if self.chance(0.2):
                    with self.block(f"if {b}.step == 1:"):
                        self.line("break")
            self.line("average(ta)")
            self.line("score = sum(scores(a))")
            with self.block("if score < best - 0.01:"):
                self.line("best, kept = score, copied(a)")
            with self.block("elif kept is not None:"):
                self.line("put(a, kept)")
                self.line("ta.learning_rate *= 0.5")
            if self.chance(0.4):
                self.line(
                    self.pick(
                        [
                            "a.add()",
                            "a.add(table=True)",
                            "a.W.set_updated(False)",
                            "a.W.set_updated(True)",
                            "ta.restart()",
                            "a.W.clip_inplace(-0.4, 0.4)",
                        ]
                    )
                )
        self.line("average(ta)")


IDIOMS = {
    "target": 2,
    "teacher": 1,
    "converges": 2,
    "finder": 2,
    "grows": 2,
    "curriculum": 1,
    "leaves": 3,
    "by_hand": 2,
    "meta": 1,
    "groups": 2,
    "players": 3,
    "tasks": 3,
    "local_idioms": 2,
    "local_players": 2,
    "micro_acts": 3,
}
