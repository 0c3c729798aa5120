"""Train the models of a cohort without a window; the arguments are those of `neonet train`.

    Slicer --no-main-window --python-script NeoNetExtension/Scripts/train.py CASES.csv --preset smoke --out RUN
    python NeoNetExtension/Scripts/train.py CASES.csv --preset smoke --out RUN
"""


def main(script):
    """All in one function: in Slicer the globals of a script are Slicer's own, and Slicer deletes names from them."""
    import os
    import runpy

    runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(script)), "headless.py"))["run"]("train")


main(__file__)
