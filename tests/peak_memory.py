"""Measures the memory that tensors take."""

from collections.abc import Callable, Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def measure_peak_memory(work: Callable[[], object]) -> float:
    """Measure the peak memory of the tensors that a function creates, in MiB.

    Tensors that existed before do not count, even if the function frees them. Only what torch
    allocates counts: numpy's arrays, Python's objects and what libraries load do not.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = list_memory_events(record.profiler.kineto_results.experimental_event_tree())
    sizes: dict[int, int] = {}
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_time_ns):
        address, change = event.extra_fields.ptr, event.extra_fields.alloc_size
        if change < 0:
            current -= sizes.pop(address, 0)
            continue
        sizes[address] = change
        current += change
        peak = max(peak, current)
    return peak / 2**20


def list_memory_events(events: Iterable[Any]) -> list[Any]:
    """List the allocations and frees in a tree of events."""
    found = []
    for event in events:
        if event.name == "[memory]":
            found.append(event)
        found += list_memory_events(event.children)
    return found
