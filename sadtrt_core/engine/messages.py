"""What TensorRT logs: kept for the sentences of errors, never printed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


class MessageLog:
    """TensorRT's messages. The library keeps the first logger it sees, so a process has one and never frees it."""

    def __init__(self, trt: Any) -> None:
        self._sinks: list[list[str]] = []
        self.logger = _logger_class(trt)(self._sinks)

    @contextlib.contextmanager
    def collect(self) -> Iterator[list[str]]:
        """A list that fills with the warnings and errors logged inside the block."""
        sink: list[str] = []
        self._sinks.append(sink)
        try:
            yield sink
        finally:
            self._sinks[:] = [other for other in self._sinks if other is not sink]


def in_one_line(messages: list[str], most: int = 3) -> str:
    """The last few messages joined for an error sentence."""
    return " | ".join(" ".join(message.split()) for message in messages[-most:]) or "it gave no message"


def _logger_class(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps warnings and errors; prints nothing."""

        def __init__(self, sinks: list[list[str]]) -> None:
            trt.ILogger.__init__(self)
            self._sinks = sinks

        def log(self, severity: Any, message: str) -> None:
            # The lower a severity's number, the worse it is.
            if int(severity) <= int(trt.ILogger.WARNING):
                for sink in self._sinks:
                    sink.append(message)

    return Logger


@functools.cache
def message_log(trt: Any) -> MessageLog:
    """The process's log for a TensorRT module."""
    return MessageLog(trt)
