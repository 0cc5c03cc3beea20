"""Cases of random.json, trainers.json, lstm.json, rnn.json and xor.json (without results)."""

import random
import zlib


def rng_of(name):
    """A generator that depends on the case's name only, so that adding a case changes no other."""
    return random.Random(zlib.crc32(name.encode()))


def uniform(rng, n, lo=-1.0, hi=1.0, digits=3):
    """N numbers of [lo, hi) with few digits: short in the file."""
    return [round(rng.uniform(lo, hi), digits) for _ in range(n)]


def size(dim):
    """The product of the dims."""
    n = 1
    for d in dim:
        n *= d
    return n


# ---- random ----------------------------------------------------------------------------


def random_cases():
    """Initial values of every initialiser and draws of the random nodes, alone and in sequence."""

    def parameters(dim, init=None, **kwargs):
        return {"kind": "parameters", "dim": list(dim), "init": init, "kwargs": kwargs}

    def table(rows, dim, init=None, **kwargs):
        return {
            "kind": "lookup_parameters",
            "rows": rows,
            "dim": None if dim is None else list(dim),
            "init": init,
            "kwargs": kwargs,
        }

    def new(name, *args):
        return {"class": name, "args": list(args)}

    def node(fn, dim, *args, on_ones=0, **kwargs):
        return {
            "kind": "node",
            "fn": fn,
            "args": [{"tuple": list(dim)}, *args],
            "on_ones": on_ones,
            "kwargs": kwargs,
        }

    single = {
        "glorot-1d": parameters((5,)),
        "glorot-2d": parameters((4, 3)),
        "glorot-row": parameters((1, 8)),
        "glorot-3d": parameters((2, 3, 2)),
        "glorot-4d": parameters((2, 2, 3, 2)),
        "glorot-5d": parameters((2, 1, 2, 1, 2)),
        "glorot-string": parameters((3, 2), "glorot"),
        "glorot-gain": parameters((4, 3), new("GlorotInitializer", False, 0.5)),
        "glorot-scalar": parameters((1,)),
        "uniform-string": parameters((4, 2), "uniform", scale=0.3),
        "uniform-class": parameters((4, 2), new("UniformInitializer", 0.3)),
        "normal-string": parameters((5, 3), "normal", mean=0.5, std=2.0),
        "normal-string-default": parameters((7,), "normal"),
        "normal-class": parameters((5, 3), new("NormalInitializer", 0.5, 2.0)),
        "normal-class-default": parameters((3,), new("NormalInitializer")),
        "he": parameters((4, 3), "he"),
        "he-1d": parameters((6,), "he"),
        "saxe-2": parameters((2, 2), new("SaxeInitializer")),
        "saxe-4": parameters((4, 4), new("SaxeInitializer")),
        "saxe-scale": parameters((3, 3), new("SaxeInitializer", 0.5)),
        "const-number": parameters((2, 2), 0.25),
        "const-class": parameters((3,), new("ConstInitializer", -1.5)),
        "identity-string": parameters((3, 3), "identity"),
        "identity-class": parameters((2, 2), new("IdentityInitializer")),
        "table-default": table(6, (3,)),
        "table-default-matrix-rows": table(3, (2, 2)),
        "table-glorot-is-lookup": table(6, (3,), new("GlorotInitializer", True)),
        "table-of-one-number": table(5, None),
        "table-of-one-number-is-lookup": table(5, None, new("GlorotInitializer", True)),
        "glorot-is-lookup-2d": parameters((4, 3), new("GlorotInitializer", True)),
        "glorot-is-lookup-3d": parameters((2, 3, 2), new("GlorotInitializer", True, 0.5)),
        "glorot-is-lookup-5d": parameters((2, 1, 2, 3, 2), new("GlorotInitializer", True)),
        "table-uniform": table(4, (3,), "uniform", scale=0.1),
        "table-normal": table(4, (3,), "normal", mean=0.0, std=0.1),
        "table-normal-class": table(4, (3,), new("NormalInitializer", 0.0, 0.1)),
        "table-const": table(3, (2,), 0.5),
        "random_normal": node("random_normal", (3,)),
        "random_normal-moments": node("random_normal", (3, 2), mean=1.0, stddev=0.5),
        "random_normal-batch": node("random_normal", (3,), batch_size=3),
        "random_uniform": node("random_uniform", (5,), -2.0, 3.0),
        "random_uniform-batch": node("random_uniform", (2, 2), 0.0, 1.0, batch_size=2),
        "random_bernoulli": node("random_bernoulli", (16,), 0.3),
        "random_bernoulli-scale": node("random_bernoulli", (8,), 0.5, 2.0, batch_size=2),
        "random_gumbel": node("random_gumbel", (5,)),
        "dropout": node("dropout", (16,), 0.25, on_ones=1),
        "dropout-batch": node("dropout", (5,), 0.5, on_ones=3),
        "dropout_dim": node("dropout_dim", (4, 3), 0, 0.5, on_ones=1),
        "dropout_batch": node("dropout_batch", (3,), 0.5, on_ones=6),
        "block_dropout": node("block_dropout", (3,), 0.5, on_ones=1),
        "noise": node("noise", (6,), 0.5, on_ones=1),
    }
    sequences = {
        "sequence-tutorial": [parameters((8, 2)), parameters((1, 8)), parameters((8,))],
        "sequence-normals-of-odd-size": [
            parameters((3,), "normal"),
            parameters((3,), "normal"),
            parameters((2,)),
        ],
        "sequence-mixed": [
            table(3, (2,)),
            parameters((2, 2), "normal", std=0.1),
            node("random_normal", (3,)),
            parameters((3,), 0.0),
            node("dropout", (8,), 0.5, on_ones=1),
            parameters((2, 2)),
        ],
    }
    cases = [
        {"id": f"{name}@{seed}", "seed": seed, "draws": [draw]}
        for name, draw in single.items()
        for seed in (1, 5, 20251)
    ]
    cases += [
        {"id": f"{name}@{seed}", "seed": seed, "draws": draws}
        for name, draws in sequences.items()
        for seed in (7, 4294967291)
    ]
    return cases


