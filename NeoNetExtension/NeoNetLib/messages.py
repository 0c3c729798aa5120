"""What went wrong, as one sentence that tells a radiologist what to do: no codes, no command-line options."""

import re

from slicer.i18n import tr as _

# What a log says where a job ends without an error event, by the name of the trouble. First what the machine lacks:
# it makes other things fail, too.
SHORTAGES = {
    "DISK_FULL": r"No space left on device|not enough space on the disk|\[Errno 28\]|\[WinError 112\]|ENOSPC|"
                 r"Disk quota exceeded",
    "GPU_OUT_OF_MEMORY": r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|"
                         r"MPS backend out of memory|HIP out of memory",
    "OUT_OF_MEMORY": r"bad_alloc|MemoryError|OutOfMemoryError|DefaultCPUAllocator|[Cc]annot allocate memory|"
                     r"can't allocate memory|Unable to allocate|\[WinError 1455\]|paging file is too small|"
                     r"\bOut of memory\b",
}
FAULTS = {
    "NOT_STARTED": r"No module named '?neonet_core",
    "MISSING_PACKAGES": r"ModuleNotFoundError|No module named",
    "BROKEN_PACKAGES": r"ImportError|\[WinError 126\]|\[WinError 127\]|undefined symbol|[Ss]ymbol not found",
    "UNKNOWN_BUNDLE": r"UNKNOWN_BUNDLE",
    "CRASHED": r"Fatal Python error|Segmentation fault|Windows fatal exception",
}
KILLED = (9, 137)  # SIGKILL as Qt says it, and as a shell or a launcher says it: nobody but the system does that
LAUNCHER_KILLED = r"exit abnormally - Report the problem"
"""What Slicer's launcher says, with exit code 1, of a Python that a signal has ended."""
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*|['`]neonet [^'`]*['`]|\bneonet [a-z]+ |\bpip install\b")


def explain(code, message="", hint=""):
    """One sentence on an error event of neonet_core.

    Parameters
    ----------
    code, message, hint : str
        Of the event (`neonet_core.errors.NeoNetError`). A code that is not known here falls back to message and hint
        without what only helps on a command line.
    """
    if code == "INTERNAL":
        code = diagnose(f"{message} {hint}") or code
    known = _sentences().get(code)
    if known:
        return known
    plain = " ".join(filter(None, (_withoutOptions(message), _withoutOptions(hint))))
    return plain or _sentences()["INTERNAL"]


def explainExit(exitCode, crashed, logTail):
    """One sentence on a job that ended without an error event.

    Parameters
    ----------
    exitCode : int
        Of the process; the number of the signal where `crashed`.
    crashed : bool
        It was ended from outside or by a fault in compiled code.
    logTail : str or list of str
        The last lines of its log.
    """
    text = logTail if isinstance(logTail, str) else "\n".join(logTail)
    return explain(diagnose(text, exitCode, crashed) or "CRASHED")


def diagnose(text, exitCode=0, crashed=False):
    """The trouble that a job's end and its log tell of: a key of `SHORTAGES` or `FAULTS`, "KILLED", or "" for none."""
    def told(signs):
        return next((code for code, sign in signs.items() if re.search(sign, text)), "")

    # a fault in compiled code leaves its traceback (PYTHONFAULTHANDLER); whoever ends without a word was killed
    silent = "KILLED" if re.search(LAUNCHER_KILLED, text) else "CRASHED" if crashed else ""
    return told(SHORTAGES) or ("KILLED" if exitCode in KILLED else told(FAULTS)) or silent


