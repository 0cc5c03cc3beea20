"""Timelines: parts of ranks, and what becomes of them at the end and after a failure. How long:
fifteen seconds."""

import collections
import json
import struct
import sys
from itertools import pairwise

import pytest
from jobs import HERE_MPI, launch, mpirun, needs_mpi

from dist_dynet import meter
from dist_dynet._ffi import lib
from dist_dynet.cli import main
from dist_dynet.parallel.processes import spans as spans_

MS = 10**6


def part(rank, spans, ahead=0, size=2, host="node0"):
    """What a rank would have written."""
    head = {"rank": rank, "size": size, "host": host, "ahead": ahead}
    return json.dumps(head).encode() + b"\n" + b"".join(struct.pack("=qqq", *s) for s in spans)


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


def test_parts_become_one_file_by_the_clock_of_rank_0(tmp_path):
    ones = [
        part(0, [(3 * MS, 4 * MS, lib.DN_COMPUTE), (4 * MS, 9 * MS, lib.DN_SAVE)], -3 * MS),
        part(1, [(5 * MS, 9 * MS, lib.DN_UPDATE)], ahead=-4 * MS, host="node1"),
    ]
    words = spans_.write_timeline(tmp_path / "t.json", ones)
    assert words == f"timeline: {tmp_path}/t.json has 2 of 2 ranks."
    spans, rest = spans_of(tmp_path / "t.json")
    assert spans[0] == near([("compute", 0, 1), ("save", 1, 6)])
    assert spans[1] == near([("update", 1, 5)])
    assert [head["host"] for head in rest["ranks"]] == ["node0", "node1"]


def test_the_command_shows_what_a_killed_job_has_left(tmp_path, capsys):
    file, folder = tmp_path / "t.json", tmp_path / "t.json.parts"
    folder.mkdir()
    (folder / "rank-0").write_bytes(part(0, [(0, MS, 0)], size=4))
    (folder / "rank-1").write_bytes(part(1, [(0, MS, 0)], size=4) + b"half a record")
    (folder / "rank-2").write_text('{"rank": 2, "si')
    assert main(["timeline", str(file)]) == 0
    assert "has 2 of 4 ranks; it lacks [2, 3]." in capsys.readouterr().err
    assert sorted(spans_of(file)[0]) == [0, 1] and not folder.exists()
    assert main(["timeline", str(file)]) == 1


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
    assert sorted(spans) == list(range(ranks)) == [head["rank"] for head in rest["ranks"]]
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
    assert "has 1 of 1 ranks." in job.stderr
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
def test_a_rank_that_cannot_write_is_missing(tmp_path):
    file = tmp_path / "t.json"
    status, output, _ = mpirun(
        2, "timeline.py", "elsewhere", tmp_path / "checkpoints", DIST_DYNET_TIMELINE=str(file)
    )
    assert status == 0 and "Traceback" not in output, output
    assert "This rank will be missing." in output and "has 1 of 2 ranks; it lacks [1]." in output


@pytest.mark.mpi
@needs_mpi
def test_after_a_killed_rank_there_is_a_file(tmp_path):
    options = ("-n", 2, "--timeline", tmp_path / "t.json")
    program = ("timeline.py", "killed", tmp_path / "checkpoints")
    job = launch(HERE_MPI.python, "run", *options, *program)
    assert job.returncode != 0, job.stderr
    spans, _ = spans_of(tmp_path / "t.json")
    assert sorted(spans) == [0, 1]
    assert {n for n, _, _ in spans[0]} >= {"compute", "agreement", "exchange", "rows", "save"}
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.mpi
@needs_mpi
def test_clocks_are_compared_as_well_as_is_said():
    """Here all ranks have one clock."""
    status, output, _ = mpirun(3, "timeline.py", "clocks", "-")
    assert status == 0, output
    said = json.loads(output)
    assert said[0] == [0, 0, 0]
    assert all(abs(ahead) <= wrong < MS for _, ahead, wrong in said[1:])
