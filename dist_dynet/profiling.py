"""Where a piece of a program spends its time, by operation, schedule and Python: dy.profile()."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import _launcher, trace_events
from ._ffi import OPS, ffi, lib
from ._file_names import FileName
from ._integers import integer_argument

__all__ = ["Profile", "ProfileRow", "profile"]

MOST_CALLS = 1_000_000
"""How many calls are recorded, at 200 bytes each; further ones are only counted."""
_NAMES = {**{number: name for name, number in OPS.items()}, lib.DN_PROFILE_WEIGHTS: "dW"}
_AROUND = {
    lib.DN_PROFILE_FORWARD: "forward",
    lib.DN_PROFILE_BACKWARD: "backward",
    lib.DN_PROFILE_UPDATE: "update",
}
_DIM = [("nd", "i4"), ("batch", "i4"), ("size", "i4"), ("d", "i4", 7)]
_RECORD = np.dtype(
    [
        *((name, "i4") for name in ("what", "backward", "members", "inputs")),
        ("y", _DIM),
        ("x", _DIM, lib.DN_PROFILED_INPUTS),
        *((name, "i8") for name in ("multiplications", "begin", "end", "within")),
    ],
    align=True,
)
_owners = itertools.count(1)


class ProfileRow(NamedTuple):
    """The calls of one operation with inputs and results of the same dims.

    >>> import dist_dynet as dy
    >>> with dy.profile() as p:
    ...     _ = dy.square(dy.inputVector([1, 2])).value()
    >>> [(row.name, row.calls, row.nodes) for row in p.rows]
    [('square', 1, 1)]
    """

    name: str
    """the operation; of its backward pass with `'` behind it; dW: the products dy x' that give the
    gradient of a matrix, of all its uses together"""
    shape: str
    """dims of its first three inputs and of the result, of one node"""
    calls: int
    nodes: int
    """how many nodes these calls have computed: more than calls where they are grouped"""
    seconds: float
    """in the calls themselves, without calls within them"""
    gflops: float | None
    """10^9 floating-point operations a second, of products; None: not counted"""


def _shape(dim: Any) -> str:
    sizes = ", ".join(str(n) for n in dim["d"][: dim["nd"]])
    text = f"({sizes},)" if dim["nd"] == 1 else f"({sizes})"
    return f"{text} x {dim['batch']}" if dim["batch"] != 1 else text


def _name(record: Any) -> str:
    what = int(record["what"])
    return _NAMES[what] + "'" * int(record["backward"] and what >= 0)


class Profile:
    """Where a piece of a program spends its time, in all threads: what profile() gives.

    >>> import dist_dynet as dy
    >>> with dy.profile() as p:
    ...     pass
    >>> p.rows, list(p.around)
    ([], ['schedule', 'backward', 'update', 'Python'])
    """

    def __init__(self) -> None:
        self.rows: list[ProfileRow] = []
        self.seconds = 0.0
        """of the with block"""
        self.around: dict[str, float] = {}
        """seconds of what is no operation: "schedule" (of forward: which nodes are computed
        together), "backward" (the same), "update", "Python" (all else, the making of nodes
        included)"""
        self.lost = 0
        """calls that were too many to be kept"""
        self._records: Any = np.empty(0, _RECORD)
        self._begin = 0
        self._owner = next(_owners)

    def _start(self) -> None:
        if lib.dn_profile_begin(MOST_CALLS, self._owner) < 0:
            raise RuntimeError("profile: there is a profile already. One runs at a time.")
        self._begin = lib.dn_meter_now()

    def _read(self, lost: int) -> None:
        """After its end, which has given `lost`. Does nothing if it has not started."""
        end = lib.dn_meter_now()
        if lost < 0:
            return
        self.lost = lost
        try:
            at = ffi.new("dn_profiled **")
            n = lib.dn_profile_read(at)
            if n:
                records = bytes(ffi.buffer(at[0], n * _RECORD.itemsize))
                self._records = np.frombuffer(records, _RECORD)
        finally:
            lib.dn_profile_free()
        self.seconds = (end - self._begin) * 1e-9
        self._sum()

    def _sum(self) -> None:
        records = self._records
        own = (records["end"] - records["begin"] - records["within"]) * 1e-9
        is_op = np.isin(records["what"], list(_NAMES))
        found: dict[Any, list[float]] = {}
        for record, seconds in zip(records[is_op], own[is_op], strict=True):
            inputs = record["x"][: record["inputs"]]
            shape = f"{', '.join(map(_shape, inputs))} -> {_shape(record['y'])}"
            row = found.setdefault((_name(record), shape), [0, 0, 0.0, 0.0])
            row[0] += 1
            row[1] += int(record["members"])
            row[2] += float(seconds)
            row[3] += 2.0 * max(0, int(record["multiplications"]))
        rows = [
            ProfileRow(name, shape, int(c), int(n), s, f / s * 1e-9 if f and s > 0 else None)
            for (name, shape), (c, n, s, f) in found.items()
        ]
        self.rows = sorted(rows, key=lambda row: -row.seconds)
        spans = {name: float(own[records["what"] == kind].sum()) for kind, name in _AROUND.items()}
        top = own[is_op]
        back = records["backward"][is_op] == 1
        self.around = {
            "schedule": max(0.0, spans["forward"] - float(top[~back].sum())),
            "backward": max(0.0, spans["backward"] - float(top[back].sum())),
            "update": spans["update"],
            "Python": max(0.0, self.seconds - sum(spans.values())),
        }

    def _by_operation(self) -> Iterator[ProfileRow]:
        """The rows, where those of one operation that take less than 1 % each are one: sentences
        of all lengths have hundreds of shapes."""
        small: dict[str, list[ProfileRow]] = {}
        for row in self.rows:
            if row.seconds < 0.01 * self.seconds:
                small.setdefault(row.name, []).append(row)
            else:
                yield row
        for name, rows in small.items():
            calls, nodes = sum(row.calls for row in rows), sum(row.nodes for row in rows)
            seconds = sum(row.seconds for row in rows)
            products = sum(row.seconds * (row.gflops or 0) for row in rows)
            shape = rows[0].shape if len(rows) == 1 else f"{len(rows):,} shapes"
            gflops = products / seconds if products else None
            yield ProfileRow(name, shape, calls, nodes, seconds, gflops)

    def table(self, most: int = 20) -> str:
        """The rows that take most time, and the sum of the rest, as text. Shapes of an operation
        that take less than 1 % each are one row.

        Raises:
            TypeError: most is not an integer.

        >>> import dist_dynet as dy
        >>> with dy.profile() as p:
        ...     dy.square(dy.scalarInput(3)).forward()
        >>> p.table().splitlines()[0].split(), "square" in p.table()
        (['operation', 'calls', 'nodes', 'ms', '%', 'GFLOP/s', 'shapes'], True)
        """
        most = integer_argument(most, "Profile.table", "most")
        lines = [("operation", "calls", "nodes", "ms", "%", "GFLOP/s", "shapes")]
        whole = self.seconds or 1.0

        def line(name: str, calls: str, nodes: str, s: float, gflops: str, shape: str) -> None:
            share = f"{100 * s / whole:.1f}"
            lines.append((name, calls, nodes, f"{1000 * s:.3f}", share, gflops, shape))

        rows = sorted(self._by_operation(), key=lambda row: -row.seconds)
        for row in rows[:most]:
            gflops = "" if row.gflops is None else f"{row.gflops:.2f}"
            line(row.name, f"{row.calls:,}", f"{row.nodes:,}", row.seconds, gflops, row.shape)
        if rest := rows[most:]:
            calls, nodes = sum(r.calls for r in rest), sum(r.nodes for r in rest)
            line("others", f"{calls:,}", f"{nodes:,}", sum(r.seconds for r in rest), "", "")
        for name, seconds in self.around.items():
            line(f"[{name}]", "", "", seconds, "", "")
        line("in all", "", "", self.seconds, "", "")
        widths = [max(len(row[k]) for row in lines) for k in range(6)]
        text = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(row[k].rjust(widths[k]) for k in range(1, 6)),
                    row[6],
                ]
            ).rstrip()
            for row in lines
        ]
        if self.lost:
            text.append(f"{self.lost:,} more calls were not kept.")
        return "\n".join(text)

    __str__ = table

    def __repr__(self) -> str:
        calls = sum(row.calls for row in self.rows)
        return f"Profile: {calls:,} calls of operations in {self.seconds:.3g} s"

    def save(self, file: FileName) -> None:
        """Writes all calls in Chrome's trace format, for chrome://tracing and Perfetto.

        Raises:
            RuntimeError: it cannot be written; the file of before is whole.

        >>> import json, pathlib, tempfile
        >>> import dist_dynet as dy
        >>> with dy.profile() as p:
        ...     dy.square(dy.scalarInput(3)).forward()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     p.save(f"{folder}/trace.json")
        ...     trace = json.loads(pathlib.Path(folder, "trace.json").read_text())
        >>> "square" in {event["name"] for event in trace["traceEvents"]}
        True
        """
        rest = {"seconds": self.seconds, **self.around}
        trace_events.write(file, self._events(), rest, "Profile.save")

    def _events(self) -> Iterator[str]:
        process = os.getpid()
        yield trace_events.named("process_name", process, 0, "dist_dynet")
        for record in np.sort(self._records, order="begin"):
            begin, end = record["begin"] - self._begin, record["end"] - self._begin
            more: dict[str, Any] = {}
            if not (name := _AROUND.get(int(record["what"]), "")):
                name, inputs = _name(record), record["x"][: record["inputs"]]
                more = {"inputs": [*map(_shape, inputs)], "result": _shape(record["y"])}
                more = {"args": {**more, "nodes": int(record["members"])}}
            yield trace_events.span(name, process, 1, begin, end, **more)


@contextmanager
def profile() -> Iterator[Profile]:
    """A context manager that measures what is computed in its block: time, calls, shapes and
    GFLOP/s of each operation, the schedule, backward and update around them, and Python.

    It costs about 0.1 us per call while it is on and nothing otherwise. Times are wall-clock times.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((3, 2))
    >>> with dy.profile() as p:
    ...     _ = dy.renew_cg()
    ...     _ = dy.tanh(W * dy.inputVector([1, 2])).value()
    >>> sorted((row.name, row.shape, row.calls) for row in p.rows if row.name != "parameter")
    [('matmul', '(3, 2), (2,) -> (3,)', 1), ('tanh', '(3,) -> (3,)', 1)]
    >>> print(p.table())  # doctest: +SKIP
    >>> p.save("trace.json")  # doctest: +SKIP
    """
    measured = Profile()
    try:  # Ctrl-C may come at any call, also between that of _start() and the block
        measured._start()
        yield measured
    finally:  # by a call of C, before which it cannot come
        lost = lib.dn_profile_end(measured._owner)
        measured._read(lost)


def of_whole_program(file: str) -> None:
    """Profiles from now to the end of the process, then prints the table on stderr and writes the
    file. With several ranks its name gets the rank's number before the suffix. For `dist-dynet run
    --profile`."""
    path, launch = Path(file), _launcher.find()
    if launch is not None:
        path = path.with_name(f"{path.stem}-{launch.rank}{path.suffix}")
    measured = Profile()
    measured._start()
    process = os.getpid()

    def end() -> None:
        if os.getpid() != process:  # a forked child
            return
        measured._read(lib.dn_profile_end(measured._owner))
        try:  # the file first: printing the table may fail, as with a closed pipe
            measured.save(path)
        except RuntimeError as error:
            print(f"dist_dynet: profile: {path} cannot be written: {error}", file=sys.stderr)
        if launch is None or launch.rank == 0:
            print(f"dist_dynet: profile\n{measured.table()}", file=sys.stderr)

    atexit.register(end)
