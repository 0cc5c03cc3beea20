"""Child processes of a program that runs on dist_dynet in place of DyNet start here: `import dynet`
means the same in them.

Then comes the sitecustomize that Python would have found without this folder.
"""

import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def load(name: str, spec: Any) -> Any:
    """The module of a spec, under this name."""
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


finder = "dist_dynet_compat_finder"
load(finder, importlib.util.spec_from_file_location(finder, HERE.parent / "_finder.py")).install()
following = PathFinder.find_spec(
    "sitecustomize", [p for p in sys.path if Path(p).resolve() != HERE]
)
if following is not None and following.loader is not None:
    try:
        load("sitecustomize", following)
    except ImportError as error:
        # it found none to hand on to; Python takes this for none, too
        if error.name != "sitecustomize":
            raise
