"""SIGINT and SIGTERM end an attempt so that the same command goes on from there."""

import signal


class Stopped(BaseException):
    """SIGINT or SIGTERM: leave everything so that the same command goes on. Not an `Exception`: nobody takes it for a fault."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


_asked: list[int] = []  # the signal that came


def stop_on_signals() -> None:
    """SIGINT and SIGTERM raise `Stopped` once; the second one ends the process at once."""
    _asked.clear()

    def stop(number: int, _frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        _asked.append(number)
        raise Stopped(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def stop_if_asked() -> None:
    """Raise `Stopped` again if a signal came: Python drops what a handler raises inside a destructor or a callback of C."""
    if _asked:
        raise Stopped(_asked[0])
