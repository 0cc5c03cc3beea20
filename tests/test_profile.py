"""dy.profile(): what it counts, that it changes nothing, and its file."""

import json
import os
import re
import subprocess
import sys
import threading

import pytest
from processes import PACKAGE, output_of, run_python

import dist_dynet as dy
from dist_dynet._ffi import ffi, lib


def step(m, W, E, autobatching=0):
    dy.renew_cg(autobatching=autobatching)
    losses = [dy.pickneglogsoftmax(W * dy.tanh(E[i]), i % 3) for i in range(6)]
    loss = dy.esum(losses)
    loss.backward()
    return loss.value()


@pytest.fixture
def model():
    m = dy.ParameterCollection()
    return m, m.add_parameters((3, 5)), m.add_lookup_parameters((6, 5))


@pytest.mark.parametrize("autobatching", [0, 1, 2, 3])
def test_profile_counts_calls_and_nodes_and_changes_no_number(model, autobatching):
    m, W, _ = model
    trainer = dy.SimpleSGDTrainer(m)
    plain = step(*model, autobatching)
    gradient = W.grad_as_array()
    m.reset_gradients()
    with dy.profile() as p:
        assert step(*model, autobatching) == plain
        assert (W.grad_as_array() == gradient).all()
        trainer.update()
    nodes = {}
    for row in p.rows:
        nodes[row.name] = nodes.get(row.name, 0) + row.nodes
        assert row.seconds >= 0 and row.nodes >= row.calls
    assert nodes["tanh"] == nodes["tanh'"] == nodes["pickneglogsoftmax"] == 6
    assert nodes["matmul"] == 6 and nodes["esum" if "esum" in nodes else "sum"] == 1
    (product,) = [row for row in p.rows if row.name == "matmul"][:1]
    assert product.gflops > 0 and "(3, 5), " in product.shape
    assert p.lost == 0 and p.around.keys() == {"schedule", "backward", "update", "Python"}
    assert p.around["update"] > 0 and p.around["Python"] > 0
    spent = sum(row.seconds for row in p.rows) + sum(p.around.values())
    assert spent <= p.seconds * 1.000001
    assert "pickneglogsoftmax" in str(p) and "[Python]" in str(p) and "calls of" in repr(p)


def test_the_table_adds_up_the_small_rows_of_an_operation():
    p = dy.Profile()
    p.seconds = 1.0
    p.rows = [
        dy.ProfileRow("matmul", "(9, 9) -> (9,)", 2, 3, 0.2, 5.0),
        *(dy.ProfileRow("tanh", f"({n},) -> ({n},)", 1, 2, 0.005, None) for n in range(100)),
        dy.ProfileRow("matmul", "(2, 2) -> (2,)", 1, 1, 0.006, 3.0),
        dy.ProfileRow("matmul", "(3, 3) -> (3,)", 1, 1, 0.002, 1.0),
        dy.ProfileRow("exp", "(4,) -> (4,)", 1, 1, 0.001, None),
    ]
    rows = [re.split("  +", line) for line in p.table().splitlines()[1:6]]
    assert rows == [
        ["tanh", "100", "200", "500.000", "50.0", "100 shapes"],
        ["matmul", "2", "3", "200.000", "20.0", "5.00", "(9, 9) -> (9,)"],
        ["matmul", "2", "2", "8.000", "0.8", "2.50", "2 shapes"],
        ["exp", "1", "1", "1.000", "0.1", "(4,) -> (4,)"],
        ["in all", "1000.000", "100.0"],
    ]
    assert len(p.rows) == 104 and "others" in p.table(2)


def multiplications(p):
    """{name: how many, of all rows of this name}; GFLOP/s count two operations for each."""
    found = {}
    for row in p.rows:
        if row.gflops is not None:
            found[row.name] = found.get(row.name, 0) + row.gflops * row.seconds * 1e9 / 2
    return {name: round(n) for name, n in found.items()}


@pytest.mark.parametrize("autobatching", [0, 1, 2, 3])
def test_products_of_both_passes_are_counted(model, autobatching):
    with dy.profile() as p:
        step(*model, autobatching)
    one = 6 * 3 * 5  # dx and dW have as many as y
    assert multiplications(p) == {"matmul": one, "matmul'": one, "dW": one}
    assert {row.shape for row in p.rows if row.name == "dW"} == {"(3, 6), (5, 6) -> (3, 5)"}
    (product,) = [row for row in p.rows if row.name == "dW"]
    assert product.calls == 1 and product.nodes in (1, 6)


