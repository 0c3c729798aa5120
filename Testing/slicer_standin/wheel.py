"""The `slicer` package of the slicer-core wheel without what Slicer's own `slicer` has not; imported before all else.

That package takes in every folder named `slicer` on the path, thus our tests' folder, too: out of its sight then.
"""

import os
import sys

_testing, _path = os.path.dirname(os.path.dirname(os.path.abspath(__file__))), sys.path[:]
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != _testing]
try:
    import slicer
finally:
    sys.path[:] = _path

# the wheel has the functions of `slicer.util` in `slicer` itself as well
for _name in [n for n in vars(slicer) if not n.startswith(("vtk", "_")) and n != "util"]:
    delattr(slicer, _name)
