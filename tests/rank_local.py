"""Programs of LocalSGD, for rank_programs.py: what they must come to is computed by threads of one
process (tests/mpi/simulated.py), rank by rank.
"""

from rank_loops import AMBIGUOUS, SIMPLE, LoopWriter
from rank_writer import RULES, Trained

WRITES = (
    "b.set_value([0.5, -0.5])",
    "W.clip_inplace(-0.5, 0.5)",
    "W.scale(0.9)",
    "E.init_row(2, [0.1, 0.2, 0.1 * len(State.notes)])",
    "E.scale(0.9)",
)
SETTINGS = (
    "{t}.learning_rate *= 0.9",
    "{t}.set_learning_rate(0.05)",
    "{t}.set_clip_threshold(0.5)",
    "{t}.set_clip_threshold(0)",
    "{t}.set_clip_value(0.1)",
    "{t}.set_sparse_updates(False)",
    "{t}.set_sparse_updates(True)",
    "{t}.skip_nonfinite = True",
    "{t}.restart()",
    "{t}.restart(0.03)",
    "{t}.load_state({t}.state())",
    "{t}.every = 2",
    "{t}.every = 3",
    "{a}.m.set_weight_decay(0.02)",
    "{a}.W.set_updated(False)",
    "{a}.E.set_updated(False)",
    "{a}.b.set_updated(False)",
    "{a}.W.set_updated(True)",
    "{a}.E.set_updated(True)",
    "{a}.add()",
    "{a}.add(table=True)",
    "getattr({t}.inner, 'exclude_from_decay', list)([{a}.W])",
)
"""What all ranks do alike."""
OF_ONE = (
    "{a}.W.scale(0.5)",
    "{a}.E.init_row(1, {a}.E.as_array()[1] / 2 + 1)",
    "{a}.b.set_value([0.2, 0.1])",
    "{a}.backward({a}.data[:1])",
    "{a}.m.reset_gradients()",
    "{a}.score({b})",
    "other = Task(1, 9); other.backward(other.data[:2]); State.tasks.remove(other)",
)
"""What one rank may do by itself between a backward pass and its update, where that is not the
first after an average. Rows are not written twice with the same numbers: whether an average of
these has moved them depends on rounding."""


