"""Random training programs on several ranks: `python tests/fuzz_ranks.py --seconds N --seed S`.

The law: N ranks end where one process ends, in every loop, or the program is refused with a message
on all of them, and has changed nothing then. Nothing is wrong in silence, and nothing hangs.

A program (rank_programs.py) has loops over shard() of all kinds, passes, settings, and whatever
else a program does beside them, on all ranks or on one. It is run in one process with the trainers
of one process, in one process with those of several, and on ranks; all that it has noted is
compared after every update. What is found is made smaller, as long as it stays wrong, and printed
as a program of Python. Status 1: something was found. `--only K` is the program of that number.

`--ranks 2,3`: on so many; 4 and 5 are more than small machines have cores. `--groups 2`: so many
groups of as many ranks do the same side by side, each by its comm=. `--precision float32` or
`bf16`: results that do not depend on rounding are compared, those of reproducible=True to the bit.
Each job has an exchange and settings of its own. Run it after changes of dist_dynet/parallel.
"""

import argparse
import pickle
import random
import re
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jobs import PROGRAMS, mpirun, run_program
from rank_programs import drawn

PRELUDE = PROGRAMS / "drawn.py"
TOLERANCE = 1e-9
"""|a - b| <= tolerance (1 + |b|)"""
LIMIT = 20
"""Seconds that a program may take, with the start of its job."""
REFUSALS = "|".join(
    (
        "so that it is not known which batch the gradients come from",
        "it is not known which batch of shard",
        "the gradients come from (several batches|another batch) of shard",
        "inside of a loop over the examples of a batch",
        "had looked at a part of the batch alone",
        "looked into another batch of shard",
        "so that its n is not known",
        "all ranks must agree;",
        "is (frozen|excluded from decay|of another precision) on rank",
        "after restart\\(\\) or load_state\\(\\)",
        "first missing|first that rank",
        'average="weighted" needs a weight',
        "was not named|were not named",
        "Change parameters alike on all ranks",
        "or call update\\(n\\), on all ranks alike",
        "Let all ranks use the same steps",
        "on all ranks, with empty batches, too",
        "another rank does not know",
        "takes no part in accumulation",
        "was written inside of join",
    )
)
"""What refused programs are told."""
ENGINES = (("auto", ""), ("mpi", ""), ("auto", "aab"), ("auto", "ab"))
SETTINGS = (
    (),
    (("DIST_DYNET_SHARED_MODEL", "always"),),
    (("DIST_DYNET_FAST_PATHS", "0"),),
    (("DIST_DYNET_THREADS", "2"),),
)
"""Which change no bit of a result."""
PRECISIONS = {
    "float64": {"DIST_DYNET_DTYPE": "float64"},
    "float32": {},
    "bf16": {"DIST_DYNET_PRECISION": "bf16"},
}


class Job(NamedTuple):
    """hosts: see mpi/as_hosts.py; groups: of equal size, see mpi/as_groups.py; settings: of the
    environment."""

    ranks: int
    exchange: str = "auto"
    hosts: str = ""
    groups: str = ""
    settings: tuple = ()
    precision: str = "float64"

    @property
    def letters(self):
        """What the names of each group's files end with."""
        return [f".{letter}" for letter in sorted(set(self.groups))] or [""]

    @property
    def size(self):
        """Ranks of a group."""
        return self.ranks // len(self.letters)


class Finding(NamedTuple):
    """What is wrong; kind is what shrinking keeps."""

    kind: str
    program: object
    job: Job
    words: str

    def printed(self):
        """A program that shows it."""
        header = f"# {self.kind} on {self.job}: {self.words}"
        return "\n# ".join(header.splitlines()) + "\n" + self.program.source


# ---- running ---------------------------------------------------------------------------


class Entry(NamedTuple):
    """A program in one way: "plain", for a Join among so many; "run"; "kill", "resume"."""

    program: object
    way: str
    ranks: int = 0
    kill: int = 0
    folder: str = ""


