"""Synthetic patches in the scene: loading them, browsing them, the real patch beside them, and writing them to files.

The patches of one run carry its number in an attribute, and each its lineage, so that a saved scene knows them again.
Names, attributes and files say SYNTHETIC, and DEMONSTRATION MODEL where they are of the demonstration model.
"""

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from neonet_core.tlcr import Crop, extract
from neonet_core.volume import Volume, normalise_intensity, resample_to_spacing
from NeoNetLib import nodes
from NeoNetLib.jobpanel import demoWarning, researchUseOnly

SYNTHETIC, DEMONSTRATION = "SYNTHETIC", "DEMONSTRATION MODEL"
"""No translation may change them."""
POSITIVE = 1

# Attributes of nodes
KIND = "NeoNet.Kind"  # "SYNTHETIC", "SYNTHETIC, DEMONSTRATION MODEL" or "REAL"
LINEAGE = "NeoNet.Lineage"  # where a patch comes from, JSON
GENERATION = "NeoNet.Generation"  # which patches belong together
NUMBER = "NeoNet.Patch"  # from 1 on
REAL = "REAL"
VOLUME = "NeoNet.Volume"  # role of the reference from a patch to its MRI


# --- what a patch is, in words ----------------------------------------------------------------------------------------


def lineageOf(patch):
    """Where a patch comes from: the content of its JSON file, and under ``request`` what was asked for."""
    return json.loads(patch.GetAttribute(LINEAGE))


def isDemo(lineage):
    return "DEMO_MODEL" in lineage["flags"]


def kindOf(lineage):
    """The words that must go with a patch wherever it goes."""
    return f"{SYNTHETIC}, {DEMONSTRATION}" if isDemo(lineage) else SYNTHETIC


def nameOf(lineage, number):
    """Of a patch's node, and so of the file that Slicer saves it to."""
    return " - ".join([f"{SYNTHETIC} patch {number}", *([DEMONSTRATION] if isDemo(lineage) else [])])


def notice(lineage):
    """The notice under a patch, in the user's language."""
    made = _("SYNTHETIC: drawn by a model, not measured in a patient.")
    return " ".join([made, *([demoWarning()] if isDemo(lineage) else []), researchUseOnly()])


def outcomeName(outcome):
    """How the classes are called: "pni" is written in capitals, other outcomes as the model has them."""
    return outcome.upper() if outcome.lower() == "pni" else outcome


def columns():
    """Headings of the table of `lineageCells`."""
    return [_("Class"), _("Seed"), _("Steps"), _("Sampler"), _("Masks"), _("Model")]


def lineageCells(lineage):
    """A patch's row in the table, in the order of `columns`: list of str."""
    request = lineage["request"]
    sign = _("{outcome} positive") if lineage["outcome"] == POSITIVE else _("{outcome} negative")
    return [
        sign.format(outcome=outcomeName(request["outcome"])),
        str(request["seed"]),
        str(lineage["steps"]),
        lineage["sampler"],
        transformWords(lineage["transform"]),
        f"{lineage['bundle']} ({lineage['bundle_hash'][:8]})",
    ]


def transformWords(transform):
    """How the masks were varied, in words."""
    if not transform:
        return _("as segmented")
    axes = "".join(axis for axis, flipped in zip("RAS", transform["flips"], strict=True) if flipped)
    parts = [_("mirrored along {axes}").format(axes=", ".join(axes))] if axes else []
    parts.append(_("scaled by {factor:.2f}").format(factor=transform["scale"]))
    if transform["elastic_mm"]:
        parts.append(_("bent by {mm:.1f} mm").format(mm=transform["elastic_mm"]))
    return ", ".join(parts)


# --- in the scene -----------------------------------------------------------------------------------------------------


def load(folder, volumeNode, request):
    """Load what ``neonet generate`` wrote, into a folder of the subject hierarchy beside the volume.

    Parameters
    ----------
    folder : pathlib.Path
    volumeNode : vtkMRMLScalarVolumeNode
    request : dict
        What was asked for; becomes part of every patch's lineage.

    Returns
    -------
    list of vtkMRMLScalarVolumeNode
        All of them, or none is left in the scene and the error is raised.
    """
    generation, made = uuid.uuid4().hex, []
    try:
        for number, path in enumerate(sorted(folder.glob("*.json")), 1):
            lineage = json.loads(path.read_text(encoding="utf-8")) | {"request": request}
            patch = nodes.loadResultVolume(path.with_suffix(".nii.gz"), volumeNode, nameOf(lineage, number))
            made.append(patch)
            patch.SetDescription(f"{kindOf(lineage)}. {lineage['notice']}")
            patch.SetAttribute(KIND, kindOf(lineage))
            patch.SetAttribute(LINEAGE, json.dumps(lineage))
            _showZeroToOne(patch)
        patches = list(made)
        made += _addBrowser(patches, volumeNode, generation)
    except BaseException:
        for node in made:
            nodes.remove(node)
        raise
    for number, patch in enumerate(patches, 1):  # not before: the items of the sequence are copies, and none of these
        patch.SetAttribute(GENERATION, generation)
        patch.SetAttribute(NUMBER, str(number))
        patch.SetNodeReferenceID(VOLUME, volumeNode.GetID())
    _gather(made, _("SYNTHETIC patches, seed {seed}").format(seed=request["seed"]))
    return patches


