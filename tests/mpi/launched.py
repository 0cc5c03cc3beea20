"""What a launched script can do, without MPI: argv[1] is a rank, argv[2] how it behaves; the other
ranks wait when it fails."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

who, how, *rest = sys.argv[1:]
rank = next(
    (
        os.environ[name]
        for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
        if name in os.environ
    ),
    "0",
)

if how == "lines":  # parts of lines, long and short ones, on both streams
    for i in range(300):
        for part in (f"{rank}:", f"{i}:", "x" * (i * 37 % 400), "\n"):
            sys.stdout.write(part)
        if i % 3 == 0:
            print(f"{rank}:{i}:" + "y" * (i * 91 % 5000), file=sys.stderr)
    print(rest, flush=True)
elif how == "stdin":
    print("read", repr(sys.stdin.read()), flush=True)
elif how in ("show", "host"):
    print(
        *([socket.gethostname()] if how == "host" else []),
        *(os.environ.get(name) for name in rest),
        flush=True,
    )
elif how == "sleep":  # with a child, which is to go, too
    child = subprocess.Popen(["sleep", "60"])

    def at_user_signal(*_):
        print("user signal", flush=True)
        if rank == "0" and "SAVES" in os.environ:
            with Path(os.environ["DIST_DYNET_PROGRESS"]).open("a") as file:
                file.write("1\n")

    signal.signal(signal.SIGUSR1, at_user_signal)
    print("processes", os.getpid(), child.pid, flush=True)
    while True:
        time.sleep(60)
elif how == "late":  # gets a signal when its work is done and Python takes itself apart

    class Late:
        def __del__(self, kill=os.kill, process=os.getpid(), number=int(rest[0])):  # noqa: B008
            kill(process, number)

    signal.signal(signal.SIGUSR1, lambda *_: None)
    late = Late()
elif how == "bad host":  # kills itself on the host that rest names, while the others wait for it
    sizes = [
        os.environ[name] for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE") if name in os.environ
    ]
    print("rank", rank, "of", *sizes, "on", socket.gethostname(), flush=True)
    if socket.gethostname() == rest[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    if sizes == rest[1:]:
        time.sleep(60)
elif how == "attempts":  # fails as often as rest says; writes a checkpoint in the attempts named
    attempt = int(os.environ["DIST_DYNET_ATTEMPT"])
    print("attempt", attempt, flush=True)
    if str(attempt) in rest[1:]:
        with Path(os.environ["DIST_DYNET_PROGRESS"]).open("a") as file:
            file.write(f"{attempt}\n")
    if attempt < int(rest[0]):
        sys.exit(5)
elif rank == who:
    if how == "raise":
        raise ValueError("words of the exception")
    if how == "exit":
        sys.exit(3)
    if how == "memory":  # more and more of it
        taken = []
        while True:
            taken.append(b"x" * (8 << 20))
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "signal":
        os.kill(os.getpid(), int(rest[0]))
    if how == "leave":
        os._exit(0)
elif how != "nothing":
    time.sleep(60)
