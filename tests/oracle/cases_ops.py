"""Cases of ops.json and ops_more.json, with fixed inputs, without results.

Left out is what the wheel gets wrong or what has infinite values (log_softmax with `restrict`);
where only a gradient is wrong, `no_grad` names the input and the gradient is not stored.
"""

from cases_small import rng_of, size

# The ops of ops.json, beside the elementwise ones; all others go to ops_more.json.
FIRST = {
    "op.add",
    "op.sub",
    "op.mul",
    "op.div",
    "op.pow",
    "op.neg",
    "op.getitem",
    "cmult",
    "cdiv",
    "pow",
    "bmin",
    "bmax",
    "affine_transform",
    "dot_product",
    "squared_distance",
    "squared_norm",
    "colwise_add",
    "softmax",
    "log_softmax",
    "pickneglogsoftmax",
    "pickneglogsoftmax_batch",
    "hinge",
    "hinge_batch",
    "binary_log_loss",
    "logsumexp",
    "sum_elems",
    "mean_elems",
    "sum_batches",
    "mean_batches",
    "esum",
    "average",
    "emax",
    "sum_dim",
    "max_dim",
    "concatenate",
    "concatenate_cols",
    "pick",
    "pick_batch",
    "pick_range",
    "reshape",
    "transpose",
    "lookup",
    "lookup_batch",
}


def P(*dim, **how):  # noqa: N802 - short names, as the cases are tables
    """A parameter."""
    return {"kind": "param", "dim": list(dim), "batch": 1, **how}


def X(*dim, batch=2, **how):  # noqa: N802
    """An input with a batch."""
    return {"kind": "input", "dim": list(dim), "batch": batch, **how}


def T(rows, *dim, **how):  # noqa: N802
    """A lookup table."""
    return {"kind": "table", "rows": rows, "dim": list(dim), **how}


def x(i):
    """Reference to the case's input i."""
    return {"x": i}


def cut(*bounds):
    """A slice."""
    return {"slice": list(bounds)}


def values(rng, spec):
    """Numbers for an input; `lo`, `hi` bound them, `away` keeps them from zero, `apart` from each
    other."""
    lo, hi, away = spec.get("lo", -1.0), spec.get("hi", 1.0), spec.get("away", 0.0)
    n = size(spec["dim"]) * spec.get("rows", 1) * spec.get("batch", 1)
    if spec.get("apart"):
        grid = [lo + (hi - lo) * (i + 0.5) / n for i in range(n)]
        rng.shuffle(grid)
        return [round(v, 3) for v in grid]
    out = []
    while len(out) < n:
        v = round(rng.uniform(lo, hi), 3)
        if abs(v) >= away:
            out.append(v)
    return out


class Table:
    """Collects cases; the id is the function's name and what is special."""

    def __init__(self):
        """No cases yet."""
        self.cases = []

    def add(self, fn, what, inputs, args, no_grad=(), fake_gradient=False, **kwargs):
        """One case: `fn(*args, **kwargs)`; `args` refer to `inputs` by x(i)."""
        name = f"{fn}/{what}"
        if any(c["id"] == name for c in self.cases):
            raise ValueError(f"two cases named {name}")
        rng = rng_of(name)
        keep = ("kind", "rows", "dim", "batch")
        specs = [{**{k: s[k] for k in keep if k in s}, "v": values(rng, s)} for s in inputs]
        case = {
            "id": name,
            "fn": fn,
            "inputs": specs,
            "args": args,
            "no_grad": [i in no_grad for i in range(len(inputs))],
        }
        if kwargs:
            case["kwargs"] = kwargs
        if fake_gradient:
            case["fake_gradient"] = True
        self.cases.append(case)

    def each(self, fn, inputs, *rest, **how):
        """One case per input of `inputs`, each the op's only expression; `rest` are further
        arguments."""
        for s in inputs:
            self.add(fn, shape_text(s) + extra_text(rest), [s], [x(0), *rest], **how)


def shape_text(*specs):
    """The shapes as in an id: `3,2x2` is dims (3, 2) with batch 2."""
    return " ".join(
        ",".join(map(str, s["dim"]))
        + (f"x{s['batch']}" if s.get("batch", 1) > 1 else "")
        + (f" of {s['rows']}" if "rows" in s else "")
        for s in specs
    )


