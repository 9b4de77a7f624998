"""Reading ahead: the next part of a stream is made in a thread while the last is worked on."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Part = TypeVar("_Part")
_END = object()


def read_ahead(parts: Generator[_Part, None, None]) -> Iterator[_Part]:
    """Yield the parts of a stream as they come, each next one made in a thread meanwhile.

    So there are two in memory at most. What the stream raises is raised where it would be without the thread. The
    thread ends, and the stream is closed, at the end, at an error, and when the reader stops early.
    """
    thread = ThreadPoolExecutor(1, "steelyard-reads")
    try:
        coming = thread.submit(next, parts, _END)
        while (part := coming.result()) is not _END:
            coming = thread.submit(next, parts, _END)
            yield part  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)
        parts.close()
