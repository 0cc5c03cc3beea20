"""What programs on ranks are written with: lines, tasks, shards and passes. rank_loops.py writes
loops with them, and rank_programs.py draws whole programs.
"""

import random
import re
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

RULES = (
    "SimpleSGDTrainer({m}, 0.1)",
    "MomentumSGDTrainer({m}, 0.1)",
    "AdagradTrainer({m}, 0.1)",
    "AdamTrainer({m}, 0.1)",
    "RMSPropTrainer({m}, 0.1)",
    "AdamWTrainer({m}, 0.1, weight_decay=0.1)",
    "AmsgradTrainer({m}, 0.1)",
    "AdadeltaTrainer({m})",
    "CyclicalSGDTrainer({m}, 0.05, 0.2, step_size=3)",
)
SCHEDULES = (
    "Linear({t}, steps=20)",
    "InverseSquareRoot({t}, warmup=3)",
    "Cosine({t}, steps=9, end=0.1, warmup=2)",
    "Constant({t}, warmup=4)",
    "Plateau({t}, factor=0.5, patience=1)",
)
FORMS = ("each", "static", "batched", "autobatched", "traced", "penalty")
"""How a pass is computed, beside one graph of all tokens with its backward pass."""


@dataclass(frozen=True)
class Program:
    """Lines are (depth, text)."""

    seed: int
    lines: tuple
    law: str = "equal"
    refuse: str = "never"  # or "may", "must": by several ranks
    plain: bool = True  # also in one process without parallel's trainers
    resumes: str = ""  # on "any" ranks, or on "as many"
    kill: int = 0
    alone: bool = False  # in a job of its own, which may end with a message
    threads: bool = False  # its one process has as many threads as there are ranks

    @property
    def joins(self):
        """Whether its one process depends on the number of ranks."""
        return self.threads or any(text.startswith("join(") for _, text in self.lines)

    @property
    def source(self):
        """Text of Python."""
        out = ["from drawn import *", f"begin({self.seed})"]
        for k, (depth, text) in enumerate(self.lines):
            out.append("    " * depth + text)
            following = self.lines[k + 1][0] if k + 1 < len(self.lines) else 0
            if text.endswith(":") and following <= depth:
                out.append("    " * (depth + 1) + "pass")
        return "\n".join(out) + "\n"

    def without(self, k):
        """Without a line and what is inside of it."""
        depth, end = self.lines[k][0], k + 1
        while end < len(self.lines) and self.lines[end][0] > depth:
            end += 1
        return replace(self, lines=self.lines[:k] + self.lines[end:])


@dataclass
class Trained:
    """A task, its trainer and its shard, by their names in the program."""

    name: str
    how: str  # losses: "mean", "tokens", "sum"
    average: str
    naming: str  # what update() is given: "", "batch", "number", "weight="
    n_is_set: str = ""  # batch.n: "", "always", "if batch"
    subset: bool = False
    schedule: str = ""
    average_of: str = ""  # a MovingAverage
    best: str = ""

    @property
    def trainer(self):
        return f"t{self.name}"

    @property
    def shard(self):
        return f"s{self.name}"


