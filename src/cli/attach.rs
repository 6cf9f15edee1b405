//! Being the terminal of a command: its output, its input, its signals, until it has ended. A connection that breaks
//! is taken up again where it broke.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::terminal;
use crate::api::client::{Client, Status, Streaming, broken};
use crate::api::proto::process_service_attach_request::Message as Say;
use crate::api::proto::process_service_attach_response::Message as Told;
use crate::api::proto::{
    AttachSignal, AttachStart, OutputChunk, OutputGap, OutputStream, Process, ProcessServiceAttachRequest,
    ProcessServiceAttachResponse, SignalScope, StdinChunk,
};
use crate::shutdown::Shutdown;

/// Bytes of stdin in one message.
const CHUNK: usize = 64 * 1024;
/// How long a daemon may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Signals that are passed on, and whom they would have reached without us: what a terminal sends goes to the group.
const PASSED: &[(i32, SignalScope)] = &[
    (libc::SIGINT, SignalScope::Group),
    (libc::SIGQUIT, SignalScope::Group),
    (libc::SIGHUP, SignalScope::Group),
    (libc::SIGTERM, SignalScope::Process),
    (libc::SIGUSR1, SignalScope::Process),
    (libc::SIGUSR2, SignalScope::Process),
];

/// Signals on their way to the command, in the order in which they came.
pub(super) type Signals = mpsc::UnboundedReceiver<i32>;

/// Begins to catch signals; from now on none ends us. What was ignored when we were started stays ignored, as it would
/// for the command alone: nohup(1), and SIGINT for what a shell starts in the background.
pub(super) fn catch_signals(tasks: &Shutdown) -> io::Result<Signals> {
    let ignored = ignored()?;
    let (caught, signals) = mpsc::unbounded_channel();
    let wanted = PASSED.iter().map(|(number, _)| *number).filter(|number| ignored >> (number - 1) & 1 == 0);
    for number in wanted.chain([libc::SIGWINCH]) {
        let mut stream = signal(SignalKind::from_raw(number))?;
        let caught = caught.clone();
        tasks.spawn_until_cancelled(async move {
            while stream.recv().await.is_some() {
                if caught.send(number).is_err() {
                    return;
                }
            }
        });
    }
    Ok(signals)
}

/// Signals that are ignored now, one bit for each (proc(5)).
fn ignored() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    Ok(set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0))
}

/// One command that we are attached to.
pub(super) struct Attached {
    pub(super) socket: PathBuf,
    pub(super) workspace: String,
    pub(super) process: String,
    /// The first record that was not told yet.
    next: u64,
    input: Input,
    signals: Signals,
}

/// stdin as far as it has come.
struct Input {
    chunks: mpsc::Receiver<Bytes>,
    /// Read but not known to be taken.
    pending: Option<Bytes>,
    offset: u64,
    ended: bool,
    /// Caught but not sent yet.
    signal: Option<Say>,
}

impl Attached {
    pub(super) fn new(socket: PathBuf, started: &Process, signals: Signals, tasks: &Shutdown) -> Self {
        let (sender, chunks) = mpsc::channel(1);
        tasks.spawn_until_cancelled(read_input(sender));
        let input = Input { chunks, pending: None, offset: 0, ended: false, signal: None };
        let (workspace, process) = (started.workspace.clone(), started.id.clone());
        Self { socket, workspace, process, next: 0, input, signals }
    }

    /// Until the command has ended and everything it wrote was written.
    pub(super) async fn follow(mut self, mut client: Client) -> Result<Process> {
        loop {
            match self.attach(&client).await {
                Ok(ended) => return Ok(ended),
                Err(error) => match error.downcast_ref::<Status>() {
                    Some(status) if broken(status) => client = reconnect(&self.socket).await?,
                    _ => return Err(error),
                },
            }
        }
    }

    async fn attach(&mut self, client: &Client) -> Result<Process> {
        let (say, said) = mpsc::channel(4);
        let start = AttachStart {
            workspace: self.workspace.clone(),
            process: self.process.clone(),
            from_sequence: self.next,
            follow_after_exit: false,
        };
        say.send(request(Say::Start(start))).await?;
        let told = client.processes().attach(ReceiverStream::new(said)).await?.into_inner();
        let (taken, takes) = watch::channel(self.input.offset);
        tokio::select! {
            ended = output(told, &mut self.next, &taken, &say) => ended,
            never = feed(&mut self.input, &mut self.signals, &say, takes) => match never {},
        }
    }
}

/// A connection to the daemon, or to the one that comes after it. The supervisor keeps the socket open between the two,
/// so a socket that nobody listens to means that both are gone.
pub(super) async fn reconnect(socket: &Path) -> Result<Client> {
    let connected = async {
        loop {
            match Client::connect(socket).await {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    bail!("the daemon is gone: {error}: start `hands serve` again")
                }
                // One that died while it was being connected to has a successor.
                Err(_died) => tokio::task::yield_now().await,
                Ok(client) => return Ok(client),
            }
        }
    };
    let late = "the daemon does not come back: see the log of `hands serve`";
    tokio::time::timeout(PATIENCE, connected).await.unwrap_or_else(|_late| bail!(late))
}

