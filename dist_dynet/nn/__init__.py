"""Builders: networks made of parameters and operations."""

from .attention import AdditiveAttention
from .birnn import BiRNNBuilder, StackedRNNState
from .crf import CRF
from .lstms import CompactVanillaLSTMBuilder, CoupledLSTMBuilder, FastLSTMBuilder, SparseLSTMBuilder
from .rnn import LSTMBuilder, VanillaLSTMBuilder
from .simple import GRUBuilder, SimpleRNNBuilder
from .softmax import ClassFactoredSoftmaxBuilder, SoftmaxBuilder, StandardSoftmaxBuilder
from .state import RNNState
from .tree import BinaryTreeLSTMBuilder, ChildSumTreeLSTMBuilder

__all__ = [
    "CRF",
    "AdditiveAttention",
    "BiRNNBuilder",
    "BinaryTreeLSTMBuilder",
    "ChildSumTreeLSTMBuilder",
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
