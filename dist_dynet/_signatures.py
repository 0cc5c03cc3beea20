"""Adds a function's signature to Python's own errors about missing, superfluous or unknown
arguments, when the error ends a program or is shown in a notebook."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from ._manner import last_frame

_COMPLAINT = re.compile(
    r"(?P<name>\w+(?:\.\w+)*)\(\) (?:"
    r"missing \d+ required [a-z-]+ arguments?: (?P<missing>'[\w', ]+')"
    r"|takes (?:from \d+ to )?(?P<most>\d+) positional arguments? but \d+ (?:was|were) given"
    r"|got an unexpected keyword argument '(?P<unknown>\w+)'(?:\. Did you mean '\w+'\?)?)"
)


def _of_package(name: str) -> Iterator[tuple[str, Any]]:
    """The public objects with this name, under the names that users write."""
    package: Any = sys.modules[__package__]
    for prefix in "", "parallel.", "schedules.", "training.":
        thing, path = package, prefix + name.removesuffix(".__init__")
        try:
            for part in path.split("."):
                if part.startswith("_"):
                    raise AttributeError(part)
                thing = getattr(thing, part)
        except AttributeError:
            continue
        yield f"dy.{path}", thing


def _is_users_own(name: str, error: BaseException) -> bool:
    """Whether the name means something else in the failing line."""
    frame = last_frame(error)
    if frame is None:
        return False
    there = {**frame.f_globals, **frame.f_locals}.get(name.split(".")[0])
    return callable(there) and not str(getattr(there, "__module__", "")).startswith(
        f"{__package__}."
    )


def arguments_that_are(error: BaseException) -> str:
    """A sentence with the signature of the function that the error is about; empty if it is not
    about one of this package."""
    complaint = _COMPLAINT.fullmatch(str(error)) if type(error) is TypeError else None
    if complaint is None or _is_users_own(complaint["name"], error):
        return ""
    bound = "." in complaint["name"]  # a method, which is given self
    for name, thing in _of_package(complaint["name"]):
        try:
            parameters = [*inspect.signature(thing).parameters.values()]
        except (TypeError, ValueError):
            continue
        if bound and not inspect.isclass(thing):
            parameters = parameters[1:]
        names = [p.name for p in parameters]
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if (
            not set(re.findall(r"'(\w+)'", complaint["missing"] or "")) <= {*names}
            or (complaint["most"] and int(complaint["most"]) != len(positional) + bound)
            or complaint["unknown"] in names
        ):
            continue  # another function of this name
        shown = [p.replace(annotation=p.empty) for p in parameters]
        several = complaint["most"] == "1" and not bound
        hint = " Several go into one list." if several and names[0] in ("xs", "exprs") else ""
        return f"{name} takes {inspect.Signature(shown)}.{hint}"
    return ""


def explain(error: BaseException) -> None:
    """Appends that sentence to the message."""
    sentence = arguments_that_are(error)
    if sentence:
        error.args = (f"{error}. {sentence}",)
