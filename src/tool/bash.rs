//! `bash`: a command in the workspace's persistent shell.

use std::time::Duration;

use futures_util::FutureExt;

use super::excerpt::Excerpt;
use super::path::Session;
use super::shell::{End, Said, Turn};
use super::{Content, Input, Tool, ToolError, ToolResult};
use crate::journal::{Cause, ExitStatus, Kind, Outcome};
use crate::workspace::{ProcessView, WorkspaceError};

/// Time of a command that names none.
const TIME: Duration = Duration::from_secs(120);
/// Most time of a command.
const MOST_TIME: Duration = Duration::from_secs(600);
/// Most denials in an answer.
const DENIALS: usize = 5;

pub(super) const TOOL: Tool = Tool {
    name: "bash",
    description: "Run a command in a persistent bash: working directory, variables, functions and jobs stay from call \
                  to call. stdin is empty. timeout_ms is at most 600000, by default 120000. restart starts a new \
                  shell.",
    schema: r#"{"type":"object","properties":{"command":{"type":"string"},"restart":{"type":"boolean"},"timeout_ms":{"type":"integer"}}}"#,
    repeatable: false,
    patience: None,
    run: |session, input| async move { run(&session, &input).await }.boxed(),
};

async fn run(session: &Session, input: &Input) -> Result<ToolResult, ToolError> {
    let told = |text: &str| Err(ToolError::Told(format!("bash: {text}")));
    let command = input.string("command")?;
    let restart = input.flag("restart")?;
    let time = match input.integer("timeout_ms")?.map(u64::try_from) {
        None | Some(Ok(0)) => TIME,
        Some(Ok(milliseconds)) => Duration::from_millis(milliseconds).min(MOST_TIME),
        Some(Err(_negative)) => return told("timeout_ms must not be negative"),
    };
    if command.as_ref().is_some_and(|command| command.contains('\0')) {
        return told("command must not contain NUL");
    }
    let seat = session.shells.seat(&session.workspace);
    let mut seat = seat.lock().await;
    // A call that goes on after a restart of the daemon has had its restart of the shell.
    if restart && session.ticket.turn().is_none() {
        let shell = session.shell(&mut seat).await.map_err(no_bash)?;
        session.kill(shell.process()).await?;
        *seat = None;
    }
    let Some(command) = command else {
        return if restart {
            Ok(ToolResult::text("bash session restarted"))
        } else {
            told("command is required")
        };
    };
    let turn = match session.ticket.turn() {
        Some(turn) => turn,
        None => session.shell(&mut seat).await.map_err(no_bash)?.turn(),
    };
    let end = match drive(session, &turn, &command, time).await {
        Ok((end, offset)) => {
            if let Some(shell) = seat.as_mut().filter(|shell| shell.process() == turn.shell) {
                shell.advance(offset);
            }
            end
        }
        Err(error) => {
            *seat = None;
            return Err(error.into());
        }
    };
    if let End::Call(view) = &end
        && !matches!(cause(view), Cause::TimedOut)
    {
        return Ok(answer(session, &end, time).await?);
    }
    // The shell is gone or must go, with everything that it started.
    *seat = None;
    session.kill_call().await?;
    Ok(answer(session, &end, time).await?)
}

fn no_bash(error: WorkspaceError) -> ToolError {
    match error.errno() {
        Some(libc::ENOENT) => ToolError::Told("bash: the image has no bash".into()),
        _ => error.into(),
    }
}

/// Runs the command and waits for its end; also tells how far the shell's input is then.
async fn drive(
    session: &Session,
    turn: &Turn,
    command: &str,
    time: Duration,
) -> Result<(End, u64), WorkspaceError> {
    let pid = session.begin(time).await?;
    session.ticket.keep_turn(turn)?;
    let said = Said::new(&pid, command);
    // Wherever the command comes to an end the shell has read all of it, or will never read again.
    let offset = turn.offset + said.len();
    tokio::select! {
        // A shell that does not read: an earlier command still runs in it.
        end = session.end(&turn.shell) => return Ok((end?, offset)),
        said = session.say(turn, &said) => if let Err(error) = said {
            // It may have ended since it was looked at.
            tracing::debug!(%error, "the shell takes no command");
        },
    }
    Ok((session.end(&turn.shell).await?, offset))
}

