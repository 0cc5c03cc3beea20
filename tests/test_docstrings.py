"""What docstrings must say: public methods have an example that runs, and name the errors that they
raise.

Which methods these are follows from the package, by the rules of this file and few exceptions, each
with its reason. How long: two seconds.
"""

import ast
import inspect
import pkgutil
import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import dist_dynet as dy
from dist_dynet.parallel.wrapper import TrainerWrapper

MODULES = [
    dy,
    *(
        import_module(f"dist_dynet.{m.name}")
        for m in pkgutil.iter_modules(dy.__path__)
        if not m.name.startswith("_")
    ),
]
"""The package, and the modules right under it, whose __all__ the reference of the site shows."""


# ---- examples of methods ---------------------------------------------------------------


def public_things():
    """What __all__ of MODULES names."""
    return [getattr(module, name) for module in MODULES for name in getattr(module, "__all__", ())]


def public_classes():
    """The classes among these, but for errors."""
    classes = dict.fromkeys(t for t in public_things() if inspect.isclass(t) and is_own(t))
    return [c for c in classes if not issubclass(c, BaseException)]


def is_own(thing):
    return getattr(thing, "__module__", "").startswith("dist_dynet.")


def function_of(member):
    """The function of a method, a property, a class method; None of anything else."""
    member = member.fget if isinstance(member, property) else member
    member = inspect.unwrap(getattr(member, "__func__", member))
    return member if inspect.isfunction(member) and is_own(member) else None


def public_methods():
    """{"module.Class.name": (class, name, member)} of what public classes and those of their bases
    that are of the package define."""
    return {
        f"{cls.__module__}.{cls.__qualname__}.{name}": (cls, name, member)
        for public in public_classes()
        for cls in public.__mro__
        if is_own(cls)
        for name, member in vars(cls).items()
        if not name.startswith("_") and function_of(member) is not None
    }


def body_of(function):
    """Its statements, without the docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    return tree.body[1:] if ast.get_docstring(tree) else tree.body


def merely_forwards(function):
    """Whether it is one call of public methods of self, or of public attributes of self, with no
    more than its own arguments: such as `return self.save(fname, key)`."""
    body = body_of(function)
    if len(body) != 1 or not isinstance(body[0], ast.Return | ast.Expr | ast.Assign):
        return False
    if isinstance(body[0], ast.Assign):  # self.learning_rate = value
        return len(body[0].targets) == 1 and leads_to_public(body[0].targets[0])
    call = body[0].value
    return isinstance(call, ast.Call) and leads_to_public(call)


def leads_to_public(node):
    """self.x, self.x.y, self.x(a).y(b)"""
    while isinstance(node, ast.Call):
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if not all(isinstance(a, ast.Name | ast.Constant | ast.Starred) for a in arguments):
            return False
        node = node.func
    if not isinstance(node, ast.Attribute) or node.attr.startswith("_"):
        return False
    is_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    return is_self or leads_to_public(node.value)


def is_short_property(member):
    """Whether it is a property that only returns something: its one line says what."""
    if not isinstance(member, property):
        return False
    body = body_of(function_of(member))
    return len(body) == 1 and isinstance(body[0], ast.Return)


def is_abstract(function):
    """Whether it does nothing, or only refuses: subclasses say what they do."""
    return all(isinstance(s, ast.Raise | ast.Pass) for s in body_of(function))


FOR_FILES = {"spec", "from_spec"}
"""What dy.save() and dy.load() ask of whatever they keep; docs/nn.md has the example."""
STANDS_FOR = {TrainerWrapper: dy.Trainer, dy.TrainerLike: dy.Trainer}
"""{class: another one, whose methods of the same names do the same and have the examples}."""


def has_example(cls, name):
    """Whether the docstring has one, or that of a method of a base that it overrides."""
    wrapped = [other for wrapper, other in STANDS_FOR.items() if wrapper in cls.__mro__]
    bases = [base for c in (cls, *wrapped) for base in c.__mro__ if is_own(base)]
    own = [vars(base)[name] for base in bases if name in vars(base)]
    return any(">>> " in (member.__doc__ or "") for member in own)


def is_of_settings(cls):
    """DynetParams is DyNet's form of dy.init(), which explains the settings."""
    return cls is dy.DynetParams


def needs_example(cls, name, member):
    function = function_of(member)
    return not (
        name in FOR_FILES
        or is_of_settings(cls)
        or is_short_property(member)
        or is_abstract(function)
        or merely_forwards(function)
    )


METHODS = {p: m for p, m in public_methods().items() if needs_example(*m)}


def test_public_methods_have_examples():
    functions = [
        function_of(member) for cls, name, member in METHODS.values() if not has_example(cls, name)
    ]
    without = [f"{inspect.getsourcefile(f)}: {f.__qualname__}" for f in functions]
    assert not without, f"{without}: each docstring needs an example that runs"