def extra_text(rest):
    """Further arguments as in an id."""
    return "".join(f" {r}" for r in rest).replace("{", "").replace("}", "").replace("'", "")


def elementwise(t):
    """One argument, any dims."""
    plain = [
        "sin",
        "cos",
        "tan",
        "exp",
        "square",
        "cube",
        "erf",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "atan",
        "logistic",
        "log_sigmoid",
    ]
    ranges = {name: {} for name in plain}
    ranges |= {
        "log": {"lo": 0.2, "hi": 3.0},
        "sqrt": {"lo": 0.2, "hi": 3.0},
        "lgamma": {"lo": 0.4, "hi": 4.0},
        "asin": {"lo": -0.8, "hi": 0.8},
        "acos": {"lo": -0.8, "hi": 0.8},
        "atanh": {"lo": -0.8, "hi": 0.8},
        "acosh": {"lo": 1.3, "hi": 3.0},
        "tan": {"lo": -1.2, "hi": 1.2},
    }
    ranges |= {name: {"away": 0.05} for name in ("rectify", "abs", "elu", "selu")}
    ranges |= {name: {"lo": -6.0, "hi": 6.0} for name in ("tanh", "logistic", "log_sigmoid")}
    for fn, how in sorted(ranges.items()):
        t.each(fn, [P(17, **how), P(3, 2, **how), X(3, **how), X(2, 1, 2, batch=3, **how)])
    t.each("silu", [P(5), X(2, 2)])
    t.each("softsign", [P(5, away=0.05), X(3, away=0.05)])
    t.add("elu", "alpha", [P(6, away=0.05)], [x(0), 0.3])
    for fn in ("exp", "tanh", "logistic", "log_sigmoid", "rectify", "erf"):
        t.add(fn, "large", [P(8, lo=-30, hi=30)], [x(0)])
    for fn, how in (
        ("nobackprop", {"fake_gradient": True}),
        ("flip_gradient", {"fake_gradient": True}),
    ):
        t.each(fn, [P(3, 2), X(3)], **how)
    t.add("scale_gradient", "half", [P(3)], [x(0), 0.5], fake_gradient=True)
    for mode in ("zero_gradient", "straight_through_gradient"):
        t.each("argmax", [P(4, apart=True), X(5, apart=True)], mode, fake_gradient=True)
        for fn in ("round", "ceil", "floor"):
            t.each(fn, [P(12, lo=-3, hi=3)], mode, no_grad=(0,))
    t.each("op.neg", [P(3, 2), X(3)])


def arithmetic(t):
    """Operators, numbers and broadcasting; cmult and cdiv."""
    for fn in ("op.add", "op.sub"):
        for n in (2, -0.75):
            t.each(fn, [P(3, 2), X(3)], n)
    for fn in ("op.mul", "op.div"):
        for n in (3, -0.4):
            t.each(fn, [P(3, 2), X(3)], n)
    pairs = {
        "same": [P(3, 2), P(3, 2)],
        "batch": [X(3), X(3)],
        "batch right": [P(3), X(3)],
        "batch left": [X(3), P(3)],
        "column": [P(3, 2), P(3)],
        "column left": [P(3), P(3, 2)],
        "row": [P(3, 2), P(1, 2)],
        "one": [P(3, 2), P(1)],
        "outer": [P(3), P(1, 2)],
        "column to batch": [X(3, 2), P(3)],
        "batch of columns": [P(3, 2), X(3)],
        "batch one": [X(3), X(1)],
        "three dims": [P(2, 2, 2), P(2, 1, 2)],
        "three dims batch": [X(2, 3, 2), X(1, 3)],
    }
    for what, inputs in pairs.items():
        for fn in ("op.add", "op.sub", "cmult"):
            t.add(fn, what, inputs, [x(0), x(1)])
    positive = {"lo": 0.4, "hi": 2.0}
    divisors = {
        "same": [P(3, 2), P(3, 2, **positive)],
        "batch": [X(3), X(3, **positive)],
        "batch left": [X(3), P(3, **positive)],
        "column": [P(3, 2), P(3, **positive)],
        "row": [P(3, 2), P(1, 2, **positive)],
        "one": [P(3, 2), P(1, **positive)],
        "batch one": [X(3), X(1, **positive)],
        "three dims": [P(2, 2, 2), P(2, 1, 2, **positive)],
    }
    for what, inputs in divisors.items():
        t.add("cdiv", what, inputs, [x(0), x(1)])
    for fn in ("op.add", "cmult"):
        t.add(fn, "twice the same", [P(3)], [x(0), x(0)])
    t.add("op.sub", "twice the same", [P(3)], [x(0), x(0)])
    for e in (2, 0.5, -1.5, 3):
        t.add("op.pow", f"number {e}", [P(4, **positive)], [x(0), e])
    t.add("op.pow", "expression", [P(4, **positive), P(1, lo=0.5, hi=2)], [x(0), x(1)])
    t.add("pow", "expression", [P(3, 2, **positive), P(1, lo=0.5, hi=2)], [x(0), x(1)])
    t.add("pow", "batch", [X(3, **positive), P(1, lo=0.5, hi=2)], [x(0), x(1)])
    for fn in ("bmin", "bmax"):
        for what, inputs in {
            "vector": [P(5), P(5)],
            "matrix": [P(3, 2), P(3, 2)],
            "batch": [X(3), X(3)],
        }.items():
            t.add(fn, what, inputs, [x(0), x(1)])


