"""Urgent work for benchmarks: a fixed amount of processor time."""

import time

from clawai.sdk.plugin import operation


@operation("urgent.work")
def work(cpu_us: int) -> int:
    """Compute until ``cpu_us`` microseconds of processor time are used."""
    until = time.thread_time_ns() + cpu_us * 1000
    rounds = 0
    while time.thread_time_ns() < until:
        rounds += 1
    return rounds