class LocalPrograms(LoopWriter):
    """Programs of LocalSGD that averages at every k-th update."""

    def local_task(self):
        """A model, its LocalSGD and its shard."""
        self.local = self.threads = True
        self.line(f"a = Task({self.seed}, 0, n={self.pick([5, 8, 11, 14])})")
        every, momentum = self.pick([1, 2, 2, 3, 3, 4]), self.pick([0, 0, 0.5, 0.9])
        options = "".join(
            f", {name}={self.pick(choices)!r}"
            for name, choices in (
                ("moments", ["local", "average", "reset"]),
                ("rows", ["all", "touched"]),
            )
            if self.chance(0.4)
        )
        options += f", momentum={momentum}" if momentum else ""
        rule = self.pick(RULES).format(m="a.m")
        self.line(f"ta = local(dy.{rule}, every={every}{options})")
        if self.chance(0.5):
            self.line(f"ta.set_clip_threshold({self.pick([0, 0.3, 5])})")
        if self.chance(0.3):
            self.line("a.m.set_weight_decay(0.01)")
        how = self.pick(["mean", "mean", "tokens"])
        self.shard("sa", "a.data", ", weight=cost" if how == "tokens" else "")
        made = Trained("a", how, "mean", self.pick(["", "", "batch", "number"]))
        if self.chance(0.2):
            made.schedule = "ra"
            self.line("ra = dy.schedules.Linear(ta, steps=20)")
        self.followers(made)
        return made, options

    def local_sgd(self):
        """Loops over shard(), with whatever else such programs do."""
        t, _ = self.local_task()
        for _ in range(self.pick([1, 2, 3])):
            self.local_loop(t)
            if self.chance(0.6):
                self.average(t)
            if self.chance(0.4):
                self.setting(t, "")
            if self.chance(0.2):
                self.line(f"a.{self.pick(WRITES)}")
        if self.chance(0.7):
            self.average(t)

    def average(self, t):
        """What is done after an average."""
        self.line("average(ta)")
        if self.chance(0.3):
            self.line(f"assert_in_sync({t.name}.m)")
        if t.average_of and self.chance(0.5):
            self.do_averaged(t)
        if t.best:
            self.do_best(t)
        if self.chance(0.2):
            self.line(f"a.{self.pick(WRITES)}")

    def setting(self, t, b):
        text = self.pick(SETTINGS)
        if not (t.schedule and ("rate" in text or "restart(0" in text)):
            self.line(text.format(a="a", t="ta", b=b))

    def local_loop(self, t):
        """One epoch."""
        b = self.new("b")
        loops = {**SIMPLE, **AMBIGUOUS} if self.chance(0.2) else SIMPLE
        kind = self.pick([*loops])
        if kind in AMBIGUOUS and not t.naming:
            self.may_refuse()
        with self.block(loops[kind].format(b=b, s=t.shard, t="ta")):
            if self.chance(0.15):
                self.setting(t, b)
            self.line(f"a.backward({b}{'' if t.how == 'mean' else ', ' + repr(t.how)})")
            if self.chance(0.25):
                with self.block(f"if rank() == {self.rng.randrange(2)} and ta.position:"):
                    self.line(self.pick(OF_ONE).format(a="a", t="ta", b=b))
            named = self.named(t, b)
            if self.chance(0.15):
                with self.block(f"if rank() == 1 and {b}.step == {self.pick([0, 1, 2])}:"):
                    self.line("dy.renew_cg()")
                    self.line("(dy.sum_elems(a.W) * float('nan')).backward()")
                with self.block("try:"):
                    self.line(f"ta.update({named[2:]})")
                with self.block("except RuntimeError as error:"):
                    self.line("raised(error)")
                self.line("note(what='own')")
            else:
                self.line(f"update(ta{named})")
            if t.schedule:
                self.line("ra.step()")
            if self.chance(0.2):
                self.line("note(what='own')")
            if self.chance(0.1):
                self.line(f"a.{self.pick(WRITES)}")
            if self.chance(0.1):
                self.leave(b)
        if kind in AMBIGUOUS and not t.naming:  # what ranks have of their own is refused here
            self.average(t)

    def local_resumed(self):
        """Killed anywhere, also between two averages, and resumed."""
        t, _ = self.local_task()
        b, self.silent = self.new("b"), True
        t.best = ""
        self.lines = [x for x in self.lines if not x[1].startswith("besta")]
        every = self.pick(["", ", every=1", ", every=2"])
        self.line(f"checkpointer = checkpoints(file('run'), a.m, ta.outer, sa{every})")
        self.line("checkpointer.add('local', ta, per_rank=True)")
        self.line("checkpointer.resume()")
        with self.block(f"while sa.epoch < {self.pick([1, 2, 3])}:"):
            with self.block(SIMPLE[self.pick([*SIMPLE])].format(b=b, s=t.shard, t="ta")):
                self.line(f"a.backward({b}{'' if t.how == 'mean' else ', ' + repr(t.how)})")
                self.line(f"update(ta{self.named(t, b)})")
                if t.schedule:
                    self.line("ra.step()")
                if not every or self.chance(0.2):
                    self.line("checkpointer.save()")
                self.line("end_of_body()")
            if self.chance(0.5):
                self.average(t)

    def local_joined(self):
        """Each rank has batches of its own, of which there are unlike many."""
        t, _ = self.local_task()
        t.schedule = ""
        self.lines = [(d, text) for d, text in self.lines if not text.startswith("ra = ")]
        self.lines = [
            (d, text.replace(", moments='average'", "").replace(", rows='touched'", ""))
            for d, text in self.lines
        ]
        for _ in range(self.pick([1, 2])):
            b = self.new("b")
            if self.chance(0.5):
                self.average(t)
            batches = f"uneven(a, {self.rng.randrange(99)})"
            with self.block("with Join(ta):"), self.block(f"for {b} in {batches}:"):
                self.line(f"a.backward({b}{'' if t.how == 'mean' else ', ' + repr(t.how)})")
                if self.chance(0.2):
                    self.line(self.pick(OF_ONE).format(a="a", t="ta", b=b))
                    if any("set_updated(False)" in text for _, text in self.lines):
                        self.may_refuse()
                if self.chance(0.1):
                    self.line("ta.learning_rate *= 0.9")
                number = "tokens" if t.how == "tokens" else "len"
                self.line(f"update(ta{self.pick(['', f', {number}({b})'])}, noted=False)")
                if self.chance(0.1):
                    self.line("break")
            self.line("note()")
            if self.chance(0.4):
                self.setting(t, "")
        if self.chance(0.5):
            self.local_loop(t)