fn request(message: Say) -> ProcessServiceAttachRequest {
    ProcessServiceAttachRequest { message: Some(message) }
}

/// Writes a piece of output where the command wrote it.
pub(super) async fn print(chunk: &OutputChunk) -> io::Result<()> {
    if chunk.stream == i32::from(OutputStream::Stderr) {
        write(&mut tokio::io::stderr(), &chunk.data).await
    } else {
        write(&mut tokio::io::stdout(), &chunk.data).await
    }
}

/// Says that output is missing.
pub(super) fn tell_gap(gap: &OutputGap) {
    let bytes = gap.stdout_bytes + gap.stderr_bytes;
    super::tell(&format!("hands: {bytes} bytes of output were over the limit and are not kept"));
}

/// Writes what comes; returns the process when its exit and the end of the stream have come.
async fn output(
    mut told: Streaming<ProcessServiceAttachResponse>,
    next: &mut u64,
    taken: &watch::Sender<u64>,
    say: &mpsc::Sender<ProcessServiceAttachRequest>,
) -> Result<Process> {
    let mut ended = None;
    while let Some(message) = told.message().await? {
        match message.message {
            Some(Told::Output(chunk)) => {
                let written = print(&chunk).await;
                *next = chunk.sequence + 1;
                if let Err(error) = written {
                    broken_output(&error, say).await?;
                }
            }
            Some(Told::Gap(gap)) => {
                tell_gap(&gap);
                *next = gap.sequence;
            }
            Some(Told::Exit(exit)) => {
                *next = exit.sequence + 1;
                ended = exit.process;
            }
            Some(Told::StdinTaken(offset)) => drop(taken.send_replace(offset)),
            Some(Told::Problem(problem)) => tracing::debug!(%problem.message, "input"),
            Some(Told::End(_)) => {
                return ended.ok_or_else(|| {
                    anyhow::anyhow!("the stream ended without the exit: {next}: a fault of Hands")
                });
            }
            Some(Told::Heartbeat(_)) | None => {}
        }
    }
    Err(cut().into())
}

/// A stream that ends without its last message was cut.
fn cut() -> Status {
    Status::unavailable("the stream was cut")
}

async fn write(to: &mut (impl AsyncWriteExt + Unpin), data: &[u8]) -> io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

/// Nobody reads our output: the command learns it as it would have without us.
async fn broken_output(error: &io::Error, say: &mpsc::Sender<ProcessServiceAttachRequest>) -> Result<()> {
    if error.kind() != ErrorKind::BrokenPipe {
        bail!("output: {error}: the command goes on, attach to it again");
    }
    let signal = AttachSignal { signal: libc::SIGPIPE, scope: SignalScope::Group.into() };
    say.send(request(Say::Signal(signal))).await.map_err(|_broken| cut().into())
}

/// Sends input and signals for ever; what was not taken when the connection broke is sent again.
async fn feed(
    input: &mut Input,
    signals: &mut Signals,
    say: &mpsc::Sender<ProcessServiceAttachRequest>,
    mut taken: watch::Receiver<u64>,
) -> std::convert::Infallible {
    if let Some(signal) = input.signal.clone() {
        tell(say, signal).await;
        input.signal = None;
    }
    if let Some(data) = input.pending.clone() {
        tell(say, Say::Stdin(StdinChunk { offset: input.offset, data })).await;
    } else if input.ended {
        tell(say, Say::StdinEnd(input.offset)).await;
    }
    loop {
        tokio::select! {
            Some(number) = signals.recv() => {
                input.signal = passed(number);
                if let Some(signal) = input.signal.clone() {
                    tell(say, signal).await;
                    input.signal = None;
                }
            }
            chunk = input.chunks.recv(), if input.pending.is_none() && !input.ended => match chunk {
                Some(data) => {
                    input.pending = Some(data.clone());
                    tell(say, Say::Stdin(StdinChunk { offset: input.offset, data })).await;
                }
                None => {
                    input.ended = true;
                    tell(say, Say::StdinEnd(input.offset)).await;
                }
            },
            Ok(()) = taken.changed() => {
                let offset = *taken.borrow_and_update();
                if input.pending.as_ref().is_some_and(|data| input.offset + data.len() as u64 <= offset) {
                    input.pending = None;
                    input.offset = offset;
                }
            }
        }
    }
}

/// Sends one message. On a connection that broke it waits: whoever reads from it hears why, and decides.
async fn tell(say: &mpsc::Sender<ProcessServiceAttachRequest>, message: Say) {
    if say.send(request(message)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn passed(number: i32) -> Option<Say> {
    if number == libc::SIGWINCH {
        return terminal::present().map(Say::Resize);
    }
    let (_, scope) = PASSED.iter().find(|(passed, _)| *passed == number)?;
    Some(Say::Signal(AttachSignal { signal: number, scope: (*scope).into() }))
}

async fn read_input(chunks: mpsc::Sender<Bytes>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0_u8; CHUNK];
    // An input that can't be read has ended.
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        if chunks.send(Bytes::copy_from_slice(&buffer[..length])).await.is_err() {
            return;
        }
    }
}
