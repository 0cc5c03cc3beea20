"""Loops over the shards of rank_writer.py, and what is done in them beside passes."""

from dataclasses import replace

from rank_writer import Writer

SIMPLE = {
    # loops in which update() knows the batch
    "plain": "for {b} in {s}:",
    "enumerate": "for _, {b} in enumerate({s}):",
    "islice": "for {b} in itertools.islice({s}, 1000):",
    "chain": "for {b} in itertools.chain({s}):",
    "map": "for {b} in map(lambda batch: batch, {s}):",
    "generator": "for {b} in (batch for batch in {s}):",
    "next": "for {b} in iter(iter({s}).__next__, None):",
    "bar": "for {b} in bar({t}, {s}):",
}
AMBIGUOUS = {
    # loops in which it has to be told
    "list": "for {b} in list({s}):",
    "reversed": "for {b} in reversed(list({s})):",
    "ahead": "for {b} in ahead({s}):",
    "far ahead": "for {b} in ahead({s}, 3):",
    "thread": "for {b} in in_thread({s}):",
    "sorted": "for {b} in sorted({s}, key=lambda batch: batch.step):",
}


class LoopWriter(Writer):
    """Draws loops over a shard: each loop_... is one of LOOPS, each do_... is done in one."""

    def step(self, t, b):
        """One pass with its update, and what is done beside it."""
        if self.silent and t.average and not t.subset and self.chance(0.5):
            with self.block(
                f"with {t.trainer}.no_sync() if {b}.step % {self.pick([2, 3])} == 0 else"
                " contextlib.nullcontext():"
            ):
                self.backward(t, b)
                self.update(t, b)
            return
        self.backward(t, b)
        if self.chance(0.2):
            self.beside(t, waits=True)
        self.update(t, b)

    # ---- beside ------------------------------------------------------------------------

    def beside(self, t, amid=True, waits=False):
        """What any program does between a pass and its update, or between passes; amid: of a loop
        over its shard; waits: there are gradients."""
        kinds = [kind for kind in READS if not (waits and kind == "save")]
        if not amid or self.chance(0.5):
            kinds += SETTINGS
        if self.chance(0.3):
            kinds += LOOPS_WITHIN
        if not (waits or self.waits or self.silent):  # gradients that wait are in no file
            kinds += ["averaged"] * (2 if t.average_of else 0) + ["best"] * (2 if t.best else 0)
        if waits and t.naming:
            kinds = [kind for kind in kinds if kind != "train_within"]
        kind = self.pick(kinds)
        getattr(self, "do_" + kind)(t)

    def do_score(self, t):
        b, total = self.new("v"), self.new("total")
        self.line(f"{total} = 0")
        with self.block(f"for {b} in shard({t.name}.data[:5], 2):"):
            self.line(f"{total} += {t.name}.score({b})")
        self.line(f"{total} = parallel.all_reduce({total})")
        self.note(total)

    def do_score_part(self, t):
        b = self.new("v")
        with self.block(f"for {b} in shard({t.name}.data[:6], 2, epoch=1):"):
            self.line(f"{t.name}.score({b})")
            self.line("break")

    def do_evaluate(self, t):
        cost = self.pick(["", ", cost=None", ", cost=cost"])
        scores = self.new("scores")
        self.line(
            f"{scores} = parallel.evaluate(lambda x: {t.name}.score([x]), {t.name}.data[:5]{cost})"
        )
        self.note(scores)

    def do_averaged(self, t):
        """Scores, or saves, the moving average."""
        with self.block(f"with applied({t.average_of}):"):
            what = self.pick(["note()", "score", "save", f"{t.name}.W.as_array()"])
            if what == "score":
                self.note(f"scores({t.name})")
            elif what == "save" and not self.waits and not self.silent:
                self.line(f"{t.name}.m.save(file('{self.new('averaged')}'))")
            else:
                self.line("pass" if what == "save" or (self.quiet and "note" in what) else what)
        if self.chance(0.2):
            self.line(f"{t.average_of}.load_state({t.average_of}.state())")

    def do_best(self, t):
        self.line(f"{t.best}.update(sum(scores({t.name})))")
        self.note(f"({t.best}.score, {t.best}.number, {t.best}.count, {t.best}.is_over)")
        grown = any(f"{t.name}.add(" in text for _, text in self.lines)  # the file has fewer
        if self.chance(0.3) and not grown:
            with self.block(f"if np.isfinite({t.best}.score):"):
                self.line(f"{t.best}.restore()")

    def do_gather(self, t):
        self.line("note(len(parallel.gather(rank())) - parallel.world_size())")

    def do_reduce(self, t):
        op = self.pick(["max", "min", "mean"])
        self.line(f"note(parallel.all_reduce([1.5, 2], {op!r}))")

    def do_barrier(self, t):
        self.line("parallel.barrier(timeout=60)")

    def do_state(self, t):
        which = self.pick(
            (
                "state(), {t}.gradient_norm(), repr({t}), {t}.whoami(), {t}.collection",
                "skipped, {t}.clips, {t}.get_clip_threshold(), {t}.get_clip_value()",
                "updates, {t}.accumulation, {t}.stats(), {t}.status()",
            )
        )
        self.line(f"{t.trainer}." + which.format(t=t.trainer))

    def do_in_sync(self, t):
        self.line(f"assert_in_sync({t.name}.m)")

    def do_broadcast(self, t):
        self.line(f"broadcast_parameters({t.name}.m)")

    def do_rate(self, t):
        if not t.schedule:
            self.line(f"{t.trainer}.learning_rate *= 0.9")

    def do_set_rate(self, t):
        if not t.schedule:
            self.line(f"{t.trainer}.set_learning_rate(0.05)")

    def do_clip(self, t):
        self.line(f"{t.trainer}.set_clip_threshold({self.pick([0, 0.2, 1])})")

    def do_clip_value(self, t):
        if not self.local:
            self.line(f"{t.trainer}.set_clip_value({self.pick([0, 0.1])})")

    def do_decay(self, t):
        self.line(f"{t.name}.m.set_weight_decay({self.pick([0, 0.02])})")

    def do_sparse(self, t):
        self.line(f"{t.trainer}.set_sparse_updates({self.pick([True, False])})")

    def do_skip(self, t):
        self.line(f"{t.trainer}.skip_nonfinite = {self.pick([True, False])}")

    def do_accumulation(self, t):
        if not t.subset and not self.local:
            self.line(f"{t.trainer}.set_accumulation({self.pick([1, 2, 3])})")
            self.waits = True

    def do_freeze(self, t):
        p = self.pick(["W", "b", "E"])
        self.line(f"{t.name}.{p}.set_updated({self.pick([True, False])})")

    def do_exclude(self, t):
        self.line(
            f"getattr({t.trainer}.inner, 'exclude_from_decay', list)([{t.name}."
            f"{self.pick(['W', 'b', 'E'])}])"
        )

    def do_precision(self, t):
        self.line(f"{t.name}.W.set_precision({self.pick([None, 'float32'])!r})")

    def do_add(self, t):
        self.line(f"{t.name}.add(table={self.pick([True, False])})")

    def do_write(self, t):
        text = self.pick(
            [
                "b.set_value([0.5, -0.5])",
                "W.clip_inplace(-0.5, 0.5)",
                "W.scale(0.9)",
                "b.zero()",
                "E.init_row(2, [0.1, 0.2, 0.3])",
                "E.scale(0.9)",
            ]
        )
        self.line(f"{t.name}.{text}")

    def do_save(self, t):
        name = self.new("model")
        self.line(f"{t.name}.m.save(file('{name}'))")
        if self.chance(0.7) and not self.waits and not self.silent:
            self.line(f"{t.name}.m.populate(file('{name}'))")

    def do_restart(self, t):
        self.line(f"{t.trainer}.restart()")

    def do_load_state(self, t):
        self.line(f"{t.trainer}.load_state({t.trainer}.state())")

    def do_wrong(self, t):
        """An error that all ranks catch."""
        with self.block("try:"):
            self.line(f"{t.name}.W.set_value([1, 2, 3, 4, 5])")
        with self.block("except ValueError:"):
            self.line("pass")

    def do_log(self, t):
        self.line(f"{t.trainer}.log(loss=1.0); {t.trainer}.stats()")

    def do_list_within(self, t):
        self.may_refuse()
        self.line(f"{self.new('kept')} = list(shard({t.name}.data, 3))")

    def do_iterator_within(self, t):
        self.may_refuse()
        name = self.new("it")
        self.line(f"{name} = iter(shard({t.name}.data, 3)); next({name})")
        if self.chance(0.5):
            self.line(f"del {name}")

    def do_train_within(self, t):
        """A loop that trains, inside of another one."""
        self.may_refuse()
        b = self.new("i")
        name = f"s{self.new('n')}"
        self.shard(name, f"{t.name}.data[:4]")
        with self.block(f"for {b} in {name}:"):
            inner = replace(t, n_is_set="", how="sum" if t.average == "sum" else "mean")
            if t.average == "weighted" or t.naming == "number":
                inner.naming = "number"
            self.backward(inner, b)
            self.update(inner, b)

    # ---- loops -------------------------------------------------------------------------

    def epochs(self, t):
        """Loops over a shard, one after the other."""
        for _ in range(self.pick([1, 1, 2])):
            if self.chance(0.3):
                self.beside(t, amid=False)
            getattr(self, "loop_" + self.pick(LOOPS))(t)

    def needs_name(self, t):
        """A loop in which update() must be told."""
        if not t.naming and t.average != "sum":
            self.refuse = "must" if self.refuse == "never" else self.refuse

    def body(self, t, b):
        if self.chance(0.15):
            self.beside(t)
        self.step(t, b)
        if self.chance(0.2):
            self.beside(t)

    def loop_simple(self, t):
        b = self.new("b")
        header = SIMPLE[self.pick([*SIMPLE])]
        with self.block(header.format(b=b, s=t.shard, t=t.trainer)):
            self.body(t, b)
            if self.chance(0.1):
                self.leave(b)

    def leave(self, b):
        """A loop that is left early."""
        with self.block(f"if {b}.step == 1:"):
            self.line("break")

    def loop_ambiguous(self, t):
        b = self.new("b")
        header = AMBIGUOUS[self.pick([*AMBIGUOUS])]
        self.may_refuse()
        with self.block(header.format(b=b, s=t.shard)):
            self.step(t, b)

    def loop_exception(self, t):
        """A loop that ends by an exception after a backward pass, whose gradients are thrown
        away."""
        b = self.new("b")
        with self.block("try:"), self.block(f"for {b} in {t.shard}:"):
            self.backward(t, b)
            with self.block(f"if {b}.step == {self.pick([0, 1, 2])}:"):
                self.line("raise KeyError")
            self.update(t, b)
        with self.block("except KeyError:"):
            self.line(f"{t.name}.m.reset_gradients()")

    def loop_few(self, t):
        """Batches that were filtered in place, or copied."""
        b = self.new("b")
        way = self.pick(["in place", "in place, n", "copy", "named batch"])
        if t.subset or t.how == "tokens":
            way = "copy"
        if way == "named batch" or (way == "in place" and not t.naming):
            self.may_refuse()
        with self.block(f"for {b} in {t.shard}:"):
            count = "tokens" if t.how == "tokens" else "len"
            if way == "copy":
                part = self.new("part")
                self.line(f"{part} = few({b})")
            else:
                part = b
                self.line(f"{b}[:] = few({b})")
            if way == "in place, n":
                self.line(f"{b}.n = len({b})")
            how = "" if t.how == "mean" else f", {t.how!r}"
            self.line(f"{t.name}.backward({part}{how})")
            if t.average == "sum" or way == "in place, n":
                self.line(f"update({t.trainer})")
            elif way in ("in place", "copy") and (t.naming or way == "copy"):
                self.line(f"update({t.trainer}, {count}({part}))")
            elif way == "named batch":
                self.line(f"update({t.trainer}, {b})")
            else:
                self.line(f"update({t.trainer})")
        if t.average == "weighted" and way not in ("copy", "in place, n"):
            self.may_refuse()

    def loop_kept(self, t):
        """Batches that are kept, and trained on again."""
        b, kept = self.new("b"), self.new("kept")
        self.may_refuse()
        self.line(f"{kept} = []")
        with self.block(f"for {b} in {t.shard}:"):
            self.step(t, b)
            self.line(f"{kept}.append({b})")
        again = self.pick([kept, f"{kept}[::-1]", f"reversed({kept})"])
        with self.block(f"for {b} in {again}:"):
            self.step(t, b)

    def loop_two_passes(self, t):
        """Gradients of two batches in one update."""
        b = self.new("b")
        self.may_refuse()
        if t.naming == "number" or t.average == "weighted":
            return self.loop_simple(t)
        with self.block(f"for {b} in {t.shard}:"):
            self.backward(t, b)
            with self.block(f"if {b}.step % 2:"):
                self.update(t, b)
        return None

    def loop_fails(self, t):
        """Examples that raise an error are left out, or their batch is."""
        b, good = self.new("b"), self.new("good")
        self.line(f"{t.name}.bad = {self.pick([0, 1, 2])}")
        count = "tokens" if t.how == "tokens" else "len"
        how = "" if t.how == "mean" else f", {t.how!r}"
        with self.block(f"for {b} in {t.shard}:"):
            self.line(f"{good} = {t.name}.usable({b})")
            self.line(f"{t.name}.backward({good}{how})")
            named = "" if t.average == "sum" else f", {count}({good})"
            self.line(f"update({t.trainer}{named})")
        self.line(f"{t.name}.bad = None")

    def loop_skips(self, t):
        """No update for some batches."""
        b = self.new("b")
        self.may_refuse()
        with self.block(f"for {b} in {t.shard}:"):
            with self.block(f"if {b}.step == 1:"):
                self.line("continue")
            self.step(t, b)


READS = (
    "score",
    "score_part",
    "evaluate",
    "gather",
    "reduce",
    "barrier",
    "state",
    "in_sync",
    "save",
    "wrong",
    "log",
)
"""What changes nothing."""
SETTINGS = (
    "broadcast",
    "rate",
    "set_rate",
    "clip",
    "clip_value",
    "decay",
    "sparse",
    "skip",
    "accumulation",
    "freeze",
    "exclude",
    "precision",
    "add",
    "write",
    "restart",
    "load_state",
)
LOOPS_WITHIN = ("list_within", "iterator_within", "train_within")
LOOPS = (
    "simple",
    "simple",
    "simple",
    "ambiguous",
    "ambiguous",
    "exception",
    "few",
    "kept",
    "two_passes",
    "fails",
    "skips",
)
