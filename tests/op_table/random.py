"""Random draws. There is no reference; `check` looks at what must hold of the numbers drawn. Limits
are five standard deviations or more."""

import numpy as np

import dist_dynet as dy

from .row import Row, away_from_zero, case, extreme, refuses, tensor

MANY = 20_000
DIMS = [case(dim=1, batch=1), case(dim=(2, 3), batch=3)]
DRAWN = {"has_gradient": False, "per_element": False}


def has_dims(value, dim, batch, **_):
    assert value.shape == (*((dim,) if isinstance(dim, int) else dim), batch)
    assert np.isfinite(value).all()


def moments(value, mean, std):
    """The sample's mean and standard deviation, where the sample is large."""
    if value.size >= MANY:
        assert abs(value.mean() - mean) < 5 * std / np.sqrt(value.size)
        assert abs(value.std() - std) < 0.05 * std + 1e-12
        assert abs(np.corrcoef(value.ravel()[1:], value.ravel()[:-1])[0, 1]) < 5 / np.sqrt(
            value.size
        )


def normal(value, mean, stddev, **dims):
    has_dims(value, **dims)
    moments(value, mean, stddev)


def uniform(value, left, right, **dims):
    has_dims(value, **dims)
    assert (value >= left).all() and (value < right).all()
    moments(value, (left + right) / 2, (right - left) / np.sqrt(12))


def bernoulli(value, p, scale, **dims):
    has_dims(value, **dims)
    assert np.isin(value, [0, scale]).all()
    if value.size >= MANY:
        assert abs((value != 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / value.size)


def gumbel(value, mu, beta, **dims):
    has_dims(value, **dims)
    moments(value, mu + beta * np.euler_gamma, beta * np.pi / np.sqrt(6))


def dropped(value, x, p):
    kept = value != 0
    np.testing.assert_allclose(value[kept], x[kept] / (1 - p), rtol=1e-6)
    if value.size >= MANY:
        assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / value.size)
        assert abs((kept[:, 0] == kept[:, 1]).mean() - (p * p + (1 - p) ** 2)) < 5 / np.sqrt(
            len(kept)
        )


def one_factor(value, x, p, axes):
    """The same factor, 0 or 1 / (1 - p), along these axes; where there are many, half and half."""
    factor = value / x
    first = factor
    for a in axes:
        first = first.take([0], axis=a)
    np.testing.assert_allclose(factor, np.broadcast_to(first, factor.shape), rtol=1e-6)
    assert (np.isclose(first, 0) | np.isclose(first, 1 / (1 - p) if p < 1 else 0)).all()
    if first.size >= 2000:
        assert abs((first != 0).mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / first.size)


def dropped_lines(value, x, d, p):
    one_factor(value, x, p, [d])


def dropped_elements(value, x, p):
    one_factor(value, x, p, range(x.ndim - 1))


def noisy(value, x, stddev):
    if not stddev:
        np.testing.assert_array_equal(value, x)
    moments(value - x, 0, stddev)


def not_one(value, p, scale, **dims):
    bernoulli(value, p, scale, **dims)
    assert (value == (scale if p == 1 else 0)).all()


def with_dims(**attributes):
    return [case(**c.attributes, **attributes) for c in DIMS]


