"""Timelines: parts of ranks, what becomes of them at the end and after a failure, and pictures of
metrics. How long: fifteen seconds."""

import collections
import json
import os
import re
import struct
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
from jobs import HERE_MPI, launch, mpirun, needs_mpi

from dist_dynet import meter
from dist_dynet._ffi import lib
from dist_dynet.cli import main, plot
from dist_dynet.parallel.processes import failures, trace

MS = 10**6


def part(folder, rank, spans, syncs=((0, 0),), size=2, host="node0", rest=b""):
    """Writes what a rank would have written."""
    file = trace.open_part(folder, rank, {"size": size, "host": host})
    for sync in syncs:
        trace.write_sync(file, *sync)
    os.write(file, b"".join(struct.pack("=qqq", *span) for span in spans) + rest)
    os.close(file)


def spans_of(path):
    """{rank: [(phase, from, to) in ms]}, of a timeline that a viewer would take."""
    tree = json.loads(path.read_text())
    found, names = collections.defaultdict(list), {}
    for event in tree["traceEvents"]:
        if event["ph"] == "M" and event["name"] == "thread_name":
            names[event["pid"], event["tid"]] = int(event["args"]["name"].removeprefix("rank "))
    for event in tree["traceEvents"]:
        if event["ph"] == "X":
            at = event["ts"] / 1e3
            rank = names[event["pid"], event["tid"]]
            found[rank].append((event["name"], at, at + event["dur"] / 1e3))
    for of_rank in found.values():
        ends = [(end, begin) for (_, _, end), (_, begin, _) in pairwise(of_rank)]
        assert all(end <= begin for end, begin in ends)  # nothing overlaps
    return dict(found), tree["otherData"]


def near(spans):
    return [(name, pytest.approx(a, abs=1e-5), pytest.approx(b, abs=1e-5)) for name, a, b in spans]


def test_parts_become_one_file(tmp_path):
    folder = trace.reserve(tmp_path / "new" / "t.json")
    part(folder, 1, [(5 * MS, 9 * MS, lib.DN_UPDATE)], host="node1")
    part(folder, 0, [(3 * MS, 4 * MS, lib.DN_COMPUTE), (4 * MS, 9 * MS, lib.DN_SAVE)])
    words = trace.merge(folder)
    assert words == f"timeline: {tmp_path}/new/t.json has 2 of 2 ranks."
    spans, rest = spans_of(tmp_path / "new" / "t.json")
    assert spans[0] == near([("compute", 0, 1), ("save", 1, 6)])
    assert spans[1] == near([("update", 2, 6)])
    assert rest["missing_ranks"] == rest["cut_ranks"] == []
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["t.json"]


def test_clocks_of_hosts_are_aligned(tmp_path):
    """Rank 1's runs a thousandth too fast, and is behind by 100 ms at its start."""
    folder = trace.reserve(tmp_path / "t.json")
    part(folder, 0, [(100 * MS, 101 * MS, 0)])
    part(folder, 1, [(0, MS, 0), (500 * MS, 501 * MS, 1)], [(0, 100 * MS), (1000 * MS, 99 * MS)])
    trace.merge(folder)
    spans, _ = spans_of(tmp_path / "t.json")
    assert spans[1] == near([("compute", 0, 0.999), ("agreement", 499.5, 500.499)])


def test_what_a_dead_rank_has_left_is_shown(tmp_path):
    folder = trace.reserve(tmp_path / "t.json")
    part(folder, 0, [(0, MS, 0)], size=4)
    part(folder, 1, [(0, MS, 0)], size=4, rest=b"half a record")
    (folder / "rank-2").write_text('{"rank": 2, "si')
    words = trace.merge(folder)
    spans, rest = spans_of(tmp_path / "t.json")
    assert (sorted(spans), rest["missing_ranks"]) == ([0, 1], [2, 3])
    assert "has 2 of 4 ranks; parts of others" in words


def test_a_long_timeline_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "MOST_SPANS", 3)
    folder = trace.reserve(tmp_path / "t.json")
    part(folder, 0, [(i * MS, (i + 1) * MS, i % 2) for i in range(3)], size=1)
    assert "it ends after 3 spans" in trace.merge(folder)
    assert spans_of(tmp_path / "t.json")[1]["cut_ranks"] == [0]


