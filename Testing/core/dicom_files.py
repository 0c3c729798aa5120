"""Made-up DICOM studies: series of a few voxels with the headers that scanners write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
PATIENT = {"PatientName": "Doe^Jane", "PatientID": "SECRET-17", "PatientBirthDate": "19610203", "PatientSex": "F",
           "AccessionNumber": "ACC4711"}
IDENTITY = ("doe", "jane", "secret-17", "19610203", "acc4711")
STUDY = {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1", "StudyDate": "20240305", "StudyTime": "101500",
         "StudyID": "S1", "ReferringPhysicianName": "Roe^Richard"}
FRAME = "1.2.826.0.1.3680043.8.498.2"
HEPATOBILIARY = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"], "SeriesDescription": "t1_vibe_fs_tra_20min",
                 "ScanningSequence": "GR", "SequenceVariant": ["SP", "OSP"], "ScanOptions": "FS",
                 "MRAcquisitionType": "3D", "RepetitionTime": 3.9, "EchoTime": 1.8, "EchoTrainLength": 1,
                 "FlipAngle": 10, "MagneticFieldStrength": 3, "ContrastBolusAgent": "Primovist",
                 "AcquisitionDate": "20240305", "AcquisitionTime": "104500.25", "PatientPosition": "HFS",
                 "Manufacturer": "Maker", "SpacingBetweenSlices": 3, "SliceThickness": 3, "BodyPartExamined": "LIVER"}
PIXEL = (0.8, 1.5)  # between rows, between columns


def numbers(shape: Sequence[int] = (9, 8, 18), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, tuple(shape)).astype(np.int16)


def header(sop_class: str, **attributes: Any) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    for name, value in attributes.items():
        if value is not None:
            setattr(data, name, value)
    return data


def with_pixels(data: Dataset, array: np.ndarray) -> Dataset:
    data.Rows, data.Columns = array.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelData = np.ascontiguousarray(array).tobytes()
    return data


def write_series(folder: Path, array: np.ndarray | None = None, *, matrix: np.ndarray | None = None,
                 names: Sequence[str] | None = None, backwards: bool = False, sop_class: str = MR,
                 patient: Any = PATIENT, study: Any = STUDY, template: Any = HEPATOBILIARY, skip: Sequence[int] = (),
                 **attributes: Any) -> Path:
    """One file a slice of array (X, Y, Z), along the columns of `matrix` (LPS); an attribute of None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    array = numbers() if array is None else array
    matrix = np.eye(3) if matrix is None else matrix
    same = {"Modality": "MR", "SeriesInstanceUID": generate_uid(), "SeriesNumber": 4, "FrameOfReferenceUID": FRAME,
            **patient, **study, **template, **attributes}
    slices = [i for i in range(array.shape[2]) if i not in skip]
    for i in reversed(slices) if backwards else slices:
        data = header(sop_class, **same)
        data.ImagePositionPatient = [f"{v:.6f}" for v in np.array((10, -20, 30)) + matrix[:, 2] * 3 * i]
        data.ImageOrientationPatient = [f"{v:.6f}" for v in (*matrix[:, 0], *matrix[:, 1])]
        data.PixelSpacing, data.InstanceNumber = list(PIXEL), i + 1
        with_pixels(data, array[:, :, i].T)
        data.save_as(folder / (names[i] if names else f"{i:03d}.dcm"), enforce_file_format=True)
    return folder


def item(**attributes: Any) -> Items:
    data = Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return Items([data])


def write_multiframe(path: Path, array: np.ndarray | None = None, *, matrix: np.ndarray | None = None,
                     order: Sequence[int] | None = None, **attributes: Any) -> Path:
    """One enhanced MR file, its frames in any order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = numbers() if array is None else array
    matrix = np.eye(3) if matrix is None else matrix
    order = range(array.shape[2]) if order is None else order
    data = header(ENHANCED_MR, Modality="MR", SeriesInstanceUID=generate_uid(), SeriesNumber=5,
                  FrameOfReferenceUID=FRAME, NumberOfFrames=len(order), InstanceNumber=1, EchoPulseSequence="GRADIENT",
                  MRAcquisitionType="3D", SeriesDescription="eTHRIVE HBP",
                  **{"AcquisitionDateTime": "20240305104500", **PATIENT, **STUDY, **attributes})
    data.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[f"{v:.6f}" for v in matrix[:, :2].T.ravel()]),
        PixelMeasuresSequence=item(PixelSpacing=list(PIXEL), SliceThickness=3),
        MREchoSequence=item(EffectiveEchoTime=1.7), MRTimingAndRelatedParametersSequence=item(RepetitionTime=3.6))
    frames = []
    for i in order:
        position = [f"{v:.6f}" for v in np.array((10, -20, 30)) + matrix[:, 2] * 3 * i]
        frames += item(PlanePositionSequence=item(ImagePositionPatient=position),
                       FrameContentSequence=item(DimensionIndexValues=[1]))
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    with_pixels(data, array.transpose(2, 1, 0)[list(order)]).save_as(path, enforce_file_format=True)
    return path


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return matrix
