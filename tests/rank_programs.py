"""Draws the programs of fuzz_ranks.py: training on ranks, as users write it.

A program is lines of Python (tests/mpi/drawn.py has what they use), a law, and whether it may be
refused. Laws: "equal", ranks end where one process ends; "together", ranks end alike, since what
one rank does by itself has no counterpart in one process; "bits", as "equal", to the bit.
"""

import re

from rank_idioms import IDIOMS, IdiomPrograms
from rank_loops import AMBIGUOUS, SIMPLE
from rank_writer import RULES, Program

__all__ = ["PROGRAMS", "Program", "drawn"]


class _Programs(IdiomPrograms):
    """What a program is about, by the names in PROGRAMS."""

    def one(self):
        t = self.task("a", 0)
        self.silent = self.chance(0.15)
        self.epochs(t)

    def stages(self):
        """Data that grow, or are chosen by their losses; and models one after the other."""
        for number in range(self.pick([1, 2, 3])):
            t = self.task("a", number)
            made = next(text for _, text in self.lines[::-1] if text.startswith("sa = shard("))
            weight = ", weight=cost" if "weight=cost" in made else ""
            for _ in range(self.pick([1, 2])):
                data = self.pick(
                    ["a.data[:4]", "a.data[::2]", "hard(a)", "sorted(a.data, key=cost)"]
                )
                self.shard("sa", data, weight)
                self.loop_simple(t)
            self.line("a.m.reset_gradients()")
            self.line("ta.set_accumulation(1)")
            self.waits = False

    def two(self):
        """Two tasks in turn."""
        where = self.pick(["apart", "below", "same"])
        if where == "apart":
            a, b = self.task("a", 0), self.task("b", 1)
        else:
            self.line("root = dy.ParameterCollection()")
            below = where == "below"
            a = self.task("a", 0, "root.add_subcollection('a')" if below else "root")
            b = self.task("b", 1, "root.add_subcollection('b')" if below else "root")
            if not below:
                a.subset = b.subset = False
                self.law, self.refuse = "equal", "may"
        ways = ["turns", "epochs", "third"]  # all of a root's gradients go into an update
        if where != "same":
            ways += ["zip", "zip both first", "in step", "nested"]
        else:
            self.line("ta.set_accumulation(1); tb.set_accumulation(1)")
        way = self.pick(ways)
        x, y = self.new("x"), self.new("y")
        if way == "epochs":
            for t in (a, b, a):
                self.loop_simple(t)
        elif way == "turns":
            with self.block(f"for {x} in {a.shard}:"):
                self.step(a, x)
            with self.block(f"for {y} in {b.shard}:"):
                self.step(b, y)
                self.beside(a)
        elif way.startswith("zip"):
            self.may_refuse()
            with self.block(f"for {x}, {y} in zip({a.shard}, {b.shard}):"):
                if way == "zip":
                    self.step(a, x)
                    self.step(b, y)
                else:
                    self.backward(a, x)
                    self.backward(b, y)
                    self.update(a, x)
                    self.update(b, y)
        elif way == "in step":
            self.may_refuse()
            self.line(f"first = list({a.shard})")
            with self.block(f"for {y} in {b.shard} if first else ():"):
                self.line(f"{x} = first[{y}.step % len(first)]")
                self.step(a, x)
                self.step(b, y)
        elif way == "nested":
            self.may_refuse()
            with self.block(f"for {x} in {a.shard}:"):
                self.step(a, x)
                with self.block(f"for {y} in {b.shard}:"):
                    self.step(b, y)
        else:
            with self.block(f"for {x} in {a.shard}:"):
                self.step(a, x)
            self.line(f"ta = dist(dy.AdamTrainer(a.m, 0.05), {a.average!r})")
            a.schedule, a.subset = "", False
            with self.block(f"for {x} in {a.shard}:"):
                self.step(a, x)

    def alternate(self):
        """Two trainers of one model, in turn."""
        t = self.task("a", 0)
        t.subset, t.schedule, self.waits = False, "", False
        self.lines = [x for x in self.lines if not x[1].startswith("ra = ")]
        rule = self.pick(RULES).format(m="a.m")
        self.line(f"tz = dist(dy.{rule}, {t.average!r}{self.pick(['', ', shared_model=True'])})")
        self.line("ta.set_accumulation(1)")
        for _ in range(self.pick([1, 2])):
            b, turn = self.new("b"), self.new("turn")
            every = self.pick([2, 3])
            with self.block(SIMPLE[self.pick([*SIMPLE])].format(b=b, s=t.shard, t="ta")):
                self.line(f"{turn} = tz if {b}.step % {every} else ta")
                self.backward(t, b)
                self.line(f"update({turn}{self.named(t, b)})")
                if self.chance(0.2):
                    self.pick([self.do_write, self.do_freeze, self.do_add, self.do_score])(t)
            if self.chance(0.5):
                self.beside(t, amid=False)
                self.line("ta.set_accumulation(1)")

    def compressed(self):
        """Messages are rounded: ranks stay alike."""
        getattr(self, self.pick(["one", "guarded", "alternate", "game", "local_sgd"]))()
        for k, (depth, text) in enumerate(self.lines):
            if re.match(r"t\w+ = (dist|local)\(", text):
                self.lines[k] = (depth, text[:-1] + ", compression='bf16')")
        self.law, self.plain, self.threads = "together", False, False
        self.may_refuse()

    def guarded(self):
        """An example makes NaN of everything; the program catches that, or leaves it out."""
        t = self.task("a", 0)
        self.silent = t.subset = False
        self.line(f"ta.set_clip_threshold({self.pick([0, 1, 5, 5])})")
        if self.chance(0.3):
            self.line("ta.skip_nonfinite = True")
        self.line(f"a.bad, a.all_bad = {self.pick([0, 2, 4])}, {self.chance(0.5)}")
        for _ in range(self.pick([1, 2])):
            b, loops = self.new("b"), SIMPLE
            if t.naming in ("batch", "weight=") or t.average == "sum":
                loops = {**SIMPLE, **AMBIGUOUS}
            with self.block(self.pick([*loops.values()]).format(b=b, s=t.shard, t=t.trainer)):
                self.backward(t, b)
                with self.block("try:"):
                    self.line(f"ta.update({self.named(t, b)[2:]})")
                with self.block("except RuntimeError as error:"):
                    self.line("raised(error)")
                    if self.chance(0.6):
                        self.line("a.m.reset_gradients()")
                    else:  # what is finite stays, and counts once in the next update
                        self.line(f"a.{self.pick(['W', 'b', 'unused'])}.clear_gradient()")
                        if self.chance(0.5):
                            self.line("ta.set_clip_threshold(0)")
                        self.may_refuse()
                if t.schedule:
                    self.schedule(t)
                self.line("note()")
            if self.chance(0.4):
                self.beside(t, amid=False)

    def game(self):
        """A loss of two models, each with its trainer."""
        self.line("root = dy.ParameterCollection()")
        average = self.pick(["mean", "sum"])
        a = self.task("a", 0, "root.add_subcollection('a')", average)
        b = self.task("b", 1, "root.add_subcollection('b')", average)
        for t in (a, b):
            if t.how == "tokens":
                t.how, t.n_is_set = "mean", ""
                t.naming = "" if t.naming == "number" else t.naming
            t.subset = False
            self.line(f"t{t.name}.set_accumulation(1)")
        self.unweighted()
        forgets = self.chance(0.6)
        if not forgets:  # two batches' gradients in one update
            a.naming = b.naming = ""
            self.refuse = "may"
        x, how = self.new("x"), "" if average == "mean" else ", 'sum'"
        with self.block(f"for {x} in {a.shard}:"):
            for t, other in ((a, b), (b, a)):
                self.line(f"{t.name}.against({other.name}, {x}{how})")
                if forgets:
                    self.line(f"{other.name}.m.reset_gradients()")
                self.update(t, x)

    def micro(self):
        t = self.task("a", 0, micro=self.pick([1, 2, 3, 4]), average=self.pick(["mean", "sum"]))
        t.subset = False
        if self.chance(0.4):
            self.line("a.dropout = 0.3")
            self.plain = False
        self.law, self.quiet = "bits", True  # a step has more bodies, of which each draws
        for _ in range(self.pick([1, 2])):
            b = self.new("b")
            kind = self.pick(["plain", "enumerate", "generator", "islice"])
            with self.block(SIMPLE[kind].format(b=b, s=t.shard)):
                self.backward(t, b)
                if self.chance(0.3):
                    self.pick([self.do_evaluate, self.do_score, self.do_state])(t)
                self.update(t, b)
                if t.schedule:
                    self.lines.pop()  # not in each micro-batch
            if self.chance(0.4):
                self.pick([self.do_evaluate, self.do_rate, self.do_freeze])(t)

    def joined(self):
        t = self.task("a", 0)
        t.subset, k = False, len(self.lines)
        for _ in range(self.pick([1, 2])):
            weighted = t.average == "weighted" or (t.average == "mean" and t.how == "tokens")
            weighted = weighted or (t.average == "mean" and self.chance(0.5))
            if t.average == "sum":
                self.line("ta.set_accumulation(1)")  # which passes go together has no counterpart
            self.line(f"join(a, ta, {self.rng.randrange(99)}, {weighted}, {t.how!r})")
            if not weighted and any("shard(" in text for _, text in self.lines[k:]):
                self.may_refuse()  # whether its batches are those of a loop over shard()
            if self.chance(0.5):
                self.beside(t, amid=False)
        if self.chance(0.5) and t.naming:
            self.loop_simple(t)

    def local_each(self):
        """LocalSGD that averages at each update is DistributedTrainer."""
        self.local = True
        t = self.task("a", 0, average=self.pick(["mean", "mean"]))
        rule = "dy.SimpleSGDTrainer(a.m, 0.1)"
        where = next(k for k, (_, text) in enumerate(self.lines) if text.startswith("ta = "))
        self.lines[where] = (0, f"ta = local({rule}, every=1)")
        self.lines = [x for x in self.lines if "clip" not in x[1] and "decay" not in x[1]]
        self.line("ta.set_clip_threshold(0)")
        t.subset = False
        self.waits = False
        self.law = "equal"
        for _ in range(self.pick([1, 2])):
            b = self.new("b")
            kind = self.pick([*[*SIMPLE][:-1], *AMBIGUOUS])
            if kind in AMBIGUOUS:
                self.may_refuse()
            with self.block({**SIMPLE, **AMBIGUOUS}[kind].format(b=b, s=t.shard)):
                self.backward(t, b)
                if self.chance(0.2):
                    self.pick([self.do_evaluate, self.do_score])(t)
                self.update(t, b)
            if self.chance(0.4):
                self.pick([self.do_evaluate, self.do_rate, self.do_write, self.do_add])(t)

    def ends(self):
        """What one rank does by itself, and the job may end for it."""
        self.alone = True
        self.one_rank()

    def one_rank(self):
        """What one rank does by itself."""
        t = self.task("a", 0)
        if self.chance(0.3):
            self.silent = True
        b = self.new("b")
        which = self.rng.randrange(2)
        act, kind = self.pick([x for x in ONE_RANK if (x[1] == "ends") == self.alone])
        if kind != "harmless":
            self.law, self.refuse = "together", "may"
        where = self.pick(["before", "amid", "after"])
        if act[0] in ("break", "continue"):
            where = "amid"
        self.line("n = 0")
        with self.block(f"for {b} in {t.shard}:"):
            self.line("n += 1")
            self.backward(t, b)
            if where == "amid":
                self.act_of(which, act, t, b, "n == 2")
            self.update(t, b)
            if where == "after":
                self.act_of(which, act, t, b, "n == 2")
        if where == "before":
            self.act_of(which, act, t, "a.data[:2]", "True")
        with self.block(f"for {b} in {t.shard}:"):
            self.step(t, b)
        self.line("a.m.reset_gradients()")
        self.line("ta.set_accumulation(1)")
        if t.average != "sum":
            self.line("a.backward(a.data[:1])")
            self.line("update(ta, 1)")
        elif self.law == "together":  # the sum of one example from each rank
            self.line("a.backward(a.data[:1])")
            self.line("update(ta)")

    def act_of(self, which, act, t, b, when):
        with self.block(f"if rank() == {which} and {when}:"):
            for text in act:
                self.line(text.format(b=b, a=t.name, t=t.trainer, s=t.shard))

    def resumed(self):
        micro = self.pick([0, 0, 2, 3, 4])
        t = self.task("a", 0, micro=micro)
        t.subset = False
        if micro:
            self.law, self.plain, t.schedule = "bits", False, ""
            self.lines = [x for x in self.lines if not x[1].startswith("ra = ")]
            self.line(f"a.dropout = {self.pick([0, 0.3])}")
        kind = self.pick([*SIMPLE, "list", "ahead"])
        if kind in AMBIGUOUS and not t.naming:
            t.naming = "batch"
        if t.naming == "number" and kind in AMBIGUOUS:
            kind = "plain"
        own = kind in AMBIGUOUS
        every = "" if own else f", every={self.pick([1, 2])}"
        self.line(f"checkpointer = checkpoints(file('run'), a.m, ta, sa{every})")
        if t.best:  # whose model is in a file
            best = f"{t.best} = dy.training.Best(a.m, file('{t.best}'), patience=2, lower=True)"
            self.lines = [x if not x[1].startswith(t.best) else (0, best) for x in self.lines]
            self.line(f"checkpointer.add('best', {t.best})")
        self.line("checkpointer.resume()")
        with self.block(f"while sa.epoch < {self.pick([1, 2, 3])}:"):
            b = self.new("b")
            with self.block({**SIMPLE, **AMBIGUOUS}[kind].format(b=b, s=t.shard, t=t.trainer)):
                self.backward(t, b)
                self.update(t, b)
                if own or self.chance(0.2):
                    self.line("checkpointer.save()")
                self.line("end_of_body()")
            if t.best:
                self.do_best(t)
            if t.average_of:
                self.do_averaged(t)


