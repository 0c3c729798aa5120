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
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            code = child.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the child too, which says where it stopped
            code = child.wait()
    except BaseException as error:
        print(f"neonet: could not be started: {error}", file=sys.stderr)
    sys.exit(code if code >= 0 else 128 - code)  # ended by a signal: as a shell says it
