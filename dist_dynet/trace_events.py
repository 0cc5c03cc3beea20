"""Files in Chrome's trace format, which chrome://tracing and Perfetto show."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ._file_names import FileName
from .io.files import OneProcess, atomic_write


def write(file: FileName, events: Iterable[str], rest: dict[str, Any], what: str) -> None:
    """Writes a file of these events, with what else is to be known, for the call `what`.

    Raises:
        RuntimeError: it cannot be written; the file of before is whole.
    """
    with atomic_write(file, policy=OneProcess(), what=what) as out:
        before = '{"displayTimeUnit": "ms", "traceEvents": [\n'
        for event in events:
            out.write(f"{before}{event}".encode())
            before = ",\n"
        out.write(f'\n], "otherData": {json.dumps(rest)}}}\n'.encode())


def named(kind: str, process: int, thread: int, name: str) -> str:
    """An event that names a process ("process_name") or a thread ("thread_name")."""
    event = {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
    return json.dumps(event)


def span(name: str, process: int, thread: int, begin: float, end: float, **more: Any) -> str:
    """An event from begin to end, in nanoseconds."""
    # a nanosecond is left out between neighbours: rounded by a viewer they would overlap
    at, until = round(begin), round(end) - 1
    rest = f", {json.dumps(more)[1:-1]}" if more else ""
    return (
        f'{{"name": {json.dumps(name)}, "ph": "X", "pid": {process}, "tid": {thread}, "ts":'
        f' {at / 1000:.3f}, "dur": {(until - at) / 1000:.3f}{rest}}}'
    )
