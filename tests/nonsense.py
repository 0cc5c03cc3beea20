"""Programs that try to break the interpreter; test_robustness.py starts them in processes of their
own.

    python tests/nonsense.py calls LOG [SEED [N]]      each public function N times with nonsense
                                                       arguments
    python tests/nonsense.py programs LOG [SEED [N]]   N random small programs (hypothesis)

What is about to run is written to LOG first, so that a crash can be told. Any exception but the
usual ones ends the program with status 1.
"""

import functools
import inspect
import random
import resource
import sys
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dist_dynet as dy

ALLOWED = (
    TypeError,
    ValueError,
    IndexError,
    AssertionError,
    RuntimeError,
    OverflowError,
    MemoryError,
    DeprecationWarning,
    OSError,
)
MEMORY = 3 << 30
LOG = None


def log(text):
    LOG.seek(0)
    LOG.truncate()
    LOG.write(text)
    LOG.flush()


def consume(result):
    """Computes what a call returned, forward and backward, and looks into it."""
    if isinstance(result, list | tuple):
        for r in result[:3]:
            consume(r)
    elif isinstance(result, dy.Expression):
        dims, batch = result.dim()
        if batch * int(np.prod(dims, dtype=object)) > 1 << 22:
            return
        result.value()
        loss = dy.sum_batches(dy.sum_elems(result))
        loss.backward(full=True)
        result.gradient()
        repr(result)


# ---- nonsense arguments ----------------------------------------------------------------

SKIPPED = {
    "save",
    "load",
    "load_generator",
    "write_to_textfile",
    "populate",
    "populate_from_textfile",
    "load_param",
    "load_lookup_param",
    "draw_graph",
    "dump_cg",
    "dump",
    "GradientCheckError",
    "NonFiniteError",
}
"""Files: tests/test_io_failures.py, tests/test_inspect.py."""


class Odd:
    """Says that it is a number and a sequence, and is neither."""

    def __index__(self):
        raise ValueError("no number")

    def __float__(self):
        raise ValueError("no number")

    def __iter__(self):
        raise RuntimeError("no sequence")

    def __len__(self):
        return -1


def nonsense(rng):
    """A fresh list of objects that functions get as arguments, some of them sensible."""
    dy.renew_cg()
    stale = dy.inputVector([1, 2])
    dy.renew_cg()
    m = dy.ParameterCollection()
    return [
        None,
        True,
        0,
        1,
        2,
        -1,
        3.7,
        float("nan"),
        float("inf"),
        1 << 31,
        -(1 << 31),
        (1 << 31) - 1,
        1 << 63,
        10**30,
        "",
        "a",
        b"a",
        [],
        (),
        {},
        set(),
        [None],
        [1, 2],
        [1, "a"],
        [[1, 2], [3]],
        [1 << 31],
        [-1],
        [(1 << 31) - 1] * 2,
        (2, 3),
        (0, 3),
        (-1, 2),
        (1,) * 9,
        object(),
        Odd(),
        int,
        print,
        np.zeros(0),
        np.zeros(3),
        np.array(2),
        np.ones((2, 2)),
        np.array(["a"]),
        np.array([None]),
        np.zeros((1,) * 9),
        np.float32(1),
        np.int64(2),
        1j,
        dy.scalarInput(1),
        dy.inputVector([1, 2]),
        dy.zeros((2, 2)),
        dy.zeros((2, 3, 4)),
        dy.zeros(0),
        dy.zeros((0, 3)),
        dy.ones(2, batch_size=3),
        dy.zeros(2, batch_size=0),
        stale,
        dy.Expression(),
        m.add_parameters((2, 2)),
        m.add_parameters(2),
        m.add_lookup_parameters((3, 2)),
        m,
        [dy.zeros(2), dy.ones(2)],
        [dy.zeros(2), None],
        [stale, dy.zeros(2)],
        [dy.zeros((2, 2)), 3],
        [m.add_parameters(2)],
        slice(None),
        slice(0, 5, 2),
        slice(-1, 1 << 40),
        Ellipsis,
        (slice(1), 0),
        iter([1, 2]),
        (x for x in [1]),
        dy.VanillaLSTMBuilder(1, 2, 2, m).initial_state(),
    ]