# ---- trainers --------------------------------------------------------------------------


def trainer_cases():
    """(cases of SimpleSGD and Adam, cases of the other trainers)."""

    def case(name, trainer, scale=0.5, clip=None, weight_decay=0.0, sparse=True, **kwargs):
        rng = rng_of("trainer " + name)
        params = [{"dim": d, "v": uniform(rng, size(d))} for d in ([3, 2], [4])]
        tables = [{"rows": 5, "dim": [3], "v": uniform(rng, 15)}]
        steps = []
        for t in range(20):
            # The second parameter is unused in every third step, the table in every fifth; one row
            # is used twice.
            rows = [] if t % 5 == 4 else [rng.randrange(5) for _ in range(2)]
            rows += rows[:1] if t % 4 == 1 else []
            steps.append(
                {
                    "params": [
                        uniform(rng, 6, -scale, scale),
                        None if t % 3 == 2 else uniform(rng, 4, -scale, scale),
                    ],
                    "rows": [[0, r, uniform(rng, 3, -scale, scale)] for r in rows],
                }
            )
        return {
            "id": name,
            "trainer": trainer,
            "kwargs": kwargs,
            "clip": clip,
            "weight_decay": weight_decay,
            "sparse_updates": sparse,
            "params": params,
            "tables": tables,
            "every": 5,
            "steps": steps,
        }

    cases = []
    for short, trainer in (("sgd", "SimpleSGDTrainer"), ("adam", "AdamTrainer")):
        cases += [
            case(f"{short}", trainer),
            case(f"{short}-default-clip-hits", trainer, scale=6.0),
            case(f"{short}-clip-0.5-hits", trainer, clip=0.5),
            case(f"{short}-clip-off", trainer, scale=6.0, clip=0.0),
            case(f"{short}-clip-sometimes", trainer, clip=1.0),
            case(f"{short}-weight-decay", trainer, weight_decay=0.01),
            case(f"{short}-weight-decay-rescaled", trainer, weight_decay=0.1),
            case(f"{short}-dense-updates", trainer, sparse=False),
        ]
    cases += [
        case("sgd-rate", "SimpleSGDTrainer", learning_rate=0.5),
        case("adam-rates", "AdamTrainer", alpha=0.01, beta_1=0.8, beta_2=0.99, eps=1e-6),
    ]
    others = {
        "CyclicalSGDTrainer": {
            "learning_rate_min": 0.01,
            "learning_rate_max": 0.1,
            "step_size": 3,
            "gamma": 0.9,
        },
        "MomentumSGDTrainer": {},
        "AdagradTrainer": {},
        "AdadeltaTrainer": {},
        "RMSPropTrainer": {},
        "AmsgradTrainer": {"alpha": 0.01},
    }
    rest = []
    for trainer, kwargs in others.items():
        rest += [
            case(trainer, trainer, **kwargs),
            case(f"{trainer}-clip-hits", trainer, scale=6.0, **kwargs),
        ]
    return cases, rest


