"""slicer.ScriptedLoadableModule, slicer.i18n, slicer.packaging: what a module file imports besides qt, ctk and vtk."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import types
import unittest

import slicer

from .qt_module import qt


class ScriptedLoadableModule:
    """Describes a module; sets its icon from Resources/Icons."""

    def __init__(self, parent):
        super().__init__()
        self.parent, self.moduleName = parent, type(self).__name__
        parent.title, parent.categories, parent.dependencies, parent.contributors = "", [], [], []
        parent.helpText = parent.acknowledgementText = ""
        for ending in (".svg", ".png"):
            path = self.resourcePath(f"Icons/{self.moduleName}{ending}")
            if os.path.isfile(path):
                parent.icon = qt.QIcon(path)
                break
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        url = (
            slicer.app.documentationBaseUrl + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p>For more information see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec=100, **kwargs):
        case = getattr(importlib.import_module(self.__module__), self.moduleName + "Test")()
        case.messageDelay = msec
        case.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """A panel; without a parent it makes its own and is set up at once."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.parent = parent or slicer.qMRMLWidget()
        if not parent:
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if not parent:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename):
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self):
        pass

    def cleanup(self):
        pass

    def _onModuleAboutToBeUnloaded(self, moduleName):
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """Computes; owns the module's parameter node."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        else:
            node = next(iter(self.getAllParameterNodes()), None)
        if node is None:
            return slicer.mrmlScene.AddNode(self.createParameterNode())
        if node.GetAttribute("ModuleName") != self.moduleName:
            node.SetAttribute("ModuleName", self.moduleName)
        return node

    def getAllParameterNodes(self):
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's own test; `runTest` is what Slicer calls."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.messageDelay = 0

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        print(message)

    def takeScreenshot(self, name, description, type=-1):
        pass

    def setUp(self):
        slicer.mrmlScene.Clear(0)

    def runTest(self):
        pass


def scriptedLoadableModule():
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    for cls in classes:
        setattr(module, cls.__name__, cls)
    module.__all__ = [cls.__name__ for cls in classes]
    return module


# --- translation -------------------------------------------------------------------------------------------------

translated: set[str] = set()  # every text that went through `tr`


def i18n():
    module = types.ModuleType("slicer.i18n")

    def translate(context, text):
        if not isinstance(text, str):
            raise TypeError(f"tr takes a text, not {text!r}")
        translated.add(text)
        return text

    def getContext(sourceFile):
        parts = os.path.normpath(sourceFile).split(os.sep)
        return os.path.splitext(parts[-1])[0] if parts[-1] != "__init__.py" else parts[-2]

    module.translate, module.getContext = translate, getContext
    module.tr = lambda text: translate("", text)
    module.__all__ = ["getContext", "tr", "translate"]
    return module


# --- packages ------------------------------------------------------------------------------------------------------

installs: list[list[str]] = []  # arguments that would have gone to `pip install`


def packaging():
    """slicer.packaging without pip: what would be installed is recorded in `installs`."""
    from packaging.requirements import InvalidRequirement, Requirement

    module = types.ModuleType("slicer.packaging")

    def asRequirements(requirements):
        if isinstance(requirements, str):
            try:
                return [Requirement(requirements)]
            except InvalidRequirement:
                requirements = requirements.split()
        if isinstance(requirements, Requirement):
            return [requirements]
        if not isinstance(requirements, list):
            raise TypeError(f"Expected str, Requirement, or list, got {type(requirements).__name__}")
        return [Requirement(r) if isinstance(r, str) else r for r in requirements]

    def isSatisfied(requirement):
        if requirement.marker is not None and not requirement.marker.evaluate():
            return True
        try:
            return importlib.metadata.version(requirement.name) in requirement.specifier
        except importlib.metadata.PackageNotFoundError:
            return False

    def pip_check(req):
        return all(map(isSatisfied, asRequirements(req)))

    def pip_install(
        requirements,
        constraints=None,
        no_deps_requirements=None,
        skip_packages=None,
        blocking=True,
        show_progress=True,
        requester=None,
        parent=None,
        logCallback=None,
        completedCallback=None,
    ):
        arguments = requirements.split() if isinstance(requirements, str) else [str(r) for r in requirements]
        installs.append(arguments + (["-c", str(constraints)] if constraints else []))
        if not blocking and completedCallback is not None:
            qt.QTimer.singleShot(0, lambda: completedCallback(0))

    def pip_uninstall(requirements, blocking=True, show_progress=True, requester=None):
        installs.append(["uninstall", *(requirements.split() if isinstance(requirements, str) else requirements)])

    def pip_ensure(
        requirements,
        constraints=None,
        skip_packages=None,
        prompt_install=True,
        prompt_restart=True,
        requester=None,
        skip_in_testing=True,
        show_progress=True,
    ):
        missing = [r for r in asRequirements(requirements) if not isSatisfied(r)]
        if not missing or (skip_in_testing and slicer.app.testingEnabled()):
            return
        if prompt_install and not slicer.util.confirmOkCancelDisplay(
            f"{len(missing)} Python packages need to be installed."
        ):
            raise RuntimeError("User declined package installation")
        pip_install([str(r) for r in missing], constraints=constraints)

    def load_requirements(path):
        with open(path) as file:
            lines = [line.strip() for line in file]
        return [Requirement(line) for line in lines if line and line[0] not in "#-"]

    functions = (pip_check, pip_install, pip_uninstall, pip_ensure, load_requirements)
    for function in functions:
        setattr(module, function.__name__, function)
    return module


# --- sample data -----------------------------------------------------------------------------------------------------


def sampleData():
    """The module SampleData: sources are registered; samples come from local files (`file:` URIs) only."""
    module = types.ModuleType("SampleData")

    class SampleDataSource:
        def __init__(
            self,
            sampleName=None,
            sampleDescription=None,
            uris=None,
            fileNames=None,
            nodeNames=None,
            checksums=None,
            loadFiles=None,
            customDownloader=None,
            thumbnailFileName=None,
            loadFileType=None,
            loadFileProperties=None,
        ):
            aslist = lambda value: value if isinstance(value, list) else [value]  # noqa: E731
            self.sampleName = sampleName
            self.sampleDescription = sampleDescription or sampleName
            self.uris, self.fileNames, self.nodeNames = aslist(uris), aslist(fileNames), aslist(nodeNames)
            self.checksums = aslist(checksums) if checksums else [None] * len(self.uris)
            self.loadFiles = aslist(loadFiles) if loadFiles is not None else [None] * len(self.uris)
            self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName
            self.loadFileType = aslist(loadFileType) if loadFileType is not None else [None] * len(self.uris)
            self.loadFileProperties = loadFileProperties or {}
            if len({len(self.uris), len(self.fileNames), len(self.nodeNames)}) != 1:
                raise ValueError(f"uris, fileNames and nodeNames of {sampleName} differ in number")

        def __eq__(self, other):
            return isinstance(other, SampleDataSource) and vars(self) == vars(other)

        __hash__ = None

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(
            category="Custom",
            sampleName=None,
            uris=None,
            fileNames=None,
            nodeNames=None,
            customDownloader=None,
            thumbnailFileName=None,
            loadFileType=None,
            loadFiles=None,
            loadFileProperties=None,
            checksums=None,
        ):
            source = SampleDataSource(
                sampleName,
                None,
                uris,
                fileNames,
                nodeNames,
                checksums,
                loadFiles,
                customDownloader,
                thumbnailFileName,
                loadFileType,
                loadFileProperties,
            )
            sources = slicer.modules.sampleDataSources.setdefault(category, [])
            if source not in sources:
                sources.append(source)

        def sourceForSampleName(self, sampleName):
            sources = [s for group in slicer.modules.sampleDataSources.values() for s in group]
            return next((s for s in sources if s.sampleName == sampleName), None)

        def downloadSamples(self, sampleName):
            source = self.sourceForSampleName(sampleName)
            if source is None:
                raise RuntimeError(f"no sample {sampleName}")
            nodes = []  # `customDownloader` is called by the buttons of the module's panel and by nothing else
            for uri, kind, name in zip(source.uris, source.loadFileType, source.nodeNames, strict=True):
                if not uri.startswith("file:"):
                    raise RuntimeError(f"no network in tests: {uri}")
                path = qt.QUrl(uri).toLocalFile()
                nodes.append(slicer.util.loadNodeFromFile(path, kind or "VolumeFile", {"name": name}))
            return nodes

        def downloadSample(self, sampleName):
            return self.downloadSamples(sampleName)[0]

    module.SampleDataSource, module.SampleDataLogic = SampleDataSource, SampleDataLogic
    module.downloadSample = lambda name: SampleDataLogic().downloadSample(name)
    module.downloadSamples = lambda name: SampleDataLogic().downloadSamples(name)
    slicer.modules.sampleDataSources = {}
    return module


def install():
    """Puts these modules where module files import them from."""
    parts = {"ScriptedLoadableModule": scriptedLoadableModule(), "i18n": i18n(), "packaging": packaging()}
    for name, module in parts.items():
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
    sys.modules["SampleData"] = sampleData()
