"""Parameter mixing over processes, as people did it: fork workers, each trains on its part and writes a file, the parent averages."""

import multiprocessing
import tempfile
from pathlib import Path

import dynet as dy
import numpy as np


def data(part):
    rng = np.random.RandomState(100 + part)
    xs = rng.normal(size=(20, 3))
    return list(zip(xs, (xs @ np.array([1.0, -2.0, 0.5]) > 0).astype(int)))


def build():
    pc = dy.ParameterCollection()
    return pc, pc.add_parameters((4, 3)), pc.add_parameters((2, 4))


def work(part, folder):
    pc, W, V = build()
    pc.populate(str(folder / "all"))
    trainer = dy.SimpleSGDTrainer(pc, learning_rate=0.2)
    for x, y in data(part):
        dy.renew_cg()
        loss = dy.pickneglogsoftmax(V * dy.tanh(W * dy.inputVector(x)), int(y))
        loss.value()
        loss.backward()
        trainer.update()
    pc.save(str(folder / ("part%d" % part)))


def main():
    pc, W, V = build()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for epoch in range(3):
            pc.save(str(folder / "all"))
            workers = [context.Process(target=work, args=(part, folder)) for part in range(2)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            parts = []
            for part in range(2):
                copy, *parameters = build()
                copy.populate(str(folder / ("part%d" % part)))
                parts.append([p.as_array() for p in parameters])
            for p, values in zip((W, V), zip(*parts)):
                p.set_value(np.mean(values, axis=0))
            total = 0.0
            for x, y in data(0) + data(1):
                dy.renew_cg()
                total += dy.pickneglogsoftmax(V * dy.tanh(W * dy.inputVector(x)), int(y)).value()
            print("epoch", epoch, total / 40)


if __name__ == "__main__":
    main()
