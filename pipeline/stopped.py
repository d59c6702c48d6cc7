"""SIGINT and SIGTERM end an attempt in such a way that the same command can go on from there."""

import signal


class Stopped(BaseException):
    """SIGINT or SIGTERM came: the attempt ends, and the same command goes on later. No `Exception`, as this is no fault."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


_asked: list[int] = []  # the signal that came


def stop_on_signals() -> None:
    """Let the first SIGINT or SIGTERM raise `Stopped`, and the second one end the process at once."""
    _asked.clear()

    def stop(number: int, _frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        _asked.append(number)
        raise Stopped(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def stop_if_asked() -> None:
    """Raise `Stopped` again if a signal came: Python drops an error of a handler inside a destructor or a callback of C."""
    if _asked:
        raise Stopped(_asked[0])
