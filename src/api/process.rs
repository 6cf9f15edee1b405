//! `ProcessService`.

use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{command, duration, page, page_size, process, scope, signal, size, stream, time};
use super::proto as wire;
use super::proto::process_service_attach_request::Message as Said;
use super::proto::process_service_attach_response::Message as Told;
use super::proto::process_service_server::ProcessService;
use super::status::invalid;
use crate::journal::{Entry, Kind, Stream};
use crate::shutdown::Shutdown;
use crate::workspace::{Output, WorkspaceError, Workspaces};

/// Bytes of each output stream in the answer of Run; half from the head, half from the tail.
const CAPTURED: usize = 1024 * 1024;
/// Bytes of output in one message.
const CHUNK: usize = 64 * 1024;
/// Messages that wait for a slow reader; the command never does.
const AHEAD: usize = 16;
/// Bytes of output after which a command that waits for its reader is told how far that one is.
const ACKNOWLEDGED_EACH: u64 = 256 * 1024;
/// Largest piece of stdin in one message, in bytes.
const LARGEST_INPUT: usize = 256 * 1024;
/// Silence after which a stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Service {
    workspaces: Workspaces,
    tasks: Shutdown,
}

impl Service {
    pub(super) fn new(workspaces: Workspaces, tasks: Shutdown) -> Self {
        Self { workspaces, tasks }
    }
}

type Answers = mpsc::Sender<Result<wire::ProcessServiceAttachResponse, Status>>;

#[tonic::async_trait]
impl ProcessService for Service {
    async fn start(
        &self,
        request: Request<wire::ProcessServiceStartRequest>,
    ) -> Result<Response<wire::ProcessServiceStartResponse>, Status> {
        let wire::ProcessServiceStartRequest { workspace, process_id, command: asked } = request.into_inner();
        let id = Some(process_id).filter(|id| !id.is_empty());
        let view = self.workspaces.start_process(&workspace, id, command(asked)?).await?;
        Ok(Response::new(wire::ProcessServiceStartResponse { process: Some(process(view)) }))
    }

    async fn run(
        &self,
        request: Request<wire::ProcessServiceRunRequest>,
    ) -> Result<Response<wire::ProcessServiceRunResponse>, Status> {
        let wire::ProcessServiceRunRequest { workspace, process_id, command: asked } = request.into_inner();
        let asked = command(asked)?;
        if asked.stdin {
            return Err(invalid("stdin", "Run has none; use Start and Attach"));
        }
        if asked.lossless {
            return Err(invalid("lossless", "nobody reads while Run waits; use Start and Attach"));
        }
        let id = Some(process_id).filter(|id| !id.is_empty());
        let started = self.workspaces.start_process(&workspace, id, asked).await?;
        let ended = self.workspaces.wait(&workspace, started.id.as_str()).await?;
        let mut captured = [Captured::default(), Captured::default()];
        let mut output = self.workspaces.output(&workspace, started.id.as_str(), 0).await?;
        while let Some(entry) = output.next().await? {
            match entry.kind {
                Kind::Output(Stream::Stdout, data) => captured[0].add(&data),
                Kind::Output(Stream::Stderr, data) => captured[1].add(&data),
                Kind::Gap(totals) => {
                    captured[0].skip(totals.stdout);
                    captured[1].skip(totals.stderr);
                }
                // What children write afterwards is not this command's.
                Kind::Exit(_) => break,
                Kind::Started(_) | Kind::Segment(_) => {}
            }
        }
        let [stdout, stderr] = captured.map(|captured| Some(captured.told()));
        Ok(Response::new(wire::ProcessServiceRunResponse { process: Some(process(ended)), stdout, stderr }))
    }

    type AttachStream = ReceiverStream<Result<wire::ProcessServiceAttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::ProcessServiceAttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut said = request.into_inner();
        let Some(Said::Start(start)) = said.message().await?.and_then(|first| first.message) else {
            return Err(invalid("first message", "`start` names the process"));
        };
        let output = self.workspaces.output(&start.workspace, &start.process, start.from_sequence).await?;
        let (answers, received) = mpsc::channel(AHEAD);
        let attached = Attached { workspaces: self.workspaces.clone(), start, answers };
        let reading = attached.clone();
        self.tasks.spawn_until_cancelled(async move {
            let ended = tokio::select! {
                told = attached.tell(output) => told,
                () = attached.answers.closed() => return,
            };
            if let Err(error) = ended {
                attached.say(Err(error.into())).await;
            }
        });
        self.tasks.spawn_until_cancelled(async move {
            tokio::select! {
                () = reading.listen(said) => {}
                () = reading.answers.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(received)))
    }

