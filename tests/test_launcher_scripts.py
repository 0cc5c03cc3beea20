"""The launcher scripts as they are run from a clone: scripts/launch_local.sh, launch_hosts.sh and
launch_slurm.sbatch, with a .venv that is complete and no package index, so that nothing can be
installed. Hosts are namespaces, Slurm and sshd are real; what cannot be had is skipped.

How long: half a minute; without Slurm ten seconds.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import HERE

ROOT = HERE.parent
HOSTS, SLURM = ROOT / "scripts" / "namespace_hosts.sh", HERE / "slurm_hosts.sh"
LONG_AGO = 1_000_000_000
PROGRAM = """
import os, platform
import dist_dynet as dy
from dist_dynet import parallel

m = dy.ParameterCollection()
w = m.add_parameters(1, init=0)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, learning_rate=1))
(w * (parallel.rank() + 1)).backward()
trainer.update()
print("rank", parallel.rank(), "of", parallel.world_size(), "on", platform.node(), "has", w.as_array().tolist(), flush=True)
"""  # noqa: E501
AGAIN = """
import os, time
from dist_dynet import parallel

print("start", os.environ.get("SLURM_RESTART_COUNT", "0"), "of rank", parallel.rank(), flush=True)
if "SLURM_RESTART_COUNT" not in os.environ:
    time.sleep(100)
"""
HUNGRY = """
import os
import dist_dynet as dy
from dist_dynet import parallel

m = dy.ParameterCollection()
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
print("rank", parallel.rank(), "on", len(os.sched_getaffinity(0)), "core", flush=True)
taken = []
while parallel.rank() == 1:
    taken.append(b"x" * (8 << 20))
trainer.update()
"""
SUBMIT_AND_SIGNAL = """
job=$(sbatch --parsable --nodes=2 --ntasks-per-node=1 scripts/launch_slurm.sbatch again.py)
reads() { for _ in $(seq 300); do grep -q "$1" dist-dynet-$job.log 2>/dev/null && return; sleep 0.1; done; return 1; }
reads 'start 0 of rank 1' && reads 'start 0 of rank 0' || echo "does not start"
scancel --batch --signal=USR1 $job
reads 'start 1 of rank 1' && reads 'start 1 of rank 0' || echo "does not start again"
cat dist-dynet-$job.log
"""  # noqa: E501


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A fresh clone, older than what .venv has, which is the venv of this Python."""
    if not all(
        Path(sys.prefix, name).exists()
        for name in ("pyvenv.cfg", "bin/pip", "bin/mpirun", "bin/dist-dynet")
    ):
        pytest.skip("needs a venv with the extras mpi and examples: scripts/test.sh makes one")
    folder = tmp_path_factory.mktemp("clone")
    for name in (
        "dist_dynet",
        "csrc",
        "scripts",
        "build_ffi.py",
        "setup.py",
        "pyproject.toml",
        "README.md",
    ):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", ".*")
            )
        else:
            shutil.copy(source, folder)
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "train.py").write_text(PROGRAM)
    (folder / "again.py").write_text(AGAIN)
    (folder / "hungry.py").write_text(HUNGRY)
    return folder


