"""The encoder-decoder of batch_attention, --batch pairs made one batch by hand: sources of one
length, targets padded. Unit: target words."""

import itertools
import random

import batch_attention
import common
import twins
from batch_attention import HIDDEN, START

MODEL = batch_attention.Model


def batch_data(size):
    """An endless stream of batches; in each, all sources are equally long."""
    by_length = {}
    for source, target in itertools.islice(MODEL.data(), 1000):
        by_length.setdefault(len(source), []).append((source, target))
    batches = []
    for pairs in by_length.values():
        in_order = sorted(pairs, key=lambda pair: len(pair[1]))
        batches += [in_order[i : i + size] for i in range(0, len(in_order) - size + 1, size)]
    random.Random(14).shuffle(batches)
    return itertools.cycle(batches)


def dynet_task(dy, args):
    """A decoder's step for all; what the recurrence does not need, for all target words at once."""
    collection = dy.ParameterCollection()
    model = MODEL(dy, collection)

    def loss_of(pairs):
        sources, targets = zip(*pairs, strict=True)
        H = dy.concatenate_cols(
            model.encoder.transduce(
                [dy.lookup_batch(model.source, column) for column in zip(*sources, strict=True)]
            )
        )
        keys = model.K * H
        state, context, outs = (
            model.decoder.initial_state(),
            dy.zeros(HIDDEN, batch_size=len(pairs)),
            [],
        )
        for before in common.padded([(START, *words[:-1]) for words in targets])[0]:
            state = state.add_input(
                dy.concatenate([dy.lookup_batch(model.target, before), context])
            )
            h = state.output()
            scores = dy.transpose(model.v * dy.tanh(dy.colwise_add(keys, model.Q * h)))
            context = H * dy.softmax(scores)
            outs.append(dy.concatenate([h, context]))
        real = [t * len(pairs) + i for i, words in enumerate(targets) for t in range(len(words))]
        out = dy.tanh(model.C * dy.pick_batch_elems(dy.concatenate_to_batch(outs), real))
        return dy.sum_batches(
            dy.pickneglogsoftmax_batch(
                dy.affine_transform([model.b, model.W, out]), twins.flat(targets)
            )
        )

    return common.training_step(
        dy,
        collection,
        batch_data(args.batch),
        dy.AdamTrainer(collection),
        loss_of,
        lambda pairs: sum(map(model.units, pairs)),
    )


def torch_task(torch, args):
    """The twin of batch_attention: it pads what it is given."""
    return batch_attention.torch_task(torch, args, batch_data(args.batch))


torch_task.forms = {"float32", "bf16"}


def operations():
    """Floating-point operations per target word."""
    pairs = list(itertools.islice(MODEL.data(), 1000))
    return sum(itertools.starmap(batch_attention.pair_operations, pairs)) / sum(
        map(len, (target for _, target in pairs))
    )


if __name__ == "__main__":
    common.main(
        "attention",
        "words",
        dynet_task,
        torch_task,
        loss_steps=3,
        options={"--batch": {"type": int, "default": 16, "help": "pairs in a step"}},
        operations=operations,
    )
