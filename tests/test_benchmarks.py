"""The benchmarks run, and print what they promise. What they measure is not tested: times are no
tests.

How long: about ten seconds; with PyTorch and JAX, whose interpreters the environment names as
run.py says, four minutes. Those marked slow compile kernels, half a minute.
"""

import argparse
import importlib
import inspect
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from processes import run_python

import dist_dynet as dy

FOLDER = Path(__file__).parent.parent / "benchmarks"
COMPILER = (os.environ.get("CC") or "cc").split()
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER[0]), reason="needs a C compiler")
NUMBER = r"[\d.]+(?:e[+-]\d+)?"


@pytest.fixture
def programs(monkeypatch):
    """import_module() for the benchmarks' modules, also where another module of that name is
    there."""
    monkeypatch.syspath_prepend(str(FOLDER / "tasks"))
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        found = sys.modules.get(name)
        if found is not None and not Path(found.__file__).is_relative_to(FOLDER):
            monkeypatch.delitem(sys.modules, name)
        return importlib.import_module(name)

    return load


SOON_COMPILED = {
    "DIST_DYNET_CFLAGS": "-O0 -UDN_TARGET_CLONES",
    "DIST_DYNET_CLONES": "0",
}
"""Kernels for one kind of processor, not optimized: what is printed has the same form."""


