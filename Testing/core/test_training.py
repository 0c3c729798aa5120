"""The training loop: resume, early stopping, schedule, seeds; checkpoints and files that appear whole or not at all."""

import ast
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

import neonet_core
from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.presets import Training
from neonet_core.training import loop
from neonet_core.training.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from neonet_core.training.device import choose_device, is_out_of_memory
from neonet_core.training.files import relative_path, sha256_of_json, write_atomic, write_json
from neonet_core.training.loop import Validation, derive_seed, fit, learning_rate, seed_everything

CPU = torch.device("cpu")
STEPS = 5


class KilledError(Exception):
    """Stands for a kill: nothing of ours catches it."""


def toy_model():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.3),
                               torch.nn.Linear(8, 1))


def train_toy(folder, settings, stop_at=None, measure=None, loss=None, events=None):
    """Fit the toy; `stop_at` (epoch, step) is where it is cut off."""
    model = toy_model()

    def batches(epoch):
        rng = np.random.default_rng(derive_seed(3, epoch))
        for step in range(STEPS):
            if (epoch, step) == stop_at:
                raise KilledError
            x = torch.from_numpy(rng.normal(size=(4, 6)).astype(np.float32))
            yield x, x[:, :1] - x[:, 1:2]

    def squared_error(network, batch):
        noise = 0.01 * random.random() + 0.01 * np.random.random()  # every global generator takes part
        return torch.nn.functional.mse_loss(network(batch[0]), batch[1] + noise)

    def error(network):
        x = torch.linspace(-1, 1, 60).reshape(10, 6)
        return {"error": torch.nn.functional.mse_loss(network(x), x[:, :1] - x[:, 1:2]).item()}

    fitted = fit(model, stage="toy", settings=settings, batches=batches, steps_per_epoch=STEPS,
                 loss=loss or squared_error, validation=Validation(measure or error, "error", "lower"), folder=folder,
                 seed=11, device=CPU, events=events or Silent())
    return model, fitted


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


SETTINGS = {
    "plain": Training(epochs=6, batch_size=4, learning_rate=1e-2),
    "everything": Training(epochs=6, batch_size=4, learning_rate=1e-2, schedule="cosine", ema_decay=0.8,
                           clip_gradient=0.5, validate_every=2),
}


# Resume


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("stops", [[(0, 3)], [(1, 0)], [(3, 4)], [(5, 4)], [(1, 2), (2, 1), (5, 0)]])
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path, settings, stops):
    model, expected = train_toy(tmp_path / "whole", settings)
    for stop in stops:
        random.seed(stop[0])  # another process starts with other random states
        torch.manual_seed(stop[0])
        with pytest.raises(KilledError):
            train_toy(tmp_path / "cut", settings, stop)
        assert len((tmp_path / "cut" / "log.jsonl").read_text().splitlines()) == stop[0]
    resumed, found = train_toy(tmp_path / "cut", settings)
    assert same_state(resumed, model)
    assert untimed(found.history) == untimed(expected.history)
    assert (found.epochs, found.best_epoch, found.best_value) == (
        expected.epochs, expected.best_epoch, expected.best_value)
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    assert (tmp_path / "whole" / "best.safetensors").read_bytes() == (
        tmp_path / "cut" / "best.safetensors").read_bytes()
    log = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert log == found.history, "the log holds each epoch once"


def test_a_kill_between_best_weights_and_checkpoint_costs_the_epoch_only(tmp_path, monkeypatch):
    model, expected = train_toy(tmp_path / "whole", SETTINGS["plain"])
    calls = []

    def dies(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KilledError
        save_checkpoint(*args)

    monkeypatch.setattr(loop, "save_checkpoint", dies)
    with pytest.raises(KilledError):
        train_toy(tmp_path / "cut", SETTINGS["plain"])
    resumed, found = train_toy(tmp_path / "cut", SETTINGS["plain"])
    assert same_state(resumed, model) and untimed(found.history) == untimed(expected.history)


def test_a_finished_training_is_read_not_repeated(tmp_path):
    model, first = train_toy(tmp_path, SETTINGS["everything"])

    def never(*_):
        raise AssertionError("nothing is left to train")

    again, second = train_toy(tmp_path, SETTINGS["everything"], loss=never, measure=never)
    assert same_state(again, model) and second == first


def test_different_seeds_give_different_weights(tmp_path):
    """What makes the tests of equality above mean something."""
    model, _ = train_toy(tmp_path / "a", SETTINGS["plain"])
    other, _ = train_toy(tmp_path / "b", SETTINGS["plain"].model_copy(update={"learning_rate": 1.01e-2}))
    assert not same_state(model, other)


def test_progress_grows_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", -1)
    seen = []

    class Record(Silent):
        def progress(self, stage, done, total):
            seen.append((done, total))

    train_toy(tmp_path, SETTINGS["plain"], events=Record())
    done = [value for value, _ in seen]
    assert done == sorted(done) and done[-1] == 6 and {total for _, total in seen} == {6}
    assert len(done) > 6 * STEPS, "also within an epoch"


# Early stopping


def scripted(values, kept):
    """A validation that gives these values in turn and keeps the weights it saw."""
    def measure(network):
        kept.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"error": values[len(kept) - 1]}
    return measure