def test_nothing_is_overwritten(tmp_path):
    names = []
    for _ in range(3):
        folder = trace.reserve(tmp_path / "t.json")
        part(folder, 0, [(0, MS, 0)], size=1)
        names.append(folder.name)
        trace.merge(folder)
    assert names == ["t.json.parts", "t-1.json.parts", "t-2.json.parts"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_merge_that_fails_leaves_the_parts(tmp_path, monkeypatch):
    folder = trace.reserve(tmp_path / "t.json")
    part(folder, 0, [(0, MS, 0)], size=1)
    monkeypatch.setattr(trace, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        trace.merge(folder)
    monkeypatch.undo()
    assert [p.name for p in folder.iterdir()] == ["rank-0"]
    (folder / "merging").mkdir()  # somebody does it, or was killed
    assert trace.merge_all(tmp_path / "t.json") == []
    assert main(["timeline", str(tmp_path / "t.json")]) == 0
    assert sorted(spans_of(tmp_path / "t.json")[0]) == [0]
    assert main(["timeline", str(tmp_path / "t.json")]) == 1


def test_spans_are_recorded_in_order_and_add_up(tmp_path):
    lib.dn_meter_follow()
    lib.dn_meter_pretend(0)
    path = tmp_path / "spans"
    with path.open("wb", 0) as file:
        lib.dn_meter_record(file.fileno(), 400)
        try:
            for i in range(1, 501):
                lib.dn_meter_pretend(i * MS)
                meter.switch(lib.DN_UPDATE if i % 2 else lib.DN_COMPUTE)
            assert lib.dn_meter_flush() == 0
        finally:
            lib.dn_meter_record(-1, 0)
            lib.dn_meter_pretend(-1)
    spans = list(struct.iter_unpack("=qqq", path.read_bytes()))
    assert spans == [(i * MS, (i + 1) * MS, lib.DN_UPDATE * (i % 2)) for i in range(400)]


def test_a_full_disk_ends_the_recording_only():
    lib.dn_meter_follow()
    with open("/dev/full", "wb", 0) as file:  # noqa: PTH123
        lib.dn_meter_record(file.fileno(), 400)
        meter.switch(lib.DN_UPDATE)
        meter.switch(lib.DN_COMPUTE)
        assert lib.dn_meter_flush() == 28  # ENOSPC
    assert meter.switch(lib.DN_COMPUTE) == lib.DN_COMPUTE
    lib.dn_meter_record(-1, 0)


# ---- programs --------------------------------------------------------------------------


def sums(spans):
    """ms by phase."""
    found = dict.fromkeys(meter.PHASES, 0.0)
    for name, begin, end in spans:
        found[name] += end - begin
    return found


def check_run(path, ranks, output):
    """All phases are there, and agree with the sums that rank 0 has printed."""
    spans, rest = spans_of(path)
    assert sorted(spans) == list(range(ranks)) and rest["missing_ranks"] == []
    together = ("agreement", "exchange", "rows") if ranks > 1 else ()
    for of_rank in spans.values():
        assert {n for n, _, _ in of_rank} == {"compute", "update", "save", "evaluate", *together}
    said = json.loads(next(line for line in output.splitlines() if line.startswith('{"seconds"')))
    assert said["updates"] == 12
    shown = sums(spans[0])
    for phase in (*together[1:], "update", "evaluate"):  # those that begin after the trainer
        assert shown[phase] == pytest.approx(1e3 * said["seconds"][phase], abs=0.2)


def test_one_process(tmp_path):
    file = tmp_path / "t.json"
    job = launch(
        sys.executable, "run", "--timeline", file, "timeline.py", "run", tmp_path / "checkpoints"
    )
    assert job.returncode == 0, job.stderr
    assert "has one process." in job.stderr
    check_run(file, 1, job.stdout)


@pytest.mark.mpi
@needs_mpi
def test_two_ranks(tmp_path):
    file, lines = tmp_path / "t.json", tmp_path / "m.jsonl"
    options = ("--timeline", file, "--metrics", lines, "--metrics-every", 5)
    job = launch(
        sys.executable, "run", "-n", 2, *options, "timeline.py", "run", tmp_path / "checkpoints"
    )
    assert job.returncode == 0, job.stderr
    check_run(file, 2, job.stdout.replace("[0] ", ""))
    metrics = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["update"] for line in metrics] == [5, 10, 12]
    assert all(len(line["seconds"]["compute"]) == 2 for line in metrics)
    assert metrics[1]["loss"] == 6  # it is logged after the update: of 4 ... 8


@pytest.mark.mpi
@needs_mpi
def test_plain_mpirun_with_other_ways_to_exchange(tmp_path):
    file = tmp_path / "t.json"
    settings = {"DIST_DYNET_TIMELINE": str(file), "DIST_DYNET_EXCHANGE": "mpi"}
    status, output, _ = mpirun(2, "timeline.py", "run", tmp_path / "checkpoints", **settings)
    assert status == 0, output
    check_run(file, 2, output)


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("full", r"\[rank 0/2 on .*\] timeline: cannot be written: .*\. Its parts are left\.$"),
        ("elsewhere", r"t\.json has 1 of 2 ranks; parts of others may be"),
    ],
)
def test_what_cannot_be_recorded_disturbs_no_job(tmp_path, what, words):
    file = tmp_path / "t.json"
    status, output, _ = mpirun(
        2, "timeline.py", what, tmp_path / "checkpoints", DIST_DYNET_TIMELINE=str(file)
    )
    assert status == 0 and "Traceback" not in output, output
    assert re.search(words, output, re.M), output


