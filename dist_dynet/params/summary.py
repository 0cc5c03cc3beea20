"""The table of ParameterCollection.summary(). It knows only names and sizes."""

from __future__ import annotations

from collections.abc import Sequence

from .._ffi import DTYPE, lib
from .parameters import AnyParameter, LookupParameters, Parameters


class Summary(str):
    """Text that is displayed unquoted in a notebook or at a prompt."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _size(n: int) -> str:
    units = ["bytes", "kB", "MB", "GB"]
    while n >= 10_000 and len(units) > 1:
        n, units = n // 1000, units[1:]
    return f"{n:,} {units[0]}"


def _table(members: Sequence[AnyParameter]) -> Summary:
    """A row per parameter, and the total."""
    with_files = any(p.readable_name() != p.name() for p in members)
    rows = [("parameter", "in files" if with_files else "", "shape", "numbers", "")]
    total = trained = 0
    for p in members:
        size = int(lib.dn_param_size(p._c))
        total, trained = total + size, trained + size * p.is_updated()
        notes = [*(["table"] if p._rows else []), *([] if p.is_updated() else ["frozen"])]
        file = p.name() if with_files else ""
        rows.append((p.readable_name(), file, str(p.shape()), f"{size:,}", ", ".join(notes)))
    rows.append(("in all", "", "", f"{total:,}", _size(total * DTYPE.itemsize)))
    if trained != total:
        rows.append(("trained", "", "", f"{trained:,}", ""))
    w = [max(len(row[k]) for row in rows) for k in range(4)]
    w[1] += 2 * with_files
    return Summary(
        "\n".join(
            f"{a:<{w[0]}}  {b:<{w[1]}}{c:<{w[2]}}  {d:>{w[3]}}  {e}".rstrip()
            for a, b, c, d, e in rows
        )
    )


class Summarised:
    """The part of a collection that makes its summary."""

    _parameters: list[Parameters]
    _lookups: list[LookupParameters]

    def summary(self) -> Summary:
        """A table of all parameters: names, names in files where they differ, shapes, numbers of
        elements, and which are tables or frozen.

        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> layer, E = dy.Linear(2, 3, m), m.add_lookup_parameters((1000, 2), name="E")
        >>> E.set_updated(False)
        >>> m.summary()
        parameter  in files    shape      numbers
        /linear/W  /linear/_0  (3, 2)           6
        /linear/b  /linear/_1  (3,)             3
        /E         /E          (1000, 2)    2,000  table, frozen
        in all                              2,009  8,036 bytes
        trained                                 9
        """
        return _table((*self._parameters, *self._lookups))
