"""Builders: networks made of parameters and operations."""

from .rnn import BiRNNBuilder, LSTMBuilder, RNNState, VanillaLSTMBuilder

__all__ = ["BiRNNBuilder", "LSTMBuilder", "RNNState", "VanillaLSTMBuilder"]
