"""The first signal asks, the second ends."""

import signal
import threading

import pytest

from memoa_jax.stopping import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_for_whoever_looks(number):
    stop, said = Stop(), []
    with stop.listening(), stop.waiting(said.append):
        signal.raise_signal(number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert len(said) == 1
    assert stop.exit_code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_at_once_where_nobody_looks(number):
    stop = Stop()
    with stop.listening(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert stop.exit_code == 128 + number


def test_handlers_are_put_back_and_other_threads_leave_them_alone():
    before = [signal.getsignal(one) for one in SIGNALS]
    stop, seen = Stop(), []

    def elsewhere():
        with stop.listening():
            seen.append([signal.getsignal(one) for one in SIGNALS])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    with stop.listening():
        assert [signal.getsignal(one) for one in SIGNALS] != before
    assert [signal.getsignal(one) for one in SIGNALS] == before == seen[0]
