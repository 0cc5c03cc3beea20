"""What the tasks for on-the-fly batching share: the losses of some examples summed in one graph, by
a program that knows one example.

A task gives a class: `Model(dy, collection)` with `data()`, an endless stream of examples,
`losses(example)`, a list of expressions, and `units(example)`. Programs that decide as they go give
`losses_of(examples)` instead: see parser_bilstm.py.
"""

import common

STRATEGIES = ("off", "depth", "agenda", "auto")


def flag(peer, strategy):
    """What renew_cg(autobatching=) takes for it: DyNet knows on and off."""
    return STRATEGIES.index(strategy) if peer == "dist_dynet" else strategy != "off"


def parameter(m, value):
    """A parameter of the collection that starts so."""
    p = m.add_parameters(value.shape)
    p.set_value(value)
    return p


def table(m, value):
    """A table of rows that starts so."""
    p = m.add_lookup_parameters(value.shape)
    p.init_from_array(value)
    return p


def main(task, unit, model_class, batch, loss_steps, torch_task=None, options=None):
    """As common.main, for a model class, which finds the values of its own options as
    attributes."""

    def dynet_task(dy, args):
        for name in options or {}:
            setattr(model_class, name.lstrip("-"), getattr(args, name.lstrip("-")))
        collection = dy.ParameterCollection()
        model = model_class(dy, collection)
        trainer = dy.AdamTrainer(collection)
        stream = common.together(model.data(), args.batch)
        how = flag(args.peer, args.strategy)

        def step(keep=collection):
            examples = next(stream)
            dy.renew_cg(autobatching=how)
            losses = (
                model.losses_of(examples)
                if hasattr(model, "losses_of")
                else [x for e in examples for x in model.losses(e)]
            )
            loss = dy.esum(losses)
            value = loss.value()
            loss.backward()
            trainer.update()
            return sum(model.units(e) for e in examples), value

        step.statistics = getattr(dy, "autobatch_stats", None)
        return step

    common.main(
        task,
        unit,
        dynet_task,
        torch_task,
        loss_steps=loss_steps,
        options={
            **(options or {}),
            "--batch": {"type": int, "default": batch, "help": "examples in a graph"},
            "--strategy": {
                "choices": STRATEGIES,
                "default": "auto",
                "help": "of batching; a peer that has only one takes it for all but off",
            },
        },
    )