@pytest.mark.parametrize("ema", [None, 0.5])
def test_patience_is_honoured_and_the_best_epoch_kept(tmp_path, ema):
    values, kept = [5.0, 4.0, 2.0, 3.0, 2.0, 2.5, 1.0, 1.0, 1.0], []
    settings = Training(epochs=9, batch_size=4, learning_rate=1e-2, patience=3, ema_decay=ema)
    model, fitted = train_toy(tmp_path, settings, measure=scripted(values, kept))
    # epoch 3 is the best; 4, 5 (equal is not better) and 6 are not better
    assert (fitted.epochs, fitted.best_epoch, fitted.best_value) == (6, 3, 2.0)
    assert len(kept) == 6
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[2][name])
    assert not model.training


def test_without_patience_all_epochs_are_run(tmp_path):
    _, fitted = train_toy(tmp_path, SETTINGS["plain"], measure=scripted([1.0, 2, 3, 4, 5, 6], []))
    assert fitted.epochs == 6 and fitted.best_epoch == 1


def test_patience_survives_an_interruption(tmp_path):
    settings = Training(epochs=9, batch_size=4, learning_rate=1e-2, patience=3)
    kept = []
    with pytest.raises(KilledError):
        train_toy(tmp_path, settings, (3, 2), measure=scripted([3.0, 2, 4], kept))
    _, fitted = train_toy(tmp_path, settings, measure=scripted([3.0, 2, 4, 4, 4, 1, 1], kept))
    assert (fitted.epochs, fitted.best_epoch) == (5, 2)


