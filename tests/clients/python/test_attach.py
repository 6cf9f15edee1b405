"""A control plane in another language: stubs from `proto/`, a connection that breaks, everything is there."""

import grpc
import pytest

pytestmark = pytest.mark.usefixtures("stubs")

LINES = 200_000
EXPECTED = "".join(f"{n}\n" for n in range(1, LINES + 1)).encode()


class Api:
    """The generated stubs on one connection."""

    def __init__(self, channel):
        from hands.v1alpha1 import file_pb2, file_pb2_grpc, process_pb2, process_pb2_grpc
        from hands.v1alpha1 import workspace_pb2, workspace_pb2_grpc

        self.workspace, self.process, self.file = workspace_pb2, process_pb2, file_pb2
        self.workspaces = workspace_pb2_grpc.WorkspaceServiceStub(channel)
        self.processes = process_pb2_grpc.ProcessServiceStub(channel)
        self.files = file_pb2_grpc.FileServiceStub(channel)

    def ensure(self, key):
        spec = self.workspace.WorkspaceSpec(key=key)
        return self.workspaces.Ensure(self.workspace.WorkspaceServiceEnsureRequest(spec=spec)).workspace

    def start(self, workspace, process_id, *argv, **more):
        command = self.process.Command(argv=[word.encode() for word in argv], **more)
        asked = self.process.ProcessServiceStartRequest(workspace=workspace, process_id=process_id, command=command)
        return self.processes.Start(asked).process

    def attach(self, workspace, process_id, sequence):
        """The call, and what it tells from this sequence number on."""
        start = self.process.AttachStart(workspace=workspace, process=process_id, from_sequence=sequence)
        asked = self.process.ProcessServiceAttachRequest(start=start)
        return self.processes.Attach(iter([asked]))


def read(call, most=None):
    """Output, the number after the last piece, the exit if it came; at most so many pieces."""
    output, after, ended, complete = bytearray(), None, None, False
    for message in call:
        kind = message.WhichOneof("message")
        assert kind != "gap", message
        if kind == "output":
            output += message.output.data
            after = message.output.sequence + 1
            if most is not None and (most := most - 1) == 0:
                break
        elif kind == "exit":
            ended = message.exit.process
        elif kind == "end":
            complete = True
    return bytes(output), after, ended, complete


def test_a_dropped_connection_is_taken_up_from_a_sequence_number(daemon):
    with daemon.connect() as channel:
        api = Api(channel)
        api.ensure("python")
        api.start("python", "counter", "seq", "1", str(LINES))
        first, after, ended, _ = read(api.attach("python", "counter", 0), most=3)
    assert first and not ended
    # The connection is closed now, in the middle of the stream.
    with daemon.connect() as channel:
        rest, _, ended, complete = read(Api(channel).attach("python", "counter", after))
    assert complete and ended.exit.code == 0
    assert first + rest == EXPECTED


def test_a_daemon_killed_under_an_attached_client_loses_nothing(daemon):
    with daemon.connect() as channel:
        api = Api(channel)
        api.ensure("python")
        script = f"seq 1 {LINES // 2}; read go; seq {LINES // 2 + 1} {LINES}"
        api.start("python", "counter", "sh", "-c", script, stdin=True)
        first, after, _, _ = read(api.attach("python", "counter", 0), most=2)
        daemon.kill_daemon()
    with daemon.connect() as channel:
        api = Api(channel)
        say = api.process
        start = say.AttachStart(workspace="python", process="counter", from_sequence=after)
        asked = [
            say.ProcessServiceAttachRequest(start=start),
            say.ProcessServiceAttachRequest(stdin=say.StdinChunk(offset=0, data=b"go\n")),
            say.ProcessServiceAttachRequest(stdin_end=3),
        ]
        call = api.processes.Attach(iter(asked), wait_for_ready=True)
        rest, _, ended, complete = read(call)
    assert complete and ended.exit.code == 0
    assert first + rest == EXPECTED


def test_errors_are_typed_and_name_the_object(daemon):
    with daemon.connect() as channel:
        api = Api(channel)
        with pytest.raises(grpc.RpcError) as caught:
            api.start("nobody", "", "true")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert "nobody" in caught.value.details()


def test_files_go_in_and_out(daemon):
    content = bytes(range(256)) * 4096
    with daemon.connect() as channel:
        api = Api(channel)
        api.ensure("python")
        say = api.file
        start = say.FileWriteStart(workspace="python", path=b"/workspace/new/file", create_parents=True)
        parts = [say.FileServiceWriteRequest(start=start)]
        parts += [
            say.FileServiceWriteRequest(data=content[at : at + 65536]) for at in range(0, len(content), 65536)
        ]
        parts.append(say.FileServiceWriteRequest(finish=say.FileWriteFinish(bytes=len(content))))
        assert api.files.Write(iter(parts)).stat.size == len(content)
        asked = say.FileServiceReadRequest(workspace="python", path=b"/workspace/new/file")
        assert b"".join(part.data for part in api.files.Read(asked)) == content