# ---- recurrent builders ----------------------------------------------------------------


def rnn_cases(shapes_of):
    """(VanillaLSTM and BiRNN, other builders); `shapes_of(case)` asks the oracle for the
    parameters' shapes."""

    def case(name, builder, sizes, method, batch=1, vecs=0, steps=4, factory=None, **kwargs):
        rng = rng_of("rnn " + name)
        c = {
            "id": name,
            "builder": builder,
            "sizes": list(sizes),
            "kwargs": kwargs,
            "method": method,
        }
        if factory:
            c["factory"] = factory
        c["params"] = [{"dim": d, "v": uniform(rng, size(d), -0.6, 0.6)} for d in shapes_of(c)]
        c["xs"] = [
            {"dim": [sizes[1]], "batch": batch, "v": uniform(rng, sizes[1] * batch)}
            for _ in range(steps)
        ]
        c["vecs"] = [
            {"dim": [sizes[2]], "batch": batch, "v": uniform(rng, sizes[2] * batch)}
            for _ in range(vecs)
        ]
        c["w"] = [uniform(rng, sizes[2] * batch) for _ in range(steps)]
        return c

    lstm = []
    for layers in (1, 2):
        for batch in (1, 3):
            for method in ("add_input", "add_inputs", "transduce"):
                lstm.append(
                    case(
                        f"lstm-{layers}x{batch}-{method}",
                        "VanillaLSTMBuilder",
                        (layers, 3, 4),
                        method,
                        batch,
                    )
                )
            lstm.append(
                case(
                    f"lstm-{layers}x{batch}-vecs-c-and-h",
                    "VanillaLSTMBuilder",
                    (layers, 3, 4),
                    "add_inputs",
                    batch,
                    vecs=2 * layers,
                )
            )
        lstm.append(
            case(
                f"lstm-{layers}-vecs-c",
                "VanillaLSTMBuilder",
                (layers, 3, 4),
                "add_inputs",
                vecs=layers,
            )
        )
    lstm.append(
        case("lstm-forget-bias-0", "VanillaLSTMBuilder", (1, 3, 4), "add_inputs", forget_bias=0.0)
    )
    lstm.append(case("lstm-one-step", "VanillaLSTMBuilder", (2, 3, 4), "transduce", steps=1))
    for layers in (1, 2):
        for batch in (1, 3):
            for method in ("add_inputs", "transduce"):
                lstm.append(
                    case(
                        f"birnn-{layers}x{batch}-{method}",
                        "BiRNNBuilder",
                        (layers, 3, 4),
                        method,
                        batch,
                        factory="VanillaLSTMBuilder",
                    )
                )
    rest = []
    for builder in (
        "SimpleRNNBuilder",
        "GRUBuilder",
        "CompactVanillaLSTMBuilder",
        "CoupledLSTMBuilder",
    ):
        for batch in (1, 3):
            rest.append(case(f"{builder}-2x{batch}", builder, (2, 3, 4), "add_inputs", batch))
        states = 1 if builder in ("SimpleRNNBuilder", "GRUBuilder") else 2
        rest.append(case(f"{builder}-vecs", builder, (2, 3, 4), "add_inputs", vecs=2 * states))
        rest.append(
            case(f"birnn-of-{builder}", "BiRNNBuilder", (1, 3, 4), "transduce", factory=builder)
        )
    for batch in (1, 3):
        rest.append(
            case(
                f"layer-normalised-lstm-2x{batch}",
                "VanillaLSTMBuilder",
                (2, 3, 4),
                "add_inputs",
                batch,
                ln_lstm=True,
            )
        )
    return lstm, rest


# ---- xor -------------------------------------------------------------------------------


def xor_cases():
    """The tutorial's two programs, seeds 1 to 20."""
    return [
        {"id": f"{graph}@{seed}", "graph": graph, "seed": seed, "examples": 8000}
        for graph in ("static", "dynamic")
        for seed in range(1, 21)
    ]
