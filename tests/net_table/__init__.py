"""The net table: a row for each builder and block in each of its uses, one module per family.
tests/test_nets.py runs them all.

A new builder or block gets a row in the module of its family. From it come the tests of batches, of
batching on the fly, of saving, pickling and copying, of gradients, of resumed training, and of
several ranks (mpi/nets.py); a recurrent builder in recurrent.FACTORIES gets those of
test_builders.py and test_padding.py, an output layer in outputs.FACTORIES those of
test_softmax_builders.py, too.
"""

from . import blocks, outputs, recurrent

FAMILIES = {"blocks": blocks, "outputs": outputs, "recurrent": recurrent}
NETS = {
    f"{family}-{name}": net
    for family, module in FAMILIES.items()
    for name, net in module.NETS.items()
}

NOT_IN_THE_TABLE = {
    "Block": "the base of blocks",
    "Owner": "the base of all",
    "RNNState": "made by recurrent builders, and tested with them",
    "RecurrentBuilder": "the base of recurrent builders",
    "Sampler": "has no parameters; test_softmax_builders.py",
    "SoftmaxBuilder": "the base of output layers",
    "Stack": "made by StackLSTM, and tested with it",
    "StackedRNNState": "has no parameters of its own; test_builders.py",
}
"""Classes of dist_dynet.nn that no row makes, each with the reason."""