def _addBrowser(patches, volumeNode, generation):
    """Sequence, its browser and the volume that shows the chosen patch, where Slicer has its Sequences module."""
    if not hasattr(slicer.modules, "sequences"):
        return []
    lineage = lineageOf(patches[0])
    name = " - ".join([f"{SYNTHETIC} patches", *([DEMONSTRATION] if isDemo(lineage) else [])])
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    # of a sequence's formats the one that keeps its volumes' attributes when the scene is saved
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceStorageNode")
    sequence.SetAndObserveStorageNodeID(storage.GetID())
    sequence.SetIndexName("patch")
    sequence.SetIndexUnit("")
    for number, patch in enumerate(patches, 1):
        sequence.SetDataNodeAtValue(patch, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", name)
    browser.SetAttribute(GENERATION, generation)
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetIndexDisplayFormat("%.0f")
    browser.SetSelectedItemNumber(0)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(sequence)
    nodes.placeBeside(shown, volumeNode)
    _showZeroToOne(shown)
    return [sequence, browser, shown]


def find(generation):
    """The patches of a generation that are still in the scene, in their order."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if generation else []
    found = [node for node in volumes if node.GetAttribute(GENERATION) == generation and node.GetAttribute(NUMBER)]
    return sorted(found, key=lambda node: int(node.GetAttribute(NUMBER)))


def browserOf(generation):
    """The sequence browser of a generation, or None."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        if generation and browser.GetAttribute(GENERATION) == generation and browser.GetMasterSequenceNode():
            return browser
    return None


def browse(generation, index):
    """Choose a patch, from 0 on, in the sequence browser too; returns the volume that shows it."""
    browser = browserOf(generation)
    if browser is None:
        return find(generation)[index]
    browser.SetSelectedItemNumber(index)
    return browser.GetProxyNode(browser.GetMasterSequenceNode()) or find(generation)[index]


def realPatch(generation):
    """The patch of the MRI itself on the grid of a generation's patches, as the networks see it; made once.

    Returns
    -------
    vtkMRMLScalarVolumeNode
        Intensities in [0, 1], as of the synthetic patches.

    Raises
    ------
    ValueError
        The MRI is not in the scene any more.
    """
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node.GetAttribute(KIND) == REAL and node.GetAttribute(GENERATION) == generation:
            return node
    patch = find(generation)[0]
    volumeNode = patch.GetNodeReference(VOLUME)
    if volumeNode is None:
        raise ValueError(_("The MRI of these patches is not in the scene any more; generate them again."))
    real = cutLike(volumeNode, patch)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _("Real patch"))
    slicer.util.updateVolumeFromArray(node, real.array.T)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(real.affine))
    node.SetAttribute(KIND, REAL)
    node.SetAttribute(GENERATION, generation)
    node.CreateDefaultDisplayNodes()
    _showZeroToOne(node)
    nodes.placeBeside(node, patch)
    return node


def _showZeroToOne(volumeNode):
    """The same window for real and synthetic patches, so that they can be compared."""
    display = volumeNode.GetScalarVolumeDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0, 1)


def _gather(made, name):
    """Put nodes into a new folder of the subject hierarchy where the first of them lies."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetItemParent(hierarchy.GetItemByDataNode(made[0])), name)
    for node in made:
        item = hierarchy.GetItemByDataNode(node)
        if item:  # 0 for what Slicer does not show there
            hierarchy.SetItemParent(item, folder)


def cutLike(volumeNode, patchNode):
    """Cut from an MRI the patch that lies where another one does: the voxels of ``neonet crop``.

    Parameters
    ----------
    volumeNode, patchNode : vtkMRMLScalarVolumeNode
        Under the same parent transform.

    Returns
    -------
    neonet_core.volume.Volume
        (X, Y, Z) float32 in [0, 1], along R, A, S; 0 where it reaches beyond the MRI.
    """
    patch, patchAffine = nodes.canonical(patchNode)
    array, affine = nodes.canonical(volumeNode)
    spacing = np.linalg.norm(patchAffine[:3, :3], axis=0)
    grid = resample_to_spacing(Volume(normalise_intensity(array)[0], affine), spacing)
    start = np.rint(np.linalg.solve(grid.affine, patchAffine[:, 3])[:3]).astype(int)
    crop = Crop(tuple(map(int, start)), patch.shape, grid.shape, 0, 1.0)
    return Volume(np.clip(extract(grid.array, crop), 0, 1), patchAffine)


# --- in files ---------------------------------------------------------------------------------------------------------


def export(patches, folder):
    """Write patches as NRRD, with all that they say of themselves in the header, and their lineage as JSON.

    They are written in the MRI's own coordinates, without its parent transforms.

    Parameters
    ----------
    patches : list of vtkMRMLScalarVolumeNode
    folder : str or Path
        Receives a new folder.

    Returns
    -------
    pathlib.Path
        The new folder.

    Raises
    ------
    OSError
    """
    out = _newFolder(Path(folder), f"{SYNTHETIC} patches")
    try:
        for patch in patches:
            lineage = lineageOf(patch)
            stem = f"{kindOf(lineage)} patch {int(patch.GetAttribute(NUMBER)):04d}".replace(", ", "-").replace(" ", "-")
            writer = slicer.vtkMRMLNRRDStorageNode()  # of Slicer's formats the one that keeps a node's attributes
            writer.SetFileName(str(out / f"{stem}.nrrd"))
            writer.SetUseCompression(True)
            if not writer.WriteData(patch):
                raise OSError(_("{file} could not be written; check the disk.").format(file=f"{stem}.nrrd"))
            (out / f"{stem}.json").write_text(json.dumps(lineage, indent=1), encoding="utf-8")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return out


def _newFolder(parent, name):
    """Make a folder that was not there; a number is put behind its name where it was."""
    for number in range(1, 1000):
        folder = parent / (name if number == 1 else f"{name} {number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise OSError(_("Choose another folder: this one holds many exports already."))
