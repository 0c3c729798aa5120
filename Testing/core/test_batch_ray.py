"""The engine `ray` of a batch does what `local` does, also when a node dies."""

import contextlib
import threading
import time

import psutil
import pytest
from batch_cohorts import files_of, manifest_rows, table_of, write_manifest

from neonet_core.batch.run import run_batch
from neonet_core.bundle import ModelCard
from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.experiment.export import export_bundle

ray = pytest.importorskip("ray", reason="the engine 'ray' needs the extra 'cluster'")
CASES = 5


@pytest.fixture(scope="module")
def bundle(tiny_run, tmp_path_factory):
    card = ModelCard(intended_use="tests", training_data="phantoms", limits="all")
    return export_bundle(tiny_run, tmp_path_factory.mktemp("batch-ray") / "tiny", name="tiny", card=card).folder


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


class Log(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.messages = []

    def log(self, message, level="info"):
        self.messages.append(message)


def at_work():
    """Our actors that are at a case."""
    return [process for process in psutil.Process().children(recursive=True)
            if any(part.startswith("ray::_Actor.run") for part in process.cmdline())]


def kill_a_node_when_both_are_at_work(cluster, killed):
    while not killed.is_set():
        with contextlib.suppress(psutil.Error):
            if len(at_work()) == 2:
                cluster.remove_node(cluster.workers[1], allow_graceful=False)
                killed.set()
        time.sleep(0.02)


def test_a_killed_node_changes_nothing(blob_cohort, bundle, tmp_path, cluster):
    cases = write_manifest(tmp_path / "cases.csv", manifest_rows(blob_cohort)[:CASES])
    log, killed = Log(), threading.Event()
    threading.Thread(target=kill_a_node_when_both_are_at_work, args=(cluster, killed), daemon=True).start()
    summary = run_batch(cases, tmp_path / "ray", bundle=bundle, engine="ray", threads=1, device="cpu", events=log)
    assert killed.is_set() and any("has died" in message for message in log.messages)
    assert (summary.done, summary.complete) == (CASES, True)
    run_batch(cases, tmp_path / "local", bundle=bundle, threads=1, device="cpu")
    assert table_of(tmp_path / "ray") == table_of(tmp_path / "local")
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")


def test_actors_that_cannot_load_say_why(blob_cohort, bundle, tmp_path, cluster):
    cases = write_manifest(tmp_path / "cases.csv", manifest_rows(blob_cohort)[:1])
    with pytest.raises(NeoNetError) as caught:
        run_batch(cases, tmp_path / "out", bundle=bundle, engine="ray", threads=1, device="mps")
    assert caught.value.code in ("NO_DEVICE", "NO_CLUSTER")
