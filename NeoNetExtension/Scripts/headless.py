"""A command of NeoNet in a process of its own, from 3D Slicer without a window and from plain Python alike."""


def run(command):
    """Run ``neonet COMMAND`` with the arguments of the script that called, then end with its exit code.

    In another process: a script that raises, or simply ends, leaves Slicer running for ever, and a training must not
    share Slicer's memory. `sys.executable` is PythonSlicer there, which does not know where `neonet_core` lies.
    """
    import os
    import signal
    import subprocess
    import sys

    extension = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [extension, environment.get("PYTHONPATH")]))
    code = 1
    try:
        child = subprocess.Popen([sys.executable, "-m", "neonet_core", command, *sys.argv[1:]], env=environment)
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: child.terminate())
        # the terminal sends Ctrl-C to the child too, which says where it stopped
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = child.wait()
    except BaseException as error:
        print(f"neonet: could not be started: {error}", file=sys.stderr)
    sys.exit(code if code >= 0 else 128 - code)  # ended by a signal: as a shell says it
