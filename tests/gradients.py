"""Checks gradients against differences of values. Knows NumPy arrays and functions; knows no graph
and no operation.

A function f takes arrays and returns an array. What is checked is the gradient of s(arrays) = sum(w
* f(arrays)). All in double: with two central differences, extrapolated, and a step of 1e-4 the
  error is about 1e-11 of the values, so 1e-7 leaves room, and a gradient that is
wrong by 0.05 % is found (tests/test_checker.py).
"""

import numpy as np

STEP = 1e-4
TOLERANCE = 1e-7


def slope(f, arrays, direction, step=STEP):
    """The derivative of f at `arrays` along `direction`: (4 D(h/2) - D(h)) / 3 of central
    differences D (Richardson 1911), exact to h^4."""

    def difference(h):
        ahead = f(*(a + h * d for a, d in zip(arrays, direction, strict=True)))
        behind = f(*(a - h * d for a, d in zip(arrays, direction, strict=True)))
        return (np.asarray(ahead) - np.asarray(behind)) / (2 * h)

    return (4 * difference(step / 2) - difference(step)) / 3


def random_direction(rng, arrays):
    """One number for each number of the arrays, none of them near 0: no part of a gradient goes
    unseen."""
    return [rng.uniform(0.5, 1.5, np.shape(a)) * rng.choice([-1, 1], np.shape(a)) for a in arrays]


def directional_difference(f, arrays, w, gradients, rng, step=STEP):
    """How the gradients disagree with the slope of sum(w * f) along a random direction: a text, or
    None when they agree."""
    direction = random_direction(rng, arrays)
    numeric = float(np.sum(w * slope(f, arrays, direction, step)))
    terms = [np.sum(np.asarray(g) * d) for g, d in zip(gradients, direction, strict=True)]
    analytic = float(sum(terms))
    if abs(analytic - numeric) <= TOLERANCE * (1 + abs(numeric)):
        return None
    return (
        f"slope along a random direction: by differences {numeric!r}, by gradients {analytic!r}"
        f" (inputs' shares {[float(t) for t in terms]})"
    )


def jacobian(f, arrays):
    """The derivative of every element of f with respect to every number of the arrays, by
    differences: (elements of f, numbers)."""
    columns = []
    for k, a in enumerate(arrays):
        for i in range(np.size(a)):
            direction = [np.zeros(np.shape(b)) for b in arrays]
            direction[k].flat[i] = 1
            columns.append(np.ravel(slope(f, arrays, direction)))
    return np.stack(columns, axis=1)


def jacobian_difference(f, arrays, gradients_of):
    """How gradients_of(w), for w = 1 at one element of f and 0 elsewhere, disagree with the
    Jacobian by differences: a text, or None."""
    shape = np.shape(f(*arrays))
    numeric = jacobian(f, arrays)
    for i in range(numeric.shape[0]):
        w = np.zeros(shape)
        w.flat[i] = 1
        analytic = np.concatenate([np.ravel(g) for g in gradients_of(w)])
        wrong = ~(np.abs(analytic - numeric[i]) <= TOLERANCE * (1 + np.abs(numeric[i])))
        if wrong.any():
            j = int(np.flatnonzero(wrong)[0])
            return (
                f"Jacobian: d(element {i}) / d(number {j}): by differences {numeric[i, j]!r}, by"
                f" gradients {analytic[j]!r}"
            )
    return None
