"""The layers: in csrc and in dist_dynet includes, calls and imports make no circle; files and the
tape stay small.

What lies low knows nothing of what lies above it (docs/design.md). How long: five seconds.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "dist_dynet"

MOST_FIELDS = 30


def circles(edges):
    """The sets of nodes, two or more, that can all be reached from one another (Tarjan), by a dict
    of sets."""
    index, low, stack, found = {}, {}, [], []

    def visit(start):
        work = [(start, iter(sorted(edges[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        while work:
            node, following = work[-1]
            for other in following:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    work.append((other, iter(sorted(edges[other]))))
                    break
                if other in stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    knot = set(stack[stack.index(node) :])
                    del stack[stack.index(node) :]
                    if len(knot) > 1:
                        found.append(knot)

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def check(edges, where):
    found = [sorted(knot) for knot in circles(edges)]
    assert not found, (
        f"circles of {where}: {found}. Move what is called up to the layer where it belongs, "
        "or hand it down as a table"
    )


# ---- C ---------------------------------------------------------------------------------


def unit(path):
    """A header and its source are one: 'group' is group.c and group.h."""
    return str(path.relative_to(CSRC).with_suffix(""))


def files():
    return sorted(CSRC.rglob("*.[ch]"))


def plain(text):
    """Without comments and strings."""
    return re.sub(
        r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"',
        lambda m: '""' if m[0][0] == '"' else " ",
        text,
        flags=re.S,
    )


DEFINITION = re.compile(
    r"^(?!typedef|struct \w+ \{|enum)((?:[A-Za-z_][\w"
    r" ]*[\s*]+)|)([A-Za-z_]\w*)\((?:[^;{}()]|\([^()]*\))*\)\s*\{",
    re.M,
)


def definitions(text):
    """{function: whether it is static}."""
    return {
        m[2]: "static" in m[1].split()
        for m in DEFINITION.finditer(text)
        if m[2] not in ("if", "for", "while", "switch")
    }


@cache
def includes():
    """{unit: units that it includes}."""
    edges = {unit(p): set() for p in files()}
    for p in files():
        for name in re.findall(r'^#include "([^"]+)"', p.read_text(), re.M):
            where = [q for q in ((p.parent / name).resolve(), CSRC / name) if q.exists()]
            if where and unit(where[0]) != unit(p):
                edges[unit(p)].add(unit(where[0]))
    return edges


@cache
def calls():
    """{unit: units whose functions it calls by their names}. What goes through tables is not seen:
    that is what tables are for."""
    texts = {p: plain(p.read_text()) for p in files()}
    found = {p: definitions(text) for p, text in texts.items()}
    defined = {}
    for p, names in found.items():
        for name, static in names.items():
            if not static or p.suffix == ".h":
                defined.setdefault(name, unit(p))
    edges = {unit(p): set() for p in texts}
    for p, text in texts.items():
        own = {name for name, static in found[p].items() if static}
        for name in set(re.findall(r"(?<![\w.>])([A-Za-z_]\w*)\s*\(", text)) - own:
            if name in defined and defined[name] != unit(p) and called(name, text):
                edges[unit(p)].add(defined[name])
    return edges


def names_in_two_files(texts):
    """Static functions of several C files that have one name."""
    where = {}
    for name, text in texts.items():
        for function, is_static in definitions(plain(text)).items():
            if is_static:
                where.setdefault(function, []).append(name)
    return {function: names for function, names in where.items() if len(names) > 1}


def test_static_functions_have_names_of_their_own():
    text = "static int f(int x) { return x; }\n"
    assert names_in_two_files({"a.c": text, "b.c": text}) == {"f": ["a.c", "b.c"]}
    assert not (
        found := names_in_two_files({p.name: p.read_text() for p in files() if p.suffix == ".c"})
    ), found


def called(name, text):
    """Whether the name stands in the body of a function or a macro: a declaration is no call."""
    for m in re.finditer(rf"(?<![\w.>]){name}\s*\(", text):
        before = text[: m.start()]
        line = before[before.rfind("\n") + 1 :]
        if (
            before.count("{") > before.count("}")
            or line.startswith("#define")
            or before.endswith("\\\n" + line)
        ):
            return True
    return False


def tape_fields(name="dn_tape", header=None):
    """The names of a struct's members; a struct inside of it is one."""
    for p in files() if header is None else [header]:
        m = re.search(rf"^struct {name} \{{", plain(p.read_text()), re.M)
        if m and p.suffix == ".h":
            body, depth, out = plain(p.read_text())[m.end() :], 1, []
            for c in body:
                depth += (c == "{") - (c == "}")
                if not depth:
                    break
                if depth == 1 and c != "}":
                    out.append(c)
            return [
                re.sub(r"\W*(?:\[.*\])?\W*$", "", declarator.strip()).split()[-1].lstrip("*")
                for declaration in "".join(out).split(";")
                if declaration.strip()
                for declarator in declaration.split(",")
            ]
    raise AssertionError(f"no header of csrc defines struct {name}")


