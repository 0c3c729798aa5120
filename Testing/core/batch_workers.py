"""Workers for the tests of engines: they do no work, and die when the case's name says so."""

import os
import signal
import time

from neonet_core.batch.worker import Outcome


def outcome_of(case_id):
    return Outcome(case_id, "done", {"status": "done", "probability": 0.5, "spread": None, "threshold": None,
                                     "liver_ml": 1.0, "tumour_ml": 1.0, "tumour_diameter_mm": 1.0, "flags": "",
                                     "series": "", "seconds": 0.1})


def serve(job, pipe):
    """Stands in for `local._serve`: "killer" dies each time, "unlucky" once, "slow" takes its time."""
    if job.device == "dead on arrival":
        os.kill(os.getpid(), signal.SIGKILL)
    pipe.send(None)
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        mark = job.out / f"{case.case_id}.begun"
        if case.case_id.startswith("killer") or (case.case_id.startswith("unlucky") and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if case.case_id.startswith("slow"):
            time.sleep(0.5)
        pipe.send(outcome_of(case.case_id))