class Sample:
    """What the rules are tried on."""

    def does(self, x):
        """No example."""
        return self.forwards(x) + 1

    def forwards(self, x):
        """As does()."""
        return self.does(x)

    def goes_far(self, x):
        """As does() of another."""
        self.inner(x).does(x)

    def changes(self, x):
        """Not as does()."""
        return self.does(x + 1)

    def reads(self):
        """Reads."""
        return self._x

    @property
    def short(self):
        """Short."""
        return self._x

    @property
    def long(self):
        """Long."""
        x = self._x
        return x

    def refuses(self):
        """Refuses."""
        raise NotImplementedError


def test_the_rule_of_examples_leaves_out_what_it_says():
    of_sample = {name: m for name, m in vars(Sample).items() if not name.startswith("_")}
    Sample.__module__ = "dist_dynet.sample"
    needing = []
    for name, member in of_sample.items():
        (member.fget if isinstance(member, property) else member).__module__ = "dist_dynet.sample"
        needing += [name] if needs_example(Sample, name, member) else []
    assert needing == ["does", "changes", "reads", "long"]
    assert len(METHODS) > 200
    assert "dist_dynet.trainers.base.Trainer.update" in METHODS


# ---- errors ----------------------------------------------------------------------------

PACKAGE = Path(dy.__file__).parent
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
EXPORTED = {
    f"{thing.__module__}.{thing.__qualname__}"
    for thing in [*public_things(), *(base for c in public_classes() for base in c.__mro__)]
    if hasattr(thing, "__qualname__")
}
"""Functions and classes in __all__ of MODULES, and the bases of these classes."""


def makers_of_errors():
    """{function: class of the error that it returns}, such as not_expression()."""
    return {
        node.name: node.returns.id
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION) and isinstance(node.returns, ast.Name)
        if node.returns.id.endswith("Error")
    }


MAKERS = makers_of_errors()


def public_functions(path):
    """(qualified name, node) of the public functions of a file, and of the public methods of its
    public classes and of their bases. In a module whose name begins with an underscore, public is
    what __all__ of MODULES names."""
    hidden = any(part.startswith("_") and part != "__init__.py" for part in path.split("/"))
    for node in SOURCES[path].body:
        if not isinstance(node, FUNCTION | ast.ClassDef):
            continue
        name = f"{module_of(path)}.{node.name}"
        if (node.name.startswith("_") or hidden) and name not in EXPORTED:
            continue
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{f.name}", f) for f in node.body if is_public_function(f))
        else:
            yield node.name, node


def is_public_function(node):
    return isinstance(node, FUNCTION) and not node.name.startswith("_")


def module_of(path):
    return f"dist_dynet.{path[:-3].replace('/', '.')}".removesuffix(".__init__")


def own_nodes(function):
    """All nodes of its body but those of functions and classes inside of it."""
    todo = list(function.body)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, FUNCTION | ast.ClassDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


def raised(function):
    """The classes of errors that it raises by `raise X(...)`."""
    classes = set()
    for node in own_nodes(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
            classes.add(MAKERS.get(name, name))
    return {c for c in classes if c[:1].isupper()} - {"NotImplementedError", "SystemExit"}


def named_errors(function):
    """The classes of errors that its docstring names: in a section Raises:, a line for each, or in
    a paragraph or line that begins with the word, such as "Raises: ValueError for an empty list."
    """
    doc = ast.get_docstring(function) or ""
    sections = re.findall(r"^Raises:\n((?: {4}.*\n?)+)", doc, re.M)
    sentences = re.findall(r"^Raises:? (.+(?:\n\S.*)*)", doc, re.M)
    return {
        *(name for text in sections for name in re.findall(r"^ {4}(\w+):", text, re.M)),
        *(name for text in sentences for name in re.findall(r"\b[A-Z]\w+", text)),
    }


RAISING = [
    (path, node, errors)
    for path in SOURCES
    for _, node in public_functions(path)
    if (errors := raised(node))
]


def test_docstrings_name_the_errors_that_are_raised():
    missing = [
        f"dist_dynet/{path}: the docstring of {function.name} (line {function.lineno}) needs a"
        f" section Raises: with {', '.join(sorted(unnamed))}"
        for path, function, errors in RAISING
        if (unnamed := errors - named_errors(function))
    ]
    assert not missing, "\n".join(missing)


def test_the_rule_of_errors_sees_what_there_is():
    text = '''
def f(x):
    """One.

    Raises:
        KeyError: none.
            TypeError: a continued line.
    """
    def inner():
        raise OSError("not its own")
    try:
        if x:
            raise ValueError("x")
        raise not_expression("f", x)
    except KeyError as error:
        raise KeyError from error
    except OSError:
        raise
    raise NotImplementedError("f")

def g():
    """Two.

    Raises: ValueError for one, or
    TypeError for another.

    No Error here.
    """
'''
    f, g = ast.parse(text).body
    assert raised(f) == {"ValueError", "TypeError"}
    assert named_errors(f) == {"KeyError"}
    assert {"ValueError", "TypeError"} <= named_errors(g) and "Error" not in named_errors(g)
    assert len(RAISING) > 100


if __name__ == "__main__":
    pytest.main([__file__])
