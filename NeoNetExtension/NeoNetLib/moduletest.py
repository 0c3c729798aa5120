"""What the scenarios of the four modules share, in a running Slicer and on the stand-in."""

import unittest

import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from NeoNetLib import dependencies


class ModuleTest(ScriptedLoadableModuleTest):
    """Scenarios through a panel; a module's ``<Name>Test`` adds them as methods ``test_...``."""

    def setUp(self):
        slicer.util.selectModule("Data")  # so that the scenario enters its own
        slicer.mrmlScene.Clear()

    def runTest(self):
        for name in unittest.defaultTestLoader.getTestCaseNames(type(self)):
            self.delayDisplay(name)
            self.setUp()
            try:
                getattr(self, name)()
            except unittest.SkipTest as reason:
                self.delayDisplay(f"Skipped: {reason}")
            finally:
                self.doCleanups()
        slicer.mrmlScene.Clear()

    def needPackages(self):
        """Skip the scenario where no job can be started."""
        missing = dependencies.missing()
        if missing:
            self.skipTest(f"these packages are not installed: {', '.join(missing)}")

    @staticmethod
    def waitFor(condition, seconds=300):
        """Run the event loop until the condition holds."""
        loop, clock = qt.QEventLoop(), qt.QElapsedTimer()
        clock.start()
        while not condition() and clock.elapsed() < 1000 * seconds:
            qt.QTimer.singleShot(20, loop.quit)
            loop.exec_()
        assert condition(), f"This did not come about within {seconds} seconds."
