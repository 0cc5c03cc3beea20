"""Text for Python-Markdown, which renders the site: what GitHub reads in another way is rewritten.

It knows text, not pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable

FENCE = re.compile(r"\s*(```|~~~)")
ITEM = re.compile(r"(\s*)([-*+]|\d+\.)(\s+)")
LINK = re.compile(r"\[([^\]\[]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def nested_by_four(text: str) -> str:
    """Lists as Python-Markdown takes them: a blank line before the first item, and four columns for
    each level, where GitHub counts the columns of the marker."""
    lines: list[str] = []
    columns: list[int] = []  # where the text of each open item begins
    fence = ""
    for line in text.split("\n"):
        bare = line.lstrip()
        depth = len(line) - len(bare)
        if not fence:
            item = ITEM.match(line)
            if bare and not (lines and lines[-1].strip() and not item):
                while columns and depth < columns[-1]:
                    columns.pop()
            if item and depth < (columns[-1] if columns else 0) + 4:
                level = len(columns)
                if level == 0 and lines and lines[-1].strip() and not ITEM.match(lines[-1]):
                    lines.append("")
                columns.append(len(item[0]))
                lines.append("    " * level + line[depth:])
                continue
        opens = FENCE.match(line)
        if opens and (not fence or fence == opens[1]):
            fence = "" if fence else opens[1]
        shift = 4 * len(columns) - (columns[-1] if columns else 0)
        lines.append(" " * (depth + shift) + bare if bare and columns else line)
    return "\n".join(lines)


def relinked(text: str, target_of: Callable[[str], tuple[str, str] | None]) -> str:
    """The text with other targets of its links, outside of fences: target_of(path) gives the target
    and its title, or None for a link that stays. A path as the text of a link becomes the title."""

    def replaced(link: re.Match[str]) -> str:
        found = target_of(link[2])
        if found is None:
            return link[0]
        target, title = found
        is_path = link[1].strip("`").endswith(link[2].removeprefix("../"))
        return f"[{title if title and is_path else link[1]}]({target}{link[3] or ''})"

    pieces = re.split(r"(^[ \t]*```.*?^[ \t]*```[ \t]*$)", text, flags=re.M | re.S)
    return "".join(LINK.sub(replaced, p) if k % 2 == 0 else p for k, p in enumerate(pieces))


def escaped(text: str) -> str:
    """Text in which nothing is markup but code in backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        p if k % 2 else re.sub(r"([*_\[\]\\])", r"\\\1", p).replace("<", "&lt;")
        for k, p in enumerate(pieces)
    )


FIELD = re.compile(r"(Args|Gradient|Raises|Returns|Shape|Shape and errors|Value): ?(.*)")
LEFT_SIDE = r"[A-Za-z]\w*(?:\([^)]*\)|\[[^\]]*\])?(?:, \w+)* = "
END = r"(?=(?<!\.)[:.;](?:\s|$)| \([A-Z][^)]*\d{4}\)|$)"
FORMULA = re.compile(f"({LEFT_SIDE}[^:;]+?(?:;\\s{LEFT_SIDE}[^:;]+?)*){END}")


def of_docstring(text: str) -> str:
    """A docstring of this project as Markdown: a formula, paragraphs, fields such as `Shape: ...`,
    examples."""
    text = text.strip("\n")
    formula = FORMULA.match(text)
    if formula and "`" not in formula[1] and formula[1].count("(") == formula[1].count(")"):
        text = f"`{formula[1]}`{text[formula.end() :]}"
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith(">>> "):
            lines += ["```pycon", block, "```", ""]
        elif block.startswith("    "):  # a program
            lines += [block, ""]
        else:
            for name, content in _sections(block.split("\n")):
                lines += [*(_field(name, content) if name else _paragraph(content)), ""]
    return "\n".join(lines).rstrip()


def _sections(block: list[str]) -> list[tuple[str, list[str]]]:
    """(name of the field or nothing, its lines) for each part of a block."""
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in block:
        field = FIELD.fullmatch(line)
        if field:
            sections.append((field[1], [field[2]] if field[2] else []))
        else:
            sections[-1][1].append(line)
    return [section for section in sections if any(section)]


def _paragraph(lines: list[str]) -> list[str]:
    """Prose, with the items of a list in it on lines of their own."""
    return nested_by_four("\n".join(escaped(line) for line in lines)).split("\n")


def _field(name: str, lines: list[str]) -> list[str]:
    """`**Raises:** text`, or with a list of `name: text` below it."""
    depth = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    items: list[list[str]] = []
    for line in lines:
        begins = re.match(r"([\w*., ]+): (.*)", line.strip())
        if begins and len(line) - len(line.lstrip()) == depth and (depth or " " not in begins[1]):
            items.append([f"`{begins[1]}`: {escaped(begins[2])}"])
        elif items:
            items[-1].append(escaped(line.strip()))
        else:
            items.append([escaped(line.strip())])
    if len(items) == 1 and not depth:
        return [f"**{name}:** {' '.join(items[0])}"]
    return [f"**{name}:**", "", *(f"- {' '.join(item)}" for item in items)]