fn cause(view: &ProcessView) -> Cause {
    view.exit.map_or(Cause::Lost, |exit| exit.cause)
}

/// The exit code as a shell shows it.
fn code(status: ExitStatus) -> i32 {
    match status.outcome {
        Outcome::Code(code) => code,
        Outcome::Signal(signal) => 128 + signal,
        Outcome::Unknown => -1,
    }
}

async fn answer(session: &Session, end: &End, time: Duration) -> Result<ToolResult, WorkspaceError> {
    let (ended, of_shell) = match end {
        End::Call(view) => (view, false),
        End::Shell(view) => (view, true),
    };
    let (mut text, truncated) = output(session).await?;
    let status = ended.exit.unwrap_or(ExitStatus { outcome: Outcome::Unknown, cause: Cause::Lost });
    let code = code(status);
    let mut add = |line: &str| {
        let newline = if text.is_empty() { "" } else { "\n" };
        text += &format!("{newline}{line}");
    };
    let is_error = match status.cause {
        Cause::TimedOut => {
            add(&format!("bash: command timed out after {}s; the shell was restarted", time.as_secs_f64()));
            true
        }
        Cause::OutOfMemory => {
            add(&format!("bash: killed: out of memory{}", memory(session).await));
            true
        }
        Cause::Lost | Cause::WorkspaceStopped => {
            add("bash: the workspace was stopped while this command ran");
            true
        }
        Cause::Exited | Cause::Signaled | Cause::Cancelled => {
            if code != 0 {
                add(&format!("exit code: {code}"));
            }
            code != 0
        }
    };
    if of_shell && !matches!(status.cause, Cause::Lost | Cause::WorkspaceStopped) {
        add("[shell exited; the next command starts a new one]");
    }
    if let Some(view) = session.process(&session.call_process()).await? {
        let shown = view.denials.len().min(DENIALS);
        view.denials[..shown].iter().for_each(|denial| add(&format!("[egress denied: {denial}]")));
        let more = view.denial_count.saturating_sub(shown as u64);
        // Asked again, the same is denied again: only others make a count worth a line.
        if view.denials.len() > shown {
            add(&format!("[{more} more egress denials]"));
        }
    }
    let result = ToolResult::text(text);
    Ok(ToolResult { is_error, truncated, exit: Some(status), ..result })
}

async fn memory(session: &Session) -> String {
    let view = session.workspaces.get(session.workspace.as_str()).await;
    let limit = view.ok().and_then(|view| view.limits.get("memory")?.parse::<u64>().ok());
    limit.map_or_else(String::new, |bytes| {
        let (unit, name) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
            .into_iter()
            .find(|(unit, _)| bytes % unit == 0)
            .unwrap_or((1, "B"));
        format!(" (limit {}{name})", bytes / unit)
    })
}

/// What the command printed up to its end, without the line that the call's own process begins with.
async fn output(session: &Session) -> Result<(String, bool), WorkspaceError> {
    let mut output =
        session.workspaces.output(session.workspace.as_str(), &session.call_process(), 0).await?;
    let (mut excerpt, mut begun) = (Excerpt::default(), false);
    while let Some(entry) = output.next().await? {
        match entry.kind {
            Kind::Output(_, data) if begun => excerpt.push(&data),
            Kind::Output(_, data) => {
                if let Some(end) = data.iter().position(|byte| *byte == b'\n') {
                    begun = true;
                    excerpt.push(&data[end + 1..]);
                }
            }
            Kind::Gap(missed) => excerpt.skip(missed.stdout + missed.stderr),
            // What comes later comes from children in the background.
            Kind::Exit(_) => break,
            Kind::Started(_) | Kind::Segment(_) => {}
        }
    }
    Ok(excerpt.finish())
}

/// What is told of a call that nobody can say how far it came.
pub(super) fn interrupted(tool: &str) -> ToolResult {
    ToolResult {
        content: vec![Content::Text(format!(
            "{tool}: the worker was interrupted while this call was running; it may have taken effect. Check before \
             repeating it."
        ))],
        ..ToolResult::error("")
    }
}