def blocks(m):
    """One of each builder and block that is not among the objects by name."""
    return [
        dy.SimpleRNNBuilder(1, 2, 2, m),
        dy.GRUBuilder(1, 2, 2, m),
        dy.CompactVanillaLSTMBuilder(1, 2, 2, m),
        dy.CoupledLSTMBuilder(1, 2, 2, m),
        dy.FastLSTMBuilder(1, 2, 2, m),
        dy.SparseLSTMBuilder(1, 2, 2, m),
        dy.ChildSumTreeLSTMBuilder(2, 2, m),
        dy.BinaryTreeLSTMBuilder(2, 2, m),
        dy.NaryTreeLSTMBuilder(3, 2, 2, m),
        dy.StackLSTM(1, 2, 2, m),
        dy.CRF(m, ["a", "b", "c"], [("a", "b")]),
        dy.StandardSoftmaxBuilder(2, 3, m),
        dy.SampledSoftmax(2, 3, m, 2),
        dy.NoiseContrastiveEstimation(2, 3, m, 2),
        dy.ClassFactoredSoftmaxBuilder.from_spec((2, [("x", [0, 2]), ("y", [1])], 3, True), m),
        dy.HierarchicalSoftmaxBuilder.from_spec(
            (2, [(["x"], [0, 2]), (["y", "z"], [1])], 3, True), m
        ),
        dy.Linear(2, 3, m),
        dy.MLP([2, 3, 2], m),
        dy.LayerNorm(2, m),
        dy.AdditiveAttention(2, 2, 2, m),
        dy.DotAttention(2, 2, 2, m),
        dy.MultiHeadAttention(2, 2, m),
    ]


def targets(rng):
    """(name, function) of everything public, bound to sensible objects."""
    m = dy.ParameterCollection()
    objects = {
        "Expression": dy.inputTensor(np.ones((2, 3)), reusable_expr=True),
        "vecInput": dy.vecInput(2),
        "scalarInput": dy.scalarInput(1),
        "Parameters": m.add_parameters((2, 3)),
        "LookupParameters": m.add_lookup_parameters((4, 2)),
        "collection": m,
        "lookup": m.add_lookup_parameters((4, 2))[1],
        "pick": dy.pick(dy.inputVector([1, 2, 3]), 1),
        "graph": dy.cg(),
        "pick_batch": dy.pick_batch(dy.inputVector([1, 2, 3]), [1, 2]),
        "loss": dy.pickneglogsoftmax(dy.inputVector([1, 2, 3]), 1),
        "sgd": dy.SimpleSGDTrainer(m),
        "adam": dy.AdamTrainer(m),
        "lstm": dy.VanillaLSTMBuilder(2, 2, 2, m),
        "state": dy.VanillaLSTMBuilder(1, 2, 2, m).initial_state(),
        "birnn": dy.BiRNNBuilder(1, 2, 2, m, dy.VanillaLSTMBuilder),
    }
    objects |= {type(b).__name__: b for b in blocks(m)}
    tree, stack, crf = dy.ChildSumTreeLSTMBuilder(2, 2, m), dy.StackLSTM(1, 2, 2, m), dy.CRF(m, 3)
    objects |= {
        "tree state": tree.node(dy.zeros(2)),
        "stack state": stack.empty().push(dy.zeros(2)),
        "sampler": dy.Sampler(4),
    }
    # nonsense, but for the emissions
    for name in ("neg_log_likelihood", "score", "log_partition", "viterbi", "decode"):
        yield f"crf.{name} of emissions", functools.partial(getattr(crf, name), dy.zeros((3, 2)))
    for name in sorted(dy.__all__):
        if (
            name not in SKIPPED
            and callable(getattr(dy, name))
            and not inspect.isabstract(getattr(dy, name))
        ):
            yield name, getattr(dy, name)
    names = [
        "add",
        "radd",
        "sub",
        "rsub",
        "mul",
        "rmul",
        "truediv",
        "rtruediv",
        "pow",
        "neg",
        "getitem",
        "matmul",
        "call",
    ]
    operators = [f"__{name}__" for name in names]
    for label, o in objects.items():
        names = [n for n in dir(o) if not n.startswith("_") and n not in SKIPPED] + [
            n for n in operators if hasattr(o, n)
        ]
        for name in names:
            if callable(getattr(o, name)):
                yield f"{label}.{name}", getattr(o, name)


