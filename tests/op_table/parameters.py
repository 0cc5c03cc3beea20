"""Parameters and rows of tables."""

import dist_dynet as dy

from .row import Row, case, parameter, refuses, table


def a_table():
    return dy.ParameterCollection().add_lookup_parameters((4, 2))


def lookup_rows(t, index):
    return t[..., 0][..., list(index)]


ROWS = [
    Row(
        "parameter",
        "a parameter",
        lambda p: p,
        lambda p: p,
        [case(parameter(1)), case(parameter(5)), case(parameter(3, 4)), case(parameter(2, 3, 2))],
    ),
    Row(
        "parameter",
        "a whole table",
        lambda t: t,
        lambda t: t,
        [case(table(1, 1)), case(table(3, 2)), case(table(3, 2, 2))],
    ),
    Row(
        "lookup",
        "lookup",
        lambda t, index: dy.lookup(t, index),
        lambda t, index: lookup_rows(t, [index]),
        [
            case(table(1, 1), index=0),
            case(table(4, 3), index=0),
            case(table(4, 3), index=3),
            case(table(4, 2, 3), index=2),
        ],
        errors=[
            refuses(
                lambda: dy.lookup(a_table(), 4),
                ValueError,
                "^lookup: index 4 is outside the table. Indices run from 0 to 3",
            ),
            refuses(
                lambda: dy.lookup(a_table(), -1),
                ValueError,
                "^lookup: index -1 is outside the table",
            ),
            refuses(
                lambda: dy.lookup(dy.zeros(3), 0),
                TypeError,
                "^lookup: takes LookupParameters; got Expression",
            ),
            refuses(lambda: dy.lookup(a_table(), 0.5), TypeError, "."),
            refuses(
                lambda: dy.lookup(a_table(), 0).set(4),
                ValueError,
                "^lookup: index 4 is outside the table",
            ),
        ],
    ),
    Row(
        "lookup",
        "a row of a table",
        lambda t, index: t[index],
        lambda t, index: lookup_rows(t, [index]),
        [case(table(1, 1), index=0), case(table(4, 3), index=2)],
        errors=[refuses(lambda: a_table()[4], ValueError, "^lookup: index 4 is outside the table")],
    ),
    Row(
        "lookup_batch",
        "lookup_batch",
        lambda t, index: dy.lookup_batch(t, index),
        lookup_rows,
        [
            case(table(1, 1), index=[0]),
            case(table(4, 3), index=[3, 0, 3]),
            case(table(4, 2, 3), index=[2, 1]),
        ],
        batched_attributes=("index",),
        errors=[
            refuses(
                lambda: dy.lookup_batch(a_table(), [0, 4]),
                ValueError,
                "^lookup_batch: index 4 is outside the table",
            ),
            refuses(
                lambda: dy.lookup_batch(dy.zeros(3), [0]),
                TypeError,
                "^lookup_batch: takes LookupParameters; got Expression",
            ),
            refuses(
                lambda: dy.lookup_batch(a_table(), [0, 1]).set([0]),
                ValueError,
                r"^lookup_batch: set takes as many indices .*\(2\); got 1",
            ),
            refuses(
                lambda: dy.lookup_batch(a_table(), 1),
                TypeError,
                "^lookup_batch: indices must be integers",
            ),
        ],
    ),
    Row(
        "lookup_batch",
        "rows of a table",
        lambda t, index: t.batch(index),
        lookup_rows,
        [case(table(1, 1), index=[0]), case(table(4, 3), index=[3, 0, 3])],
        batched_attributes=("index",),
    ),
    Row(
        "lookup",
        "a row twice",
        lambda t: dy.cmult(t[1], t[1]) + t[2],
        lambda t: t[..., 1, :] ** 2 + t[..., 2, :],
        [case(table(3, 1)), case(table(4, 3))],
    ),
]