def test_the_parser_sees_what_is_there(tmp_path):
    """On a text that has everything: else the tests below could not fail."""
    text = plain(
        "/* f(1) */\nstatic inline int a(int x) {\n return b(x);\n}\nint *c(struct s *p,\n   int"
        ' (*q)(int)) {\n p->d(1); e("g()"); }\n'
    )
    assert definitions(text) == {"a": True, "c": False}
    assert called("b", text)
    assert called("e", text)
    assert not called("d", text)
    assert not called("f", text)
    assert not called("g", text)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
    header = tmp_path / "x.h"
    header.write_text(
        "struct x {\n int a, *b; /* c; */\n struct { int d; } *e;\n const char f[3];\n};\n"
    )
    assert tape_fields("x", header) == ["a", "b", "e", "f"]


def test_csrc_has_no_circle_by_includes():
    edges = includes()
    assert "dn_api" in edges["op"]
    check(edges, "includes in csrc")


LAYERS = (
    "",
    "kernels",
    "params",
    "parallel",
    "ops",
    "tape",
    "schedule",
    "backward",
    "graph",
    "python",
)
"""The folders of csrc, each of which knows only those before it."""
BESIDE = {("ops", "params"), ("ops", "parallel"), ("tape", "parallel"), ("python", "graph")}
"""Who does not know whom although it lies above: (one, the other)."""


def folder(name):
    return name.rpartition("/")[0]


@pytest.mark.parametrize("edges", [includes, calls])
def test_folders_know_those_below_them(edges):
    for name, others in edges().items():
        for other in others:
            one, two = folder(name), folder(other)
            if one == "" and name in ROOT_KNOWS:
                assert two in ROOT_KNOWS[name] | {""}, f"csrc/{name} knows {other}"
                continue
            assert LAYERS.index(two) <= LAYERS.index(one), f"csrc/{name} knows {other}, above it"
            assert (one, two) not in BESIDE, f"csrc/{name} knows {other}, beside it"


ROOT_KNOWS = {"op": {"kernels"}, "info": {"kernels"}}
"""What files that are in no folder know beside one another."""


OWN_OPS = {"input", "parameter", "lookup", "lookup_batch", "output_view"}
"""Of csrc/graph/leaves.c: the tape's own."""
KNOWS_OPS = {"schedule/as_dynet", "graph/calls", "graph/traced"}
"""Makes calls of named operations, or does as DyNet does with them."""


def test_the_core_knows_no_operation_by_name():
    for p in (
        p
        for name in ("tape", "schedule", "backward", "graph")
        for p in (CSRC / name).glob("*.[ch]")
    ):
        named = set(
            re.findall(
                r"\bDN_OP_(?!COUNT|ITEM|DECLARE|ADDRESS|END)([a-z]\w*)", plain(p.read_text())
            )
        )
        if unit(p) not in KNOWS_OPS:
            assert named <= OWN_OPS, f"csrc/{p.name} names {sorted(named - OWN_OPS)}"


def test_csrc_has_no_circle_by_calls():
    """Includes and calls together."""
    edges = calls()
    assert edges["ops/softmax"]
    included = includes()
    check({name: others | included[name] for name, others in edges.items()}, "calls in csrc")


def test_the_tape_has_few_fields():
    names = tape_fields()
    assert "nodes" in names
    assert len(names) <= MOST_FIELDS, (
        f"dn_tape has {len(names)} fields, at most {MOST_FIELDS} are wanted: {names}"
    )


# ---- Python ----------------------------------------------------------------------------


