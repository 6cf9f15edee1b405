//! Between the messages of the wire and the nouns of [`crate::workspace`].

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tonic::Status;

use super::proto as wire;
use super::status::invalid;
use crate::journal::{Cause, ExitStatus, Outcome, Stream};
use crate::workspace as nouns;

/// Time between TERM and KILL where none is given.
const GRACE: Duration = Duration::from_secs(5);

pub(super) fn spec(spec: Option<wire::WorkspaceSpec>) -> Result<nouns::Spec, Status> {
    let spec = spec.ok_or_else(|| invalid("spec", "it is required"))?;
    use wire::workspace_spec::Policy;
    let policy = spec.policy.map(|policy| match policy {
        Policy::PolicyDocument(text) => nouns::PolicySource::Document(text),
        Policy::PolicyName(name) => nouns::PolicySource::Named(name),
    });
    let volume = |volume: wire::VolumeMount| nouns::VolumeMount {
        name: volume.name,
        path: volume.path,
        read_only: volume.read_only,
    };
    Ok(nouns::Spec {
        key: spec.key,
        image: spec.image,
        policy,
        env: spec.env.into_iter().collect(),
        volumes: spec.volumes.into_iter().map(volume).collect(),
        labels: spec.labels.into_iter().collect(),
        ephemeral: spec.ephemeral,
    })
}

pub(super) fn workspace(view: nouns::View) -> wire::Workspace {
    let state = match view.state {
        nouns::State::Stopped => wire::WorkspaceState::Stopped,
        nouns::State::Starting => wire::WorkspaceState::Starting,
        nouns::State::Running => wire::WorkspaceState::Running,
        nouns::State::Paused => wire::WorkspaceState::Paused,
        nouns::State::Failed => wire::WorkspaceState::Failed,
    };
    wire::Workspace {
        id: view.id.into(),
        spec: Some(told_spec(view.spec)),
        state: state.into(),
        failure: view.failure.unwrap_or_default(),
        generation: view.generation,
        create_time: Some(view.created.into()),
        isolation: view.isolation.into_iter().map(layer).collect(),
        limits: view.limits.into_iter().collect(),
        policy_digest: view.policy_digest,
        usage: view.usage.into_iter().collect(),
    }
}

fn told_spec(spec: nouns::Spec) -> wire::WorkspaceSpec {
    use wire::workspace_spec::Policy;
    let policy = spec.policy.map(|policy| match policy {
        nouns::PolicySource::Document(text) => Policy::PolicyDocument(text),
        nouns::PolicySource::Named(name) => Policy::PolicyName(name),
    });
    let volume = |volume: nouns::VolumeMount| wire::VolumeMount {
        name: volume.name,
        path: volume.path,
        read_only: volume.read_only,
    };
    wire::WorkspaceSpec {
        key: spec.key,
        image: spec.image,
        policy,
        env: spec.env.into_iter().collect(),
        volumes: spec.volumes.into_iter().map(volume).collect(),
        labels: spec.labels.into_iter().collect(),
        ephemeral: spec.ephemeral,
    }
}

fn layer(layer: nouns::Layer) -> wire::IsolationLayer {
    let status = match layer.status {
        nouns::LayerStatus::InForce => wire::IsolationStatus::InForce,
        nouns::LayerStatus::Weaker => wire::IsolationStatus::Weaker,
        nouns::LayerStatus::Missing => wire::IsolationStatus::Missing,
    };
    wire::IsolationLayer { name: layer.name, status: status.into(), detail: layer.detail }
}

pub(super) fn command(command: Option<wire::Command>) -> Result<nouns::Command, Status> {
    let command = command.ok_or_else(|| invalid("command", "it is required"))?;
    Ok(nouns::Command {
        argv: command.argv.iter().map(|argument| argument.to_vec()).collect(),
        env: command.env.into_iter().map(|(name, value)| (name, value.to_vec())).collect(),
        cwd: Some(command.cwd.to_vec()).filter(|cwd| !cwd.is_empty()),
        pty: command.pty.map(size).transpose()?,
        stdin: command.stdin,
        timeout: duration("timeout", command.timeout)?,
        kill_grace: duration("kill_grace", command.kill_grace)?.unwrap_or(GRACE),
        output_limit: Some(command.output_limit).filter(|limit| *limit > 0),
        lossless: command.lossless,
    })
}

