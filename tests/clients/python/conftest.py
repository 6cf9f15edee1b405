"""A daemon of the test's own, and stubs made from `proto/` on the spot."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import grpc
import pytest
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROTO = ROOT / "proto"


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """The directory of the generated modules, importable from now on."""
    out = tmp_path_factory.mktemp("stubs")
    files = sorted(str(path) for path in PROTO.glob("hands/v1alpha1/*.proto"))
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    asked = ["protoc", f"-I{PROTO}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}", *files]
    assert protoc.main(asked) == 0
    sys.path.insert(0, str(out))
    return out


class Daemon:
    """`hands serve` on a state directory of its own; the binary is named by HANDS."""

    def __init__(self, state):
        self.state = state
        held, self.lifeline = os.pipe()
        told, ready = os.pipe()
        command = [os.environ["HANDS"], "serve", "--state-dir", str(state)]
        command += ["--lifeline", str(held), "--ready", str(ready)]
        self.process = subprocess.Popen(command, pass_fds=(held, ready))
        os.close(held)
        os.close(ready)
        with os.fdopen(told) as line:
            assert line.readline() == "ok\n"

    def connect(self):
        """A connection of its own, not one that others share."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(f"unix:{self.state}/hands.sock", options=options)

    def kill_daemon(self):
        """Kills the daemon, not the supervisor, which starts another one."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for child in children.split():
            if pathlib.Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"hands\0daemon"):
                os.kill(int(child), signal.SIGKILL)
                return
        raise AssertionError("no daemon")

    def end(self):
        os.close(self.lifeline)
        self.process.wait()


@pytest.fixture
def daemon():
    # Not below pytest's own directory, which others may not enter: the daemon has another uid.
    home = pathlib.Path(os.environ.get("HANDS_STATE_DIR", "/tmp/state")).parent
    with tempfile.TemporaryDirectory(prefix="python-", dir=home) as state:
        running = Daemon(state)
        yield running
        running.end()