def test_what_has_no_gradient_is_not_counted(model):
    _, W, _ = model
    for frozen, products in ((True, {"matmul"}), (False, {"matmul", "dW"})):
        W.set_updated(not frozen)
        dy.renew_cg()
        x = dy.random_normal((5, 4))
        with dy.profile() as p:
            dy.sum_elems(W * x).backward()
        assert multiplications(p) == dict.fromkeys(products, 3 * 5 * 4)


def test_products_of_batches_and_sums_are_counted(model):
    m, W, _ = model
    V, b = m.add_parameters((3, 4)), m.add_parameters(3)
    with dy.profile() as p:
        dy.renew_cg()
        x, y = dy.random_normal(5, batch_size=7) * 2, m.add_parameters((4, 1)) * dy.ones(1)
        dy.sum_batches(dy.sum_elems(dy.affine_transform([b, W, x, V, y]))).backward()
        matrices = dy.random_normal((3, 5), batch_size=7) + dy.reshape(W, (3, 5))
        dy.sum_batches(dy.sum_elems(matrices * dy.random_normal(5))).backward()
    found = multiplications(p)
    # forward: of W x in 7 batch elements, of V y as often; dW and dy: of both, x has no gradient
    assert found["affine_transform"] == 7 * (3 * 5 + 3 * 4)
    assert found["affine_transform'"] == 2 * 7 * 3 * 4
    assert found["matmul"] == 4 + 7 * 3 * 5 and found["matmul'"] == 7 * 3 * 5
    assert found["dW"] == 7 * 3 * 5 + 4


def test_products_in_traced_functions_are_counted(model):
    _, W, E = model

    @dy.traced
    def cell(x):
        return dy.tanh(W * x)

    with dy.profile() as p:
        dy.renew_cg()
        dy.sum_elems(cell(E[0]) + cell(E[1])).backward()
    one = 2 * 3 * 5
    assert multiplications(p) == {"matmul": one, "matmul'": one, "dW": one}


def test_products_in_blocks_are_counted():
    """A wide output layer: its gradient is computed in blocks of columns, both products at once."""
    m = dy.ParameterCollection()
    words, columns, size = 1 << 14, 96, 4
    W, h = m.add_parameters((words, size)), m.add_lookup_parameters((columns, size))
    with dy.profile() as p:
        dy.renew_cg()
        scores = W * dy.lookup_batch(h, range(columns))
        dy.sum_batches(dy.pickneglogsoftmax_batch(scores, range(columns))).backward()
    one = words * columns * size
    found = multiplications(p)
    assert found["matmul"] == one and found["matmul'"] + found.get("dW", 0) == 2 * one


def test_profile_is_over_when_it_is_over(model):
    with dy.profile() as p:
        step(*model)
    calls = [row.calls for row in p.rows]
    step(*model)
    assert [row.calls for row in p.rows] == calls
    with dy.profile() as q:
        pass
    assert q.rows == [] and q.seconds > 0


def test_a_call_belongs_to_the_profile_in_which_it_began_and_ended():
    one, other, profiles = dy.profile(), dy.profile(), []

    def forward(x):
        one.__exit__(None, None, None)
        profiles.append(other.__enter__())
        return x

    profiles.append(one.__enter__())
    dy.tanh(dy.function(forward, None, 1)(dy.inputVector([1]))).value()
    other.__exit__(None, None, None)
    first, second = profiles
    assert [row.name for row in first.rows] == []
    assert [row.name for row in second.rows] == ["tanh"]
    assert second.around["schedule"] == 0
    assert sum(row.seconds for row in second.rows) <= second.seconds


def test_records_are_not_written_while_they_are_read():
    at, kept = ffi.new("dn_profiled **"), []

    def forward(x):
        assert lib.dn_profile_end(7) == 0
        kept.append(lib.dn_profile_read(at))
        return x

    assert lib.dn_profile_begin(100, 7) == 0
    dy.function(forward, None, 1)(dy.inputVector([1])).value()
    kept.append(lib.dn_profile_read(at))
    lib.dn_profile_free()
    assert kept[0] == kept[1]


def test_profile_ends_with_an_exception_and_runs_once():
    with pytest.raises(ZeroDivisionError), dy.profile():
        with pytest.raises(RuntimeError, match="One runs at a time"), dy.profile():
            pass
        1 / 0  # noqa: B018
    with dy.profile():
        pass


