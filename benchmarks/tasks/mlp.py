"""A perceptron with two hidden layers over images, --batch of them a step: 784, 512, 512, 10, ReLU,
Adam. Unit: images."""

import itertools

import common
import jax_twins
import numpy as np
import twins

SIZES = (784, 512, 512, 10)


def batch_data(size):
    """50 batches of (images as columns, labels)."""
    rng = np.random.default_rng(12)
    patterns = rng.normal(size=(SIZES[-1], SIZES[0])).astype(np.float32)
    batches = []
    for _ in range(50):
        labels = rng.integers(SIZES[-1], size=size)
        images = patterns[labels] + rng.normal(size=(size, SIZES[0])).astype(np.float32)
        batches.append((np.asfortranarray(images.T), labels.tolist()))
    return batches


def images_of(batch):
    """How many."""
    return len(batch[1])


def operations():
    """Floating-point operations per image; nothing asks for the gradient of an image."""
    return sum(
        common.products(rows, columns, inputs_gradient=i > 0)
        for i, (columns, rows) in enumerate(itertools.pairwise(SIZES))
    )


def initial_values():
    """(W, b) of each layer."""
    rng = np.random.default_rng(13)
    return [
        (common.glorot(rng, rows, columns), np.zeros(rows, np.float32))
        for columns, rows in itertools.pairwise(SIZES)
    ]


def dynet_task(dy, args):
    """A graph of 12 nodes: the batch is one expression."""
    m = dy.ParameterCollection()
    layers = []
    for values in initial_values():
        layer = [m.add_parameters(v.shape) for v in values]
        for p, v in zip(layer, values, strict=True):
            p.set_value(v)
        layers.append(layer)

    def loss_of(batch):
        images, labels = batch
        x = dy.inputTensor(images, batched=True)
        for i, (W, b) in enumerate(layers):
            x = dy.affine_transform([b, W, dy.rectify(x) if i else x])
        return dy.mean_batches(dy.pickneglogsoftmax_batch(x, labels))

    return common.training_step(
        dy, m, itertools.cycle(batch_data(args.batch)), dy.AdamTrainer(m), loss_of, images_of
    )


def torch_task(torch, args):
    """nn.Linear and fused Adam."""
    layers = torch.nn.ModuleList(
        torch.nn.Linear(columns, rows) for columns, rows in itertools.pairwise(SIZES)
    )
    with torch.no_grad():
        for layer, (W, b) in zip(layers, initial_values(), strict=True):
            layer.weight.copy_(torch.from_numpy(W))
            layer.bias.copy_(torch.from_numpy(b))
    update = common.torch_adam(torch, [], list(layers.parameters()), "dense")

    def scores(x):
        for i, layer in enumerate(layers):
            x = layer(torch.relu(x) if i else x)
        return x

    loss = twins.summed_loss(torch, args, scores)
    return twins.batches_task(
        args,
        batch_data(args.batch),
        lambda batch: (torch.from_numpy(batch[0].T), torch.tensor(batch[1])),
        lambda images, labels: loss(images, labels) / len(labels),
        update,
        images_of,
    )


torch_task.forms = twins.FORMS


def jax_task(jax, args):
    """Three products."""
    dot = jax_twins.product(jax, args.precision)

    def loss_of(parameters, x, labels):
        for i, (w, b) in enumerate(parameters):
            x = dot(jax.nn.relu(x) if i else x, w) + b
        return jax_twins.cross_entropy(jax, x, labels) / len(labels)

    return jax_twins.batches_task(
        jax,
        [(W.T.copy(), b) for W, b in initial_values()],
        batch_data(args.batch),
        lambda batch: (batch[0].T, np.array(batch[1], np.int32)),
        loss_of,
        images_of,
    )


jax_task.forms = jax_twins.FORMS


if __name__ == "__main__":
    common.main(
        "mlp",
        "images",
        dynet_task,
        torch_task,
        loss_steps=5,
        loss_of="step",
        options={"--batch": {"type": int, "default": 64, "help": "images in a step"}},
        jax_task=jax_task,
        operations=operations,
    )
