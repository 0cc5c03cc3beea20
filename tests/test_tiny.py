"""The first test to run: build a network, forward, backward, one step, the loss falls. Well under 2
seconds."""

import pytest

import dist_dynet as dy


@pytest.mark.parametrize("trainer", [dy.SimpleSGDTrainer, dy.AdamTrainer])
def test_tiny_network_learns(trainer):
    m = dy.ParameterCollection()
    W, b, V = m.add_parameters((8, 2)), m.add_parameters(8), m.add_parameters((1, 8))
    rule = trainer(m)
    losses = []
    for _ in range(5):
        dy.renew_cg()
        x = dy.inputVector([1, 0])
        loss = dy.binary_log_loss(dy.logistic(V * dy.tanh(W * x + b)), dy.scalarInput(1))
        losses.append(loss.value())
        loss.backward()
        assert W.grad_as_array().any()
        assert not W.grad_as_array()[:, 1].any(), "x_2 = 0: its weights have no gradient"
        rule.update()
        assert not W.grad_as_array().any()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_tiny_network_changes_shape_with_every_example():
    m = dy.ParameterCollection()
    E, W = m.add_lookup_parameters((10, 4)), m.add_parameters((3, 4))
    rule = dy.SimpleSGDTrainer(m)

    def loss_of(sentence, label):
        dy.renew_cg()
        return dy.pickneglogsoftmax(W * dy.average([E[word] for word in sentence]), label)

    data = [([1, 2, 3], 0), ([4], 1), ([5, 6, 7, 8, 9], 2)]
    before = sum(loss_of(*example).value() for example in data)
    for example in data:
        loss_of(*example).backward()
        rule.update()
    assert sum(loss_of(*example).value() for example in data) < before