def test_a_value_that_is_not_a_number_is_never_the_best(tmp_path):
    nan = math.nan
    _, fitted = train_toy(tmp_path / "a", SETTINGS["plain"], measure=scripted([nan, 2, nan, 3, 1.5, nan], []))
    assert fitted.best_epoch == 5
    last, fitted = train_toy(tmp_path / "b", SETTINGS["plain"], measure=scripted([nan] * 6, kept := []))
    assert fitted.best_epoch == 6 and fitted.best_value is None
    assert torch.equal(last.state_dict()["0.weight"], kept[-1]["0.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_last_sound_epoch(tmp_path, value):
    steps = []

    def loss(network, batch):
        steps.append(1)
        return network(batch[0]).mean() * (value if len(steps) > 2 * STEPS + 1 else 1)

    with pytest.raises(NeoNetError, match="epoch 3"):
        train_toy(tmp_path, SETTINGS["plain"], loss=loss)
    kept = load_file(tmp_path / "checkpoint.safetensors")
    assert all(torch.isfinite(tensor.float()).all() for tensor in kept.values())


def test_higher_and_lower_are_not_confused():
    higher, lower = Validation(dict, "x", "higher"), Validation(dict, "x", "lower")
    assert higher.improves(2, 1) and not higher.improves(1, 2) and lower.improves(1, 2) and not lower.improves(2, 1)
    assert higher.improves(-5, None) and lower.improves(5, None)


# Schedule and seeds


@given(st.integers(1, 400), st.floats(1e-6, 1))
def test_the_learning_rate_warms_up_and_falls_along_a_cosine(epochs, rate):
    settings = Training(epochs=epochs, batch_size=1, learning_rate=rate, schedule="cosine")
    rates = [learning_rate(settings, epoch) for epoch in range(epochs)]
    peak = int(np.argmax(rates))
    assert max(rates) == pytest.approx(rate) and min(rates) > 0
    assert peak <= max(1, 0.05 * epochs + 1)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if epochs >= 40:
        assert rates[-1] < 0.01 * rate
    constant = settings.model_copy(update={"schedule": "constant"})
    assert {learning_rate(constant, epoch) for epoch in range(epochs)} == {rate}


def test_each_epoch_is_trained_with_its_rate(tmp_path):
    settings = SETTINGS["everything"]
    _, fitted = train_toy(tmp_path, settings)
    rates = [record["learning_rate"] for record in fitted.history]
    assert rates == [learning_rate(settings, epoch) for epoch in range(6)] and len(set(rates)) > 3


def test_derived_seeds_are_distinct_and_stable():
    seeds = {derive_seed(seed, fold, epoch) for seed in range(10) for fold in range(10) for epoch in range(100)}
    # 10,000 draws out of 2^32: one collision has a probability of 1 %
    assert len(seeds) >= 10_000 - 1
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert all(0 <= seed < 2**32 for seed in seeds)
    neighbours = np.array([[derive_seed(0, i), derive_seed(0, i + 1)] for i in range(2000)], float)
    assert abs(np.corrcoef(neighbours.T)[0, 1]) < 0.1


# Checkpoints


def test_a_checkpoint_restores_every_random_state(tmp_path):
    def draw():
        return [random.random(), random.gauss(0, 1), np.random.random(), np.random.normal(), torch.rand(3).tolist(),
                torch.randn(5).tolist()]

    seed_everything(5)
    random.gauss(0, 1), np.random.normal(), torch.randn(3)  # each keeps a second normal draw for later
    model = toy_model()
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(tmp_path / "c", model, optimizer, None, {"epoch": 1})
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draw()
    seed_everything(99)
    assert load_checkpoint(tmp_path / "c", model, optimizer, None) == {"epoch": 1}
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])
    for found, wanted in zip(np.random.get_state(), states[1], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert draw() == expected


def test_a_checkpoint_restores_model_optimiser_and_average(tmp_path):
    settings = SETTINGS["everything"]
    train_toy(tmp_path, settings)
    fresh = toy_model()
    optimizer = torch.optim.AdamW(fresh.parameters())
    ema = torch.optim.swa_utils.AveragedModel(fresh, use_buffers=True)
    progress = load_checkpoint(tmp_path / "checkpoint.safetensors", fresh, optimizer, ema)
    assert progress["epoch"] == 6 and len(progress["history"]) == 6
    assert int(ema.n_averaged) == 6 * STEPS
    state = optimizer.state_dict()["state"]
    assert len(state) == len(list(fresh.parameters())) and all(s["step"] == 6 * STEPS for s in state.values())
    save_checkpoint(tmp_path / "again", fresh, optimizer, ema, progress)
    again, before = load_file(tmp_path / "again"), load_file(tmp_path / "checkpoint.safetensors")
    assert again.keys() == before.keys() and all(torch.equal(again[name], before[name]) for name in before)


def test_weights_are_read_strictly(tmp_path):
    model = toy_model()
    save_weights(tmp_path / "w", model)
    other = toy_model()
    torch.nn.init.zeros_(other[0].weight)
    load_weights(tmp_path / "w", other)
    assert same_state(model, other)
    state = load_file(tmp_path / "w")
    for wrong in ({name: t for name, t in state.items() if name != "0.bias"}, state | {"more": torch.zeros(1)}):
        save_file(wrong, tmp_path / "wrong")
        with pytest.raises(RuntimeError):
            load_weights(tmp_path / "wrong", toy_model())


def test_half_precision_is_stored_small_and_read_as_single(tmp_path):
    model = toy_model()
    save_weights(tmp_path / "w", model)
    save_weights(tmp_path / "h", model, half=True)
    other = toy_model()
    load_weights(tmp_path / "h", other)
    for name, tensor in other.state_dict().items():
        assert tensor.dtype == model.state_dict()[name].dtype
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert load_file(tmp_path / "h")["1.num_batches_tracked"].dtype == torch.int64, "counts are no fractions"


def test_channels_last_weights_come_back(tmp_path):
    model = torch.nn.Conv3d(2, 4, 3).to(memory_format=torch.channels_last_3d)
    save_weights(tmp_path / "w", model)
    other = torch.nn.Conv3d(2, 4, 3)
    load_weights(tmp_path / "w", other)
    assert same_state(model, other)


def test_a_tensor_of_two_names_is_written_once_and_read_under_both(tmp_path):
    model, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    twice, again = torch.nn.ModuleDict({"a": model, "b": model}), torch.nn.ModuleDict({"a": other, "b": other})
    save_weights(tmp_path / "w", twice)
    assert set(load_file(tmp_path / "w")) == {"a.weight", "a.bias"}
    load_weights(tmp_path / "w", again)
    assert same_state(twice, again) and again["b"] is other
    with pytest.raises(RuntimeError):
        load_weights(tmp_path / "w", torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)}))