def printed(program, *arguments, **environment):
    """What a benchmark prints, beside no peers."""
    environment |= {
        "DIST_DYNET_BENCH_DYNET": "",
        "DIST_DYNET_BENCH_TORCH": "",
        "DIST_DYNET_BENCH_JAX": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "",
    }
    result = run_python(str(FOLDER / program), *arguments, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_run_prints_a_line_per_task():
    table = printed("run.py", "xor", "mlp_64", "attention_16", "--rounds", "1", "--seconds", "0.02")
    assert (
        len(re.findall(rf"\| (?:xor|mlp_64|attention_16), \w+/s +\| +{NUMBER} k? ", table)) == 3
    ), table
    assert len(re.findall(rf"\| (?:mlp_64|attention_16) +\| dist_dynet +\| {NUMBER} ", table)) == 2
    assert re.search(rf"Peak of .*: float32 {NUMBER}", table), table


# ---- the table of peers ----------------------------------------------------------------


def test_every_peer_has_a_column_a_toolkit_and_a_line_in_the_documentation(programs):
    run = programs("run")
    result = {"unit": "words", "per_cpu_second": 1.0, "first_loss": 1.0}
    table = run.speed_table({"rnnlm": {name: [result] for name in run.PEERS}}, list(run.PEERS))
    columns = [cell.strip() for cell in table.splitlines()[0].split("|")]
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, peer in run.PEERS.items():
        assert name == peer.name
        assert columns.count(peer.shown) == 1
        assert peer.module == run.US or run.TOOLKITS[peer.module].packages
        assert peer.precision in run.ROUNDING
        assert f"| `{name}` | {peer.about} |" in text
    assert all(any(p.module == m for p in run.PEERS.values()) for m in run.TOOLKITS)


def test_every_task_has_a_program_and_a_line_in_the_documentation(programs):
    run, text = programs("run"), (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, task in run.TASKS.items():
        assert (FOLDER / "tasks" / f"{task.program}.py").is_file()
        assert f"`{name}`" in text


def test_peers_options_are_known_to_the_tasks(programs):
    run, common = programs("run"), programs("common")
    parser = argparse.ArgumentParser()
    for option, how in common.TWIN_OPTIONS.items():
        parser.add_argument(option, **how)
    for peer in run.PEERS.values():
        args = parser.parse_args(peer.options)  # an unknown one ends the test
        if peer.module != run.US:
            assert (args.precision != "float32") == (peer.precision == run.BF16)
    turns = programs("turns")
    assert (turns.NO_TWIN, turns.MY_TURN) == (common.NO_TWIN, common.MY_TURN)


def test_precision_that_the_package_lacks_leaves_the_peer_out(programs):
    fault = programs("run").fault_of(sys.executable, "dist_dynet_bf16")
    known = "precision" in inspect.signature(dy.init).parameters
    assert ("precision" not in fault) == known, fault


def test_task_without_a_twin_for_the_peer_is_left_out(programs):
    run = programs("run")
    with pytest.raises(run.NoTwinError, match="xor has no twin for torch"):
        run.program_of(sys.executable, "xor", "torch_compile").run()
    with pytest.raises(run.NoTwinError, match="attention has no twin for jax"):
        run.program_of(sys.executable, "attention", "jax").run()


TURNS = """
import json, sys
print("another line of a library")
if "--fails" in sys.argv:
    print("no such file", file=sys.stderr)
    sys.exit(int(sys.argv[2]))
turns = []
while True:
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2])
    print("@", flush=True)
    line = sys.stdin.readline()
    if not line:
        break
    turns.append(float(line))
print(json.dumps(turns))
"""


def test_programs_take_turns(programs, tmp_path):
    turns, order = programs("turns"), tmp_path / "order"
    program = tmp_path / "program.py"
    program.write_text(TURNS)

    def named(name, *options):
        command = (sys.executable, str(program), str(order), name, *options)
        return turns.Program(name, command, dict(os.environ))

    found = turns.take_turns({name: named(name) for name in "abc"}, 4 * turns.TURN)
    assert found == dict.fromkeys("abc", [turns.TURN] * 4)
    # each says at once when it is there, and after each turn
    assert order.read_text() == "abc" + "abc" + "bca" + "cab" + "abc"
    order.unlink()
    found = turns.take_turns({"a": named("a"), "1": named("1", "--fails")}, 0.1)
    assert found["a"] == [0.1]
    assert str(found["1"]) == "1 ended with status 1:\nno such file"
    (no_twin,) = turns.take_turns({0: named("3", "--fails")}, 0.1).values()
    assert isinstance(no_twin, turns.NoTwinError)


def test_first_losses_that_differ_are_named(programs):
    run = programs("run")
    right, near = (9.0, run.FLOAT32), (9.0 * (1 + run.ROUNDING[run.BF16]), run.BF16)
    assert run.unlike({"c": near, "a": right, "b": (9.0005, run.FLOAT32)}) == []
    assert run.unlike({"c": (9.1, run.BF16), "a": right, "b": (9.002, run.FLOAT32)}) == [
        "c 9.1, a 9",
        "b 9.002, a 9",
    ]
    assert len(run.unlike({"a": right, "b": (float("nan"), run.BF16)})) == 1


def test_run_fails_if_a_peer_starts_from_another_loss(programs, monkeypatch, capsys):
    run = programs("run")
    result = {"unit": "words", "per_cpu_second": 1.0, "loss": 2.0, "peak_mib": 1.0}
    losses = {"dist_dynet": 9.0, "torch": 9.3}
    monkeypatch.setattr(run, "fault_of", lambda python, peer: "")
    monkeypatch.setattr(run, "peaks", lambda pythons: {})
    monkeypatch.setattr(
        run,
        "take_turns",
        lambda programs, _: {p: {**result, "first_loss": losses[p]} for p in programs},
    )
    monkeypatch.setattr(sys, "argv", ["run.py", "rnnlm", "--peers", "dist_dynet", "torch"])
    assert run.main() == 1
    assert "rnnlm: another first loss: PyTorch 9.3, dist_dynet 9" in capsys.readouterr().err
    losses["torch"] = 9.0
    assert run.main() == 0


def test_share_of_the_peak_is_that_of_the_precision(programs):
    run = programs("run")
    result = {
        "unit": "words",
        "per_cpu_second": 2000.0,
        "operations": 1e7,
        "loss": 2.0,
        "peak_mib": 1.0,
        "compile_seconds": 3.0,
        "compile_wall_seconds": 4.0,
    }
    results = {"rnnlm": {"torch_compile": [result], "torch_bf16": [result]}}
    lines = run.detail_table(results, {run.FLOAT32: 40.0, run.BF16: 200.0}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[2:6]] for line in lines[2:]]
    assert cells == [
        ["PyTorch compile", "20", "50 %", "3.0 (4.0)"],
        ["PyTorch bf16", "20", "10 %", "3.0 (4.0)"],
    ]


def test_tables_of_the_documents_come_from_both_programs_results(programs, tmp_path, monkeypatch):
    run, autobatch, tables = programs("run"), programs("autobatch"), programs("document_tables")
    assert tables.ABOUT.keys() == run.TASKS.keys()
    assert tables.ABOUT_PROGRAMS.keys() <= autobatch.TASKS.keys()

    def runs(speed):
        counts = {"nodes": 10, "schedule_seconds": 3e-7}
        return [
            {
                "unit": "words",
                "per_cpu_second": speed,
                "loss": 1,
                "peak_mib": 1,
                "autobatch": counts,
            }
        ]

    tasks = {"rnnlm_16": {name: runs(10.0 + i) for i, name in enumerate(run.PEERS)}}
    text = tables.readme_table(tasks).splitlines()[-1]
    assert [cell.strip().split(" (")[0] for cell in text.split("|")[1:4]] == [
        tables.ABOUT["rnnlm_16"],
        "0.83",
        "0.77",
    ]
    assert "0.56 (0.56-0.56) JAX " in text and "0.58 (0.58-0.58) JAX bf16" in text
    programs_results = {
        "batch_rnnlm 16": {
            "dist_dynet off": runs(4.0),
            "dist_dynet auto": runs(6.0),
            "dyNET38 off": runs(1.0),
            "dyNET38 on": runs(2.0),
            "PyTorch": runs(3.0),
        }
    }
    for table, cells in (
        (
            tables.readme_programs_table,
            ["language model 16", "3.00 (3.00-3.00)", "2.00 (2.00-2.00)"],
        ),
        (
            tables.autobatching_table,
            [
                "language model 16",
                "4",
                "6",
                *(f"{r} ({r}-{r})" for r in ("1.50", "3.00", "2.00")),
                "30",
            ],
        ),
    ):
        line = table(programs_results).splitlines()[-1]
        assert [cell.strip() for cell in line.split("|")[1:-1]] == cells


# ---- floating-point operations ---------------------------------------------------------


LEAVES = ("parameter", "lookup", "lookup_batch")
"""What asks for a gradient."""


def operations_of(graph_dump):
    """Floating-point operations of the matrix products of a graph, forward and backward, by the
    shapes of its nodes, as dump_cg() writes them."""
    shapes, trained, total = {}, {}, 0

    def product(rows, inner, columns, *factors):
        return 2 * rows * inner * columns * (1 + sum(trained[name] for name in factors))

    for line in graph_dump.splitlines():
        node, operation, arguments, dims, batch = re.fullmatch(
            r"Node \d+: (v\d+) = (\w+)\((.*)\), \(([\d, ]*)\)(?: x (\d+))?", line
        ).groups()
        inputs = re.findall(r"\bv\d+", arguments)
        shapes[node] = [*map(int, re.findall(r"\d+", dims)), 1][:2], int(batch or 1)
        trained[node] = operation in LEAVES or any(trained[i] for i in inputs)
        if operation == "matmul":
            inputs = [None, *inputs]
        if operation in ("matmul", "affine_transform"):
            for a, b in zip(inputs[1::2], inputs[2::2], strict=True):
                (rows, inner), _ = shapes[a]
                (_, columns), count = shapes[b]
                total += product(rows, inner, columns * count, a, b)
        elif operation == "lstm":
            steps, has_state = map(int, re.search(r"\[(\d+), (\d)\]", arguments).groups())
            wx, wh, _, *rest = inputs
            for x in rest[2 * has_state :]:
                total += product(*shapes[wx][0], shapes[x][1], wx, x)
            for h in [rest[0]] * has_state + rest[:1] * (steps - 1):
                total += product(*shapes[wh][0], shapes[h][1], wh, wh)
    return total


def graph_of_a_step(tmp_path, task, **options):
    """(the dump of the last graph of a step, the step's units)."""
    units, _ = task(dy, argparse.Namespace(**options))()
    dy.dump_cg(tmp_path / "graph", show_values=False, show_gradients=False)
    return (tmp_path / "graph").read_text(encoding="utf-8"), units


@pytest.mark.parametrize("style", ["add_input", "transduce"])
@pytest.mark.parametrize(
    ("name", "sentence"), [("rnnlm", [3, 5, 4]), ("tagger", ([3, 5, 4, 9], [1, 2, 3, 4]))]
)
def test_operations_per_word_are_those_of_the_graph(
    programs, monkeypatch, tmp_path, name, sentence, style
):
    task = programs(name)
    monkeypatch.setattr(task, "corpus", lambda: [sentence])
    graph, words = graph_of_a_step(tmp_path, task.dynet_task, batch=1, style=style)
    assert task.operations() == pytest.approx(operations_of(graph) / words)


def test_operations_per_image_are_those_of_the_graph(programs, tmp_path):
    mlp = programs("mlp")
    graph, images = graph_of_a_step(tmp_path, mlp.dynet_task, batch=3)
    assert images == 3
    assert mlp.operations() == operations_of(graph) / 3


def test_operations_per_example_of_xor_are_those_of_the_graph(programs, tmp_path):
    xor = programs("xor")
    graph, _ = graph_of_a_step(tmp_path, xor.dynet_task)
    assert xor.operations() == operations_of(graph)


def test_operations_per_target_word_are_those_of_the_graph(programs, monkeypatch, tmp_path):
    attention = programs("attention")
    pair = ([3, 5, 4, 7], [2, 6, 1])
    monkeypatch.setattr(attention.MODEL, "data", staticmethod(lambda: iter([pair])))
    graph, words = graph_of_a_step(tmp_path, attention.dynet_task, batch=1)
    assert attention.operations() == pytest.approx(operations_of(graph) / words)


# ---- twins -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--batch=16"]], ids=["one", "batch"])
@pytest.mark.parametrize("program", ["rnnlm", "tagger", "mlp"])
@pytest.mark.parametrize("module", ["torch", "jax"])
@pytest.mark.slow
def test_twins_start_from_our_loss(programs, module, program, options):
    run = programs("run")
    python = os.environ.get(run.TOOLKITS[module].variable) or sys.executable
    if fault := run.fault_of(python, module):
        pytest.skip(f"{module}: {fault}")
    losses = {}
    for peer in run.PEERS.values():
        if peer.module == module or peer.name == run.US:
            interpreter = sys.executable if peer.module == run.US else python
            # one shape to compile: no sentence is longer
            all_options = ("--seconds=0.01", *options, "--bucket=40")
            result = run.program_of(interpreter, program, peer.name, all_options).run()
            losses[peer.name] = result["first_loss"], peer.precision
            compiles = module == "jax" or "compile" in peer.name
            assert ("compile_seconds" in result) == (compiles and peer.name != run.US)
            assert result["operations"] > 0
    padded = module == "torch" and program == "tagger" and options
    assert run.unlike(losses, run.PADDED_READING if padded else run.TOLERANCE) == []


def test_autobatch_prints_each_strategy():
    table = printed(
        "autobatch.py",
        "--rounds",
        "1",
        "--seconds",
        "0.02",
        "--batch",
        "2",
        "--strategies",
        "off",
        "auto",
        "--",
        "batch_rnnlm",
    )
    assert re.search(r"\boff\b", table) and re.search(r"\bauto\b", table), table


def test_calls_prints_a_line_for_each():
    table = printed("calls.py", "--match", "pick", "--rounds", "1", "--most", "0")
    times = rf"{NUMBER}(?: {NUMBER} {NUMBER})?"
    names = ["pick NumPy's 3", "pickneglogsoftmax_batch 64, array", "pick_range (100,) x 32"]
    for name in names:
        assert re.search(rf"^{re.escape(name)} +{times} *$", table, re.M), table


@pytest.mark.slow
@needs_compiler
def test_products_prints_each_way():
    table = printed("products.py", "16x2x8", "--rounds", "1", **SOON_COMPILED)
    for name in ("bf16, plain", "float32", "NumPy, float32"):
        assert re.search(rf"16x2x8 +{name} +{NUMBER} +{NUMBER} +{NUMBER}", table), table


@pytest.mark.slow
@needs_compiler
def test_step_written_by_hand_has_the_loss_of_its_task_and_is_compared_with_it():
    """Another loss would end it."""
    options = ("--beside", "--rounds=1", "--seconds=0.1")
    shown = printed("ceiling/language_model.py", *options, **SOON_COMPILED)
    assert re.fullmatch(
        rf"words/s: task {NUMBER}, C {NUMBER}\ntask / C: {NUMBER} \({NUMBER}-{NUMBER}\)\n", shown
    )


@pytest.mark.parametrize("option", [(), ("--taken",)], ids=["free", "taken"])
def test_threads_prints_speeds_and_a_ratio(option):
    table = printed("threads.py", "mlp_64", "--rounds", "1", "--seconds", "0.5", *option)
    line = re.search(rf"\| mlp_64 \| ([\d,]+) \| ([\d,]+) \| ({NUMBER}) \(", table)
    assert line, table
    assert all(float(n.replace(",", "")) > 0 for n in line.groups())


@pytest.mark.mpi
def test_ranks_prints_efficiency_and_parts():
    pytest.importorskip("mpi4py")
    table = printed("ranks.py", "tagger", "--rounds", "1", "--seconds", "0.05")
    for name in ("efficiency", "lockstep / alone", "barrier / alone"):
        assert float(re.search(rf"{name}: ({NUMBER})", table)[1]) > 0
    parts = re.search(
        rf"parts, ms: computing ({NUMBER}), waiting ({NUMBER}), exchange ({NUMBER}), update"
        rf" ({NUMBER});",
        table,
    )
    assert parts and all(float(ms) > 0 for ms in parts.groups())