def modules():
    """{name: path}; extension modules are not among them, so nothing leads on from those."""
    names = {}
    for p in sorted(PACKAGE.rglob("*.py")):
        parts = p.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = p
    return names


@cache
def tree_of(path):
    """A module, parsed; of all that read it nobody changes it."""
    return ast.parse(path.read_text())


class Imports(ast.NodeVisitor):
    """The modules that a module imports, anywhere but under TYPE_CHECKING."""

    def __init__(self, name, path, known):
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.known, self.found = known, set()
        self.visit(tree_of(path))
        self.found.discard(name)

    def visit_If(self, node):
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self.generic_visit(node)
        for child in node.orelse if "TYPE_CHECKING" in ast.dump(node.test) else []:
            self.visit(child)

    def visit_Import(self, node):
        self.found |= {alias.name for alias in node.names if alias.name in self.known}

    def visit_ImportFrom(self, node):
        package = self.package.split(".")
        base = (
            ".".join(
                [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
            )
            if node.level
            else node.module
        )
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            if (ROOT / f"{whole.replace('.', '/')}.pyi").exists():
                continue  # an extension module
            self.found |= {whole if whole in self.known else base} & self.known.keys()


@cache
def imports():
    known = modules()
    return {name: Imports(name, path, known).found for name, path in known.items()}


def test_the_package_has_no_circle_by_imports():
    """Imports inside of functions count: they are how a circle is hidden."""
    edges = imports()
    assert "dist_dynet._ffi" in edges["dist_dynet.graph"]
    check(edges, "imports in dist_dynet")


OF_PYTHON = {"_fields", "_replace", "_asdict", "_exit", "_getframe", "_current_frames"}
"""Of named tuples, os and sys."""


def private_uses(text):
    """What a module uses of others that begins with an underscore: x._name, and names that are
    imported; modules are not meant."""
    tree = ast.parse(text)
    own, uses = set(OF_PYTHON), []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            for target in (part for each in targets for part in ast.walk(each)):
                if isinstance(target, ast.Name):
                    own.add(target.id)
                elif is_of_self(target):
                    own.add(target.attr)
        elif isinstance(node, ast.ImportFrom) and node.module:
            uses += [(node.lineno, alias.name) for alias in node.names if is_private(alias.name)]
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_of_self(node):
            uses.append((node.lineno, node.attr))
    return [f"line {line}: {name}" for line, name in uses if name not in own]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def is_of_self(node):
    """self.x and cls.x"""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    )


def test_private_uses_are_seen():
    text = (
        "from .a import _b, c\nclass D:\n def e(self, f):\n  self._g = f._g\n  return f._h,"
        " self._i, super()._j, t._fields"
    )
    assert sorted(private_uses(text)) == ["line 1: _b", "line 5: _h", "line 5: _j"]


PARALLEL = PACKAGE / "parallel"


@pytest.mark.parametrize(
    "path",
    sorted(PARALLEL.rglob("*.py")),
    ids=lambda path: path.relative_to(PARALLEL).as_posix(),
)
def test_data_parallel_training_uses_what_others_offer(path):
    uses = private_uses(path.read_text())
    assert not uses, (
        f"{path.relative_to(PACKAGE)} uses private members of other modules: {uses}. Offer a hook"
        " where they belong"
    )


WRITERS = {
    "cli/output": "logs of ranks, which grow",
    "io/files": "writes files whole or not at all, for all others",
    "parallel/checkpoint_files": "lines for the launcher",
    "parallel/processes/spans": "lines of metrics, and parts of a timeline",
    "parallel/processes/trial": "files of one process for its parent, in a folder of theirs",
}
"""{module: why it may write files by itself}."""
WRITES = {"write_text", "write_bytes", "savefig", "save_file", "savez", "savez_compressed"}


