"""Files in Chrome's trace format, which chrome://tracing and Perfetto show: the lines of which they
consist."""

from __future__ import annotations

import json
from typing import Any

HEAD = '{"displayTimeUnit": "ms", "traceEvents": [\n'
"""Lines of events follow, with a comma and a line's end between them, then tail()."""


def tail(rest: dict[str, Any]) -> str:
    """The end of a file, with what else is to be known."""
    return f'\n], "otherData": {json.dumps(rest)}}}\n'


def named(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    """Names a process ("process_name") or a thread ("thread_name")."""
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


def span(name: str, process: int, thread: int, begin: float, end: float, **more: Any) -> str:
    """A line: from begin to end, in nanoseconds."""
    # a nanosecond is left out between neighbours: rounded by a viewer they would overlap
    at, until = round(begin), round(end) - 1
    rest = f", {json.dumps(more)[1:-1]}" if more else ""
    return (
        f'{{"name": {json.dumps(name)}, "ph": "X", "pid": {process}, "tid": {thread}, "ts":'
        f' {at / 1000:.3f}, "dur": {(until - at) / 1000:.3f}{rest}}}'
    )
