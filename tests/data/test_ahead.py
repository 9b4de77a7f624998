"""Reading ahead: the parts as they come, at most one in advance, and no thread or file left behind."""

import _thread
import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steelyard.data import open_predictions
from steelyard.data.predictions.ahead import read_ahead


class Stream:
    """Parts 0, 1, ... that say how many were made, by which threads, and whether the stream was closed."""

    def __init__(self, number=10, error_at=None):
        self.number, self.error_at = number, error_at
        self.made, self.threads, self.is_closed = 0, set(), False

    def parts(self):
        try:
            for part in range(self.number):
                self.threads.add(threading.current_thread())
                if part == self.error_at:
                    raise ValueError(f"part {part} is damaged")
                self.made += 1
                yield part
        finally:
            self.is_closed = True


def assert_ended(stream):
    assert stream.is_closed
    assert threading.main_thread() not in stream.threads
    assert not any(thread.is_alive() for thread in stream.threads)


@pytest.mark.parametrize("number", [0, 1, 2, 10])
def test_parts_come_in_their_order(number):
    stream = Stream(number)
    assert list(read_ahead(stream.parts())) == list(range(number))
    assert stream.is_closed
    assert not any(thread.is_alive() for thread in stream.threads)


def test_one_part_is_made_in_advance_and_no_more():
    stream = Stream()
    for part in read_ahead(stream.parts()):
        deadline = time.monotonic() + 10
        while stream.made < min(part + 2, 10) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        assert stream.made == min(part + 2, 10)


def test_nothing_is_read_before_the_first_is_asked_for():
    stream = Stream()
    parts = read_ahead(stream.parts())
    assert (stream.made, stream.threads) == (0, set())
    parts.close()


def test_an_error_is_raised_where_it_would_be_without_the_thread():
    stream, seen = Stream(error_at=3), []
    with pytest.raises(ValueError, match="part 3 is damaged"):
        seen.extend(read_ahead(stream.parts()))
    assert seen == [0, 1, 2]
    assert_ended(stream)


def test_a_reader_that_stops_early_leaves_no_thread():
    stream = Stream()
    parts = read_ahead(stream.parts())
    assert next(parts) == 0
    parts.close()
    assert_ended(stream)
    assert stream.made <= 2


def test_an_interrupt_ends_the_thread():
    stream = Stream()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def read():
        for part in read_ahead(stream.parts()):
            if part == 2:
                _thread.interrupt_main()
                time.sleep(5)

    try:
        with pytest.raises(KeyboardInterrupt):
            read()
    finally:
        signal.signal(signal.SIGINT, before)
    assert_ended(stream)


def test_batches_of_shards_are_read_ahead_and_a_bad_one_is_named(tmp_path):
    logits = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    for shard in range(3):
        target = np.arange(100) % 3
        target[40] = 7 if shard == 2 else 0
        part = logits[100 * shard : 100 * shard + 100]
        columns = {f"logit_{k}": part[:, k] for k in range(3)}
        pq.write_table(pa.table({"target": target, **columns}), tmp_path / f"part-{shard}.parquet")
    seen, before = [], threading.active_count()
    with pytest.raises(ValueError, match=r"part-2\.parquet, column 'target' must hold labels .* got 7 in row 40"):
        seen.extend(numbers for numbers, _ in open_predictions(tmp_path).batches(30))
    torch.testing.assert_close(torch.cat(seen), torch.from_numpy(logits[:230]), rtol=0, atol=0)
    assert threading.active_count() == before
