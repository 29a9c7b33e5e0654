"""Prefetch: the same items in the same order, made ahead in one thread that always ends."""

import contextvars
import gc
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref

import numpy as np
import pytest

from fastcnn import backend as backends
from fastcnn.datasets import Batches, Dataset, Prefetch, RandomCrop, RandomHorizontalFlip, Standardize

DEPTHS = [0, 1, 2, 5]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "fastcnn-prefetch"]


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


def counting(made, count=10):
    for number in range(count):
        made.append(number)
        yield number


@pytest.mark.parametrize("depth", DEPTHS)
def test_items_come_in_order_and_then_no_more(depth):
    with Prefetch(iter(range(100)), depth) as ahead:
        assert list(ahead) == list(range(100))
        assert list(ahead) == [] and not threads()
    assert list(Prefetch([], depth)) == [] and not threads()


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_as_many_items_as_asked_for_are_made_ahead_and_no_more(depth):
    made = []
    with Prefetch(counting(made), depth) as ahead:
        wait_until(lambda: len(made) == depth)
        assert next(ahead) == 0
        wait_until(lambda: len(made) == depth + 1)
        time.sleep(0.02)
        assert len(made) == depth + 1 and len(threads()) == 1
    assert not threads() and len(made) == depth + 1


def test_without_depth_nothing_is_made_ahead_and_no_thread_is_started():
    made = []
    with Prefetch(counting(made), 0) as ahead:
        assert next(ahead) == 0 and made == [0] and not threads()


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_error_comes_after_the_items_before_it_with_its_traceback(depth):
    def failing():
        yield 1
        yield 2
        raise KeyError("the third")

    ahead = Prefetch(failing(), depth)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="the third") as caught:
        next(ahead)
    assert "failing" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert list(ahead) == [] and not threads()


def test_an_error_that_python_would_treat_as_an_exit_reaches_the_caller():
    def leaving():
        yield 1
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(Prefetch(leaving()))


@pytest.mark.parametrize("depth", DEPTHS)
def test_leaving_early_ends_the_thread(depth):
    with pytest.raises(ZeroDivisionError), Prefetch(iter(int, 1), depth) as ahead:
        next(ahead)
        raise ZeroDivisionError
    assert not threads() and list(ahead) == []
    ahead.close()  # again: nothing


def test_an_abandoned_prefetch_ends_its_thread():
    ahead = Prefetch(iter(int, 1))
    next(ahead)
    (thread,) = threads()
    del ahead
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_items_that_nobody_took_are_let_go():
    class Item:
        pass

    alive = weakref.WeakSet()

    def items():
        while True:
            item = Item()
            alive.add(item)
            yield item

    ahead = Prefetch(items(), 3)
    next(ahead)
    ahead.close()
    del ahead
    gc.collect()
    assert len(alive) == 0


def test_wait_counts_the_seconds_without_an_item():
    def slow():
        for _ in range(3):
            time.sleep(0.02)
            yield 0

    for depth in DEPTHS:
        with Prefetch(slow(), depth) as ahead:
            list(ahead)
        assert ahead.wait >= 0.05
    with Prefetch(slow(), 3) as ahead:
        wait_until(lambda: ahead._lane.ready.qsize() == 3)
        next(ahead)
        assert ahead.wait < 0.02


@pytest.mark.parametrize(("seconds", "thread"), [([0.03, 0, 0, 0, 0.03, 0], 0), ([0, 0.03, 0.03, 0, 0.03, 0], 0), ([0] + [0.03] * 5, 1)])
def test_cheap_items_are_made_without_a_thread(seconds, thread):
    """The first does not count, one that was disturbed does not decide."""

    def items():
        for number, pause in enumerate(seconds):
            time.sleep(pause)
            yield number

    with Prefetch(items(), 2, cheap=0.02) as ahead:
        got = []
        for number in ahead:
            got.append((number, len(threads())))
    assert got[:4] == [(0, 0), (1, 0), (2, 0), (3, thread)] and [number for number, _ in got] == list(range(6))
    assert not threads() and ahead.wait >= seconds[0] + seconds[1]


def test_waiting_takes_no_processor_time():
    def one_late():
        time.sleep(0.3)
        yield 0

    start = time.process_time()
    with Prefetch(one_late()) as ahead:
        next(ahead)
    with Prefetch(iter(int, 1)) as ahead:
        time.sleep(0.3)
    assert time.process_time() - start < 0.2


def test_the_thread_works_in_the_caller_s_context():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)

    def seen():
        yield variable.get(), backends.current().name, np.geterr()["divide"]

    with backends.use_backend("reference"), np.errstate(divide="raise"):
        assert list(Prefetch(seen())) == [(7, "reference", "raise")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_and_can_start_its_own():
    with Prefetch(iter(range(100))) as ahead:
        next(ahead)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                try:
                    next(ahead)
                except RuntimeError as error:
                    ahead.close()
                    code = 0 if "forked" in str(error) and list(Prefetch(range(3))) == [0, 1, 2] else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert list(ahead) == list(range(1, 100))


def test_a_program_may_end_in_the_middle():
    code = """
import numpy as np
from fastcnn.datasets import Prefetch
def endless():
    while True:
        yield np.sort(np.random.default_rng(0).random(100_000))
ahead = Prefetch(endless())
next(ahead)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("depth", [-1, 1.5])
def test_nonsense_is_refused(depth):
    with pytest.raises((TypeError, ValueError), match="depth must be"):
        Prefetch([], depth)


def augmented():
    rng = np.random.default_rng(0)
    dataset = Dataset(rng.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8), rng.integers(0, 4, 50), tuple("abcd"))
    return Batches(dataset, 8, True, 5, [RandomCrop(8, padding=2), RandomHorizontalFlip(), Standardize.fit(dataset)])


@pytest.mark.parametrize("depth", DEPTHS)
def test_augmented_batches_are_the_same_bits_however_far_ahead(depth):
    batches = augmented()
    for epoch in (0, 3):
        batches.set_epoch(epoch)
        expected = [(x.tobytes(), y.tobytes()) for x, y in batches]
        with Prefetch(batches, depth) as ahead:
            batches.set_epoch(9)  # too late for the iteration under way
            assert [(x.tobytes(), y.tobytes()) for x, y in ahead] == expected


def test_a_batch_stays_as_it_is_while_others_are_made():
    kept, copies = [], []
    with Prefetch(augmented(), 5) as ahead:
        for x, y in ahead:
            kept.append((x, y))
            copies.append((x.copy(), y.copy()))
    for (x, y), (x_then, y_then) in zip(kept, copies, strict=True):
        assert np.array_equal(x, x_then) and np.array_equal(y, y_then)
