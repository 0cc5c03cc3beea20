"""Event files for TensorBoard."""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Any

from ._file_names import FileName, file_path

_numbers = itertools.count(1)


class Events:
    """Writes the numbers of a metrics line to a TensorBoard event file, and flushes each line
    before it returns: SummaryWriter's own thread would lose the last ones if the process ends
    abruptly."""

    def __init__(self, folder: FileName) -> None:
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "training.Run: tensorboard= needs tensorboardX: pip install tensorboardX"
            ) from None
        self._folder = file_path(folder, "Run").absolute()
        self._event, self._scalar = event_pb2.Event, summary.scalar
        self._folder.mkdir(parents=True, exist_ok=True)
        number = f".{os.getpid()}.{next(_numbers)}"  # two files of one second
        self._writer = event_file_writer.EventsWriter(str(self._folder / "events"), number)
        weakref.finalize(self, self._writer.close)

    def __str__(self) -> str:
        return str(self._folder)

    def __call__(self, line: dict[str, Any]) -> None:
        """Writes those of one line."""
        own = ("run", "attempt", "trainer", "update", "updates", "time")
        for name, value in line.items():
            if name not in own and isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.write_event(
                    self._event(
                        wall_time=line["time"],
                        step=line["update"],
                        summary=self._scalar(name, value),
                    )
                )
        self._writer.flush()