def run(entries, job, folder):
    """By entry what each rank has noted, and by entry the words of jobs that have ended."""
    results, words, entries = {}, {}, list(entries)
    while entries:
        if not job.ranks:
            part = entries
        else:  # what may end a job is alone
            part = entries[:1] if entries[0].program.alone else []
            part = part or [e for e in entries if not e.program.alone]
        entries = [e for e in entries if e not in part]
        ran, status, text = _start(part, job, folder)
        done = min(map(len, ran))
        results |= {e: [of_rank[k] for of_rank in ran] for k, e in enumerate(part[:done])}
        if done == len(part) and status == 0:
            continue
        at = [folder / f"out{letter}.at" for letter in job.letters]
        done = min(int(path.read_text()) if path.exists() else 0 for path in at)
        done = min(done, len(part) - 1)
        ends = "".join(
            f"rank {r}: {of_rank[done]['error'] or of_rank[done]['refused']}\n"
            for r, of_rank in enumerate(ran)
            if len(of_rank) > done
        )
        results[part[done]], words[part[done]] = None, f"status {status}\n{ends}{text}"
        entries = part[done + 1 :] + entries
    return results, words


def _start(part, job, folder):
    """What each rank has noted of these, one group after the other, the status, and the text of the
    job."""
    for old in folder.glob("out*"):
        old.unlink()
    for letter in job.letters:
        _write(part, folder, letter)
    arguments = [folder / "programs", folder / "out"]
    environment = {"DIST_DYNET_SILENCE": "2", **PRECISIONS[job.precision], **dict(job.settings)}
    environment["DIST_DYNET_EXCHANGE"] = job.exchange
    program = ["as_groups.py", job.groups, "run_drawn.py"] if job.groups else ["run_drawn.py"]
    program = ["as_hosts.py", job.hosts, *program] if job.hosts else program
    try:
        if job.ranks == 1:
            result = run_program(*program, *arguments, **environment)
            status, text = result.returncode, result.stderr
        else:
            limit = LIMIT + 2 * len(part) * len(job.letters)
            status, text, _ = mpirun(job.ranks, *program, *arguments, limit=limit, **environment)
    except AssertionError as error:  # it was not over
        status, text = -1, str(error)
    names = [f"out{letter}.{r}" for letter in job.letters for r in range(job.size)]
    paths = [folder / name for name in names]
    ran = [pickle.loads(path.read_bytes()) if path.exists() else [] for path in paths]
    return ran, status, text


def _write(part, folder, letter):
    """Writes the programs of one group, each of which has files of its own."""
    options = [
        {
            "plain": e.way == "plain",
            "ranks": e.ranks,
            "threads": e.ranks if e.program.threads else 0,
            "kill": e.kill,
            "folder": e.folder and e.folder + letter,
        }
        for e in part
    ]
    listed = [(e.program.source, o) for e, o in zip(part, options, strict=True)]
    (folder / f"programs{letter}").write_bytes(pickle.dumps(listed))


# ---- the law ---------------------------------------------------------------------------


