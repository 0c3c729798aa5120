"""What NeoNetLib's jobs rely on beyond what is stated of processes elsewhere: written to run inside Slicer, too."""

import os
import sys

import qt
import slicer


def spin_until(condition, seconds=20):
    loop, timer, left = qt.QEventLoop(), qt.QTimer(), [seconds * 100]

    def look():
        left[0] -= 1
        if condition() or left[0] < 0:
            loop.quit()

    timer.setInterval(10)
    timer.connect("timeout()", look)
    timer.start()
    loop.exec_()
    timer.stop()
    assert condition()


def test_output_comes_while_the_process_runs():
    process, got, ended = qt.QProcess(), [], []
    assert process.connect("readyReadStandardOutput()", lambda: got.append(process.readAllStandardOutput().data()))
    assert process.connect("readyReadStandardError()", lambda: got.append(process.readAllStandardError().data()))
    assert process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((code, status)))
    environment = qt.QProcessEnvironment.systemEnvironment()
    environment.insert("NEONET_X", "Ü")
    environment.insert("PYTHONUTF8", "1")
    process.setProcessEnvironment(environment)
    process.start(sys.executable, ["-c", "import os, sys; print(os.environ['NEONET_X'], flush=True); sys.stdin.read()"])
    spin_until(lambda: got)
    assert got[0].strip() == "Ü".encode() and not ended and process.state() == qt.QProcess.Running
    process.kill()
    spin_until(lambda: ended)
    assert ended[0][1] == 1 and process.state() == qt.QProcess.NotRunning  # QProcess.CrashExit


def test_an_exit_by_a_signal_has_its_number():
    if os.name == "nt":
        return
    process, ended = qt.QProcess(), []
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((int(code), int(status))))
    process.start("/bin/sh", ["-c", "kill -9 $$"])
    spin_until(lambda: ended)
    assert ended == [(9, 1)]


def test_a_failure_to_start_is_a_signal_and_no_end():
    process, errors, ended = qt.QProcess(), [], []
    assert process.connect("errorOccurred(QProcess::ProcessError)", lambda error: errors.append(error))
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append(code))
    process.start(os.path.join("no", "such", "program"), [])
    spin_until(lambda: errors)
    assert errors[0] == qt.QProcess.FailedToStart == process.error() and not ended and process.errorString()
    assert process.processId() == 0
    process.deleteLater()


def test_the_application_says_where_it_lies_and_that_it_quits():
    assert isinstance(slicer.app.slicerHome, str) and isinstance(slicer.app.temporaryPath, str)

    def quitting():
        pass

    assert slicer.app.connect("aboutToQuit()", quitting) is True
    assert slicer.app.disconnect("aboutToQuit()", quitting) is True


def test_a_progress_dialog_without_an_end():
    dialog = slicer.util.createProgressDialog(parent=None, maximum=0, labelText="text", windowTitle="title")
    dialog.setCancelButton(None)
    dialog.setWindowModality(qt.Qt.ApplicationModal)
    dialog.show()
    slicer.app.processEvents()
    assert dialog.labelText == "text" and dialog.maximum == 0
    dialog.close()