@dataclass
class Writer:
    """Draws one program."""

    seed: int
    lines: list = field(default_factory=list)
    depth: int = 0
    law: str = "equal"
    refuse: str = "never"
    plain: bool = True
    alone: bool = False
    threads: bool = False
    waits: bool = False  # gradients may wait between passes
    silent: bool = False  # passes may be made in no_sync()
    names: int = 0
    local: bool = False
    quiet: bool = False

    def __post_init__(self):
        self.rng = random.Random(self.seed)
        self.pick, self.chance = self.rng.choice, lambda p: self.rng.random() < p

    def line(self, text):
        self.lines.append((self.depth, text))

    @contextmanager
    def block(self, header):
        self.line(header)
        self.depth += 1
        yield
        self.depth -= 1

    def may_refuse(self):
        self.refuse = "may" if self.refuse == "never" else self.refuse

    def new(self, prefix):
        self.names += 1
        return f"{prefix}{self.names}"

    def note(self, text):
        """A value that is the same in one process."""
        if not self.quiet:
            self.line(f"note({text})")

    # ---- what there is -----------------------------------------------------------------

    def task(self, name, number, m="", average="", micro=0, naming=None):
        """Its lines, and what they name."""
        average = average or self.pick(["mean", "mean", "weighted", "sum"])
        how = {"sum": "sum", "weighted": "tokens", "mean": self.pick(["mean", "mean", "tokens"])}[
            average
        ]
        weight, n_is_set, given = "", "", ""
        if how == "tokens":
            way = self.pick(["shard", "shard", "batch", "number"] if not micro else ["shard"])
            weight = ", weight=cost" if way == "shard" else ""
            n_is_set = self.pick(["always", "always", "if batch"]) if way == "batch" else ""
            given = "number" if way == "number" else ""
        if naming is None:
            naming = given or ("" if micro else self.pick(["", "", "batch", "number", "weight="]))
        if (n_is_set and naming == "number") or (average == "sum" and naming == "number"):
            naming = "batch"
        n = self.pick([1, 2, 5, 8, 11, 14])
        self.line(f"{name} = Task({self.seed}, {number}, {m or None}, n={n})")
        if self.chance(0.5):
            self.line(f"{name}.form = {self.pick(FORMS)!r}")
        rule = self.pick(RULES).format(m=f"{name}.m")
        more = "".join(
            f", {text}"
            for text, p in (("overlap=False", 0.1), ("shared_model=True", 0.2), ("timeout=60", 0.1))
            if self.chance(p)
        )
        k = self.pick([2, 3]) if self.chance(0.25) else 1
        self.waits |= k > 1
        self.line(
            f"t{name} = dist(dy.{rule}, {average!r}"
            + (f", accumulate={k}" if k > 1 else "")
            + (", reproducible=True" if micro else "")
            + more
            + ")"
        )
        if self.chance(0.5):
            self.line(f"t{name}.set_clip_threshold({self.pick([0, 0.3, 5])})")
        if self.chance(0.3):
            self.line(f"{name}.m.set_weight_decay(0.01)")
        self.shard(f"s{name}", f"{name}.data", weight, micro)
        made = Trained(name, how, average, naming, n_is_set)
        made.subset = k == 1 and not micro and self.chance(0.1)
        if self.chance(0.15):
            made.schedule = f"r{name}"
            kind = self.pick(SCHEDULES)
            whose = self.pick([f"t{name}.inner", f"t{name}"])
            self.line(f"r{name} = dy.schedules.{kind.format(t=whose)}")
        self.followers(made)
        return made

    def followers(self, t):
        """A moving average, and the best model."""
        if self.chance(0.2):
            t.average_of = f"ema{t.name}"
            options = self.pick(
                ["decay=None", "decay=0.5", "0.9, every=2", "bias_correction=False"]
            )
            self.line(f"{t.average_of} = moving_average({t.trainer}, {options})")
        if self.chance(0.15):
            t.best = f"best{t.name}"
            where = self.pick(["", f", file('{t.best}')"])
            self.line(f"{t.best} = dy.training.Best({t.name}.m{where}, patience=2, lower=True)")

    def shard(self, name, data, weight="", micro=0):
        extra = "".join(
            f", {text}"
            for text, p in (
                ("cost=cost", 0.7),
                ("shuffle=False", 0.15),
                ("drop_last=True", 0.1),
                ("bucket=2", 0.15),
            )
            if self.chance(p)
        )
        if "bucket" in extra:
            extra = extra.replace(", shuffle=False", "")
        size = self.pick([1, 2, 3, 5, 7])
        if "cost=cost" not in extra:
            extra += ", cost=None"
        if self.chance(0.15):  # on a disk
            arrays = {f"{name}=cost": f"{name}=costs({data})" for name in ("cost", "weight")}
            for function, array in arrays.items():
                extra, weight = extra.replace(function, array), weight.replace(function, array)
            data = f"Stored({data})"
        self.line(
            f"{name} = shard({data}, batch_size={size}, seed={self.rng.randrange(9)}{extra}{weight}"
            + (f", micro_batches={micro}" if micro else "")
            + ")"
        )

    # ---- passes ------------------------------------------------------------------------

    def backward(self, t, b):
        """A pass without its update."""
        how = "" if t.how == "mean" else f", {t.how!r}"
        if t.n_is_set == "always":
            self.line(f"{b}.n = tokens({b})")
        elif t.n_is_set:
            with self.block(f"if {b}:"):
                self.line(f"{b}.n = tokens({b})")
        self.line(f"{t.name}.backward({b}{how})")
        if self.chance(0.07):
            self.line(f"{t.name}.backward({b}{how})")
        if self.chance(0.05) and not self.quiet:
            apart = self.waits or self.silent or t.subset or self.accumulates()
            linear = "scale_gradient(0.5)", "set_gradient({w}.grad_as_array() * [[1], [0]])"
            chosen = linear[0] if apart else self.pick(linear)
            self.line(f"{t.name}.W.{chosen}".format(w=f"{t.name}.W"))

    def accumulates(self):
        """Whether updates may have several passes, whose gradients are kept apart."""
        return any(re.search(r"accumulate=|set_accumulation\([^1]", x) for _, x in self.lines)

    def named(self, t, b):
        """What update() is given after its trainer."""
        count = f"tokens({b})" if t.how == "tokens" else f"len({b})"
        return {
            "": "",
            "batch": f", {b}",
            "number": f", {count}",
            "weight=": f", weight={b}",
        }[t.naming]

    def update(self, t, b):
        named = self.named(t, b)
        if t.subset:
            self.line(f"update({t.trainer}{named}, of=([0], []))  # update_subset")
            self.line(f"update({t.trainer}{named}, of=([{t.name}.b, 2], [{t.name}.E]))")
            return
        if t.naming == "number" and t.how != "tokens" and self.chance(0.1):
            # a number where there is something to count
            with self.block(f"if {b}:"):
                self.line(f"update({t.trainer}, len({b}))")
            with self.block("else:"):
                self.line(f"update({t.trainer}, 0)")
        else:
            self.line(f"update({t.trainer}{named})")
        if t.schedule:
            self.schedule(t)

    def schedule(self, t):
        """A step of it; of the one that asks for a measure, with one of held-out data."""
        made = [text for _, text in self.lines if text.startswith(f"{t.schedule} = ")]
        measure = f"sum(scores({t.name}))" if "Plateau" in made[-1] else ""
        self.line(f"{t.schedule}.step({measure})")
