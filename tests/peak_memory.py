"""Measures the memory that tensors take."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def measure_peak_memory(work: Callable[[], object]) -> float:
    """Measure the peak memory of the tensors that a function creates, in MiB.

    Tensors that existed before do not count, nor does what libraries load at their first use.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = record.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    current = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        current += change
        peak = max(peak, current)
    return peak / 2**20