def products(t):
    """Matrix products, affine_transform, dot products."""
    shapes = {
        "mat mat": [P(3, 4), P(4, 2)],
        "mat vec": [P(3, 4), P(4)],
        "vec row": [P(3), P(1, 2)],
        "row vec": [P(1, 4), P(4)],
        "row mat": [P(1, 4), P(4, 3)],
        "scalar": [P(1), P(1)],
        "mat column": [P(3, 4), P(4, 1)],
        "mat vec batch": [P(3, 4), X(4, batch=3)],
        "mat mat batch": [P(3, 4), X(4, 2, batch=3)],
        "batch mat mat": [X(3, 4, batch=3), P(4, 2)],
        "batch mat vec": [X(3, 4, batch=3), P(4)],
        "both": [X(3, 4, batch=3), X(4, 2, batch=3)],
        "both vec": [X(3, 4, batch=3), X(4, batch=3)],
        "outer batch": [X(3), X(1, 2)],
        "row batch": [P(1, 4), X(4, batch=3)],
        "large": [P(19, 33), P(33)],
        "large batch": [P(18, 21), X(21, batch=5)],
    }
    for what, inputs in shapes.items():
        t.add("op.mul", what, inputs, [x(0), x(1)])
    t.add("op.mul", "twice the same", [P(3, 3)], [x(0), x(0)])
    affine = {
        "vector": [P(3), P(3, 4), P(4)],
        "matrix": [P(3, 2), P(3, 4), P(4, 2)],
        "column over matrix": [P(3), P(3, 4), P(4, 2)],
        "two products": [P(3), P(3, 4), P(4), P(3, 2), P(2)],
        "batch x": [P(3), P(3, 4), X(4, batch=3)],
        "batch x matrix": [P(3), P(3, 4), X(4, 2, batch=3)],
        "batch bias": [X(3, batch=3), P(3, 4), X(4, batch=3)],
        "two products batch": [P(3), P(3, 4), X(4, batch=3), P(3, 2), X(2, batch=3)],
        "batch W": [P(3), X(3, 4, batch=3), X(4, batch=3)],
        "bias only": [P(3)],
        "row": [P(1), P(1, 4), P(4)],
        "row batch": [P(1), P(1, 4), X(4, batch=3)],
        "large": [P(20), P(20, 17), X(17, batch=4)],
    }
    for what, inputs in affine.items():
        t.add("affine_transform", what, inputs, [[x(i) for i in range(len(inputs))]])
    t.add(
        "affine_transform",
        "one W twice",
        [P(3), P(3, 2), P(2), P(2)],
        [[x(0), x(1), x(2), x(1), x(3)]],
    )
    dots = {
        "vectors": [P(5), P(5)],
        "matrices": [P(3, 2), P(3, 2)],
        "batch": [X(4), X(4)],
        "batch right": [P(4), X(4)],
        "batch left": [X(4), P(4)],
    }
    for fn in ("dot_product", "squared_distance"):
        for what, inputs in dots.items():
            t.add(fn, what, inputs, [x(0), x(1)])
    t.add("dot_product", "twice the same", [P(4)], [x(0), x(0)])
    t.each("squared_norm", [P(5), P(3, 2), X(4), X(2, 2, batch=3)])
    t.each("l2_norm", [P(5), P(3, 2), X(4)])
    t.add("l1_distance", "vectors", [P(5), P(5)], [x(0), x(1)])
    t.add("huber_distance", "vectors", [P(5, lo=-3, hi=3), P(5)], [x(0), x(1)])
    t.add("trace_of_product", "matrices", [P(3, 2), P(3, 2)], [x(0), x(1)])
    t.add("pairwise_rank_loss", "scalars", [P(1), P(1)], [x(0), x(1)])
    for what, inputs in {
        "matrix": [P(3, 4), P(3)],
        "batch": [X(3, 4), X(3)],
        "batch x": [X(3, 4), P(3)],
    }.items():
        t.add("colwise_add", what, inputs, [x(0), x(1)])


