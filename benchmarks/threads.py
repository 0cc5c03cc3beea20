"""How much faster one process is with several threads than with one, while all cores are free, and
while another process keeps one of them busy.

    python benchmarks/threads.py                                # two threads, 3 rounds: 2 minutes
    python benchmarks/threads.py mlp_64 --threads 4 --rounds 5
    python benchmarks/threads.py --threads 2 --taken            # a core is taken by a busy loop

Each round is a process for each task of benchmarks/run.py that is named. In it, blocks of steps
with one thread and with --threads take turns, so that what changes on a shared machine meets both
alike. The speed is units per second by the clock, of each block; the ratio is that of a block with
several threads to the mean of those with one before and behind it. Printed are medians, and in
brackets the quartiles of the ratios of all rounds.

With --taken, the last of the processors that the process may use has a loop bound to it that never
ends; one thread then runs beside it wherever the system puts it.
"""

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import run
from turns import Program

sys.path[:0] = [str(run.HERE / "tasks")]
TASKS = ("rnnlm_64", "mlp_64")
WARM = 5  # steps, with each number of threads
BLOCK = 0.4  # seconds


def rates(name, threads, seconds):
    """(units a second of each block with one thread, of each with several): one more with one."""
    import dist_dynet as dy

    task = run.TASKS[name]
    program = importlib.import_module(task.program)
    given = {"batch": 1, "style": "best", "size": 1}  # the task programs' own
    given.update(option.lstrip("-").split("=") for option in task.options)
    given["batch"] = int(given["batch"])
    step = program.dynet_task(dy, SimpleNamespace(**given))

    def block(number):
        dy.init(threads=number)
        step()
        units, start = 0, time.perf_counter()
        while time.perf_counter() - start < BLOCK:
            units += step()[0]
        return units / (time.perf_counter() - start)

    for number in (1, threads):
        dy.init(threads=number)
        for _ in range(WARM):
            step()
    one, several = [block(1)], []
    end = time.perf_counter() + seconds
    while len(several) < 2 or time.perf_counter() < end:  # two, for quartiles
        several.append(block(threads))
        one.append(block(1))
    return one, several


@contextlib.contextmanager
def core_taken():
    """A busy loop on the last processor, as long as this lasts."""
    core = max(os.sched_getaffinity(0))
    loop = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", loop]) as process:
        try:
            yield
        finally:
            process.kill()


def measured(name, args):
    """All blocks of a round's process."""
    command = [sys.executable, __file__, name, "--child", "--threads", str(args.threads)]
    own = run.environment(run.US)
    own.pop("DIST_DYNET_THREADS")
    return Program(name, (*command, "--seconds", str(args.seconds)), own).run()


def line(name, rounds):
    """Of the table: task, speeds, the ratio and its quartiles."""
    ratios = [
        b / ((before + behind) / 2)
        for one, several in rounds
        for before, b, behind in zip(one, several, one[1:], strict=False)
    ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    speeds = [statistics.median(x for r in rounds for x in r[i]) for i in (0, 1)]
    return (
        f"| {name} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {middle:.2f} ({low:.2f} - {high:.2f}) |"
    )


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="TASK", help=f"of {', '.join(run.TASKS)} (default: {TASKS})"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="by the clock, of a round's task")
    parser.add_argument("--taken", action="store_true", help="a busy loop takes the last processor")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.names or TASKS
    unknown = set(names) - set(run.TASKS)
    if unknown:
        parser.error(f"unknown task {', '.join(sorted(unknown))}; there are {', '.join(run.TASKS)}")
    if args.child:
        print(json.dumps(rates(names[0], args.threads, args.seconds)))
        return
    with core_taken() if args.taken else contextlib.nullcontext():
        found = {name: [measured(name, args) for _ in range(args.rounds)] for name in names}
    print(f"| units a second | 1 thread | {args.threads} threads | ratio |\n|---|---|---|---|")
    for name, rounds in found.items():
        print(line(name, rounds))


if __name__ == "__main__":
    main()