ONE_RANK = (
    # lines, and what comes of them: "harmless": as if they were not there
    (("print(end='')",), "harmless"),
    (("{a}.m.save(file('own'))",), "harmless"),
    (("dy.save(file('own'), [{a}.W])",), "harmless"),
    (("{a}.score({b})",), "harmless"),
    (("{a}.E.as_array(), {a}.W.as_array(), repr({a}.m)",), "harmless"),
    (("{t}.state(), {t}.stats(), {t}.log(loss=1.0), {t}.status()",), "harmless"),
    (
        ("other = Task(1, 9); other.backward(other.data[:2])", "State.tasks.remove(other)"),
        "harmless",
    ),
    (("values(); {t}.gradient_norm()",), "harmless"),
    (("{t}.learning_rate = 0.05",), ""),
    (("{t}.set_clip_threshold(0.1)",), ""),
    (("{t}.set_clip_value(0.1)",), ""),
    (("{a}.m.set_weight_decay(0.1)",), ""),
    (("{t}.set_sparse_updates(False)",), ""),
    (("{t}.skip_nonfinite = True",), ""),
    (("{a}.W.set_updated(False)",), ""),
    (("{a}.E.set_updated(False)",), ""),
    (("{a}.add()",), ""),
    (("{a}.add(table=True)",), ""),
    (("getattr({t}.inner, 'exclude_from_decay', list)([{a}.W])",), ""),
    (("{a}.W.set_precision('float32')",), ""),
    (("{a}.W.set_value({a}.W.as_array() * 2)",), ""),
    (("{a}.E.init_row(1, [1, 2, 3])",), ""),
    (("{a}.W.clip_inplace(-0.1, 0.1)",), ""),
    (("{a}.E.scale(0.5)",), ""),
    (("{t}.restart()",), ""),
    (("{t}.inner.update()",), "ends"),
    (("{a}.m.reset_gradients()",), ""),
    (("{a}.W.scale_gradient(0.5)",), ""),
    (("{a}.backward({a}.data[:1])",), ""),
    (("{t} = dist(dy.SimpleSGDTrainer({a}.m, 0.1))",), "ends"),
    (("{s}.load_state({{**{s}.state(), 'epoch': 3}})",), "ends"),
    (("parallel.barrier()",), "ends"),
    (("parallel.gather(1)",), "ends"),
    (("parallel.evaluate(len, [[1], [2]])",), "ends"),
    (("parallel.broadcast_parameters({a}.m)",), "ends"),
    (("update({t})",), "ends"),
    (("raise ValueError('on one rank')",), "ends"),
    (("{t}.set_accumulation(2)",), "ends"),
    (("break",), "ends"),
    (("continue",), "ends"),
)
PROGRAMS = {
    "one": 8,
    "stages": 2,
    "two": 5,
    "alternate": 2,
    "compressed": 2,
    "guarded": 3,
    "game": 2,
    "micro": 3,
    "joined": 2,
    "local_each": 2,
    "local_sgd": 5,
    "local_joined": 2,
    "one_rank": 5,
    "ends": 0.5,
    "resumed": 3,
    "local_resumed": 1,
    **IDIOMS,
}


def drawn(seed, kind=None):
    """The program of this seed."""
    w = _Programs(seed)
    kind = kind or w.rng.choices([*PROGRAMS], [*PROGRAMS.values()])[0]
    getattr(w, kind)()
    return Program(
        seed,
        tuple(w.lines),
        w.law,
        w.refuse,
        w.plain,
        {"resumed": "any", "local_resumed": "as many"}.get(kind, ""),
        w.rng.randint(1, 6),
        w.alone,
        w.threads,
    )