def softmaxes(t):
    """The softmax family and the losses of classes."""
    wide = {"lo": -3.0, "hi": 3.0}
    for fn in ("softmax", "log_softmax"):
        t.each(fn, [P(5, **wide), P(33, **wide), P(4, 3, **wide), X(5, **wide), X(4, 3, **wide)])
        t.add(fn, "large", [P(6, lo=-200, hi=200)], [x(0)])
    t.add("softmax", "d=0", [P(4, 3, **wide)], [x(0)], d=0)
    t.add("softmax", "d=1", [P(4, 3, **wide)], [x(0)], d=1)
    t.add("softmax", "d=1 batch", [X(3, 4, **wide)], [x(0)], d=1)
    for v in (0, 3, 4):
        t.add("pickneglogsoftmax", f"{v}", [P(5, **wide)], [x(0), v])
        t.add("hinge", f"{v}", [P(5, **wide)], [x(0), v])
        t.add("hinge", f"{v} margin", [P(5, **wide)], [x(0), v, 2.5])
    t.add("pickneglogsoftmax", "long", [P(35, **wide)], [x(0), 20])
    t.add("pickneglogsoftmax", "large", [P(6, lo=-200, hi=200)], [x(0), 2])
    t.add("pickneglogsoftmax_batch", "3", [X(5, batch=3, **wide)], [x(0), [4, 0, 2]])
    t.add("hinge_batch", "batch 3", [X(5, batch=3, **wide)], [x(0), [4, 0, 2]])
    t.add("hinge_batch", "batch 3 small margin", [X(5, batch=3, **wide)], [x(0), [4, 0, 2], 0.5])
    t.add("hinge_dim", "columns", [P(4, 3, **wide)], [x(0), [1, 0, 3]])
    inside = {"lo": 0.1, "hi": 0.9}
    t.add("binary_log_loss", "scalar", [P(1, **inside), P(1, **inside)], [x(0), x(1)], no_grad=(1,))
    t.add("binary_log_loss", "vector", [P(5, **inside), P(5, **inside)], [x(0), x(1)], no_grad=(1,))
    for n in (1, 2, 3):
        refs = [x(i) for i in range(n)]
        t.add("logsumexp", f"{n} vectors", [P(4, **wide)] * n, [refs])
        t.add("logsumexp", f"{n} batches", [X(3, **wide)] * n, [refs])
    t.add("logsumexp", "scalars", [P(1, **wide)] * 4, [[x(i) for i in range(4)]])
    t.add("logsumexp_dim", "columns", [P(4, 3, **wide)], [x(0)], d=0)
    t.add("logsumexp_dim", "vector", [P(4, **wide)], [x(0)], d=0)
    t.add("logsumexp_dim", "square d=1", [P(3, 3, **wide)], [x(0)], d=1)


