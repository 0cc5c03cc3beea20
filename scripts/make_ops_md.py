#!/usr/bin/env python3
"""Writes docs/ops.md: all operations, from the rows in csrc/ops (formula, flags) and the docstrings
of
dist_dynet/ops (shapes, gradient, ...).

    python scripts/make_ops_md.py            writes docs/ops.md; the package must be built or
                                             installed
    python scripts/make_ops_md.py FILE       writes another file

How long: two seconds. What to expect: the name of the file. tests/test_ops_md.py fails when the
file is not what the sources say.
"""

import argparse
import doctest
import inspect
import re
from pathlib import Path

import dist_dynet as dy
from dist_dynet import inspection, ops
from dist_dynet._ffi import OPS, ffi, lib

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = [
    "x + y",
    "x - y",
    "-x",
    "x + 2",
    "2 - x",
    "2 * x",
    "x / 2",
    "x * y",
    "x @ y",
    "x / y",
    "2 / x",
    "x ** 2",
    "x ** s",
    "x[1]",
    "x[0:2]",
    "x[:, 1]",
]
FIELDS = ("Shape", "Gradient", "Args", "Raises", "Returns")


# ---- what the C rows say ---------------------------------------------------------------


def c_files():
    """{a file with rows, from csrc: its operations}."""
    row = re.compile(r"^(?:DN_OP|[A-Z_]+)\((\w+),", re.M)
    paths = sorted(
        [*(ROOT / "csrc" / "ops").glob("*.c"), ROOT / "csrc" / "graph" / "leaves.c"],
        key=lambda p: p.name,
    )
    files = {
        str(p.relative_to(ROOT)): [n for n in row.findall(p.read_text()) if n in OPS] for p in paths
    }
    missing = OPS.keys() - {name for names in files.values() for name in names}
    if missing:
        raise SystemExit(f"make_ops_md.py: finds no row in csrc/ops for {sorted(missing)}")
    return files


def flag_meanings():
    """{flag: its comment}, from the enum in csrc/dn_api.h."""
    enum = re.search(
        r"enum dn_op_flag \{(.*?)\n\};", (ROOT / "csrc" / "dn_api.h").read_text(), re.S
    )[1]
    meanings, before = {}, ""
    for text, name, after in re.findall(
        r"/\*(.*?)\*/|(DN_\w+) = \d+,?(?:[ \t]*/\*(.*?)\*/)?", enum, re.S
    ):  # a long comment stands before its flag
        if name:
            meanings[name], before = comment(after or before), ""
        else:
            before = text
    return meanings


def comment(text):
    """Its words, without the stars that begin its lines."""
    return " ".join(re.sub(r"^\s*\*", "", text, flags=re.M).split())


def flag_words(op, meanings):
    """The flags of an operation, in the order of the enum."""
    flags = lib.dn_op_flags(OPS[op])
    words = [f.removeprefix("DN_").lower() for f in meanings if flags & getattr(lib, f)]
    shared = flags >> int(
        re.search(r"DN_BROADCAST_SHIFT = (\d+)", (ROOT / "csrc" / "op.h").read_text())[1]
    )
    return words + [f"broadcast {k}" for k in range(8) if shared & 1 << k]


def formula(op):
    """For a cell of a table."""
    return f"`{ffi.string(lib.dn_op_formula(OPS[op])).decode()}`".replace("|", r"\|")


# ---- what the docstrings say -----------------------------------------------------------


def signature(name, function):
    """Names and defaults, without types."""
    parameters = inspect.signature(function).parameters.values()
    shown = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    keyword_only = [i for i, p in enumerate(parameters) if p.kind == p.KEYWORD_ONLY]
    if keyword_only:
        shown.insert(keyword_only[0], "*")
    return f"{name}({', '.join(shown)})"


def parts(docstring):
    """(paragraphs before the fields, {field: lines}, example) of a docstring."""
    text = inspect.cleandoc(docstring)
    text, found, example = text.partition("\n>>> ")
    paragraphs, fields, field = [], {}, None
    for line in text.strip().splitlines():
        begins = re.match(rf"({'|'.join(FIELDS)}):\s*(.*)", line)
        if begins:
            field = fields.setdefault(begins[1], [])
            line = begins[2]
        elif not line.strip():
            field = None
            paragraphs.append([])
            continue
        if field is None:
            if not paragraphs:
                paragraphs.append([])
            paragraphs[-1].append(line.strip())
        elif line.strip():
            field.append(line)
    return (
        [" ".join(p) for p in paragraphs if p],
        fields,
        (">>> " + example).strip() if found else "",
    )


def items(lines):
    """The lines of Args or Raises: `name: text`, going on where lines are indented further; or one
    plain text."""
    depth = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    result = []
    for line in lines:
        begins = len(line) - len(line.lstrip()) == depth and re.match(r"(\w+): (.*)", line.strip())
        if begins:
            result.append(f"`{begins[1]}`: {begins[2]}")
        elif result:
            result[-1] += " " + line.strip()
        else:
            result.append(line.strip())
    return result


def escaped(text):
    """Text for Markdown: what would be taken for emphasis or HTML is quoted."""
    return re.sub(r"(?<!`)([*_<|])(?![^`]*`)", r"\\\1", text) if "`" not in text else text