fn told_command(command: nouns::Command) -> wire::Command {
    let told = |duration: Duration| duration.try_into().ok();
    wire::Command {
        argv: command.argv.into_iter().map(Into::into).collect(),
        env: command.env.into_iter().map(|(name, value)| (name, value.into())).collect(),
        cwd: command.cwd.unwrap_or_default().into(),
        pty: command
            .pty
            .map(|size| wire::TerminalSize { rows: size.rows.into(), columns: size.columns.into() }),
        stdin: command.stdin,
        timeout: command.timeout.and_then(told),
        kill_grace: told(command.kill_grace),
        output_limit: command.output_limit.unwrap_or(0),
        lossless: command.lossless,
    }
}

pub(super) fn size(size: wire::TerminalSize) -> Result<nouns::TerminalSize, Status> {
    let number =
        |value: u32| u16::try_from(value).map_err(|_large| invalid("terminal size", "at most 65535"));
    Ok(nouns::TerminalSize { rows: number(size.rows)?, columns: number(size.columns)? })
}

/// A duration that is not negative; absent stays absent.
pub(super) fn duration(name: &str, given: Option<prost_types::Duration>) -> Result<Option<Duration>, Status> {
    let parse = |given: prost_types::Duration| {
        given.try_into().map_err(|_negative| invalid(name, "it must not be negative"))
    };
    given.map(parse).transpose()
}

pub(super) fn process(view: nouns::ProcessView) -> wire::Process {
    wire::Process {
        id: view.id.into(),
        workspace: view.workspace.into(),
        generation: view.generation,
        command: Some(told_command(view.command)),
        start_time: Some(view.started.into()),
        exit: view.exit.map(exit),
        end_time: view.ended.map(Into::into),
        next_sequence: view.next_sequence,
        egress_denials: view.denials,
        egress_denial_count: view.denial_count,
    }
}

pub(super) fn exit(status: ExitStatus) -> wire::ExitStatus {
    use wire::exit_status::Outcome as Told;
    let outcome = match status.outcome {
        Outcome::Code(code) => Some(Told::Code(code)),
        Outcome::Signal(signal) => Some(Told::Signal(signal)),
        Outcome::Unknown => None,
    };
    let cause = match status.cause {
        Cause::Exited => wire::ExitCause::Exited,
        Cause::Signaled => wire::ExitCause::Signaled,
        Cause::TimedOut => wire::ExitCause::TimedOut,
        Cause::OutOfMemory => wire::ExitCause::OutOfMemory,
        Cause::Cancelled => wire::ExitCause::Cancelled,
        Cause::WorkspaceStopped => wire::ExitCause::WorkspaceStopped,
        Cause::Lost => wire::ExitCause::Lost,
    };
    wire::ExitStatus { outcome, cause: cause.into() }
}

pub(super) fn stream(stream: Stream) -> i32 {
    match stream {
        Stream::Stdout => wire::OutputStream::Stdout.into(),
        Stream::Stderr => wire::OutputStream::Stderr.into(),
    }
}

pub(super) fn scope(scope: i32) -> Result<nouns::SignalScope, Status> {
    match wire::SignalScope::try_from(scope) {
        Ok(wire::SignalScope::Process) => Ok(nouns::SignalScope::Process),
        Ok(wire::SignalScope::Group) => Ok(nouns::SignalScope::Group),
        Ok(wire::SignalScope::Tree | wire::SignalScope::Unspecified) => Ok(nouns::SignalScope::Tree),
        Err(_unknown) => Err(invalid("scope", "PROCESS, GROUP or TREE")),
    }
}

