"""How the demo takes signals: the first one unwinds what was begun, and none disturbs the removal of it."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def first_unwinds() -> Iterator[Callable[[], None]]:
    """The first signal raises what it did before, SIGHUP as SIGTERM.

    Signals after it are ignored, also when the context is left: the process only has to end, with the status of the
    first. What is yielded says that such a first signal came another way: to a process that we waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
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

    def ignore_further() -> None:
        nonlocal came
        came = True

    for number in SIGNALS:
        signal.signal(number, unwind)
    try:
        yield ignore_further
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if came else handler)
