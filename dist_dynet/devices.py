"""DyNet's functions for devices, of which there is one: the CPU."""

from __future__ import annotations

from .expression import Expression
from .params.dims import check_device

__all__ = [
    "ERRMSG",
    "HAVE_CUDA",
    "DeviceInfo",
    "available_devices",
    "get_device_info",
    "to_device",
]

HAVE_CUDA = False
"""There is only the CPU."""
ERRMSG = "dist_dynet computes on CPUs; there is no GPU support."
"""What DyNet's programs print when HAVE_CUDA is missing."""


class DeviceInfo:
    """A device: name (bytes, as in DyNet), id, type."""

    def __init__(self, name: bytes = b"CPU", id: int = 0, type: int = -1) -> None:
        self.name, self.id, self.type = name, id, type

    def __repr__(self) -> str:
        return f"DeviceInfo(name={self.name!r}, id={self.id}, type={self.type})"


def available_devices() -> list[bytes]:
    """The names of all devices: the CPU.

    >>> import dist_dynet as dy
    >>> dy.available_devices()
    [b'CPU']
    """
    return [b"CPU"]


def get_device_info(name: str | bytes) -> DeviceInfo:
    """The device with this name.

    Raises:
        RuntimeError: there is no such device.

    >>> import dist_dynet as dy
    >>> dy.get_device_info("CPU")
    DeviceInfo(name=b'CPU', id=0, type=-1)
    """
    if not isinstance(name, str | bytes) or name not in ("CPU", b"CPU"):
        raise RuntimeError(f"get_device_info: there is no device {name!r}, only CPU.")
    return DeviceInfo()


def to_device(e: Expression, device_str: str) -> Expression:
    """The expression on another device: itself, because there is only the CPU.

    Raises:
        ValueError: the device is not "CPU" or "".
        TypeError: e is not an expression.

    >>> import dist_dynet as dy
    >>> x = dy.scalarInput(2)
    >>> dy.to_device(x, "CPU") is x
    True
    """
    if not isinstance(e, Expression):
        raise TypeError(f"to_device: takes an expression; got {type(e).__name__}.")
    check_device(device_str, "to_device")
    return e
