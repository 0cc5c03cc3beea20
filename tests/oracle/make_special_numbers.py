"""Stores what PyTorch gives for NaN, infinity, denormals and numbers outside of a range, for
tests/test_special_values.py. A second.

    python tests/oracle/make_special_numbers.py --out tests/data/special.json         with a Python
    that has torch (made with 2.13)

For each elementwise function: the value at each x, and the gradient at each x for each dy. Numbers
are float32; NaN and infinity as JSON of Python's has them.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional

NAN, INF = float("nan"), float("inf")
XS = [
    NAN,
    INF,
    -INF,
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1e-40,
    -1e-40,
    1.1754944e-38,
    -1.1754944e-38,
    1e-30,
    -1e-30,
    1e-10,
    -1e-10,
    0.5,
    -0.5,
    1.0,
    -1.0,
    1.5,
    -1.5,
    2.0,
    -2.0,
    -2.5,
    3.0,
    -3.0,
    100.0,
    -100.0,
    1e10,
    -1e10,
    3e38,
    -3e38,
]
DYS = [1.0, 0.0, NAN]
FUNCTIONS = {
    "abs": torch.abs,
    "acos": torch.acos,
    "acosh": torch.acosh,
    "asin": torch.asin,
    "asinh": torch.asinh,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "cube": lambda x: x**3,
    "elu": functional.elu,
    "erf": torch.erf,
    "exp": torch.exp,
    "gelu": functional.gelu,
    "lgamma": torch.lgamma,
    "log": torch.log,
    "log_sigmoid": functional.logsigmoid,
    "logistic": torch.sigmoid,
    "rectify": functional.relu,
    "selu": functional.selu,
    "silu": functional.silu,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "softsign": functional.softsign,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}


def numbers(function):
    x = torch.tensor(XS, requires_grad=True)
    y = function(x)
    gradients = [
        torch.autograd.grad(y, x, torch.full_like(y, dy), retain_graph=True)[0].tolist()
        for dy in DYS
    ]
    return {"value": y.tolist(), "gradients": gradients}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = [f"{json.dumps(name)}: {json.dumps(numbers(f))}" for name, f in FUNCTIONS.items()]
    args.out.write_text(
        f'{{"x": {json.dumps(XS)}, "dy": {json.dumps(DYS)}, "functions": {{\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )


if __name__ == "__main__":
    main()