    async fn wait(
        &self,
        request: Request<wire::ProcessServiceWaitRequest>,
    ) -> Result<Response<wire::ProcessServiceWaitResponse>, Status> {
        let request = request.into_inner();
        let ended = self.workspaces.wait(&request.workspace, &request.process);
        let view = match duration("timeout", request.timeout)? {
            None => ended.await?,
            Some(limit) => match tokio::time::timeout(limit, ended).await {
                Ok(ended) => ended?,
                Err(_elapsed) => self.workspaces.process(&request.workspace, &request.process).await?,
            },
        };
        Ok(Response::new(wire::ProcessServiceWaitResponse { process: Some(process(view)) }))
    }

    async fn signal(
        &self,
        request: Request<wire::ProcessServiceSignalRequest>,
    ) -> Result<Response<wire::ProcessServiceSignalResponse>, Status> {
        let request = request.into_inner();
        let (number, scope) = (signal(request.signal)?, scope(request.scope)?);
        self.workspaces.signal(&request.workspace, &request.process, number, scope).await?;
        Ok(Response::new(wire::ProcessServiceSignalResponse {}))
    }

    async fn get(
        &self,
        request: Request<wire::ProcessServiceGetRequest>,
    ) -> Result<Response<wire::ProcessServiceGetResponse>, Status> {
        let request = request.into_inner();
        let view = self.workspaces.process(&request.workspace, &request.process).await?;
        Ok(Response::new(wire::ProcessServiceGetResponse { process: Some(process(view)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ProcessServiceListRequest>,
    ) -> Result<Response<wire::ProcessServiceListResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size, 100, 1000)?;
        let all = self.workspaces.processes(&request.workspace).await?;
        let (views, next_page_token) =
            page(all, |view| view.id.as_str().as_bytes(), &request.page_token, size)?;
        let processes = views.into_iter().map(process).collect();
        Ok(Response::new(wire::ProcessServiceListResponse { processes, next_page_token }))
    }
}

/// One stream of Attach.
#[derive(Clone)]
struct Attached {
    workspaces: Workspaces,
    start: wire::AttachStart,
    answers: Answers,
}

impl Attached {
    /// A reader that is gone needs no answer.
    async fn say(&self, answer: Result<Told, Status>) -> bool {
        let answer = answer.map(|message| wire::ProcessServiceAttachResponse { message: Some(message) });
        self.answers.send(answer).await.is_ok()
    }

    /// Output from the cursor to its end.
    async fn tell(&self, mut output: Output) -> Result<(), WorkspaceError> {
        let mut next = self.start.from_sequence;
        let mut acknowledged = output.position();
        self.acknowledge(acknowledged).await;
        loop {
            let entry = match tokio::time::timeout(HEARTBEAT, output.next()).await {
                Ok(entry) => entry?,
                Err(_silence) => {
                    self.say(Ok(Told::Heartbeat(wire::AttachHeartbeat {}))).await;
                    continue;
                }
            };
            let Some(entry) = entry else { break };
            next = entry.sequence + 1;
            let last = matches!(entry.kind, Kind::Exit(_)) && !self.start.follow_after_exit;
            if !self.tell_entry(entry).await? {
                return Ok(());
            }
            if output.position() >= acknowledged + ACKNOWLEDGED_EACH {
                acknowledged = output.position();
                self.acknowledge(acknowledged).await;
            }
            if last {
                break;
            }
        }
        self.say(Ok(Told::End(wire::AttachEnd { next_sequence: next }))).await;
        Ok(())
    }

    /// Lets a command that waits for its reader go on. One that has ended waits for nobody.
    async fn acknowledge(&self, bytes: u64) {
        let done = self.workspaces.acknowledge(&self.start.workspace, &self.start.process, bytes).await;
        if let Err(error) = done {
            tracing::trace!(%error, "acknowledge");
        }
    }

    async fn tell_entry(&self, entry: Entry) -> Result<bool, WorkspaceError> {
        let sequence = entry.sequence;
        match entry.kind {
            Kind::Output(from, mut data) => {
                while !data.is_empty() {
                    let piece = data.split_to(data.len().min(CHUNK));
                    let chunk = wire::OutputChunk {
                        sequence,
                        stream: stream(from),
                        data: piece,
                        time: time(entry.at),
                    };
                    if !self.say(Ok(Told::Output(chunk))).await {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Kind::Gap(totals) => {
                let gap =
                    wire::OutputGap { sequence, stdout_bytes: totals.stdout, stderr_bytes: totals.stderr };
                Ok(self.say(Ok(Told::Gap(gap))).await)
            }
            Kind::Exit(_) => {
                let view = self.workspaces.wait(&self.start.workspace, &self.start.process).await?;
                let exit = wire::AttachExit { sequence, process: Some(process(view)) };
                Ok(self.say(Ok(Told::Exit(exit))).await)
            }
            Kind::Started(_) | Kind::Segment(_) => Ok(true),
        }
    }

    /// What the client says, until it says no more.
    async fn listen(&self, mut said: Streaming<wire::ProcessServiceAttachRequest>) {
        while let Ok(Some(message)) = said.message().await {
            let done = match message.message {
                Some(message) => self.obey(message).await,
                None => Ok(None),
            };
            let answer = match done {
                Ok(None) => continue,
                Ok(Some(taken)) => Told::StdinTaken(taken),
                Err(status) => {
                    let reason = reason_of(&status);
                    Told::Problem(wire::AttachProblem { reason, message: status.message().to_owned() })
                }
            };
            if !self.say(Ok(answer)).await {
                return;
            }
        }
    }

    async fn obey(&self, message: Said) -> Result<Option<u64>, Status> {
        let (workspace, process) = (self.start.workspace.as_str(), self.start.process.as_str());
        match message {
            Said::Start(_) => Err(invalid("start", "only as the first message")),
            Said::Stdin(chunk) if chunk.data.len() > LARGEST_INPUT => {
                Err(invalid("stdin", "at most 256 KiB at a time"))
            }
            Said::Stdin(chunk) => {
                Ok(Some(self.workspaces.write_stdin(workspace, process, chunk.offset, chunk.data).await?))
            }
            Said::StdinEnd(offset) => {
                self.workspaces.close_stdin(workspace, process, offset).await?;
                Ok(None)
            }
            Said::Resize(asked) => {
                self.workspaces.resize(workspace, process, size(asked)?).await?;
                Ok(None)
            }
            Said::Signal(asked) => {
                let (number, scope) = (signal(asked.signal)?, scope(asked.scope)?);
                self.workspaces.signal(workspace, process, number, scope).await?;
                Ok(None)
            }
        }
    }
}

fn reason_of(status: &Status) -> String {
    use tonic_types::StatusExt;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Output of bounded size: the head, then the newest half.
#[derive(Default)]
struct Captured {
    head: BytesMut,
    tail: BytesMut,
    dropped: u64,
}

impl Captured {
    fn add(&mut self, data: &[u8]) {
        let room = if self.dropped == 0 && self.tail.is_empty() { CAPTURED / 2 - self.head.len() } else { 0 };
        let (head, tail) = data.split_at(room.min(data.len()));
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(tail);
        if let Some(surplus) = self.tail.len().checked_sub(CAPTURED / 2) {
            self.dropped += surplus as u64;
            drop(self.tail.split_to(surplus));
        }
    }

    fn skip(&mut self, bytes: u64) {
        if bytes > 0 {
            self.dropped += bytes + self.tail.len() as u64;
            self.tail.clear();
        }
    }

    fn told(mut self) -> wire::CapturedOutput {
        if self.dropped == 0 {
            self.head.extend_from_slice(&std::mem::take(&mut self.tail));
        }
        wire::CapturedOutput {
            head: self.head.freeze(),
            dropped_bytes: self.dropped,
            tail: self.tail.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CAPTURED, Captured};

    #[test]
    fn p_07_captured_output_is_whole_or_says_what_is_missing() {
        let whole: Vec<u8> = (0..CAPTURED).map(|n| (n % 251) as u8).collect();
        let mut captured = Captured::default();
        whole.chunks(1000).for_each(|chunk| captured.add(chunk));
        let told = captured.told();
        assert_eq!((told.head.as_ref(), told.dropped_bytes, told.tail.len()), (whole.as_slice(), 0, 0));

        let mut captured = Captured::default();
        let long = [whole.as_slice(), &whole].concat();
        long.chunks(1000).for_each(|chunk| captured.add(chunk));
        let told = captured.told();
        assert_eq!(told.head.len() as u64 + told.dropped_bytes + told.tail.len() as u64, long.len() as u64);
        assert!(long.starts_with(&told.head) && long.ends_with(&told.tail));
    }
}