def sums(t):
    """Sums, means, extremes, lists of expressions."""
    for fn in ("sum_elems", "mean_elems"):
        t.each(fn, [P(5), P(3, 2), X(4), X(2, 3)])
    t.add("sum_elems", "three dims", [P(2, 3, 2)], [x(0)])
    for fn in ("sum_batches", "mean_batches"):
        t.each(fn, [X(4), X(2, 3, batch=3), X(1, batch=4), P(3)])
    for fn in ("std_elems",):
        t.each(fn, [P(5), X(4)])
    t.each("std_batches", [X(4, batch=3)])
    for r in (1, 2, 3):
        t.add("moment_elems", f"{r}", [P(5)], [x(0), r])
        t.add("moment_batches", f"{r}", [X(3, batch=3)], [x(0), r])
    for n in (1, 2, 3):
        refs = [x(i) for i in range(n)]
        for fn in ("esum", "average"):
            t.add(fn, f"{n} vectors", [P(4)] * n, [refs])
            t.add(fn, f"{n} matrices", [P(2, 3)] * n, [refs])
            t.add(fn, f"{n} batches", [X(3)] * n, [refs])
        t.add("emax", f"{n} vectors", [P(4)] * n, [refs])
        t.add("emax", f"{n} batches", [X(3)] * n, [refs])
    t.add("esum", "mixed batch", [P(3), X(3), P(3)], [[x(0), x(1), x(2)]])
    t.add("esum", "one four times", [P(3)], [[x(0)] * 4])
    for d in ([0], [1]):
        t.add("sum_dim", f"matrix {d}", [P(3, 4)], [x(0), d])
        t.add("sum_dim", f"batch {d}", [X(3, 4)], [x(0), d])
        t.add("mean_dim", f"matrix {d}", [P(3, 4)], [x(0), d, False])
        t.add("mean_dim", f"with batch {d}", [X(3, 4)], [x(0), d, True])
        t.add("std_dim", f"matrix {d}", [P(3, 4)], [x(0), d, False])
        t.add("moment_dim", f"matrix {d}", [P(3, 4)], [x(0), d, 2, False])
    for d in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        t.add("sum_dim", f"three dims {d}", [P(2, 3, 4)], [x(0), d])
    t.add("sum_dim", "all", [P(3, 4)], [x(0), [0, 1]])
    t.add("sum_dim", "only batch", [X(3, 2)], [x(0), []], b=True)
    t.add("sum_dim", "with batch", [X(3, 2)], [x(0), [0]], b=True)
    for d in (0, 1):
        for fn in ("max_dim", "min_dim"):
            t.add(fn, f"matrix {d}", [P(3, 4, apart=True)], [x(0), d])
            t.add(fn, f"batch {d}", [X(3, 4, apart=True)], [x(0), d])
        t.add("cumsum", f"matrix {d}", [P(3, 4)], [x(0), d])
    for d in (0, 1, 2):
        t.add("max_dim", f"three dims {d}", [P(2, 3, 2, apart=True)], [x(0), d])
    t.add("max_dim", "vector", [P(5, apart=True)], [x(0)])
    t.add("min_dim", "vector", [P(5, apart=True)], [x(0)])
    t.add("kmax_pooling", "rows", [P(2, 5, apart=True)], [x(0), 3, 1])
    t.add("layer_norm", "vector", [P(5), P(5), P(5)], [x(0), x(1), x(2)])
    t.add("weight_norm", "matrix", [P(3, 2), P(1)], [x(0), x(1)])