def arguments(f, rng, pool, name):
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return [rng.choice(pool) for _ in range(rng.randint(0, 3))]
    n = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    required = sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )
    given_ = [rng.choice(pool) for _ in range(rng.randint(required, n))]
    if (
        "Builder" in name
        and given_
        and isinstance(given_[0], int | float | np.number)
        and not given_[0] < 4
    ):
        given_[0] = 2  # two thousand million layers would be made one by one
    return given_


def calls(seed, n):
    rng = random.Random(seed)
    count, raised, unusual = 0, 0, {}
    for _ in range(n):
        pool = nonsense(rng)
        for name, f in list(targets(rng)):
            args = arguments(f, rng, pool, name)
            log(f"{name}({', '.join(show(a) for a in args)})")
            count += 1
            try:
                consume(f(*args))
            except ALLOWED:
                raised += 1
            except Exception as error:
                unusual.setdefault(name, f"{LOG_PATH.read_text()}: {type(error).__name__}: {error}")
    print(f"{count} calls, {raised} exceptions", *unusual.values(), sep="\n")
    assert raised > count / 4 and not unusual


def show(a):
    try:
        return f"{type(a).__name__} {a!r}"[:80]
    except Exception as error:
        return f"{type(a).__name__} ({error})"


# ---- random programs -------------------------------------------------------------------

UNARY = [
    "tanh",
    "logistic",
    "rectify",
    "exp",
    "log",
    "square",
    "abs",
    "sum_elems",
    "mean_elems",
    "sum_batches",
    "mean_batches",
    "transpose",
    "softmax",
    "log_softmax",
]
BINARY = [
    "cmult",
    "cdiv",
    "pow",
    "colwise_add",
    "squared_distance",
    "dot_product",
    "matmul",
    "binary_log_loss",
]
LISTS = ["esum", "average", "concatenate", "concatenate_cols", "affine_transform"]
sizes = st.sampled_from([0, 1, 1, 2, 2, 3, 3, 4, 16, 17, -1, (1 << 31) - 1])
small = st.sampled_from([0, 1, 2, 3, 4, 16, 17])
dims = st.lists(small, min_size=1, max_size=4) | st.lists(sizes, min_size=1, max_size=8)
which = st.integers(0, 30)
step = st.one_of(
    st.tuples(
        st.sampled_from(["zeros", "ones", "random_normal"]),
        dims,
        st.sampled_from([1, 1, 1, 2, 3, 0]),
    ),
    st.tuples(st.just("input"), st.lists(small, min_size=1, max_size=3), st.booleans()),
    st.tuples(st.just("parameter"), st.lists(small, min_size=1, max_size=3)),
    st.tuples(st.just("lookup"), st.integers(-1, 5)),
    st.tuples(st.just("lookup_batch"), st.lists(st.integers(0, 4), max_size=3)),
    st.tuples(st.sampled_from(UNARY), which),
    st.tuples(st.sampled_from(BINARY), which, which),
    st.tuples(st.sampled_from(LISTS), st.lists(which, min_size=1, max_size=5)),
    st.tuples(st.sampled_from(["softmax", "log_softmax"]), which, st.integers(-1, 3)),
    st.tuples(st.just("pick"), which, st.integers(-1, 4), st.integers(-1, 3)),
    st.tuples(
        st.just("pick_batch"), which, st.lists(st.integers(0, 3), max_size=3), st.integers(0, 2)
    ),
    st.tuples(
        st.just("pick_range"), which, st.integers(-1, 3), st.integers(0, 5), st.integers(0, 2)
    ),
    st.tuples(
        st.just("slice"),
        which,
        st.integers(-5, 5),
        st.integers(-5, 5),
        st.sampled_from([1, 2, 3, (1 << 31) - 1]),
    ),
    st.tuples(
        st.just("reshape"),
        which,
        st.lists(small, min_size=1, max_size=3),
        st.sampled_from([1, 2, 3]),
    ),
    st.tuples(st.just("permute"), which, st.permutations([0, 1, 2])),
    st.tuples(st.just("dropout"), which, st.sampled_from([0.0, 0.5, 1.0])),
    st.tuples(st.just("pickneglogsoftmax"), which, st.lists(st.integers(0, 3), max_size=3)),
    st.tuples(st.just("hinge"), which, st.lists(st.integers(0, 3), max_size=3)),
    st.tuples(st.just("lstm"), st.lists(which, max_size=3)),
    st.tuples(st.sampled_from(["checkpoint", "revert", "renew", "update", "die"])),
    st.tuples(st.sampled_from(["value", "backward", "recalculate", "set"]), which),
)


