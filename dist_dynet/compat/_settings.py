"""Settings of a program written for DyNet: those in the program, then the environment, then the
command line; later ones win.

Each setting is applied when it changes and not again: seeding twice would repeat draws.
"""

from __future__ import annotations

from typing import Any

from .. import settings


class Merged:
    """Settings by source, and those that have been applied."""

    def __init__(self) -> None:
        self.program: dict[str, Any] = {}
        self.command_line: dict[str, Any] = {}
        self.in_force: dict[str, Any] = {}

    def use_dynet_order(self) -> None:
        """Sets DyNet's order of draws at the import, while other settings wait for init(), unless
        the environment says otherwise."""
        settings.init(rng=settings.from_environment().given().get("rng", "dynet"))

    def leave(self) -> None:
        """Restores this package's order of draws."""
        settings.init(rng=settings.from_environment().given().get("rng", "keyed"))
        self.in_force.clear()

    def read_command_line(self) -> None:
        """Takes the --dynet-* options of sys.argv."""
        params = settings.DynetParams()
        params.from_args()
        self.command_line = params.given()

    def start(self) -> None:
        """Applies all settings."""
        self.read_command_line()
        merged = {**self.program, **settings.from_environment().given(), **self.command_line}
        merged.pop("rng", None)  # in force since the import
        changed = {
            name: value for name, value in merged.items() if value != self.in_force.get(name)
        }
        self.in_force.update(changed)
        params = settings.DynetParams()
        params.put(changed)
        params.init()


merged = Merged()


class DynetParams(settings.DynetParams):
    """As dist_dynet.DynetParams; the environment and the command line override the program's
    settings."""

    def from_args(self, shared_parameters: Any = None) -> None:
        """Takes the --dynet-* options of sys.argv, as init() does by itself."""
        self.set_shared_parameters(shared_parameters)
        merged.read_command_line()

    def set_autobatch(self, autobatch: Any, what: str = "set_autobatch") -> None:
        """As dist_dynet.DynetParams.set_autobatch(). None, for an option that was not given, means
        off."""
        super().set_autobatch(False if autobatch is None else autobatch, what)

    def set_requested_gpus(self, requested_gpus: int, what: str = "set_requested_gpus") -> None:
        """There is only the CPU: warns once."""
        if requested_gpus:
            settings.say(
                "gpu",
                "there is only the CPU; it is used in place of the GPU that the program asks for.",
            )

    def set_gpu_mask(self, gpu_mask: Any) -> None:
        """There is only the CPU: warns once."""
        self.set_requested_gpus(any(gpu_mask))

    def init(self) -> None:
        """Applies the settings. DyNet does this once and warns later; here it may be called
        again."""
        merged.program.update(self.given())
        merged.start()


def init(shared_parameters: Any = None) -> None:
    """Reads the command line and applies the settings."""
    merged.start()


def init_from_params(params: settings.DynetParams) -> None:
    """As params.init()."""
    params.init()