def _sentences():
    """By code. A function, because Slicer's language is known only once it runs."""
    return {
        "BAD_LABELS": _("The label map holds values that NeoNet does not know; choose the liver and the tumour segment "
                        "of a segmentation instead."),
        "BROKEN_PACKAGES": _("A Python package of NeoNet is damaged or does not fit this computer; click “Install "
                             "packages…” under “Environment” in the module NeoNet, then restart Slicer."),
        "BUNDLE_DAMAGED": _("The model's files are damaged or incomplete; copy or import the model again, or choose "
                            "another one."),
        "BUNDLE_TOO_NEW": _("The model was made by a later version of NeoNet; update the extension in the Extensions "
                            "Manager, or choose another model."),
        "CONSTANT_IMAGE": _("The image has no contrast, all its values are nearly the same; choose another volume."),
        "CRASHED": _("The computation ended unexpectedly, most often for want of memory; close other programs and run "
                     "it again, and send us the details if it happens again."),
        "DISK_FULL": _("The disk is full; free some space, or choose another temporary folder in Slicer's settings, "
                       "and run it again."),
        "EMPTY_TUMOUR": _("The tumour segment is empty; draw the tumour in the Segment Editor, or choose another "
                          "segment."),
        "GPU_OUT_OF_MEMORY": _("The graphics card has not enough free memory; close other programs that use it, or "
                               "choose “Processor (CPU)” under “Compute on”, and run it again."),
        "GRID_MISMATCH": _("The segmentation does not lie on the volume's grid; choose the volume that it was drawn "
                           "on."),
        "INTERNAL": _("NeoNet failed by a fault of its own; run it again, and send us the details if it happens "
                      "again."),
        "INTERRUPTED": _("The computation was stopped from outside; run it again."),
        "KILLED": _("The system ended the computation, most likely because memory ran out; close other programs and "
                    "large scenes, and run it again."),
        "MISSING_PACKAGES": _("Python packages that NeoNet needs are not installed; click “Install packages…” under "
                              "“Environment” in the module NeoNet, and run it again."),
        "MISSING_PACKAGE": _("A Python package that this needs is not installed; click “Install packages…” under "
                             "“Environment” in the module NeoNet, and run it again."),
        "NOT_STARTED": _("The computation could not be started; restart Slicer, and install it again if that does not "
                         "help."),
        "NO_DEVICE": _("The chosen device is not available on this computer; choose “Automatic” or “Processor (CPU)” "
                       "under “Compute on”, and run it again."),
        "NO_GENERATOR": _("This model cannot generate images; choose a model with NeoGen."),
        "NO_PERMISSION": _("NeoNet may not write where it has to; choose another temporary folder in Slicer's "
                           "settings, and run it again."),
        "NO_PNI_MODEL": _("This model cannot score a case; choose a model with NeoCls."),
        "NO_RESULT": _("The computation ended without a result; run it again, and send us the details if it happens "
                       "again."),
        "NO_SEG_MODEL": _("This model cannot segment; choose a model with NeoSeg, or use an existing segmentation."),
        "NOT_FINITE": _("The image holds values that are no numbers; export it again, or choose another volume."),
        "NOT_WRITABLE": _("NeoNet may not write where it has to; choose another temporary folder in Slicer's "
                          "settings, and run it again."),
        "OUT_OF_MEMORY": _("There is not enough memory for this; close other programs and large scenes, or choose "
                           "“Processor (CPU)” under “Compute on” where a graphics card was used, and run it again."),
        "UNKNOWN_BUNDLE": _("The model is not there any more; choose another one, or add its folder with “Add…”."),
        "USAGE": _("NeoNet failed by a fault of its own; update the extension, and send us the details if it happens "
                   "again."),
    }


def _withoutOptions(text):
    """`text` without the clauses that speak of a command line: \"Free some space, or choose another --out.\" -> \"Free
    some space.\""""
    sentences = []
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        clauses = [clause for clause in re.split(r"[,;:]\s+(?:or\s+|and\s+)?", sentence) if not OPTION.search(clause)]
        if not OPTION.search(sentence):
            sentences.append(sentence)
        elif clauses:
            kept = ", ".join(clauses).rstrip(".")
            sentences.append(f"{kept[:1].upper()}{kept[1:]}.")
    return " ".join(sentences)
