"""raises() as pytest has it. Programs of ranks do without pytest: each rank would take longer to
import that than all of dist_dynet."""

import re


class raises:  # noqa: N801 - as pytest names it
    """A context that must be left by an error of this class.

    match: a pattern that is found in its message. After that, `value` is the error.
    """

    def __init__(self, kind, match=""):
        self.kind, self.match, self.value = kind, match, None

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        assert kind, f"no {self.kind} was raised"
        if not issubclass(kind, self.kind):
            return False
        found = re.search(self.match, str(value))
        assert found, f"{self.match!r} is not found in {str(value)!r}"
        self.value = value
        return True
