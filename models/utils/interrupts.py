"""Ctrl-C and SIGTERM during a training: what is under way is finished and kept before the process ends."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, Self

log = logging.getLogger(__name__)


class Interrupts:
    """Notes the first Ctrl-C or SIGTERM of a block and ends after it, if not before; a second Ctrl-C ends at once.

    Outside the main thread, where Python takes no signals, it notes nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and self.received is not None:
            self.end(self.received)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        log.warning("stopping soon, with a checkpoint")

    @staticmethod
    def end(number: int) -> None:
        """Ends as the signal would have.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM, with code 143.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