def entry(name, function, nodes):
    """The lines about one function."""
    paragraphs, fields, example = parts(function.__doc__)
    lines = [f"### {name}", "", f"`{signature(name, function)}`", ""]
    for p in paragraphs:
        lines += [escaped(p), ""]
    for field, content in fields.items():
        texts = items(content)
        lines += (
            [f"- {field}: {escaped(texts[0])}"]
            if len(texts) == 1
            else [f"- {field}:", *(f"    - {escaped(t)}" for t in texts)]
        )
    if nodes:
        lines.append(f"- Nodes: {', '.join(f'[`{n}`](#in-c)' for n in nodes)}")
    if fields or nodes:
        lines.append("")
    if example:
        lines += ["```pycon", example, "```", ""]
    return lines


# ---- which nodes a function makes: its example is run ----------------------------------


def ops_made(before):
    """The operations of the nodes made since the graph had `before`."""
    graph = dy.cg()
    made = [inspection.node(graph.expression(i)).op for i in range(before, len(graph))]
    return [op for op in dict.fromkeys(made) if op != "parameter"]


def nodes_of(name, function):
    """The operations in csrc/ops that the function makes nodes of in its own example."""
    made = []

    def spy(*args, **kwargs):
        before = len(dy.cg())
        result = function(*args, **kwargs)
        if isinstance(result, dy.Expression):
            result.forward()
        made.extend(ops_made(before))
        return result

    dy.renew_cg()
    setattr(dy, name, spy)
    try:
        example = doctest.DocTestParser().get_doctest(function.__doc__, {}, name, None, None)
        doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(
            example, out=lambda text: None
        )
    finally:
        setattr(dy, name, function)
    return list(dict.fromkeys(made)) or [name] * (name in OPS)


def operators():
    """The table of what is written with operators."""
    lines = [
        "## Operators",
        "",
        "x and y are expressions, s is one number.",
        "",
        "| written | node | formula |",
        "|---|---|---|",
    ]
    for text in OPERATORS:
        dy.renew_cg()
        x, y, s = (
            dy.inputTensor([[1, 2], [3, 4]]),
            dy.inputTensor([[5, 6], [7, 8]]),
            dy.scalarInput(2),
        )
        before = len(dy.cg())
        eval(text, {"x": x, "y": y, "s": s})
        made = [op for op in ops_made(before) if op not in ("input", "reshape")]
        lines.append(
            f"| `{text}` | {', '.join(f'`{op}`' for op in made)} |"
            f" {'; '.join(formula(op) for op in made)} |"
        )
    return [*lines, ""]


# ---- the document ----------------------------------------------------------------------


def document():
    """The whole text."""
    users = {op: [] for op in OPS}
    body = []
    for family in ops.FAMILIES:
        title = family.__name__.rpartition(".")[2]
        paragraphs = inspect.cleandoc(family.__doc__).split("\n\n")
        body += [f"## {title.capitalize()}", "", escaped(" ".join(paragraphs[0].split())), ""]
        for name in sorted(family.__all__, key=str.lower):
            function = getattr(dy, name)
            if not callable(function):
                continue
            if name != function.__name__ and function.__name__ in family.__all__:
                body += [
                    f"### {name}",
                    "",
                    f"Another name of [{function.__name__}](#{function.__name__.lower()}).",
                    "",
                ]
                continue
            nodes = nodes_of(name, function)
            for op in nodes:
                users[op].append(name)
            body += entry(name, function, nodes)
    meanings = flag_meanings()
    table = ["## In C", "", "The rows of `csrc/ops`, one for each kind of node. The flags:", ""]
    table += [
        f"- *{flag.removeprefix('DN_').lower()}*: {escaped(text)}"
        for flag, text in meanings.items()
    ]
    table += ["- *broadcast k*: merged nodes have input k in common (a weight, a bias)", ""]
    for file, rows in c_files().items():
        if rows:
            table += [f"`{file}`", "", "| node | formula | flags | made by |", "|---|---|---|---|"]
            table += [
                f"| `{op}` | {formula(op)} | {', '.join(flag_words(op, meanings))} |"
                f" {', '.join(f'`{u}`' for u in users[op])} |"
                for op in rows
            ]
            table.append("")
    head = [
        "# Operations",
        "",
        (
            "<!-- Written by scripts/make_ops_md.py from csrc/ops and dist_dynet/ops: change those,"
            " then run `python scripts/make_ops_md.py`. -->"
        ),
        "",
        (
            "All operations of `dist_dynet` (`import dist_dynet as dy`). y is the result, dy its"
            " gradient, dx the gradient of input x. Dims are"
        ),
        (
            "written (rows, columns); the batch is apart from them, and unless an entry says"
            " otherwise inputs have equal batch sizes or 1. Lists"
        ),
        "may be tuples or generators, numbers may be NumPy's.",
        "",
    ]
    return "\n".join([*head, *operators(), *body, *table]).rstrip() + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "docs" / "ops.md")
    target = parser.parse_args().file
    target.write_text(document(), encoding="utf-8")
    print(target)
