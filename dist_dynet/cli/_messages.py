"""What the launcher says itself, and how it refuses."""

from __future__ import annotations

import sys
from contextlib import suppress


class RefusedError(Exception):
    """Something is asked for that cannot be done; the text says what and what to do."""


def print_message(text: str) -> None:
    """Writes to stderr, under the launcher's name."""
    with suppress(OSError):
        sys.stderr.write("".join(f"dist-dynet: {line}\n" for line in text.splitlines()))
        sys.stderr.flush()