def writes_by_itself(tree):
    """Whether a call opens a file for writing, or writes one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            opens = name == "open" and any(re.fullmatch(r"[wax]b?\+?b?", str(w)) for w in words)
            if opens or name in WRITES:
                yield node.lineno


def test_files_that_users_keep_are_written_whole_or_not_at_all():
    found = {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := [*writes_by_itself(tree_of(path))])
    }
    new = {f"dist_dynet/{name}.py": found[name] for name in found.keys() - WRITERS.keys()}
    assert not new, f"write by atomic_write() of dist_dynet/io/files.py, not in lines {new}"
    assert found.keys() == WRITERS.keys(), "WRITERS of tests/test_structure.py names too many"


def depends_on_the_locale(tree):
    """Where the text of a file is read or written in an encoding that is not said."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and not any(k.arg == "encoding" for k in node.keywords):
            of_path = isinstance(node.func, ast.Attribute)
            name = node.func.attr if of_path else getattr(node.func, "id", "")
            first, *_ = [*node.args[0 if of_path else 1 :], ast.Constant("r")]
            mode = first.value if isinstance(first, ast.Constant) else None  # else no mode, or any
            if name in {"read_text", "write_text"} or (
                name == "open" and re.fullmatch("[rwax+t]+", str(mode))
            ):
                yield node.lineno


def test_files_are_read_in_the_same_encoding_everywhere():
    """Not in that of the locale, which is ASCII on many a host."""
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := [*depends_on_the_locale(tree_of(path))])
    }
    assert not found, f"encoding= is missing in lines {found}"


# ---- files that are mentioned ----------------------------------------------------------

MENTION = re.compile(r"(?<![\w./$~>-])((?:[\w-]+/)+[\w-]+\.(?:py|c|h|md|sh))\b")
"""A file with its folder, or the end of its path."""
OF_THE_SYSTEM = {"sys/mman.h", "sys/socket.h", "sys/syscall.h"}
MADE = {"root/media/readme.py", "scratch/try.c"}
"""Files that scripts write."""


def mentioned(text):
    return set(MENTION.findall(text)) - OF_THE_SYSTEM - MADE


def test_files_that_are_mentioned_are_there():
    folders = ("csrc", "dist_dynet", "benchmarks", "scripts", "examples", "tests")
    there = [p for f in folders for p in (ROOT / f).rglob("*.*")]
    there = [f"/{p.relative_to(ROOT)}" for p in [*there, *ROOT.glob("docs/**/*.*")]]
    wrong = []
    for name in there:
        if name.startswith("/tests/") or not name.endswith((".py", ".c", ".h", ".sh")):
            continue
        if name == "/scripts/site_hooks.py":  # its files are those of the site
            continue
        for mention in mentioned((ROOT / name[1:]).read_text(encoding="utf-8")):
            if not any(other.endswith("/" + mention) for other in there):
                wrong.append(f"{name[1:]} mentions {mention}")
    assert not wrong, f"files that are not there: {wrong}"


def test_mentions_are_seen():
    assert mentioned("see (a/b.py), c/d-e.md: not f.py, $G/h.py") == {"a/b.py", "c/d-e.md"}


# ---- words and columns -----------------------------------------------------------------


OLD_WORDS = {
    "fast path": r"\bquick(er|est)?[ -]ways?\b|\bdn_quick_\w+|\bDN_QUICK\w*",
    "slow path, fallback": r"\blong[ -_]ways?\b|\bDN_LONG_WAY\b",
    "not handled": r"\bNOT_TAKEN\b",
    "FFI layer": r"\b[Tt]he wall\b(?! clock)",
    "integer, float": r"\bwhole numbers?\b|\bn_reals\b|\breals\b",
    "parameter store": r"\bdn_root\w*",
    "sequence context": r"\b(Cell|Node)Run\b",
    "call signature": r"\bMaker\b|\bdn__kinds\b",
    "deduplicated rows": r"\bdn_once\b|\bdn__once_\w+|\bDN_ROWS_ONCE\b",
    "deferred gradient": r"\bdn_late\b|\bdn__late_\w+",
    "batched GEMM": r"\bDN_JOINS\b|\bdn__join_\w+",
    "broadcast input": r"\bDN_SHARED\b",
    "gathered input": r"dn__is_collected",
    "variable length": r"\bragged\b|\bDN_RAGGED\b",
    "output view": r"\bDN_OP_part\b|\bDN_PARTS\b|\bdn_parts\b",
    "gradient-ready hook": r"\bDN_WATCH_\w+|\bdn__watch_\w+",
    "checksummed file": r"\bunseal\b|\bsealed (file|tree)s?\b",
    "traced function": r"\bdn_cell\w*|\bDN_OP_cell\b|\bdy\.cell\((?!\))",
    "small n": r"\bskinny\w*",
    "function along an axis": r"\bdn_lines\b|\bmap_lines\w*|\baxis_reductions\b",
    "collective operation": r"\bmeetings?\b",
    "cached plan, steady state": r"\busual updates?\b|\bis_usual\b|\bdn_team_(learn|forget)\b",
    "shared-memory communicator": r"\b[Tt]eams?\b|\bdn_team\w*",
    "shared buffer": r"\bRowWindow\b",
    "shard": r"\bdn_share\b",
    "overlap": r"\bhasten\b|\bdisarm\b",
    "negotiation": r"\bclass (Agreement|Agreed)\b",
    "materialise": r"\bparam_settle\b",
    "representative": r"\bdn__leader_of\b",
    "lookahead limit, miss": r"\bmisfits?\b|\bDN_(MOST|LEAST)_PATIENCE\b",
    "not batchable": r"\bDN_ALONE\b",
    "gradient slot": r"\bdn_place\b|\bdn__place\b",
    "backward pass": r"\bsweeps?\b|\bdn_sweep\b|\bthe way back\b",
    "message, header, layout": r"\b(error|errors|refused) in words\b",
    "error-feedback residual": r"\bwhat messages have lacked\b",
    "grace period": r"\blast words\b",
}
"""{term of docs/glossary.md: what it was called before, as a regular expression}."""
ANY_OLD_WORD = re.compile(rf"\b(?:{'|'.join(OLD_WORDS.values())})")  # in one pass
OWN_WORDS = {"docs/glossary.md", "tests/test_structure.py"}
"""They say what the words were."""


