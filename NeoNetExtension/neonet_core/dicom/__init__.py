"""DICOM in and out: which series of a study to score, pseudonyms, and results as DICOM objects."""
