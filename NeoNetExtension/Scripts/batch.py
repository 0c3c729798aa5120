"""Take a cohort through a bundle without a window; the arguments are those of `neonet batch`.

    Slicer --no-main-window --python-script NeoNetExtension/Scripts/batch.py CASES.csv --bundle B --out DIR
    python NeoNetExtension/Scripts/batch.py CASES.csv --bundle B --out DIR
"""


def main(script):
    """All in one function: in Slicer the globals of a script are Slicer's own, and Slicer deletes names from them."""
    import os
    import runpy

    runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(script)), "headless.py"))["run"]("batch")


main(__file__)
