"""How fast models are loaded and saved: safetensors beside DyNet's text format, and a plain read of
the same bytes.

    python benchmarks/files.py                 # 100 MB of parameters, 3 rounds: about a minute
    python benchmarks/files.py --mb 20 --json result.json

Prints seconds (the least of the rounds, wall clock; files in the system's cache) and the ratios of
loading and saving.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import dist_dynet as dy


def model(megabytes):
    """A language model's parameters: two thirds a table of rows of 256, one third matrices of 1024
    x 256."""
    m = dy.ParameterCollection()
    m.add_lookup_parameters((max(1, int(megabytes * 1e6 * 2 / 3) // 1024), 256), name="E")
    for _ in range(max(1, round(megabytes / 3 / 1.048576))):
        m.add_parameters((1024, 256))
    return m


def least(rounds, action):
    """Seconds of the quickest of some rounds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def checked(m, n):
    """Whether two models have the same values."""
    pairs = zip(m.named_parameters().values(), n.named_parameters().values(), strict=True)
    return all(np.array_equal(p.storage(), q.storage()) for p, q in pairs)


def measure(megabytes, rounds, folder):
    """{what: seconds}, with sizes."""
    m, n = model(megabytes), model(megabytes)
    fast, text = Path(folder, "a.safetensors"), Path(folder, "a.model")
    result = {
        "megabytes": m.parameter_count() * m.parameters_list()[0].storage().itemsize / 1e6,
        "save safetensors": least(rounds, lambda: dy.save_safetensors(m, fast)),
        "save text": least(1, lambda: m.save(text)),
        "load safetensors": least(rounds, lambda: dy.load_safetensors(n, fast)),
    }
    assert checked(m, n)
    for p in n.named_parameters().values():
        p.scale(0)
    result["load text"] = least(min(2, rounds), lambda: n.populate(text))
    assert checked(m, n)
    result["read bytes"] = least(rounds, fast.read_bytes)
    result["text megabytes"] = text.stat().st_size / 1e6
    return result


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=float, default=100, help="megabytes of parameters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.mb, args.rounds, folder)
    for verb in ("load", "save"):
        result[f"{verb} ratio"] = result[f"{verb} text"] / result[f"{verb} safetensors"]
    for what, number in result.items():
        print(f"{what:18} {number:10.3f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
