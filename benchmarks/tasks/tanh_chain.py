"""A chain of 10,000 tanh nodes over a parameter, forward and backward: what a node costs. Unit:
nodes."""

import common

NODES = 10_000


def dynet_task(dy, args):
    """One graph per step; the gradient is added up and not used."""
    m = dy.ParameterCollection()
    p = m.add_parameters(args.size, init=0.5)

    def step(model=m):
        dy.renew_cg()
        x = p
        tanh = dy.tanh
        for _ in range(NODES):
            x = tanh(x)
        loss = dy.sum_elems(x)
        value = loss.value()
        loss.backward()
        return NODES, value

    return step


def torch_task(torch, args):
    """The same chain."""
    p = torch.nn.Parameter(torch.full((args.size,), 0.5))

    def step():
        x = p
        tanh = torch.tanh
        for _ in range(NODES):
            x = tanh(x)
        loss = x.sum()
        value = loss.item()
        loss.backward()
        return NODES, value

    return step


if __name__ == "__main__":
    common.main(
        "tanh_chain",
        "nodes",
        dynet_task,
        torch_task,
        loss_steps=5,
        loss_of="step",
        options={"--size": {"type": int, "default": 1, "help": "length of the vector"}},
    )
