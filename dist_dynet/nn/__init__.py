"""Builders: networks made of parameters and operations."""

from typing import TYPE_CHECKING, Any

from .._hints import hint
from .attention import AdditiveAttention, DotAttention, MultiHeadAttention
from .birnn import BiRNNBuilder, StackedRNNState
from .crf import CRF
from .hierarchical import HierarchicalSoftmaxBuilder
from .linear import MLP, Linear
from .lstms import CompactVanillaLSTMBuilder, CoupledLSTMBuilder, FastLSTMBuilder, SparseLSTMBuilder
from .norm import LayerNorm
from .rnn import LSTMBuilder, VanillaLSTMBuilder
from .sampled import NoiseContrastiveEstimation, SampledSoftmax, Sampler
from .simple import GRUBuilder, SimpleRNNBuilder
from .softmax import ClassFactoredSoftmaxBuilder, SoftmaxBuilder, StandardSoftmaxBuilder
from .stack import Stack, StackLSTM
from .state import RNNState
from .tree import BinaryTreeLSTMBuilder, ChildSumTreeLSTMBuilder, NaryTreeLSTMBuilder

__all__ = [
    "CRF",
    "MLP",
    "AdditiveAttention",
    "BiRNNBuilder",
    "BinaryTreeLSTMBuilder",
    "ChildSumTreeLSTMBuilder",
    "ClassFactoredSoftmaxBuilder",
    "CompactVanillaLSTMBuilder",
    "CoupledLSTMBuilder",
    "DotAttention",
    "FastLSTMBuilder",
    "GRUBuilder",
    "HierarchicalSoftmaxBuilder",
    "LSTMBuilder",
    "LayerNorm",
    "Linear",
    "MultiHeadAttention",
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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint(name)}")


def __dir__() -> list[str]:
    return sorted(__all__)