def shapes(t):
    """Concatenation, selection, reshape, transpose, lookup, slices."""
    for n in (1, 2, 3):
        refs = [x(i) for i in range(n)]
        for d in (0, 1):
            t.add("concatenate", f"{n} matrices d={d}", [P(2, 3)] * n, [refs], d=d)
            t.add("concatenate", f"{n} batches d={d}", [X(2, 3)] * n, [refs], d=d)
        t.add("concatenate", f"{n} vectors", [P(3)] * n, [refs])
        t.add("concatenate_cols", f"{n} vectors", [P(3)] * n, [refs])
        t.add("concatenate_cols", f"{n} batches", [X(3)] * n, [refs])
        t.add("concatenate", f"{n} of three dims d=2", [P(2, 2, 2)] * n, [refs], d=2)
        t.add("concatenate_to_batch", f"{n} vectors", [P(3)] * n, [refs])
    t.add("concatenate", "unequal", [P(2), P(4), P(1)], [[x(0), x(1), x(2)]])
    t.add("concatenate", "unequal rows", [P(2, 2), P(1, 2)], [[x(0), x(1)]])
    t.add("concatenate", "mixed batch", [P(2), X(3)], [[x(0), x(1)]])
    t.add("concatenate", "one twice", [P(2), P(3)], [[x(0), x(1), x(0)]])
    t.add("concatenate", "vectors d=1", [P(3), P(3)], [[x(0), x(1)]], d=1)
    t.add("concatenate_cols", "vector and matrix", [P(3), P(3, 2)], [[x(0), x(1)]])
    t.add("concatenate_cols", "mixed batch", [P(3), X(3)], [[x(0), x(1)]])
    t.add("concatenate_to_batch", "batches", [X(3), X(3, batch=3)], [[x(0), x(1)]])
    for i in (0, 2):
        t.add("pick", f"vector {i}", [P(4)], [x(0), i])
        t.add("pick", f"row {i}", [P(4, 3)], [x(0), i, 0])
        t.add("pick", f"column {i}", [P(4, 3)], [x(0), i, 1])
        t.add("pick", f"batch {i}", [X(3)], [x(0), i])
    for d in (0, 1, 2):
        t.add("pick", f"three dims {d}", [P(2, 3, 2)], [x(0), 1, d])
    t.add("pick", "keyword", [P(4, 3)], [x(0)], index=1, dim=1)
    t.add("pick_batch", "vector", [X(4, batch=3)], [x(0), [3, 0, 1]])
    t.add("pick_batch", "rows", [X(4, 2, batch=3)], [x(0), [3, 0, 3]])
    t.add("pick_batch", "columns", [X(2, 4, batch=3)], [x(0), [3, 0, 3], 1])
    t.add("pick_batch", "unbatched", [P(4)], [x(0), [3, 0, 3]])
    t.add("pick_range", "vector", [P(6)], [x(0), 1, 4])
    t.add("pick_range", "rows", [P(4, 3)], [x(0), 1, 3])
    t.add("pick_range", "columns", [P(4, 3)], [x(0), 1, 3, 1])
    t.add("pick_range", "batch", [X(5)], [x(0), 0, 2])
    t.add("pickrange", "old name", [P(6)], [x(0), 1, 4])
    t.add("pick_batch_elem", "1", [X(3, batch=3)], [x(0), 1])
    t.add("pick_batch_elems", "2", [X(3, batch=3)], [x(0), [2, 0]])
    t.add("select_rows", "repeated", [P(4, 3)], [x(0), [2, 0, 2]])
    t.add("select_cols", "repeated", [P(3, 4)], [x(0), [2, 0, 2]])
    t.add("strided_select", "rows and columns", [P(5, 4)], [x(0), [2, 1], [0, 1], [5, 3]])
    for to in ([6], [3, 2], [2, 3], [1, 6], [2, 1, 3], [6, 1]):
        t.add("reshape", f"matrix to {to}", [P(2, 3)], [x(0), {"tuple": to}])
    t.add("reshape", "batch kept", [X(2, 3)], [x(0), {"tuple": [6]}], batch_size=2)
    t.add("reshape", "batch by size", [X(2, 3)], [x(0), {"tuple": [3, 2]}])
    t.add("reshape", "into batch", [P(6)], [x(0), {"tuple": [2]}], batch_size=3)
    t.add("reshape", "out of batch", [X(3)], [x(0), {"tuple": [3, 2]}])
    t.each("transpose", [P(3, 2), P(4), P(1, 4), X(3, 2), X(4)])
    for dims in ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        t.add("transpose", f"{dims}", [P(2, 3, 4)], [x(0), dims])
    t.add("transpose", "batch [2, 0, 1]", [X(2, 3, 2)], [x(0), [2, 0, 1]])
    for i in (0, 3):
        t.add("lookup", f"row {i}", [T(5, 3)], [x(0), i])
    t.add("lookup", "matrix rows", [T(3, 2, 2)], [x(0), 1])
    t.add("lookup", "update false", [T(5, 3)], [x(0), 1, False], fake_gradient=True)
    t.add("lookup_batch", "repeated", [T(5, 3)], [x(0), [4, 0, 4]])
    t.add("lookup_batch", "matrix rows", [T(3, 2, 2)], [x(0), [2, 0]])
    t.add("op.getitem", "table row", [T(5, 3)], [x(0), 2])
    t.add("tanh", "whole table", [T(4, 3)], [x(0)])
    for i in (0, 2, -1):
        t.add("op.getitem", f"vector [{i}]", [P(4)], [x(0), i])
        t.add("op.getitem", f"matrix [{i}]", [P(4, 3)], [x(0), i])
        t.add("op.getitem", f"batch [{i}]", [X(4)], [x(0), i])
    t.add("op.getitem", "three dims [1]", [P(2, 3, 2)], [x(0), 1])
    slices = {
        "[1:3]": cut(1, 3),
        "[:2]": cut(None, 2),
        "[1:]": cut(1, None),
        "[::2]": cut(None, None, 2),
        "[1:4:2]": cut(1, 4, 2),
    }
    for what, s in slices.items():
        t.add("op.getitem", f"vector {what}", [P(5)], [x(0), s])
        t.add("op.getitem", f"matrix {what}", [P(5, 2)], [x(0), s])
        t.add("op.getitem", f"batch {what}", [X(5)], [x(0), s])
    t.add("op.getitem", "matrix [1:3, 0:2]", [P(4, 3)], [x(0), {"tuple": [cut(1, 3), cut(0, 2)]}])
    t.add("op.getitem", "batch [1:3, 0:2]", [X(4, 3)], [x(0), {"tuple": [cut(1, 3), cut(0, 2)]}])
    t.add("op.getitem", "batch axis [1:3, 0:1]", [X(4)], [x(0), {"tuple": [cut(1, 3), cut(0, 1)]}])
    t.add(
        "op.getitem",
        "strides [::2, 1::2]",
        [P(5, 4)],
        [x(0), {"tuple": [cut(None, None, 2), cut(1, None, 2)]}],
    )


