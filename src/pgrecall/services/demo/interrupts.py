"""How the demo takes signals: the first one unwinds what was begun, and none disturbs the removal of it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def first_unwinds() -> Iterator[None]:
    """The first signal raises what it did before, SIGHUP as SIGTERM; signals after it are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    came = False

    def unwind(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            return
        came = True
        handler = before[signal.SIGINT if number == signal.SIGINT else signal.SIGTERM]
        if callable(handler):
            handler(number, frame)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
