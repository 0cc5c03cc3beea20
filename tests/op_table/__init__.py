"""The op table: one row per operation and use, one module per family, as in csrc/ops.
tests/test_ops.py runs them all."""

from importlib import import_module
from pathlib import Path

_MODULES = {
    file.stem: import_module(f".{file.stem}", __name__)
    for file in sorted(Path(__file__).parent.glob("[a-z]*.py"))
}
FAMILIES = {name: module for name, module in _MODULES.items() if hasattr(module, "ROWS")}

NOT_IN_THE_TABLE: dict[str, str] = {
    "inputMatrix": "raises DeprecationWarning, whatever it is given",
    "matInput": "raises DeprecationWarning, whatever it is given",
}
"""Public functions of dist_dynet.ops that no row calls, each with the reason."""