@pytest.fixture
def run(clone):
    """Runs a command in the clone; no installation can succeed."""
    dropped = (
        "PYTHON",
        "DIST_DYNET_",
        "PMI",
        "MPI_",
        "OMPI_",
        "PMIX",
        "PRTE",
        "SLURM_",
        "VIRTUAL_ENV",
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    nothing = {
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "CC": "/bin/false",
        "OMP_NUM_THREADS": "1",
    }
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def run(*command, before=(), **variables):
        whole = [*map(str, before), *map(str, command)]
        job = subprocess.run(
            whole,
            cwd=clone,
            env={**environment, **nothing, **as_root, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if job.returncode == 77:
            pytest.skip(job.stderr.strip())
        assert "installing into" not in job.stderr and "installation failed" not in job.stderr
        return job

    return run


def ranks(text):
    """What the program says of its ranks: the mean of 1 and 2 is the gradient."""
    return sorted(line[line.index("rank") :] for line in text.splitlines() if " of 2 on " in line)


def expected(*hosts):
    return [f"rank {rank} of 2 on {host} has [-1.5]" for rank, host in enumerate(hosts)]


@pytest.mark.mpi
def test_launch_local_runs_without_an_installation(run):
    job = run("scripts/launch_local.sh", "train.py", RANKS="2")
    assert job.returncode == 0, job.stderr
    assert ranks(job.stdout) == expected(*[os.uname().nodename] * 2)


@pytest.mark.mpi
def test_launch_hosts_runs_without_an_installation(run):
    job = run("scripts/launch_hosts.sh", "node0:1,node1:1", "train.py", before=[HOSTS, "-n", 2])
    assert job.returncode == 0, job.stderr
    assert ranks(job.stdout) == expected("node0", "node1")


@pytest.mark.mpi
def test_launch_hosts_runs_over_ssh(run):
    job = run(
        "scripts/launch_hosts.sh",
        "node0:1,node1:1",
        "train.py",
        before=[HOSTS, "-n", 2, SLURM],
        INTERFACE="eth0",
    )
    assert job.returncode == 0, job.stderr
    assert ranks(job.stdout) == expected("node0", "node1")


@pytest.mark.mpi
def test_launch_slurm_runs_under_slurm(run, clone):
    options = ("--wait", "--nodes=2", "--ntasks-per-node=1", "--output=slurm.log")
    job = run(
        "sbatch",
        *options,
        "scripts/launch_slurm.sbatch",
        "train.py",
        before=[HOSTS, "-n", 2, SLURM],
    )
    log = (clone / "slurm.log").read_text()
    assert job.returncode == 0, (job.stdout, job.stderr, log)
    assert ranks(log) == expected("node0", "node1"), log


@pytest.mark.mpi
@pytest.mark.slow
def test_launch_slurm_is_queued_again_by_slurm(run):
    job = run(
        "bash", "-c", SUBMIT_AND_SIGNAL, before=[HOSTS, "-n", 2, SLURM], CHECKPOINT_SECONDS="1"
    )
    assert job.returncode == 0, job.stderr
    assert "does not start" not in job.stdout, job.stdout
    assert [job.stdout.count(f"start {k} of rank {rank}") for k in (0, 1) for rank in (0, 1)] == [
        1,
        1,
        1,
        1,
    ], job.stdout


@pytest.mark.mpi
@pytest.mark.slow
def test_control_groups_of_slurm_limit_cores_and_memory(run):
    command = ("salloc", "--quiet", "--nodes=2", "--ntasks=2", "--mem=300M")
    job = run(
        *command,
        *(".venv/bin/dist-dynet", "run", "hungry.py"),
        before=[HOSTS, "-n", 2, SLURM],
        SLURM_HOSTS_CGROUPS="1",
    )
    assert sorted(job.stdout.splitlines()) == [f"[{r}] rank {r} on 1 core" for r in (0, 1)], job
    assert job.returncode == 137, job.stderr
    assert (
        "rank 1 (process " in job.stderr and "killed by SIGKILL, for want of memory" in job.stderr
    )


def test_empty_venv_without_an_index_says_what_to_do(clone, tmp_path):
    folder = tmp_path / "clone"
    shutil.copytree(clone, folder, ignore=shutil.ignore_patterns(".venv"))
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    job = subprocess.run(
        ["scripts/launch_local.sh", "train.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 1 and "installing into .venv (extras: mpi,examples)" in job.stderr, (
        job.stderr
    )
    words = (
        "launch_local.sh: installation failed; see the message above. Without a package index: make"
        " .venv on a host that has one"
    )
    assert job.stderr.endswith(f"{words}\n")


@pytest.mark.parametrize("changed", ["csrc/op.h", "dist_dynet/graph.py", "setup.py"])
def test_venv_that_is_older_than_the_sources_is_not_complete(clone, changed):
    def complete(**variables):
        program = "source scripts/common.sh; is_complete mpi,examples && echo yes || echo no"
        job = subprocess.run(
            ["bash", "-c", program],
            cwd=clone,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return job.stdout

    assert complete() == "yes\n"
    os.utime(clone / changed)
    try:
        assert complete() == "no\n" and complete(AGE="any") == "yes\n"
    finally:
        os.utime(clone / changed, (LONG_AGO, LONG_AGO))
