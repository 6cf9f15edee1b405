//! `hands egress tail`: the audit log as a table.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;

use super::{Format, Shared, show};
use crate::egress::AUDIT_FILE_NAME;

/// What left, what was held back, and why
#[derive(Debug, clap::Args)]
pub(super) struct Egress {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Print the audit log
    Tail {
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Only this workspace (its id)
        #[arg(long, value_name = "ID")]
        workspace: Option<String>,
    },
}

const HEAD: &[&str] =
    &["TIME", "KIND", "DECISION", "RULE OR REASON", "WHERE", "REQUEST", "CREDENTIAL", "STATUS", "BYTES"];

impl Egress {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        let Question::Tail { follow, workspace } = self.question;
        let path = shared.state_dir()?.join("audit").join(AUDIT_FILE_NAME);
        let mut log = Log::open(path, workspace)?;
        match shared.output {
            Format::Table => show::table(HEAD, &log.rest()?.iter().map(row).collect::<Vec<_>>())?,
            Format::Json => print(&log.rest()?)?,
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        loop {
            log.wait()?;
            let lines = log.rest()?;
            match shared.output {
                Format::Json => print(&lines)?,
                Format::Table => {
                    for line in &lines {
                        writeln!(std::io::stdout().lock(), "{}", show::printable(&row(line).join("  ")))?;
                    }
                }
            }
        }
    }
}

/// The audit log from a position on.
struct Log {
    file: BufReader<File>,
    path: PathBuf,
    at: u64,
    workspace: Option<String>,
}

impl Log {
    fn open(path: PathBuf, workspace: Option<String>) -> Result<Self> {
        let file = File::open(&path).with_context(|| format!("audit log: {}", path.display()))?;
        Ok(Self { file: BufReader::new(file), path, at: 0, workspace })
    }

    /// Every whole line that was not read yet. One that is only being written is left for the next time.
    fn rest(&mut self) -> Result<Vec<Value>> {
        let mut lines = self.written()?;
        if self.is_full()? {
            // What was written between the two looks is still in the old file.
            lines.extend(self.written()?);
            (self.file, self.at) = (BufReader::new(File::open(&self.path)?), 0);
            lines.extend(self.written()?);
        }
        Ok(lines)
    }

    /// Whether the file was set aside, and another one has its name.
    fn is_full(&self) -> Result<bool> {
        let (ours, named) = (self.file.get_ref().metadata()?, std::fs::metadata(&self.path)?);
        Ok((ours.dev(), ours.ino()) != (named.dev(), named.ino()))
    }

    fn written(&mut self) -> Result<Vec<Value>> {
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut lines = Vec::new();
        let mut text = String::new();
        while self.file.read_line(&mut text)? > 0 && text.ends_with('\n') {
            self.at += text.len() as u64;
            let line: Value = serde_json::from_str(&text).with_context(|| format!("audit log: {text:?}"))?;
            if self.workspace.as_deref().is_none_or(|wanted| line["workspace"] == wanted) {
                lines.push(line);
            }
            text.clear();
        }
        Ok(lines)
    }

    fn wait(&self) -> Result<()> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
        watch.add_watch(Path::new(&self.path), AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVE_SELF)?;
        // What was written before the watch stood is not waited for.
        if !self.is_full()? && std::fs::metadata(&self.path)?.len() <= self.at {
            watch.read_events()?;
        }
        Ok(())
    }
}

fn print(lines: &[Value]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn row(line: &Value) -> Vec<String> {
    let text = |key: &str| match &line[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let or = |first: String, second: String| if first.is_empty() { second } else { first };
    let host = or(text("host"), text("address"));
    let place = if text("port").is_empty() { host } else { format!("{host}:{}", text("port")) };
    let bytes = match (text("bytes_up"), text("bytes_down")) {
        (up, down) if up.is_empty() && down.is_empty() => String::new(),
        (up, down) => format!("{up} up, {down} down"),
    };
    let request = format!("{} {}", text("method"), text("path"));
    vec![
        text("time"),
        text("kind"),
        text("decision"),
        or(text("rule"), text("reason")),
        place,
        request.trim().to_owned(),
        text("credential"),
        text("status"),
        bytes,
    ]
}

#[cfg(test)]
mod tests {
    use super::Log;

    #[test]
    fn o_07_a_follower_goes_on_where_a_full_file_was_set_aside() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("audit.jsonl");
        std::fs::write(&path, "{\"seq\":1}\n").expect("write");
        let mut log = Log::open(path.clone(), None).expect("open");
        assert_eq!(log.rest().expect("rest").len(), 1);
        std::fs::write(&path, "{\"seq\":1}\n{\"seq\":2}\n").expect("write");
        std::fs::rename(&path, directory.path().join("full")).expect("rename");
        std::fs::write(&path, "{\"seq\":3}\n").expect("write");
        log.wait().expect("there is more");
        let seen: Vec<u64> =
            log.rest().expect("rest").iter().map(|line| line["seq"].as_u64().expect("seq")).collect();
        assert_eq!(seen, [2, 3]);
        assert!(log.rest().expect("rest").is_empty());
    }
}
