"""Statistics of a lazy tensor or of two, panel by panel; of all elements or of a sample.

A sample takes the beginnings of panels, spread evenly over the tensor. It is the same every time, and the result gives its size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mfconv_nb.core.checkpoint import LazyTensor
from mfconv_nb.core.dtypes import numpy_dtype
from mfconv_nb.core.errors import MappingError, UsageError, quoted
from mfconv_nb.core.progress import OnProgress
from mfconv_nb.core.statistics.one_tensor import Accumulator, Statistics, accumulator
from mfconv_nb.core.statistics.two_tensors import PairAccumulator, PairStatistics
from mfconv_nb.streaming.gather import PanelReader, more_scattered, panels
from mfconv_nb.streaming.workers import Pulse, do_tasks

LEAST_PANELS = 8  # a sample comes from at least so many panels, if the tensor has them

Panel = tuple[int, int]
Counter = TypeVar("Counter", Accumulator, PairAccumulator)


def measure(
    tensor: LazyTensor,
    *,
    threads: int = 2,
    on_progress: OnProgress | None = None,
    sample: int | None = None,
    stop: threading.Event | None = None,
) -> Statistics | None:
    """The statistics of a tensor, streaming. Memory: a panel, counters and some 12 MiB of scratch a thread.

    Args:
        on_progress: called with the bytes read so far; ``sampled_elements`` gives the total.
        sample: read at most about so many elements; the result's ``sampled`` is then (read, all).
        stop: set it, from any thread, to stop within a panel.
    Returns:
        The statistics; None if it was stopped.
    Raises:
        MappingError: MFC310 for a tensor with a name and a shape only.
        UsageError: MFC501 for a sample of less than one element.
    """
    chosen = _choose_panels(tensor, tensor.dtype, sample)
    counted = _count(lambda: accumulator(tensor.dtype), (tensor,), tensor.dtype, chosen, threads, on_progress, stop)
    return None if counted is None else counted.result(tensor.spec.elements)


def measure_pair(
    first: LazyTensor,
    second: LazyTensor,
    *,
    threads: int = 2,
    on_progress: OnProgress | None = None,
    sample: int | None = None,
    stop: threading.Event | None = None,
) -> PairStatistics | None:
    """How two tensors of one shape differ, streaming. If their dtypes differ, the first is cast to the dtype of the second.

    Arguments and memory as for ``measure``, with two panels a thread; progress counts bytes of the second.

    Returns:
        The statistics; None if it was stopped.
    Raises:
        MappingError: MFC310 for two shapes, or for a tensor with a name and a shape only.
        UsageError: MFC501 for a sample of less than one element.
    """
    if first.shape != second.shape:
        found, hint = f"shapes {first.shape} and {second.shape}", "Map one side first, so that both have the same names and shapes."
        raise MappingError("MFC310", quoted(second.name), found=found, expected="one shape", hint=hint)
    dtype = second.dtype
    chosen = _choose_panels(more_scattered(first, second), dtype, sample)
    counted = _count(lambda: PairAccumulator(dtype), (first, second), dtype, chosen, threads, on_progress, stop)
    return None if counted is None else counted.result(second.spec.elements)


def sampled_elements(tensor: LazyTensor, sample: int | None) -> int:
    """How many elements ``measure`` reads. Times the itemsize, it is where progress ends."""
    return sum(last - start for start, last in _choose_panels(tensor, tensor.dtype, sample))


def _count(
    make_counter: Callable[[], Counter],
    tensors: Sequence[LazyTensor],
    dtype: str,
    chosen: Iterator[Panel],
    threads: int,
    on_progress: OnProgress | None,
    stop: threading.Event | None,
) -> Counter | None:
    """Count the chosen panels of one or two tensors, with one counter a thread, merged at the end. None if it was stopped."""
    counters: list[Counter] = []
    left_early = threading.Event()

    def worker(pulse: Pulse) -> Callable[[Panel], None]:
        counter, readers = make_counter(), [PanelReader() for _ in tensors]
        counters.append(counter)

        def work(panel: Panel) -> None:
            if stop is not None and stop.is_set():
                left_early.set()
                pulse.stop()
                pulse.add(0)  # leaves the worker
            numbers = [r.read(t, dtype, *panel).view(numpy_dtype(dtype)) for r, t in zip(readers, tensors, strict=True)]
            counter.add(*numbers)
            pulse.add(numbers[-1].nbytes)

        return work

    do_tasks(chosen, worker, threads, on_progress)
    if left_early.is_set():
        return None
    whole = make_counter()
    for counter in counters:
        whole.merge(counter)
    return whole


def _choose_panels(tensor: LazyTensor, dtype: str, sample: int | None) -> Iterator[Panel]:
    """All panels; or the beginnings of evenly spread panels, with at most ``sample`` elements in all."""
    if sample is not None and sample < 1:
        raise UsageError("MFC501", "sample", found=sample, expected="at least 1 element, or None for all", hint="Leave it out.")
    elements = tensor.spec.elements
    if sample is None or sample >= elements:
        return panels(tensor, dtype, 0, elements)
    every = list(panels(tensor, dtype, 0, elements))
    widest = max(last - start for start, last in every)
    number = min(len(every), sample, max(LEAST_PANELS, sample // widest))
    chosen = [every[(2 * n + 1) * len(every) // (2 * number)] for n in range(number)]
    return iter([(start, min(last, start + sample // number)) for start, last in chosen])
