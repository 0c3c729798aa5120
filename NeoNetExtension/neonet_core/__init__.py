"""neonet_core: the library under NeoNet for 3D Slicer.

Importing the package costs nothing; each module imports torch, MONAI or SimpleITK only where it uses them.
"""

import os
import sys

if sys.platform == "darwin":  # read when torch is imported: what Apple's GPUs lack is then computed on the CPU
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

__version__ = "0.1.0"
