"""A signal that Python drops, as it came in a destructor, still stops the attempt."""

import signal
from collections.abc import Iterator

import pytest

from pipeline.stopped import Stopped, stop_if_asked, stop_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop_on_signals()
    yield
    stop_on_signals()  # nobody has asked
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nobody_asked() -> None:
    stop_if_asked()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_is_raised_at_once_and_the_second_signal_ends_the_process(number: int, code: int) -> None:
    with pytest.raises(Stopped) as stopped:
        signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert signal.getsignal(signal.SIGINT) is signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_destructor_swallows_is_raised_at_the_next_look() -> None:
    class Dropped:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    dropped = Dropped()
    del dropped
    with pytest.raises(Stopped) as stopped:
        stop_if_asked()
    assert stopped.value.exit_code == 143