def test_an_end_of_the_job_that_fails_ends_mpi_all_the_same(monkeypatch):
    ended = []
    monkeypatch.setattr(failures, "finalize_mpi", lambda: ended.append(os._exit))
    monkeypatch.setattr(failures._State, "process", os.getpid())
    monkeypatch.setattr(failures._State, "has_left", False)
    monkeypatch.setattr(failures._State, "on_leave", [lambda: 1 / 0])
    world = SimpleNamespace(end=lambda: None)
    comm = SimpleNamespace(Ibarrier=lambda: SimpleNamespace(Test=lambda: True))
    with pytest.raises(ZeroDivisionError):
        failures._leave(world, comm)
    assert len(ended) == 1


@pytest.mark.mpi
@needs_mpi
def test_after_a_killed_rank_there_is_a_file_of_each_attempt(tmp_path):
    job = launch(
        HERE_MPI.python,
        *("run", "-n", 2, "--max-restarts", 1, "--timeline", tmp_path / "t.json"),
        *("timeline.py", "killed", tmp_path / "checkpoints"),
    )
    assert job.returncode == 0, job.stderr
    first, rest = spans_of(tmp_path / "t.json")
    assert sorted(first) == [0, 1]
    assert {n for n, _, _ in first[0]} >= {"compute", "agreement", "exchange", "rows", "save"}
    assert [head["attempt"] for head in rest["ranks"]] == [0, 0]
    second, rest = spans_of(tmp_path / "t-1.json")
    assert sorted(second) == [0, 1] and rest["ranks"][0]["attempt"] == 1
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.mpi
@needs_mpi
def test_clocks_are_compared_as_well_as_is_said():
    """Here all ranks have one clock."""
    status, output, _ = mpirun(3, "timeline.py", "clocks", "-")
    assert status == 0, output
    said = json.loads(output)
    assert said[0][:3] == [0, 0, 0]
    for _, ahead, wrong, since in said[1:]:
        assert abs(ahead) <= wrong and since >= 0


# ---- pictures --------------------------------------------------------------------------


def line(update, attempt=0, run=1.0, ranks=2, **more):
    seconds = {phase: [0.1 * (k + 1) for k in range(ranks)] for phase in meter.PHASES}
    return {
        "run": run,
        "attempt": attempt,
        "trainer": 1,
        "update": update,
        "updates": 10,
        "wall": 2.0,
        "ranks": list(range(ranks)),
        "seconds": seconds,
        "gradient_norm": None,
        **more,
    }


def write_lines(path, lines):
    path.write_text("".join(json.dumps(one) + "\n" for one in lines) + '{"run": 3, "att')
    return path


def test_the_last_run_is_drawn_with_its_restarts(tmp_path):
    lines = [line(10), line(20), line(10, run=2.0), line(20, run=3.0, attempt=1, loss=0.5)]
    lines.append({**line(5, run=3.0, attempt=1), "trainer": 2})
    found = plot.read(write_lines(tmp_path / "m", lines))
    assert [(one["run"], one["update"]) for one in found] == [(2, 10), (3, 20)]
    assert plot.logged(found) == ["loss"]


def test_plot_writes_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    many = {phase: {"min": 0, "median": 0.1, "max": 1} for phase in meter.PHASES}
    file = write_lines(tmp_path / "m.jsonl", [line(10, loss=2.0), line(20), line(30, seconds=many)])
    assert main(["plot", str(file)]) == 0
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["plot", str(file), "--out", str(tmp_path / "other.png")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("other.png")


def test_plot_says_what_is_wanting(tmp_path, capsys, monkeypatch):
    file = write_lines(tmp_path / "m.jsonl", [line(10)])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", str(file)]) == 2
    assert capsys.readouterr().err == (
        "dist-dynet: plot: needs matplotlib: pip install matplotlib\n"
    )
    assert main(["plot", str(tmp_path / "missing")]) == 2
    (tmp_path / "empty").write_text("no JSON\n")
    assert main(["plot", str(tmp_path / "empty")]) == 2
    assert "has no metrics" in capsys.readouterr().err