@cache
def project_texts():
    """{path from the root: text} of code, tests and documents; generated and foreign ones are not
    among them."""
    folders = ("csrc", "dist_dynet", "tests", "docs", "scripts", "benchmarks", "examples")
    paths = [p for name in folders for p in (ROOT / name).rglob("*")] + list(ROOT.glob("*.*"))
    foreign = ("tests/data/", "tests/compat/", "examples/data/", "docs/ops.md")
    return {
        name: p.read_text()
        for p in sorted(paths)
        if p.suffix in (".c", ".h", ".py", ".pyi", ".md", ".sh", ".toml", ".sbatch")
        and not (name := p.relative_to(ROOT).as_posix()).startswith(foreign)
        and not re.fullmatch(r"dist_dynet/_(core|nodes)_\w+\.c", name)
    }


def old_words(texts):
    return [
        f"{name}:{text[: m.start()].count(chr(10)) + 1}: {m[0]!r}; write: {term}"
        for name, text in texts.items()
        if name not in OWN_WORDS
        for m in ANY_OLD_WORD.finditer(text)
        for term, words in OLD_WORDS.items()
        if re.compile(words).match(text, m.start())
    ]


def long_lines(texts):
    """Lines of C and documents with more than 100 columns, but for tables and addresses; ruff looks
    at Python."""
    return [
        f"{name}:{n}"
        for name, text in texts.items()
        if name.endswith((".c", ".h", ".md"))
        for n, line in enumerate(text.split("\n"), 1)
        if len(line) > 100 and not (name.endswith(".md") and re.search(r"^\s*\||\S{60}", line))
    ]


def test_old_words_are_those_of_the_glossary():
    rows = re.findall(r"^\| (.*?) \|.*\| (.*?)\s*\|$", project_texts()["docs/glossary.md"], re.M)
    before = {term for term, word in rows if word}
    assert not (other := OLD_WORDS.keys() - before), other


def test_a_search_for_the_old_words_finds_none():
    texts = project_texts()
    assert old_words({"x.c": "dn_root *root; /* a quick way */"}) and "csrc/op.h" in texts
    assert not (found := old_words(texts)), found


def test_lines_have_at_most_100_columns():
    assert long_lines({"x.c": "x" * 101}) == ["x.c:1"]
    assert long_lines({"x.md": "| " + "x" * 101}) == []
    assert not (found := long_lines(project_texts())), found


if __name__ == "__main__":
    pytest.main([__file__])


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/mpi/*.py")), ids=lambda path: path.name)
def test_programs_of_ranks_do_without_pytest(path):
    names = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert "pytest" not in names, (
        f"{path.relative_to(ROOT)} imports pytest, which takes each rank longer than dist_dynet."
        " raised.py beside it has raises()."
    )
