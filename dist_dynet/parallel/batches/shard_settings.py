"""The settings of a shard, and their checks."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._integers import integer_argument
from ...params.dims import size


class ShardSettings(NamedTuple):
    """The settings that must be equal for a step to have the same examples: on all ranks, and after
    a resume."""

    batch_size: int = 0
    seed: int = 0
    drop_last: bool = False
    shuffle: bool = True
    micro_batches: int = 0  # 0: none
    bucket: int = 0  # 0: none


def checked_settings(
    batch_size: Any, seed: Any, drop_last: Any, shuffle: Any, micro_batches: Any, bucket: Any
) -> ShardSettings:
    """The arguments of shard(), checked.

    Raises:
        ValueError: one makes no sense.
        TypeError: one is no integer.
    """
    batch_size = _one_or_more("batch_size", batch_size, "over all ranks")
    if micro_batches is not None:
        micro_batches = _one_or_more("micro_batches", micro_batches, "over all ranks")
    if bucket is not None:
        bucket = _one_or_more("bucket", bucket, "in steps")
        if not shuffle:
            raise ValueError(
                "shard: bucket puts the examples into another order; got shuffle=False, which"
                " keeps it."
            )
    return ShardSettings(
        batch_size=batch_size,
        seed=from_zero("seed", seed),
        drop_last=bool(drop_last),
        shuffle=bool(shuffle),
        micro_batches=micro_batches or 0,
        bucket=bucket or 0,
    )


def _one_or_more(name: str, value: Any, of: str) -> int:
    """A size of at least 1; `of` says what it counts."""
    number = size(value, "shard", f" for {name}")
    if number < 1:
        raise ValueError(f"shard: {name}, {of}, must be at least 1; got {number}.")
    return number


def from_zero(name: str, value: Any) -> int:
    """An integer of at least 0 that random orders are derived from.

    Raises:
        ValueError: it is negative.
    """
    number = integer_argument(value, "shard", name)
    if number < 0:
        raise ValueError(f"shard: {name} must be 0 or more; got {number}.")
    return number
