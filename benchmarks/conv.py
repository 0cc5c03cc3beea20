"""conv2d beside PyTorch's, on one core with one thread: time per call and how they compare.

    export DIST_DYNET_BENCH_TORCH=~/peers/torch/bin/python
    python benchmarks/conv.py [--match 3x3] [--rounds 5] [--seconds 0.3]

Four minutes for all shapes. Each line: CPU milliseconds for forward alone, and for forward and
backward (of sum(y g), gradients of image and filter), and ours divided by PyTorch's, as median over
the rounds (least - greatest); below 1 we are faster. Both sides start from the same numbers, and
the gradients they find are compared.
"""

import argparse
import json
import os
import statistics
import sys
import time

import numpy as np
from run import TORCH, US, environment
from turns import Program

SHAPES = {
    # name: height, width, channels, filter's height and width, output channels, stride, is_valid,
    # batch
    "digits, first 5x5": (28, 28, 1, 5, 5, 32, 1, False, 16),
    "digits, second 5x5": (14, 14, 32, 5, 5, 64, 1, False, 16),
    "small image, first 3x3": (32, 32, 3, 3, 3, 64, 1, False, 16),
    "small image, 64 channels 3x3": (32, 32, 64, 3, 3, 64, 1, False, 8),
    "photo, first 7x7 by 2": (224, 224, 3, 7, 7, 64, 2, False, 1),
    "photo, 64 channels 3x3": (56, 56, 64, 3, 3, 64, 1, False, 1),
    "photo, 128 channels 3x3 by 2": (56, 56, 128, 3, 3, 128, 2, False, 1),
    "photo, 256 channels 3x3": (14, 14, 256, 3, 3, 256, 1, False, 1),
    "photo, 512 channels 3x3": (7, 7, 512, 3, 3, 512, 1, False, 1),
    "photo, 64 to 256 channels 1x1": (56, 56, 64, 1, 1, 256, 1, True, 1),
    "sentences, trigrams": (50, 1, 100, 3, 1, 128, 1, True, 32),
    "one sentence, trigrams": (30, 1, 100, 3, 1, 100, 1, True, 1),
}


def arrays(h, w, ci, fh, fw, co, stride, is_valid, batch):
    """Image, filter and the weights of the loss, in our order of dims."""
    rng = np.random.default_rng(0)
    out = [
        -(-(n - k + 1) // stride) if is_valid else -(-n // stride) for n, k in ((h, fh), (w, fw))
    ]
    return [
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((h, w, ci, batch), (fh, fw, ci, co), (*out, co, batch))
    ]


def ours(shape):
    """Functions that run forward, and forward and backward; the latter returns the gradients."""
    import dist_dynet as dy

    stride, is_valid = shape[6:8]
    x, f, g = arrays(*shape)
    collection = dy.ParameterCollection()
    filters = collection.parameters_from_numpy(f)
    dy.renew_cg()
    image = dy.inputTensor(x, batched=True)
    y = dy.conv2d(image, filters, [stride, stride], is_valid)
    loss = dy.sum_batches(dy.dot_product(y, dy.inputTensor(g, batched=True)))

    def both():
        loss.forward(recalculate=True)
        loss.backward(full=True)

    def gradients():
        both()
        return image.gradient().reshape(x.shape), filters.gradient()

    return lambda: y.forward(recalculate=True), both, gradients


def pytorch(shape):
    """The same with PyTorch, whose order of dims is batch, channels, height, width."""
    import torch

    torch.set_num_threads(1)
    h, w, _, fh, fw, _, stride, is_valid, _ = shape
    x, f, g = arrays(*shape)
    x = torch.from_numpy(x.transpose(3, 2, 0, 1).copy()).requires_grad_()
    f = torch.from_numpy(f.transpose(3, 2, 0, 1).copy()).requires_grad_()
    g = torch.from_numpy(g.transpose(3, 2, 0, 1).copy())
    room = [
        max((-(-n // stride) - 1) * stride + k - n, 0) if not is_valid else 0
        for n, k in ((h, fh), (w, fw))
    ]
    around = (room[1] // 2, room[1] - room[1] // 2, room[0] // 2, room[0] - room[0] // 2)
    even = all(r % 2 == 0 for r in room)

    def convolve():
        if even:
            return torch.nn.functional.conv2d(
                x, f, stride=stride, padding=(room[0] // 2, room[1] // 2)
            )
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, around), f, stride=stride)

    def forward():
        with torch.no_grad():
            convolve()

    def both():
        x.grad = f.grad = None
        (convolve() * g).sum().backward()

    def gradients():
        both()
        return x.grad.numpy().transpose(2, 3, 1, 0), f.grad.numpy().transpose(2, 3, 1, 0)

    return forward, both, gradients


def milliseconds(call, seconds):
    """CPU time of a call, over at least this many seconds."""
    call()
    calls, start = 0, time.process_time()
    while (now := time.process_time()) - start < seconds or calls < 3:
        call()
        calls += 1
    return (now - start) / calls * 1e3


def measure(peer, shape, seconds):
    """What the process of one peer prints."""
    forward, both, gradients = (ours if peer == US else pytorch)(shape)
    sums = [float(np.abs(np.asarray(a, np.float64)).sum()) for a in gradients()]
    return {
        "forward": milliseconds(forward, seconds),
        "both": milliseconds(both, seconds),
        "sums": sums,
    }


def measured(peer, name, seconds):
    """Measures in a process of its own."""
    interpreter = sys.executable if peer == US else os.environ["DIST_DYNET_BENCH_TORCH"]
    command = (interpreter, __file__, "--peer", peer, "--match", name, "--seconds", str(seconds))
    return Program(f"{peer}'s conv2d", command, environment(peer)).run()


def spread(values):
    return f"{statistics.median(values):5.2f} ({min(values):.2f}-{max(values):.2f})"


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--match", default="", help="only shapes whose name contains this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="CPU seconds per measurement")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(measure(args.peer, SHAPES[args.match], args.seconds)))
        return 0
    if not (has_torch := bool(os.environ.get("DIST_DYNET_BENCH_TORCH"))):
        print(
            "DIST_DYNET_BENCH_TORCH is not set: the Python that has PyTorch (benchmarks/README.md)."
            " Our times alone:"
        )
    print(
        f"{'':30} {'forward':>24}{'':14} forward and backward\n{'':30} "
        + f"{'ours':>8} {'PyTorch':>8} {'ratio':>17}   " * 2
    )
    worst = 0.0
    for name, shape in SHAPES.items():
        if args.match not in name:
            continue
        rounds = []
        for _ in range(args.rounds):
            us = measured(US, name, args.seconds)
            them = measured(TORCH, name, args.seconds) if has_torch else us
            np.testing.assert_allclose(
                us["sums"], them["sums"], rtol=1e-4, err_msg=f"{name} {shape}: the gradients differ"
            )
            rounds.append((us, them))
        columns = []
        for what in ("forward", "both"):
            a, b = ([r[k][what] for r in rounds] for k in (0, 1))
            ratios = [p / q for p, q in zip(a, b, strict=True)]
            worst = max(worst, statistics.median(ratios))
            columns.append(
                f"{statistics.median(a):8.3f} {statistics.median(b):8.3f} {spread(ratios):>17}"
            )
        print(f"{name:30} " + "   ".join(columns), flush=True)
    print(f"greatest ratio: {worst:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
