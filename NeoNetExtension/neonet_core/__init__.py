"""neonet_core: the library under NeoNet for 3D Slicer.

Importing the package costs nothing; each module imports torch, MONAI or SimpleITK only where it uses them.
"""

__version__ = "0.1.0"
