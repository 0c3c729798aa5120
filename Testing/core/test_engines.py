"""The engine `ray` does what `local` does, also when workers and nodes die."""

import copy
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.experiment import engines
from neonet_core.experiment.engines import Task, _Mailbox
from neonet_core.experiment.reporting.report import write_report
from neonet_core.experiment.run import Run
from neonet_core.experiment.train import experiment, train
from neonet_core.presets import load_preset

ray = pytest.importorskip("ray", reason="the engine 'ray' needs the extra 'cluster'")
STAGES = ("vae", "cls")
MODELS = ("PattenNet", "Volume")


@pytest.fixture(scope="module")
def local(blob_cohort, tmp_path_factory):
    return train_tiny(blob_cohort, tmp_path_factory.mktemp("engines") / "local", "local")


@pytest.fixture
def cluster():
    """A head without CPUs and two nodes on this machine."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes.workers = [nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=1)]
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def train_tiny(cohort, out, engine, events=None, **options) -> Run:
    return train(read_manifest(cohort), load_preset("tiny", ["vae.epochs=12"]), out, stages=STAGES, models=MODELS,
                 engine=engine, threads=1, device="cpu", events=events, **options)


def results(run):
    """All that was trained and predicted, without times."""
    weights = {path.relative_to(run.folder): path.read_bytes() for path in run.folder.rglob("weights.safetensors")}
    return weights, (run.folder / "predictions.csv").read_bytes()


class Disturber(Silent):
    """Does harm once, as soon as a stage has begun that `harm` says it can hurt."""

    def __init__(self, harm):
        self.harm, self.done = harm, False

    def progress(self, stage, done, total):
        if not self.done and 0 < done < total:
            self.done = self.harm()


def kill_a_worker():
    """Kill -9 a process that is training an autoencoder."""
    training = at_work("vae")
    for process in training[:1]:
        process.send_signal(signal.SIGKILL)
    return bool(training)


def at_work(stage):
    """Our workers that train that stage."""
    return [process for process in psutil.Process().children(recursive=True)
            if any(part.startswith("ray::fold") and part.endswith(stage) for part in process.cmdline())]


def test_a_killed_worker_changes_nothing(blob_cohort, local, tmp_path, monkeypatch):
    monkeypatch.chdir(blob_cohort.parent)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        disturber = Disturber(kill_a_worker)
        run = train_tiny(Path(blob_cohort.name), tmp_path / "run", "ray", disturber)
    finally:
        ray.shutdown()
    assert disturber.done, "a worker was killed"
    assert results(run) == results(local)


def test_a_killed_node_changes_nothing(blob_cohort, local, tmp_path, cluster):
    def kill_a_node():
        if len(at_work("vae")) < 2:  # both nodes have their stage
            return False
        cluster.remove_node(cluster.workers[1], allow_graceful=False)
        return True

    disturber = Disturber(kill_a_node)
    run = train_tiny(blob_cohort, tmp_path / "run", "ray", disturber)
    assert disturber.done, "a node was killed"
    assert results(run) == results(local)


def test_an_error_of_a_stage_is_said_as_in_this_process():
    error = NeoNetError("ONE_CLASS", "All of one outcome.", "Check the column.")
    sent = copy.copy(error)  # by __reduce__, as Ray sends errors between processes
    assert (sent.code, sent.message, sent.hint) == (error.code, error.message, error.hint)


def test_the_mailbox_is_empty_once_it_was_read():
    mailbox = _Mailbox()
    mailbox.post("log", {"message": "one", "level": "info"})
    assert mailbox.empty() == [("log", {"message": "one", "level": "info"})]
    assert mailbox.empty() == []


def test_an_unknown_engine_is_said(blob_cohort, tmp_path):
    with pytest.raises(NeoNetError) as caught:
        train_tiny(blob_cohort, tmp_path / "run", "slurm")
    assert caught.value.code == "BAD_ARGUMENT"
    assert not (tmp_path / "run").exists()


def test_stages_wait_for_those_that_they_need(blob_cohort, tmp_path):
    tasks = experiment(read_manifest(blob_cohort), load_preset("tiny"), Path(tmp_path / "run"), device="cpu",
                       stages=("seg", "vae", "ldm", "controlnet", "synth", "cls"), ratios=(0, 100)).tasks
    assert all(isinstance(task, Task) for task in tasks)
    names = [task.name for task in tasks]
    assert names.index("fold 1 vae") < names.index("fold 1 ldm-vae") < names.index("fold 1 synth-vae") < names.index(
        "fold 1 cls-pattennet-rs100")


def test_no_stage_asks_for_more_than_a_node_has(monkeypatch):
    class Cluster:
        @staticmethod
        def nodes():
            return [{"Alive": True, "Resources": {}}, {"Alive": True, "Resources": {"CPU": 2.0}},
                    {"Alive": True, "Resources": {"CPU": 2.0}},
                    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]

    assert engines.room(Cluster, "auto", None, Silent()) == (2, False)
    assert engines.room(Cluster, "cpu", 1, Silent()) == (1, False)
    monkeypatch.setattr(engines, "PATIENCE_S", 0.0)
    for device, threads in (("auto", 3), ("cuda", None)):
        with pytest.raises(NeoNetError) as caught:
            engines.room(Cluster, device, threads, Silent())
        assert caught.value.code == "NO_CLUSTER"


def test_only_networks_take_a_gpu():
    shares = {stage: engines.gpu_share(stage) for stage in ("vae", "cls-pattennet-rs100", "cls-resnet-200",
                                                            "cls-volume")}
    assert shares == {"vae": 1, "cls-pattennet-rs100": 0.25, "cls-resnet-200": 1, "cls-volume": 0}


# kill -9

EVERY_STAGE = ("seg", "vae", "ldm", "controlnet", "synth", "cls")
KILLED_IN = ("seg-unet", "vae", "ldm-vae", "controlnet-vae", "synth-vae", "cls-pattennet", "cls-volume",
             "cls-pattennet-rs100")


def train_all(cohort, out):
    train(read_manifest(cohort), load_preset("tiny"), out, stages=EVERY_STAGE, models=MODELS, ratios=(0, 100),
          folds=(0,), threads=1, device="cpu")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_kill_9_in_each_stage_gives_the_same_tables(unequal_cohort, tmp_path):
    out = tmp_path / "killed"
    for stage in KILLED_IN:
        begun = out / "fold-0" / stage / "inputs.json"
        child = os.fork()
        if child == 0:  # nothing of pytest may go on in here
            try:
                train_all(unequal_cohort, out)
            finally:
                os._exit(0)
        while not begun.exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"{stage} was over before it was killed"
    train_all(unequal_cohort, out)
    train_all(unequal_cohort, tmp_path / "whole")
    assert results(Run(out)) == results(Run(tmp_path / "whole"))
    tables = [{path.name: path.read_bytes() for path in write_report(Run(folder), device="cpu").parent.glob("*.csv")}
              for folder in (out, tmp_path / "whole")]
    assert len(tables[0]) >= 5 and tables[0] == tables[1]


def test_a_cluster_that_is_not_there_is_said(blob_cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nosuch:6379")

    def refuse(**_):
        raise ConnectionError("no token")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(NeoNetError) as caught:
        train_tiny(blob_cohort, tmp_path / "run", "ray")
    assert caught.value.code == "NO_CLUSTER" and "nosuch:6379" in caught.value.message
