"""What the driver says about GPUs, with a stand-in for NVML's module: there is none on a host without a GPU."""

from types import SimpleNamespace
from typing import Any

import pytest

from services.workers.hardware import GpuFigures, gpu_figures, utilisation


class NVMLError(Exception):
    """As `pynvml` raises it."""


def nvml(*, devices: int = 2, driver: bool = True, utilisation: bool = True) -> Any:
    """`pynvml`, as much of it as is asked."""

    def init() -> None:
        if not driver:
            raise NVMLError

    def rates(index: int) -> Any:
        if not utilisation:
            raise NVMLError
        return SimpleNamespace(gpu=10 * (index + 1), memory=1)

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlDeviceGetCount=lambda: devices,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(used=index, total=2**30, free=1),
        nvmlDeviceGetUtilizationRates=rates,
    )


class TestGpuFigures:
    def test_of_every_device(self):
        assert gpu_figures(nvml()) == [GpuFigures(0, 0, 2**30, 0.1), GpuFigures(1, 1, 2**30, 0.2)]

    def test_an_engines_is_the_mean_of_its_devices(self):
        seen = gpu_figures(nvml(devices=4))
        assert utilisation({1, 3}, seen=seen) == pytest.approx(0.3)
        assert utilisation({7}, seen=seen) is None
        assert utilisation({0}, seen=[]) is None

    def test_a_slice_of_a_gpu_has_memory_alone(self):
        assert gpu_figures(nvml(devices=1, utilisation=False)) == [GpuFigures(0, 0, 2**30, None)]

    def test_a_host_without_a_driver_has_none(self):
        assert gpu_figures(nvml(driver=False)) == []

    def test_nor_has_one_without_the_package(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
        assert gpu_figures() == []