def test_threads_that_begin_at_once_have_one_profile_at_a_time():
    code = """
        import sys, threading, time, dist_dynet as dy
        sys.setswitchinterval(1e-6)
        end = time.monotonic() + 1
        def profile():
            while time.monotonic() < end:
                try:
                    with dy.profile(): pass
                except RuntimeError as error: assert "One runs at a time" in str(error)
        threads = [threading.Thread(target=profile) for _ in range(2)]
        for t in threads: t.start()
        x = dy.scalarInput(0)
        while time.monotonic() < end: assert dy.exp(x).value() == 1
        for t in threads: t.join()
        print("done")
    """
    assert output_of("\n".join(line[8:] for line in code.splitlines())) == "done\n"


def test_profile_is_of_all_threads(model):
    with dy.profile() as p:
        threads = [threading.Thread(target=step, args=model) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert sum(row.nodes for row in p.rows if row.name == "tanh") == 12


def test_calls_within_traced_functions_count_once(model):
    @dy.traced
    def cell(x):
        return dy.tanh(x) * 2

    with dy.profile() as p:
        cell(cell(dy.inputVector([1, 2]))).value()
    by_name = {row.name: row for row in p.rows}
    assert by_name["traced"].nodes == 2 and by_name["tanh"].calls >= 1
    assert sum(row.seconds for row in p.rows) <= p.seconds


def test_file_is_in_chrome_s_trace_format(model, tmp_path):
    with dy.profile() as p:
        step(*model)
    p.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert sum(e["name"] == "tanh" for e in spans) == 6
    (forward,) = [e for e in spans if e["name"] == "forward"][:1]
    first = next(e for e in spans if e["name"] == "tanh")
    assert forward["ts"] <= first["ts"] <= forward["ts"] + forward["dur"]
    assert first["args"] == {"inputs": ["(5,)"], "result": "(5,)", "nodes": 1}
    assert all(e["dur"] >= -0.001 for e in spans)


def test_a_whole_program_is_profiled(tmp_path):
    code = "import dist_dynet as dy; dy.tanh(dy.inputVector([1, 2])).value()"
    ran = run_python("-c", code, DIST_DYNET_PROFILE=str(tmp_path / "p.json"))
    assert ran.returncode == 0 and "tanh" in ran.stderr, ran.stderr
    names = {e["name"] for e in json.loads((tmp_path / "p.json").read_text())["traceEvents"]}
    assert {"tanh", "forward"} <= names


@pytest.mark.parametrize(
    ("launcher", "name"),
    [
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, "p-1.json"),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, "p.json"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "p.json"),  # a batch script itself
    ],
)
def test_profile_of_a_rank_has_its_number(launcher, name, tmp_path):
    file = str(tmp_path / "p.json")
    code = f"from dist_dynet import profiling; profiling.of_whole_program({file!r})"
    ran = run_python("-c", code, **launcher)
    assert [p.name for p in tmp_path.iterdir()] == [name], ran.stderr


@pytest.mark.parametrize("file", ["/dev/full", "/proc/none/p.json", "/"])
def test_a_profile_that_cannot_be_written_is_shown(file):
    code = "import dist_dynet as dy; dy.tanh(dy.inputVector([1, 2])).value()"
    ran = run_python("-c", code, DIST_DYNET_PROFILE=file)
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr
    assert re.search(rf"^dist_dynet: profile: {file} cannot be written: ", ran.stderr, re.M)
    assert re.search(r"^tanh ", ran.stderr, re.M)


def test_file_is_written_where_nobody_reads_the_table(tmp_path):
    """As with `| head`."""
    reads, writes = os.pipe()
    os.close(reads)
    file = tmp_path / "p.json"
    code = "import dist_dynet as dy; dy.tanh(dy.inputVector([1, 2])).value()"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "DIST_DYNET_PROFILE": str(file)},
        stderr=writes,
        timeout=60,
        check=False,
    )
    os.close(writes)
    assert "tanh" in {e["name"] for e in json.loads(file.read_text())["traceEvents"]}


def test_run_profiles_a_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import dist_dynet as dy\ndy.tanh(dy.inputVector([1, 2])).value()\n")
    command = ("-m", "dist_dynet", "run", "-n", "1", "--profile", str(tmp_path / "p.json"))
    ran = run_python(*command, str(script))
    assert ran.returncode == 0, ran.stderr
    assert "tanh" in ran.stderr + ran.stdout and (tmp_path / "p.json").exists()