def more(t):
    """Linear algebra, convolution and the rarer losses."""
    t.add("inverse", "3", [P(3, 3)], [x(0)])
    t.add("logdet", "2", [P(2, 2, lo=0.1)], [x(0)])
    for fn in ("circ_conv", "circ_corr"):
        t.add(fn, "5", [P(5), P(5)], [x(0), x(1)])
    t.add("contract3d_1d_bias", "small", [P(2, 3, 2), P(2), P(2, 3)], [x(0), x(1), x(2)])
    t.add("contract3d_1d_1d", "small", [P(2, 3, 2), P(2), P(3)], [x(0), x(1), x(2)])
    t.add(
        "contract3d_1d_1d_bias", "small", [P(2, 3, 2), P(2), P(3), P(2)], [x(i) for i in range(4)]
    )
    t.add("sparsemax", "6", [P(6)], [x(0)])
    t.add("poisson_loss", "scalar", [P(1)], [x(0), 2], no_grad=(0,))
    t.add("fold_rows", "4 rows", [P(4, 3)], [x(0), 2])
    t.add("kmh_ngram", "2", [P(3, 4)], [x(0), 2])
    t.add("filter1d_narrow", "two filters", [P(3, 5), P(3, 2, 2)], [x(0), x(1)])
    image, filters = P(5, 4, 2), P(3, 2, 2, 3)
    for stride in ([1, 1], [2, 1]):
        for valid in (True, False):
            what = f"stride {stride} {'valid' if valid else 'same'}"
            t.add("conv2d", what, [image, filters], [x(0), x(1), stride, valid])
            t.add("conv2d", what + " batch", [X(5, 4, 2), filters], [x(0), x(1), stride, valid])
            t.add("conv2d_bias", what, [image, filters, P(3)], [x(0), x(1), x(2), stride, valid])
            t.add("maxpooling2d", what, [P(5, 4, 2, apart=True)], [x(0), [2, 2], stride, valid])


def cells(t):
    """The fused LSTM nodes."""
    for batch, make in ((1, P), (3, lambda *d: X(*d, batch=3))):
        t.add(
            "vanilla_lstm_gates",
            f"batch {batch}",
            [make(3), make(2), P(8, 3), P(8, 2), P(8)],
            [x(i) for i in range(5)],
        )
        t.add("vanilla_lstm_c", f"batch {batch}", [make(2), make(8)], [x(0), x(1)])
        t.add("vanilla_lstm_h", f"batch {batch}", [make(2), make(8)], [x(0), x(1)])


def cases():
    """(cases of ops.json, cases of ops_more.json)."""
    t = Table()
    elementwise(t)
    first = FIRST | {c["fn"] for c in t.cases}
    for family in (arithmetic, products, softmaxes, sums, shapes, more, cells):
        family(t)
    return ([c for c in t.cases if c["fn"] in first], [c for c in t.cases if c["fn"] not in first])
