"""What the tables of trainers and of nets have in common: which classes there are, and how a table
differs from them."""

import inspect
import sys


def known_classes(package, base):
    """Classes by name: all in __all__ of the package, and the subclasses of `base` in it and its
    modules, be they in __all__ or not."""
    listed = {name: getattr(package, name) for name in package.__all__}
    found = {name: c for name, c in listed.items() if inspect.isclass(c)}
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(f"{package.__name__}."):
            own = {
                c
                for c in vars(module).values()
                if inspect.isclass(c) and issubclass(c, base) and c.__module__ == name
            }
            found |= {c.__name__: c for c in own if not c.__name__.startswith("_")}
    return found


def differing(classes, rows, exempt, table, public):
    """How a table differs from the classes that there are: a text that names the files to edit, or
    None.

    rows: the classes that the table has. exempt: names of those that need no row, with the reasons.
    public: whose __all__ they are in.
    """
    missing = sorted(name for name, c in classes.items() if c not in rows and name not in exempt)
    unknown = sorted(c.__name__ for c in rows if c not in classes.values())
    stale = sorted(name for name in exempt if name not in classes or classes[name] in rows)
    said = [
        f"{name}: no row in {table}; add one, or say in its NOT_IN_THE_TABLE why it needs none"
        for name in missing
    ]
    said += [f"{name}: has a row in {table}, and is not in __all__ of {public}" for name in unknown]
    said += [
        f"{name}: NOT_IN_THE_TABLE of {table} names it, though it has a row or is not there"
        for name in stale
    ]
    return "\n".join(said) or None
