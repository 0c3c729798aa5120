"""`neonet selftest`: computes for real, falls back to the CPU where the device fails, and says why."""

import json

import pytest
import torch

from neonet_core import selftest as module
from neonet_core.cli import main
from neonet_core.selftest import selftest


def events_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_command_names_the_device_and_the_versions(capsys):
    assert main(["selftest", "--device", "cpu", "--json"]) == 0
    result = events_of(capsys)[-1]
    assert result["event"] == "result" and result["device"] == "cpu"
    assert result["fell_back"] is False and result["reason"] == ""
    assert result["devices"] == ["cpu"] and result["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert 0 < result["seconds"] < 10 and result["free_memory_gb"] > 0


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a graphics card")
@pytest.mark.parametrize("device", ["auto", "cuda", "mps"])
def test_a_machine_without_a_graphics_card_falls_back_and_says_why(device):
    found = selftest(device)
    assert found.device == "cpu" and found.fell_back
    assert found.reason.endswith(".") and found.reason.count(". ") == 0  # one sentence


def simulated(monkeypatch, failure):
    """A machine whose graphics card is there but fails."""
    convolve = module._convolve
    monkeypatch.setattr(module, "_unavailable", lambda kind: "" if kind == "cuda" else "Apple only.")
    monkeypatch.setattr(module, "_convolve", lambda kind: failure(kind) if kind == "cuda" else convolve(kind))


@pytest.mark.parametrize(("error", "word"), [
    (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "does not support"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), "free memory"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED\nsecond line"), "CUDNN_STATUS_NOT_INITIALIZED"),
])
def test_a_card_that_fails_is_left_for_the_cpu(monkeypatch, error, word):
    def failure(kind):
        raise error

    simulated(monkeypatch, failure)
    found = selftest("auto")
    assert (found.device, found.fell_back, found.devices) == ("cpu", True, ("cpu",))
    assert word in found.reason and "\n" not in found.reason


def test_a_card_that_works_is_taken(monkeypatch):
    simulated(monkeypatch, lambda kind: ("", 0.001))
    monkeypatch.setattr(module, "_free_bytes", lambda kind: 8_000_000_000)
    found = selftest("auto")
    assert (found.device, found.fell_back, found.reason, found.free_memory_gb) == ("cuda", False, "", 8.0)


def test_wrong_numbers_are_found(monkeypatch):
    class Wrong(torch.nn.Conv3d):
        def to(self, kind):
            self.bias += 1
            return self

    monkeypatch.setattr(torch.nn, "Conv3d", Wrong)
    reason, _ = module._convolve("cpu")
    assert "wrong numbers" in reason
