"""Names of files and folders that users give."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

FileName = str | PathLike[str]


def file_path(name: FileName, what: str) -> Path:
    """The path of a file; `what` names the call in errors.

    Raises:
        TypeError: the name is no text and no path of text.
        ValueError: no file can have this name.

    >>> file_path("model.data", "save").name
    'model.data'
    """
    text: object = os.fspath(name) if isinstance(name, PathLike) else name
    if not isinstance(text, str):
        hint = " Write os.fsdecode(name)." if isinstance(text, bytes) else ""
        raise TypeError(f"{what}: a file name must be text or a path; got {name!r:.60}.{hint}")
    if "\0" in text:
        raise ValueError(
            f"{what}: a file name must not contain the character with number 0; got {text!r:.200}."
        )
    return Path(text)
