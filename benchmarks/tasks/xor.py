"""The tutorial's dynamic loop: a new graph per example of xor, SimpleSGD. Unit: examples."""

import common
import numpy as np

EXAMPLES = [((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 1), 0)]
PER_STEP = 100


def initial_values():
    """(W, V); the bias begins at zero."""
    rng = np.random.default_rng(15)
    return common.glorot(rng, 8, 2), common.glorot(rng, 1, 8)


def operations():
    """Floating-point operations per example."""
    return common.products(8, 2, inputs_gradient=False) + common.products(1, 8)


def dynet_task(dy, args):
    """The program as the tutorial writes it."""
    m = dy.ParameterCollection()
    W = m.add_parameters((8, 2))
    V = m.add_parameters((1, 8))
    b = m.add_parameters(8, init=0)
    for p, v in zip((W, V), initial_values(), strict=True):
        p.set_value(v)
    trainer = dy.SimpleSGDTrainer(m)

    def network(question, answer):
        dy.renew_cg()
        x = dy.vecInput(len(question))
        x.set(question)
        y = dy.scalarInput(answer)
        output = dy.logistic(V * dy.tanh((W * x) + b))
        return dy.binary_log_loss(output, y)

    def step(model=m):  # holds the collection: dynet's trainer does not
        total = 0.0
        for i in range(PER_STEP):
            loss = network(*EXAMPLES[i % 4])
            total += loss.value()
            loss.backward()
            trainer.update()
        return PER_STEP, total

    return step


def torch_task(torch, args):
    """The same steps."""
    W, V = (torch.nn.Parameter(torch.from_numpy(v)) for v in initial_values())
    b = torch.nn.Parameter(torch.zeros(8))
    optimizer = torch.optim.SGD([W, V, b], lr=0.1, foreach=False)  # faster here than fused
    loss_function = torch.nn.functional.binary_cross_entropy

    def step():
        total = 0.0
        for i in range(PER_STEP):
            question, answer = EXAMPLES[i % 4]
            x = torch.tensor(question, dtype=torch.float32)
            y = torch.tensor([answer], dtype=torch.float32)
            loss = loss_function(torch.sigmoid(V @ torch.tanh(W @ x + b)), y)
            total += loss.item()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return PER_STEP, total

    return step


if __name__ == "__main__":
    common.main("xor", "examples", dynet_task, torch_task, loss_steps=80, operations=operations)
