"""How much memory some work takes."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def measure_tensors(work: Callable[[], object]) -> float:
    """How many MiB the tensors that some work makes take at most at one time.

    What was there before does not count, nor does what libraries load at their first use.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = record.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    now = largest = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        now += change
        largest = max(largest, now)
    return largest / 2**20
