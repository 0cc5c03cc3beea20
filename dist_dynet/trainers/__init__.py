"""Trainers: rules that change parameters by their gradients."""

from .averages import MovingAverage
from .base import Trainer
from .protocol import TrainerLike
from .rules import (
    AdadeltaTrainer,
    AdagradTrainer,
    AdamTrainer,
    AdamWTrainer,
    AmsgradTrainer,
    CyclicalSGDTrainer,
    EGTrainer,
    MomentumSGDTrainer,
    RMSPropTrainer,
    SimpleSGDTrainer,
)

__all__ = [
    "AdadeltaTrainer",
    "AdagradTrainer",
    "AdamTrainer",
    "AdamWTrainer",
    "AmsgradTrainer",
    "CyclicalSGDTrainer",
    "EGTrainer",
    "MomentumSGDTrainer",
    "MovingAverage",
    "RMSPropTrainer",
    "SimpleSGDTrainer",
    "Trainer",
    "TrainerLike",
]


def __dir__() -> list[str]:
    return sorted(__all__)
