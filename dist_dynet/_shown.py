"""Which class shows what in its repr(): attached here, as most of it is alike."""

from __future__ import annotations

from typing import Any

from . import _described as d
from . import holders, nn, schedules, trainers
from .expression import Expression
from .graph import ComputationGraph
from .nn.owner import Owner
from .params.collection import ParameterCollection
from .params.initializers import PyInitializer
from .settings import DynetParams
from .trainers.following import FollowsTrainer


def _of_state(state: Any) -> str:
    h = state.h()
    return f" of {type(state._step.builder).__name__}: " + (f"h {h[-1].dim()[0]}" if h else "start")


_PLAIN: dict[Any, Any] = {
    ParameterCollection: d.of_collection,
    ComputationGraph: lambda g: f": {d.counted(len(g), 'node')}, version {g.version()}",
    nn.RNNState: _of_state,
    nn.StackedRNNState: lambda s: f": {d.counted(len(s.s()), 'vector')}",
    nn.Stack: lambda s: f": {d.counted(len(s), 'item')}",
    DynetParams: lambda p: f": {p.given()}",
    **{getattr(holders, name): lambda h: f"({h.get()!r:.60})" for name in holders.__all__},
}
"""Classes of which no argument is shown."""


def _drawn(what: str) -> Any:
    def picture(self: Any) -> str | None:
        """For notebooks: a drawing, if it is of few nodes."""
        from . import drawing  # here, as most programs draw nothing

        picture: str | None = getattr(drawing, what)(self)
        return picture

    return picture


def attach() -> None:
    """Gives the classes of the package their repr(), and what notebooks draw."""
    for drawn, what in ((Expression, "of_expression"), (ComputationGraph, "of_graph")):
        drawn._repr_svg_ = _drawn(what)  # type: ignore[union-attr]
    d.describe(Owner, d.of_owner)
    d.describe(nn.Sampler)
    d.describe(trainers.Trainer, d.of_trainer)
    d.describe(FollowsTrainer)
    d.describe(PyInitializer, aliases={"fname": "path"})
    d.describe(schedules._Schedule, d.of_schedule)
    d.describe(schedules.Plateau, d.of_schedule, {"factor": "_cut"})
    for cls, more in _PLAIN.items():
        d.describe(cls, more, arguments=False)