def off(a, b):
    """How far apart two notes are; 0: to the bit."""
    if a.shape != b.shape:
        return np.inf
    with np.errstate(all="ignore"):
        far = np.abs(a - b) / (1 + np.abs(b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.max(np.where(same, 0, np.where(np.isnan(far), np.inf, far)), initial=0))


def apart(a, b):
    """Where they differ most."""
    if a.shape != b.shape:
        return f"shapes {a.shape}, {b.shape} of"
    k = int(np.argmax(np.nan_to_num(np.abs(a - b), nan=np.inf)))
    return f"number {k} is {a[k]!r}, {b[k]!r} on" if len(a) else ""


def core(words):
    """Without who says it."""
    return re.sub(r"^\[rank \d+/\d+[^\]]*\] ", "", words)


def judge(program, job, here, words, reference):
    """What is wrong, or None. here: by rank, None where the job has ended."""

    def found(kind, text):
        return Finding(kind, program, job, text)

    if here is None:
        if program.alone and not words.startswith(("status 0", "status -1")):
            return None
        hangs = words.startswith("status -1")
        return found("hang" if hangs else "job has ended", words[-3000:])
    for r, mine in enumerate(here):
        if mine["error"] and not (program.alone and "on one rank" in mine["error"]):
            return found("error", f"rank {r}: {mine['error']}")
    refused = [core(mine["refused"]) for mine in here]
    if any(refused):
        if not all(refused):
            return found("refused on some ranks", repr(refused))
        alone = reference["refused"] if reference else ""  # as one process is refused
        if not all(re.search(REFUSALS, text) or text == core(alone) for text in refused):
            return found("words", repr(refused))
        if program.refuse == "never":
            return found("refused", refused[0])
    elif program.refuse == "must" and job.size > 1:
        return found("not refused", "")
    if any(refused):  # what comes last is as one rank has left it, or since the last average
        here = [{**mine, "notes": _together(mine["notes"][:-1])} for mine in here]
    first = here[0]["notes"]
    for r, mine in enumerate(here[1:], 1):
        notes = mine["notes"]
        if [what for what, _ in notes] != [what for what, _ in first]:
            return found("ranks differ", f"rank {r} has {len(notes)} notes, rank 0 {len(first)}")
        for k, ((what, a), (_, b)) in enumerate(zip(notes, first, strict=True)):
            if off(a, b) and what != "own":
                return found("ranks differ", f"{what} {k} on rank {r}: {apart(a, b)} rank 0")
    if program.law == "together" or reference is None:
        return None
    for r, (mine, like) in enumerate(zip(here, reference.get("every", [reference]), strict=False)):
        words = _unlike(program, mine["notes"], like["notes"], any(refused))
        if words:
            return found("other", words + (f", on rank {r}" if "every" in reference else ""))
    return None


def _together(notes):
    """Up to the last one that ranks have in common."""
    while notes and notes[-1][0] == "own":
        notes = notes[:-1]
    return notes


def _unlike(program, notes, want, is_refused):
    """How what a rank has noted is not what it should be."""
    if not is_refused and len(notes) != len(want):
        return f"{len(notes)} notes, in one process {len(want)}"
    tolerance = 0 if program.law == "bits" and not program.plain else TOLERANCE
    for k, ((what, a), (_, b)) in enumerate(zip(notes, want, strict=False)):
        if off(a, b) > tolerance:
            return f"{what} {k}: {apart(a, b)} one process"
    return ""


def check(programs, jobs, folder, precision="float64"):
    """Findings, and how many runs were refused."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ones, found, refused = Job(1, precision=precision), [], 0
    entries = [
        Entry(p, "plain", ranks)
        for p in programs
        if p.plain
        for ranks in sorted({1, *(job.size for job in jobs)} if p.joins else {1})
    ]
    plain, words = run([*entries, *_entries(programs, 0, folder)], ones, folder)
    for number, job in enumerate((ones, *jobs)):
        entries = _entries(programs, number, folder)
        results = plain if job is ones else {}
        if job is not ones:
            results, words = run(entries, job, folder)
        for e in entries:
            p = e.program
            if p.plain:
                reference = plain[Entry(p, "plain", job.size if p.joins else 1)]
            else:
                reference = plain[Entry(p, "run", folder=str(folder / f"{p.seed}-0"))]
            if reference is None or reference[0]["error"]:
                error = reference[0]["error"] if reference else words.get(e, "")
                if job is ones and e.way == "run" and not (p.alone and "on one rank" in error):
                    found.append(Finding("error", p, job, error))
                continue
            here, n = results.get(e), job.size
            groups = [here[k : k + n] for k in range(0, job.ranks, n)] if here else [None]
            judged = (_judged(e, job, of, words.get(e, ""), reference[0]) for of in groups)
            refused += bool(here and here[0]["refused"])
            found += [finding for finding in judged if finding][:1]
    return found, refused


def _entries(programs, number, folder):
    """Of the job of this number: programs as they are, and those that are killed, to resume on as
    many ranks, and on those of the next job."""
    every = [Entry(p, "run", folder=str(folder / f"{p.seed}-{number}")) for p in programs]
    resumed = [p for p in programs if p.resumes]
    for p in resumed:
        mine, others = (str(folder / f"{p.seed}-{number}-{name}") for name in ("own", "next"))
        before = str(folder / f"{p.seed}-{number - 1}-next")
        every += [Entry(p, "kill", kill=p.kill, folder=where) for where in (mine, others)]
        every.append(Entry(p, "resume", folder=mine))
        if number and p.resumes == "any":
            every.append(Entry(p, "resume", folder=before))
    return every


def _judged(entry, job, here, words, reference):
    """As judge(), of an entry."""
    if entry.way == "run" or here is None:
        return judge(entry.program, job, here, words, reference)
    if entry.way == "kill":  # it ends where it was
        return None if not here[0]["error"] else judge(entry.program, job, here, "", None)
    # what was noted before it was killed is not there
    ends = [{**mine, "notes": mine["notes"][-1:]} for mine in here]
    end = {**reference, "notes": reference["notes"][-1:]}
    if "every" in end:
        end["every"] = [{**one, "notes": one["notes"][-1:]} for one in end["every"]]
    return judge(entry.program, job, ends, words, end)


def shrunk(finding, folder):
    """The same with fewer lines, and whether it is wrong by itself."""
    kind, job = finding.kind, finding.job
    jobs = [] if job.ranks == 1 else [job, job] if finding.program.resumes else [job]
    again, _ = check([finding.program], jobs, folder, job.precision)
    same = [f for f in again if f.kind == kind]
    if not same:
        return finding, False
    finding, tried = same[0], True
    while tried:
        tried = False
        program = finding.program
        shorter = []
        for k in range(len(program.lines)):
            try:
                compile(program.without(k).source, "", "exec")
            except SyntaxError:
                continue
            shorter.append(program.without(k))
        hangs = kind in ("hang", "job has ended") or program.alone
        for batch in [[p] for p in shorter] if hangs else [shorter]:
            wrong = check(batch, jobs, folder, job.precision)[0]
            wrong = [f for f in wrong if f.kind == kind]
            wrong = [f for f in wrong if "NameError" not in f.words]
            if wrong:
                finding, tried = min(wrong, key=lambda f: len(f.program.lines)), True
                break
    return finding, True


def _to_the_bit(program):
    """The same, where only bits are compared, not what depends on rounding."""
    law = program.law if program.law == "bits" else "together"
    return replace(program, law=law, plain=False, threads=False)


# ---- the command -----------------------------------------------------------------------


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--kind")
    parser.add_argument("--ranks", default="2,3")
    parser.add_argument("--groups", type=int, default=1, help="which train side by side")
    parser.add_argument("--precision", choices=[*PRECISIONS], default="float64")
    parser.add_argument("--programs", type=int, default=40, help="in a job")
    parser.add_argument("--no-shrink", action="store_true")
    options = parser.parse_args()
    until, count, refusals, number, status = time.monotonic() + options.seconds, 0, 0, 0, 0
    rng, seen = random.Random(options.seed), set()
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < until:
            first = options.only or options.seed * 1_000_000 + number
            n = 1 if options.only else options.programs
            programs = [drawn(k, options.kind) for k in range(first, first + n)]
            if options.precision != "float64":
                programs = [_to_the_bit(p) for p in programs]
            jobs = []
            for ranks in map(int, options.ranks.split(",")):
                groups = rng.sample("abcdefgh"[: options.groups] * ranks, ranks * options.groups)
                ranks *= options.groups
                exchange, hosts = rng.choice(ENGINES)
                hosts = "".join(hosts[r % len(hosts)] for r in range(ranks if hosts else 0))
                jobs.append(
                    Job(
                        ranks,
                        exchange,
                        "".join(sorted(hosts)),
                        "".join(groups) if options.groups > 1 else "",
                        rng.choice(SETTINGS),
                        options.precision,
                    )
                )
            found, refused = check(programs, jobs, Path(name) / "run", options.precision)
            count, refusals, number = count + n, refusals + refused, number + n
            for finding in found:
                status = 1
                if (finding.program.seed, finding.kind) in seen:
                    continue
                seen.add((finding.program.seed, finding.kind))
                if not options.no_shrink:
                    finding, alone = shrunk(finding, Path(name) / "shrink")
                    print("" if alone else "# only together with others", flush=True)
                print(f"# program {finding.program.seed}\n{finding.printed()}", flush=True)
            if options.only:
                break
    print(f"{count} programs, {refusals} runs refused, {len(seen)} found")
    sys.exit(status)


if __name__ == "__main__":
    main()
