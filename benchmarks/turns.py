"""Programs that take turns: each is a process that waits while another one is measured.

The speed of a core of a shared machine changes from second to second, by more than what is to be
measured. So programs that are compared are not measured one after another, but a quarter of a
second each, again and again, in another order each time. See tasks/common.py for what a program
does.
"""

import contextlib
import json
import subprocess
import tempfile
from typing import NamedTuple

MY_TURN, NO_TWIN = "@", 3
"""As in tasks/common.py: the line by which a program says that it waits for its turn, and the exit
status of one that has none for the peer."""
TURN = 0.25
"""CPU seconds of a turn."""


class NoTwinError(Exception):
    """The task has no program for the peer."""


class Program(NamedTuple):
    """How it is started."""

    name: str
    command: tuple
    environment: dict

    def start(self, *options):
        """Its process."""
        return Running(self, [*self.command, *options])

    def run(self, *options):
        """What it prints at its end, a line of JSON.

        Raises:
            NoTwinError: it says so.
            RuntimeError: it fails.
        """
        return self.start(*options).result()


class Running:
    """A program that runs."""

    def __init__(self, program, command):
        self._name = program.name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by _end()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            env=program.environment,
            stdin=pipe,
            stdout=pipe,
            stderr=self._errors,
            text=True,
        )

    def wait(self):
        """Until it waits for its turn, or has ended."""
        for line in self._process.stdout:
            if line.strip() == MY_TURN:
                break

    def go_on(self, seconds):
        """Lets it have a turn."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            print(seconds, file=self._process.stdin, flush=True)
            self.wait()

    def result(self):
        """As Program.run(), when it has had its last turn."""
        status, shown, said = self._end()
        if not status:
            return json.loads(shown.splitlines()[-1])
        if status == NO_TWIN:
            raise NoTwinError(said.splitlines()[-1])
        raise RuntimeError(f"{self._name} ended with status {status}:\n{said[-2000:]}")

    def kill(self):
        """Ends it, if it has not ended."""
        if not self._errors.closed:
            self._process.kill()
            self._end()

    def _end(self):
        """(status, standard output, standard error)."""
        with self._errors:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            shown, status = self._process.stdout.read(), self._process.wait()
            self._process.stdout.close()
            self._errors.seek(0)
            return status, shown.strip(), self._errors.read().strip()


def take_turns(programs, seconds):
    """{name: result} of programs ({name: Program}), each measured for so many CPU seconds; what one
    that fails has raised stands in the place of its result."""
    running, results = {}, {}
    try:
        for name, program in programs.items():  # if they compile, then one after another
            running[name] = program.start("--turns")
            running[name].wait()
        for i in range(max(1, round(seconds / TURN))):
            names = list(programs)
            for name in names[i % len(names) :] + names[: i % len(names)]:
                running[name].go_on(min(seconds, TURN))
        for name in programs:
            try:
                results[name] = running[name].result()
            except (RuntimeError, NoTwinError) as error:
                results[name] = error
    finally:
        for program in running.values():
            program.kill()
    return results