ROWS = [
    Row(
        "dropout",
        "dropout",
        lambda x, p: dy.dropout(x, p),
        None,
        [
            case(tensor(1), p=0.5),
            case(tensor(5), p=0.5),
            case(tensor(3, 4, batch=3), p=0.3),
            case(tensor(2, 3, 2), p=0.0),
            case(tensor(MANY // 2, batch=2), p=0.3),
            case(tensor(1500), p=0.9),
        ],
        check=dropped,
        per_element=False,
        extremes=[
            extreme(
                "rate 0", [1000, -1000, 0], value=[1000, -1000, 0], gradients=([1, 1, 1],), p=0.0
            ),
            extreme("rate 1", [1000, -1000, 0], value=[0, 0, 0], gradients=([0, 0, 0],), p=1.0),
        ],
        errors=[
            refuses(
                lambda: dy.dropout(dy.zeros(3), 1.5),
                ValueError,
                r"^dropout: the dropout rate must lie in \[0, 1\]; got p = 1.5",
            ),
            refuses(
                lambda: dy.dropout(dy.zeros(3), -0.1),
                ValueError,
                "^dropout: the dropout rate must lie",
            ),
            refuses(
                lambda: dy.dropout(dy.zeros(3), float("nan")),
                ValueError,
                "^dropout: the dropout rate must lie",
            ),
            refuses(lambda: dy.dropout(3, 0.5), TypeError, "^dropout: takes expressions; got int"),
        ],
    ),
    Row(
        "dropout_dim",
        "dropout_dim",
        lambda x, d, p: dy.dropout_dim(x, d, p),
        None,
        [
            case(tensor(1), d=0, p=0.5),
            case(tensor(5), d=0, p=0.5),
            case(tensor(3, 4, batch=3), d=0, p=0.3),
            case(tensor(3, 4, batch=3), d=1, p=0.3),
            case(tensor(2, 3, 4, batch=2), d=1, p=0.5),
            case(tensor(3, 2000), d=0, p=0.3),
            case(tensor(2000, 3), d=1, p=0.3),
            case(tensor(3, 4), d=0, p=0.0),
            case(tensor(3, 4), d=1, p=1.0),
            case(tensor(1, 2, 1, 2, 1, 3, 2), d=5, p=0.5),
        ],
        away_from_zero(),
        check=dropped_lines,
        per_element=False,
        extremes=[
            extreme(
                "rate 0",
                [1000, -1000, 0],
                value=[1000, -1000, 0],
                gradients=([1, 1, 1],),
                d=0,
                p=0.0,
            ),
            extreme(
                "rate 1", [1000, -1000, 0], value=[0, 0, 0], gradients=([0, 0, 0],), d=0, p=1.0
            ),
        ],
        errors=[
            refuses(
                lambda: dy.dropout_dim(dy.zeros(3), 0, 1.5),
                ValueError,
                r"^dropout_dim: the dropout rate must lie in \[0, 1\]; got p = 1.5",
            ),
            refuses(
                lambda: dy.dropout_dim(dy.zeros(3), 0, float("nan")),
                ValueError,
                "^dropout_dim: the dropout rate must lie",
            ),
            refuses(
                lambda: dy.dropout_dim(dy.zeros(3), 1, 0.5),
                ValueError,
                r"^dropout_dim: dim 1 is not a dim of x = \(3,\)",
            ),
            refuses(
                lambda: dy.dropout_dim(3, 0, 0.5),
                TypeError,
                "^dropout_dim: takes expressions; got int",
            ),
        ],
    ),
    *(
        Row(
            "dropout_batch",
            name,
            lambda x, p, name=name: getattr(dy, name)(x, p),
            None,
            [
                case(tensor(1), p=0.5),
                case(tensor(5), p=0.5),
                case(tensor(3, 4, batch=3), p=0.3),
                case(tensor(2, batch=5000), p=0.3),
                case(tensor(3, 4), p=0.0),
                case(tensor(3, 4, batch=2), p=1.0),
            ],
            away_from_zero(),
            check=dropped_elements,
            per_element=False,
            extremes=[
                extreme(
                    "rate 0",
                    [1000, -1000, 0],
                    value=[1000, -1000, 0],
                    gradients=([1, 1, 1],),
                    p=0.0,
                ),
                extreme("rate 1", [1000, -1000, 0], value=[0, 0, 0], gradients=([0, 0, 0],), p=1.0),
            ],
            errors=[
                refuses(
                    lambda name=name: getattr(dy, name)(dy.zeros(3), 1.5),
                    ValueError,
                    rf"^{name}: the dropout rate must lie in \[0, 1\]; got p = 1.5",
                ),
                refuses(
                    lambda name=name: getattr(dy, name)(dy.zeros(3), -0.1),
                    ValueError,
                    f"^{name}: the dropout rate must lie",
                ),
                refuses(
                    lambda name=name: getattr(dy, name)(3, 0.5),
                    TypeError,
                    f"^{name}: takes expressions; got int",
                ),
            ],
        )
        for name in ("dropout_batch", "block_dropout")
    ),
    Row(
        "noise",
        "noise",
        lambda x, stddev: dy.noise(x, stddev),
        None,
        [
            case(tensor(1), stddev=1.0),
            case(tensor(3, 4, batch=3), stddev=0.5),
            case(tensor(MANY), stddev=0.5),
            case(tensor(5), stddev=0.0),
        ],
        check=noisy,
        per_element=False,
        extremes=[
            extreme(
                "none", [1000, -1000, 0], value=[1000, -1000, 0], gradients=([1, 1, 1],), stddev=0.0
            )
        ],
        errors=[
            refuses(
                lambda: dy.noise(dy.zeros(3), -1),
                ValueError,
                "^noise: the standard deviation must not be negative; got stddev = -1",
            ),
            refuses(
                lambda: dy.noise(dy.zeros(3), float("nan")),
                ValueError,
                "^noise: the standard deviation must not be negative",
            ),
            refuses(lambda: dy.noise(3, 1), TypeError, "^noise: takes expressions; got int"),
        ],
    ),
    Row(
        "random_normal",
        "random_normal",
        lambda dim, batch, mean, stddev: dy.random_normal(dim, mean, stddev, batch),
        None,
        [
            *with_dims(mean=0.0, stddev=1.0),
            case(dim=MANY // 2, batch=2, mean=3.0, stddev=2.0),
            case(dim=3, batch=1, mean=3.0, stddev=0.0),
        ],
        check=normal,
        **DRAWN,
        errors=[
            refuses(lambda: dy.random_normal("a"), TypeError, "^random_normal"),
            refuses(
                lambda: dy.random_normal(3, batch_size=-1),
                ValueError,
                "^random_normal: the batch size must not be negative",
            ),
        ],
    ),
    Row(
        "random_normal",
        "random_normal of the standard",
        lambda dim, batch: dy.random_normal(dim, batch_size=batch),
        None,
        [case(dim=MANY, batch=1)],
        check=lambda value, **dims: normal(value, 0, 1, **dims),
        **DRAWN,
    ),
    Row(
        "random_uniform",
        "random_uniform",
        lambda dim, batch, left, right: dy.random_uniform(dim, left, right, batch),
        None,
        [*with_dims(left=-1.0, right=1.0), case(dim=MANY, batch=1, left=2.0, right=5.0)],
        check=uniform,
        **DRAWN,
        errors=[refuses(lambda: dy.random_uniform(None, 0, 1), TypeError, "^random_uniform")],
    ),
    Row(
        "random_bernoulli",
        "random_bernoulli",
        lambda dim, batch, p, scale: dy.random_bernoulli(dim, p, scale, batch),
        None,
        [*with_dims(p=0.5, scale=1.0), case(dim=MANY, batch=1, p=0.3, scale=2.5)],
        check=bernoulli,
        **DRAWN,
        errors=[
            refuses(
                lambda: dy.random_bernoulli(3, 1.5),
                ValueError,
                r"^random_bernoulli: the probability must lie in \[0, 1\]; got p = 1.5",
            ),
            refuses(
                lambda: dy.random_bernoulli(3, float("nan")),
                ValueError,
                "^random_bernoulli: the probability must lie",
            ),
        ],
    ),
    Row(
        "random_bernoulli",
        "random_bernoulli at its ends",
        lambda dim, batch, p, scale: dy.random_bernoulli(dim, p, scale, batch),
        None,
        [case(dim=1500, batch=1, p=p, scale=2.0) for p in (0.0, 1.0)],
        check=not_one,
        **DRAWN,
    ),
    Row(
        "random_gumbel",
        "random_gumbel",
        lambda dim, batch, mu, beta: dy.random_gumbel(dim, mu, beta, batch),
        None,
        [*with_dims(mu=0.0, beta=1.0), case(dim=MANY, batch=1, mu=2.0, beta=0.5)],
        check=gumbel,
        **DRAWN,
    ),
]
