"""Builders: networks made of parameters and operations."""

from .attention import AdditiveAttention
from .birnn import BiRNNBuilder, StackedRNNState
from .crf import CRF
from .hierarchical import HierarchicalSoftmaxBuilder
from .lstms import CompactVanillaLSTMBuilder, CoupledLSTMBuilder, FastLSTMBuilder, SparseLSTMBuilder
from .rnn import LSTMBuilder, VanillaLSTMBuilder
from .sampled import NoiseContrastiveEstimation, SampledSoftmax, Sampler
from .simple import GRUBuilder, SimpleRNNBuilder
from .softmax import ClassFactoredSoftmaxBuilder, SoftmaxBuilder, StandardSoftmaxBuilder
from .stack import Stack, StackLSTM
from .state import RNNState
from .tree import BinaryTreeLSTMBuilder, ChildSumTreeLSTMBuilder, NaryTreeLSTMBuilder

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
    "HierarchicalSoftmaxBuilder",
    "LSTMBuilder",
    "NaryTreeLSTMBuilder",
    "NoiseContrastiveEstimation",
    "RNNState",
    "SampledSoftmax",
    "Sampler",
    "SimpleRNNBuilder",
    "SoftmaxBuilder",
    "SparseLSTMBuilder",
    "Stack",
    "StackLSTM",
    "StackedRNNState",
    "StandardSoftmaxBuilder",
    "VanillaLSTMBuilder",
]
