"""Names of files and folders that users give, and texts that files can hold."""

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
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(
            f"{what}: a file name must be text that the system can write; got {text!a:.200}."
        ) from None
    return Path(text)


def is_text(text: str) -> bool:
    """Whether a file can hold it: it has no half of a surrogate pair, as os.fsdecode() makes them
    of bytes that are no UTF-8.

    >>> is_text(chr(0xE9)), is_text(chr(0xDCE9))
    (True, False)
    """
    return not any("\ud800" <= c <= "\udfff" for c in text)
