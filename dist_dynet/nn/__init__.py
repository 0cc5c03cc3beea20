"""Builders: networks made of parameters and operations."""

from .birnn import BiRNNBuilder, StackedRNNState
from .lstms import CompactVanillaLSTMBuilder, CoupledLSTMBuilder, FastLSTMBuilder, SparseLSTMBuilder
from .rnn import LSTMBuilder, VanillaLSTMBuilder
from .simple import GRUBuilder, SimpleRNNBuilder
from .softmax import ClassFactoredSoftmaxBuilder, SoftmaxBuilder, StandardSoftmaxBuilder
from .state import RNNState

__all__ = [
    "BiRNNBuilder",
    "ClassFactoredSoftmaxBuilder",
    "CompactVanillaLSTMBuilder",
    "CoupledLSTMBuilder",
    "FastLSTMBuilder",
    "GRUBuilder",
    "LSTMBuilder",
    "RNNState",
    "SimpleRNNBuilder",
    "SoftmaxBuilder",
    "SparseLSTMBuilder",
    "StackedRNNState",
    "StandardSoftmaxBuilder",
    "VanillaLSTMBuilder",
]
