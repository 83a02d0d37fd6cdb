"""What is said of a machine, and how foreign load is told."""

import os

import pytest

from experiments.benchmarks import machine
from experiments.benchmarks.machine import (
    CpuTimes,
    LoadMeter,
    cpu_times,
    host_tag,
    process_cpu_seconds,
    process_peak_rss,
    reset_peak_rss,
    wait_quiet,
)

TICKS = os.sysconf("SC_CLK_TCK")
STAT = """\
cpu  1000 20 300 5000 70 1 2 40 500 6
cpu0 1 2 3 4 5 6 7 8 9 10
intr 12345
"""


def test_cpu_times_sum_what_is_not_idle_and_count_guests_once(tmp_path):
    path = tmp_path / "stat"
    path.write_text(STAT)
    assert cpu_times(path) == CpuTimes(
        busy=pytest.approx((1000 + 20 + 300 + 1 + 2 + 40) / TICKS),  # 500 guest ticks are in the user's 1000
        idle=pytest.approx((5000 + 70) / TICKS),
        stolen=pytest.approx(40 / TICKS),
    )


@pytest.mark.parametrize("text", [None, "", "cpu  a b c", "cpu 1 2\n"])
def test_cpu_times_where_there_are_none(tmp_path, text):
    path = tmp_path / "stat"
    if text is not None:
        path.write_text(text)
    assert cpu_times(path) is None


def process(tmp_path, **files):
    folder = tmp_path / "42"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_process_cpu_seconds_with_a_name_that_looks_like_fields(tmp_path):
    before = "42 (a ) 1 2 (x) S 1 42 42 0 -1 4194304 100 200 3 4 "
    process(tmp_path, stat=before + "1000 200 30 4 20 0 8 0 12345 1000000 500")
    assert process_cpu_seconds(42, tmp_path) == pytest.approx(1234 / TICKS)
    assert process_cpu_seconds(43, tmp_path) is None


def test_process_peak_rss(tmp_path):
    process(tmp_path, status="Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t  123456 kB\nVmRSS:\t  1000 kB\n")
    assert process_peak_rss(42, tmp_path) == 123456 * 1024
    process(tmp_path, status="Name:\tzombie\nState:\tZ\n")
    assert process_peak_rss(42, tmp_path) is None
    assert process_peak_rss(43, tmp_path) is None


def test_reset_peak_rss(tmp_path):
    process(tmp_path, clear_refs="")
    assert reset_peak_rss(42, tmp_path) is True
    assert (tmp_path / "42" / "clear_refs").read_text() == "5"
    (tmp_path / "42" / "clear_refs").unlink()
    assert reset_peak_rss(42, tmp_path) is False
    assert os.listdir(tmp_path / "42") == []  # nothing is made up


def test_foreign_load_is_what_others_did():
    before, after = CpuTimes(100.0, 50.0, 5.0), CpuTimes(118.0, 51.0, 6.0)
    load = LoadMeter.load(10.0, before, after, 3.0, 15.0)
    assert load == {"foreign_load": pytest.approx((18 - 12) / 10), "stolen": pytest.approx(0.1), "wall_seconds": 10.0}
    assert LoadMeter.load(10.0, before, after, 0.0, 18.5)["foreign_load"] == 0.0  # rounding of ticks is no load


@pytest.mark.parametrize("missing", range(4))
def test_foreign_load_is_unknown_without_counters(missing):
    counters = [CpuTimes(1.0, 1.0, 0.0), CpuTimes(2.0, 2.0, 0.0), 0.0, 0.5]
    counters[missing] = None
    assert LoadMeter.load(1.0, *counters) == {"foreign_load": None, "stolen": None, "wall_seconds": 1.0}


def test_foreign_load_is_unknown_in_windows_shorter_than_the_kernel_counts():
    counters = (CpuTimes(1.0, 1.0, 0.0), CpuTimes(1.2, 1.0, 0.0), 0.0, 0.0)
    assert LoadMeter.load(0.1, *counters)["foreign_load"] is None
    assert LoadMeter.load(0.2, *counters)["foreign_load"] == pytest.approx(1.0)


def test_a_meter_takes_differences(monkeypatch):
    clock, times, own = iter([10.0, 12.0]), iter([CpuTimes(5.0, 0.0, 0.0), CpuTimes(8.0, 0.0, 1.0)]), iter([1.0, 2.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine, "cpu_times", lambda: next(times))
    meter = LoadMeter(lambda: next(own))
    meter.start()
    assert meter.stop() == {"foreign_load": 1.0, "stolen": 0.5, "wall_seconds": 2.0}


class Clock:
    """Time that passes in sleeps only, on two cores of which ``load`` are busy."""

    def __init__(self, loads):
        self.now, self.busy, self.loads = 0.0, 0.0, loads

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.busy += seconds * (self.loads.pop(0) if self.loads else 2.0)

    def cpu_times(self):
        return CpuTimes(self.busy, 2 * self.now - self.busy, 0.0)


@pytest.mark.parametrize(
    ("loads", "quiet", "waited"),
    [([0.1], True, 2.0), ([0.13, 0.13, 0.11], True, 6.0), ([], False, 10.0)],
)
def test_wait_quiet(monkeypatch, loads, quiet, waited):
    clock = Clock(loads)
    monkeypatch.setattr(machine, "time", clock)
    monkeypatch.setattr(machine, "cpu_times", clock.cpu_times)
    assert wait_quiet(10.0) is quiet
    assert clock.now == waited


def test_wait_quiet_without_counters_does_not_wait_for_ever(monkeypatch):
    clock = Clock([])
    monkeypatch.setattr(machine, "time", clock)
    monkeypatch.setattr(machine, "cpu_times", lambda: None)
    assert wait_quiet(10.0) is False
    assert clock.now == 2.0


@pytest.mark.parametrize(
    ("model", "flags", "tag"),
    [
        ("AMD EPYC", "avx avx2 avx512f avx512_vnni avx512_bf16", "amd-epyc-2t-avx512-vnni-bf16"),
        ("AMD EPYC 7763 64-Core Processor", "avx avx2 fma", "amd-epyc-7763-64-core-2t-avx2"),
        ("Intel(R) Xeon(R) CPU @ 2.80GHz", "avx avx2 avx512f", "intel-xeon-2t-avx512"),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "avx", "intel-core-i7-8650u-2t-avx"),
        ("12th Gen Intel(R) Core(TM) i5", "avx avx2 avx_vnni", "12th-gen-intel-core-i5-2t-avx2-vnni"),
        ("Intel(R) Xeon(R) 8481C CPU @ 2.70GHz", "avx512f amx_tile amx_bf16", "intel-xeon-8481c-2t-avx512-bf16-amx"),
    ],
)  # fmt: skip
def test_host_tag(tmp_path, model, flags, tag):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: {flags}\n")
    assert host_tag(path, threads=2) == tag


def test_host_tag_of_a_processor_without_a_name(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n")
    assert host_tag(path, threads=4) == "cpu-4t-bf16"


def test_host_tag_of_this_machine_has_its_threads():
    assert f"-{machine.num_threads()}t" in host_tag()