def test_the_average_of_whole_numbers_is_the_latest():
    model = torch.nn.Linear(2, 2)
    model.register_buffer("table", torch.arange(2197))
    averaged = AveragedModel(model, multi_avg_fn=loop._moving_average(0.9995), use_buffers=True)
    before = averaged.module.weight.clone()
    for _ in range(3):
        with torch.no_grad():
            model.weight += 1
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.table, model.table)
    assert (averaged.module.weight > before).all() and (averaged.module.weight < model.weight).all()


def test_moments_come_back_laid_out_as_their_parameters(tmp_path):
    """CUDA's fused AdamW refuses others."""
    model = torch.nn.Conv3d(2, 4, 3).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.rand(1, 2, 4, 4, 4)).sum().backward()
        optimizer.step()
    save_checkpoint(tmp_path / "c", model, optimizer, None, {})
    again = torch.nn.Conv3d(2, 4, 3).to(memory_format=torch.channels_last_3d)
    resumed = torch.optim.AdamW(again.parameters())
    load_checkpoint(tmp_path / "c", again, resumed, None)
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(resumed.state[new][name], optimizer.state[old][name])
            assert resumed.state[new][name].stride() == new.stride()
        assert resumed.state[new]["step"] == 2


@pytest.mark.parametrize(("error", "is_one"), [
    (MemoryError(), True), (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), True),
    (type("RayTaskError(OutOfMemoryError)", (Exception,), {})("..."), True),
    (RuntimeError("shapes cannot be multiplied"), False), (ValueError("alloc_failed"), False)])
def test_want_of_memory_is_known_by_its_names(error, is_one):
    assert is_out_of_memory(error) == is_one


# Files


def test_a_way_between_drives_is_absolute(tmp_path, monkeypatch):
    assert relative_path(tmp_path / "a" / "x.nii", tmp_path / "b") == "../a/x.nii"

    def another_drive(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", another_drive)
    assert relative_path(tmp_path / "x.nii", tmp_path / "b") == (tmp_path / "x.nii").as_posix()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    write_atomic(path, lambda temporary: temporary.write_bytes(b"old"))

    def half(temporary):
        temporary.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        raise KilledError

    with pytest.raises(KilledError):
        write_atomic(path, half)
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]


def test_hashes_of_settings_do_not_depend_on_the_order_of_keys(tmp_path):
    a, b = {"x": 1, "y": {"p": (1, 2), "q": 0.1}}, {"y": {"q": 0.1, "p": [1, 2]}, "x": 1}
    assert sha256_of_json(a) == sha256_of_json(b) != sha256_of_json(a | {"x": 2})
    write_json(tmp_path / "a.json", a)
    assert sha256_of_json(json.loads((tmp_path / "a.json").read_text())) == sha256_of_json(a)


def test_devices():
    assert choose_device("cpu").type == "cpu" and choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("tpu", *(["cuda"] if not torch.cuda.is_available() else [])):
        with pytest.raises(NeoNetError) as caught:
            choose_device(name)
        assert caught.value.code == "NO_DEVICE"


# Nothing is unpickled


def calls_and_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func)
            yield from (ast.unparse(keyword) for keyword in node.keywords if keyword.arg in ("shell", "allow_pickle"))


@pytest.mark.parametrize("path", sorted(Path(neonet_core.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_nothing_is_unpickled_or_evaluated(path):
    names = set(calls_and_imports(ast.parse(path.read_text(encoding="utf-8"))))
    forbidden = {"eval", "exec", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "os.system",
                 "torch.hub.load", "shell=True", "allow_pickle=True"}
    assert not names & forbidden
    assert not {name for name in names if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib",
                                                                 "shelve", "marshal")}