pub(super) fn signal(number: i32) -> Result<i32, Status> {
    match number {
        1..=64 => Ok(number),
        _ => Err(invalid("signal", "a number from 1 to 64")),
    }
}

pub(super) fn stat(stat: nouns::Stat) -> wire::FileStat {
    let kind = match stat.kind {
        nouns::FileKind::File => wire::FileKind::Regular,
        nouns::FileKind::Directory => wire::FileKind::Directory,
        nouns::FileKind::Symlink => wire::FileKind::Symlink,
        nouns::FileKind::Other => wire::FileKind::Other,
    };
    wire::FileStat {
        kind: kind.into(),
        size: stat.size,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        modify_time: Some(timestamp(stat.modified_ns)),
        link_target: stat.link_target.unwrap_or_default().into(),
        etag: etag(stat.version),
    }
}

fn etag(nouns::Version { inode, changed_ns, size }: nouns::Version) -> String {
    format!("{inode:x}-{changed_ns:x}-{size:x}")
}

/// What [`etag`] made.
pub(super) fn version(etag: &str) -> Result<nouns::Version, Status> {
    let parse = || {
        let mut parts = etag.split('-');
        let inode = u64::from_str_radix(parts.next()?, 16).ok()?;
        let changed_ns = i64::from_str_radix(parts.next()?, 16).ok()?;
        let size = u64::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().is_none().then_some(nouns::Version { inode, changed_ns, size })
    };
    parse().ok_or_else(|| invalid("if_match", "an etag as FileStat has it"))
}

/// Nanoseconds since 1970.
pub(super) fn nanoseconds(at: Timestamp) -> Option<i64> {
    at.seconds.checked_mul(1_000_000_000)?.checked_add(at.nanos.into())
}

fn timestamp(nanoseconds: i64) -> Timestamp {
    let nanos = i32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0);
    Timestamp { seconds: nanoseconds.div_euclid(1_000_000_000), nanos }
}

pub(super) fn time(at: SystemTime) -> Option<Timestamp> {
    Some(at.into())
}

/// One page of what has a name, in the order of names. The token is the last name of the page before, in hex.
pub(super) fn page<T>(
    all: Vec<T>,
    name: impl Fn(&T) -> &[u8],
    token: &str,
    size: usize,
) -> Result<(Vec<T>, String), Status> {
    let after = unhex(token).ok_or_else(|| invalid("page_token", "pass the one of the answer before"))?;
    let mut rest = all.into_iter().filter(|item| token.is_empty() || name(item) > after.as_slice());
    let page: Vec<T> = rest.by_ref().take(size).collect();
    let more = rest.next().is_some();
    let next = page
        .last()
        .filter(|_| more)
        .map(|last| name(last).iter().map(|byte| format!("{byte:02x}")).collect());
    Ok((page, next.unwrap_or_default()))
}

/// The size of a page: the default for 0, never more than the largest.
pub(super) fn page_size(asked: i32, default: usize, largest: usize) -> Result<usize, Status> {
    match usize::try_from(asked).map_err(|_negative| invalid("page_size", "it must not be negative"))? {
        0 => Ok(default),
        size => Ok(size.min(largest)),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{page, timestamp};

    #[test]
    fn pages_tell_everything_once_and_bad_tokens_are_refused() {
        let all: Vec<Vec<u8>> = (0..25_u8).map(|n| vec![b'a', n]).collect();
        let (mut told, mut token) = (Vec::new(), String::new());
        loop {
            let (items, next) = page(all.clone(), |item| item, &token, 10).expect("page");
            told.extend(items);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(told, all);
        for bad in ["x", "zz", "é0", "abc"] {
            assert!(page(all.clone(), |item| item, bad, 10).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn times_before_the_epoch_keep_their_order() {
        assert_eq!((timestamp(-1).seconds, timestamp(-1).nanos), (-1, 999_999_999));
    }
}