class Run:
    """One program: its expressions, some of them stale or dead parameters' by and by."""

    def __init__(self):
        dy.reset_random_seed(1)
        dy.renew_cg()
        self.new_model()
        self.made = [dy.inputVector([1, 2, 3])]

    def new_model(self):
        self.m = dy.ParameterCollection()
        self.table = self.m.add_lookup_parameters((4, 3))
        self.lstm = dy.VanillaLSTMBuilder(2, 3, 3, self.m)
        self.trainer = dy.AdamTrainer(self.m)

    def at(self, i):
        return self.made[-1 - i % len(self.made)]

    def do(self, kind, *a):
        if kind in ("zeros", "ones", "random_normal"):
            return getattr(dy, kind)(a[0], batch_size=a[1])
        if kind == "input":
            return dy.inputTensor(np.ones(a[0]), batched=a[1], reusable_expr=True)
        if kind == "parameter":
            return self.m.add_parameters(a[0])
        if kind == "lookup":
            return self.table[a[0]]
        if kind == "lookup_batch":
            return dy.lookup_batch(self.table, a[0])
        if kind in LISTS:
            return getattr(dy, kind)([self.at(i) for i in a[0]])
        if kind in BINARY:
            return getattr(dy, kind)(self.at(a[0]), self.at(a[1]))
        if kind == "slice":
            return self.at(a[0])[a[1] : a[2] : a[3]]
        if kind == "permute":
            return dy.transpose(self.at(a[0]), a[1])
        if kind == "pickneglogsoftmax":
            return dy.pickneglogsoftmax_batch(self.at(a[0]), a[1])
        if kind == "hinge":
            return dy.hinge_batch(self.at(a[0]), a[1])
        if kind == "lstm":
            return self.lstm.initial_state().transduce([self.at(i) for i in a[0]])
        if kind == "value":
            return consume(self.at(a[0]))
        if kind == "recalculate":
            return self.at(a[0]).value(recalculate=True) and None
        if kind == "set":
            return self.at(a[0]).set([1.0, 2, 3]) if hasattr(self.at(a[0]), "set") else None
        if kind == "backward":
            return dy.sum_batches(dy.sum_elems(self.at(a[0]))).backward()
        if kind == "die":
            return self.new_model()
        if kind == "update":
            return self.trainer.update()
        if kind in ("checkpoint", "revert", "renew"):
            {"checkpoint": dy.cg_checkpoint, "revert": dy.cg_revert, "renew": dy.renew_cg}[kind]()
            return None
        return getattr(dy, kind)(self.at(a[0]), *a[1:])


def programs(seed, n):
    seen = {"ok": 0, "error": 0}

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=seed == 0,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(step, min_size=5, max_size=30))
    def one(program):
        log("\n".join(map(repr, program)))
        run = Run()
        for s in program:
            try:
                made = run.do(*s)
                new = (
                    made
                    if isinstance(made, list)
                    else [made]
                    if isinstance(made, dy.Expression)
                    else []
                )
                run.made += new
                for e in new:
                    consume(e)
                seen["ok"] += 1
            except ALLOWED as error:
                seen["error"] += 1
                if isinstance(error, ValueError) and s[0] in (
                    "matmul",
                    "cmult",
                    "dot_product",
                    "squared_distance",
                    "concatenate",
                ):
                    assert s[0] in str(error), (s, error)

    one()
    print(seen)
    assert seen["ok"] > n and seen["error"] > n


if __name__ == "__main__":
    LOG_PATH = Path(sys.argv[2])
    LOG = LOG_PATH.open("w")
    soft = resource.getrlimit(resource.RLIMIT_AS)[1]
    # the address sanitizer reserves the address space
    if "LD_PRELOAD" not in __import__("os").environ:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, soft))
    np.seterr(all="ignore")
    {"calls": calls, "programs": programs}[sys.argv[1]](
        int((sys.argv[3:4] or ["0"])[0]), int((sys.argv[4:5] or ["40"])[0])
    )
