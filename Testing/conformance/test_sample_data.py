"""Sample data of an extension in 3D Slicer, as the modules rely on it; in the form of shared/slicer_conformance."""

import pathlib
import tempfile
import uuid

import numpy as np
import qt
import slicer


def test_a_sample_may_be_a_file_of_this_computer_and_scripts_get_it_by_its_name():
    import SampleData

    slicer.mrmlScene.Clear()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer.util.updateVolumeFromArray(node, np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    name, called = f"Sample{uuid.uuid4().hex}", []
    path = pathlib.Path(tempfile.mkdtemp(), f"{name}.nrrd")
    assert slicer.util.saveNode(node, str(path))
    for category in ("NeoNetConformance", "NeoNetConformance"):  # registered twice, it is there once
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=category, sampleName=name, uris=path.as_uri(), fileNames=path.name, nodeNames="sample",
            thumbnailFileName=str(path.with_suffix(".png")),  # need not exist
            customDownloader=called.append)  # is called by the button in the module's panel, not by a script
    assert len(slicer.modules.sampleDataSources["NeoNetConformance"]) == 1
    loaded = SampleData.SampleDataLogic().downloadSample(name)
    assert np.array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(node)) and called == []
    del slicer.modules.sampleDataSources["NeoNetConformance"]
    slicer.mrmlScene.Clear()


def test_a_timer_that_fires_once():
    timer, fired = qt.QTimer(), []
    timer.setSingleShot(True)  # `timer.singleShot = True`: nobody knows, for QTimer.singleShot(...) has that name, too
    timer.connect("timeout()", lambda: fired.append(1))
    timer.start(5)
    loop = qt.QEventLoop()
    qt.QTimer.singleShot(100, loop.quit)
    loop.exec_()
    assert fired == [1]
