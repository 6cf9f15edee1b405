//! `hands cp`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Shared, block_on, tell};
use crate::api::client::Client;
use crate::api::proto::file_service_read_response::Message as Read_;
use crate::api::proto::file_service_write_request::Message as Write_;
use crate::api::proto::{
    FileKind, FileServiceListRequest, FileServiceReadRequest, FileServiceStatRequest,
    FileServiceWriteRequest, FileStat, FileWriteFinish, FileWriteStart,
};
use crate::shutdown::Shutdown;

/// Bytes in one message.
const CHUNK: usize = 256 * 1024;

/// Copy files and directories into a workspace or out of it
///
/// Modes are kept; links and special files are skipped and told. A directory is copied with what it holds.
#[derive(Debug, clap::Args)]
pub(super) struct Cp {
    /// A path here, or `WORKSPACE:/path`
    source: String,
    /// A path here, or `WORKSPACE:/path`
    target: String,
}

/// A path here or there.
enum Place {
    Here(PathBuf),
    There { workspace: String, path: PathBuf },
}

impl Place {
    /// `KEY:/path` is there; everything else, and what begins with `/` or `.`, is here.
    fn parse(text: &str) -> Self {
        match text.split_once(":/") {
            Some((workspace, path))
                if !workspace.contains('/') && !workspace.starts_with('.') && !workspace.is_empty() =>
            {
                Self::There { workspace: workspace.to_owned(), path: Path::new("/").join(path) }
            }
            _ => Self::Here(PathBuf::from(text)),
        }
    }
}

impl Cp {
    pub(super) fn run(self, shared: &Shared) -> Result<ExitCode> {
        block_on(async {
            let client = shared.connect().await?;
            match (Place::parse(&self.source), Place::parse(&self.target)) {
                (Place::Here(from), Place::There { workspace, path }) => {
                    Remote { client, workspace }.put_all(&from, &path).await?;
                }
                (Place::There { workspace, path }, Place::Here(to)) => {
                    Remote { client, workspace }.get_all(&path, &to).await?;
                }
                _ => bail!("cp: {} {}: write one of them as WORKSPACE:/path", self.source, self.target),
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

struct Remote {
    client: Client,
    workspace: String,
}

impl Remote {
    async fn put_all(&self, from: &Path, to: &Path) -> Result<()> {
        let onto_directory = self.stat(to).await.is_some_and(|stat| stat.kind() == FileKind::Directory);
        let to = within(from, to, onto_directory);
        let mut queue = vec![(from.to_path_buf(), to)];
        while let Some((from, to)) = queue.pop() {
            let facts = fs::symlink_metadata(&from).with_context(|| format!("cp: {}", from.display()))?;
            if facts.is_dir() {
                for entry in fs::read_dir(&from).with_context(|| format!("cp: {}", from.display()))? {
                    let entry = entry?;
                    queue.push((entry.path(), to.join(entry.file_name())));
                }
            } else if facts.is_file() {
                self.put(&from, &to, facts.permissions().mode() & 0o777).await?;
            } else {
                tell(&format!("hands: cp: {}: skipped: neither file nor directory", from.display()));
            }
        }
        Ok(())
    }

    async fn put(&self, from: &Path, to: &Path, mode: u32) -> Result<()> {
        let mut file = File::open(from).with_context(|| format!("cp: {}", from.display()))?;
        let start = FileWriteStart {
            workspace: self.workspace.clone(),
            path: to.as_os_str().as_bytes().to_vec().into(),
            mode: Some(mode),
            create_parents: true,
            ..FileWriteStart::default()
        };
        let (say, said) = mpsc::channel(4);
        let tasks = Shutdown::new();
        let (failed, failure) = tokio::sync::oneshot::channel();
        tasks.spawn(async move {
            if let Err(error) = send(&mut file, start, &say).await {
                drop(failed.send(error));
            }
        });
        let written = self.client.files().write(ReceiverStream::new(said)).await;
        if let Ok(error) = failure.await {
            bail!("cp: {}: {error}", from.display());
        }
        written?;
        Ok(())
    }

    async fn get_all(&self, from: &Path, to: &Path) -> Result<()> {
        let stat = self.client.files().stat(self.named(from)).await?.into_inner().stat.unwrap_or_default();
        let to = within(from, to, to.is_dir());
        let mut queue = vec![(from.to_path_buf(), to, stat)];
        while let Some((from, to, stat)) = queue.pop() {
            match stat.kind() {
                FileKind::Directory => {
                    fs::create_dir_all(&to).with_context(|| format!("cp: {}", to.display()))?;
                    for (name, stat) in self.list(&from).await? {
                        queue.push((from.join(&name), to.join(&name), stat));
                    }
                }
                FileKind::Regular => self.get(&from, &to, stat.mode).await?,
                _ => tell(&format!("hands: cp: {}: skipped: neither file nor directory", from.display())),
            }
        }
        Ok(())
    }

    /// Written beside its place and renamed, so that a copy that breaks leaves what was there.
    async fn get(&self, from: &Path, to: &Path, mode: u32) -> Result<()> {
        let request = FileServiceReadRequest {
            workspace: self.workspace.clone(),
            path: from.as_os_str().as_bytes().to_vec().into(),
            ..FileServiceReadRequest::default()
        };
        let mut told = self.client.files().read(request).await?.into_inner();
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(format!(".hands-{}", std::process::id()));
        let beside = to.with_file_name(name);
        let mut file = File::create(&beside).with_context(|| format!("cp: {}", beside.display()))?;
        let mut complete = false;
        while let Some(message) = told.message().await? {
            match message.message {
                Some(Read_::Data(data)) => {
                    file.write_all(&data).with_context(|| format!("cp: {}", to.display()))?;
                }
                Some(Read_::End(_)) => complete = true,
                Some(Read_::Stat(_)) | None => {}
            }
        }
        if !complete {
            fs::remove_file(&beside)?;
            bail!("cp: {}: the stream was cut: copy again", from.display());
        }
        file.set_permissions(fs::Permissions::from_mode(mode & 0o777))?;
        fs::rename(&beside, to).with_context(|| format!("cp: {}", to.display()))
    }

    async fn list(&self, path: &Path) -> Result<Vec<(std::ffi::OsString, FileStat)>> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = FileServiceListRequest {
                workspace: self.workspace.clone(),
                path: path.as_os_str().as_bytes().to_vec().into(),
                page_size: 10_000,
                page_token,
            };
            let page = self.client.files().list(request).await?.into_inner();
            for entry in page.entries {
                // Names come from inside: one that could leave the directory is no name.
                if entry.name.contains(&b'/') || matches!(entry.name.as_ref(), b"" | b"." | b"..") {
                    bail!("cp: {}: an entry has an impossible name", path.display());
                }
                all.push((std::ffi::OsString::from_vec(entry.name.to_vec()), entry.stat.unwrap_or_default()));
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    async fn stat(&self, path: &Path) -> Option<FileStat> {
        self.client.files().stat(self.named(path)).await.ok()?.into_inner().stat
    }

    fn named(&self, path: &Path) -> FileServiceStatRequest {
        let path = path.as_os_str().as_bytes().to_vec().into();
        FileServiceStatRequest { workspace: self.workspace.clone(), path, follow: true }
    }
}

/// As cp(1): onto a directory means into it.
fn within(from: &Path, to: &Path, onto_directory: bool) -> PathBuf {
    match from.file_name() {
        Some(name) if onto_directory => to.join(name),
        _ if to.as_os_str() == OsStr::new("") => PathBuf::from("."),
        _ => to.to_path_buf(),
    }
}

/// Sends a file, and at its end the message without which the write changes nothing.
async fn send(
    file: &mut File,
    start: FileWriteStart,
    say: &mpsc::Sender<FileServiceWriteRequest>,
) -> std::io::Result<()> {
    let message = |message| FileServiceWriteRequest { message: Some(message) };
    let mut sent = 0;
    let mut next = Some(Write_::Start(start));
    while let Some(piece) = next {
        sent += if let Write_::Data(data) = &piece { data.len() as u64 } else { 0 };
        // The server says why it stopped reading.
        let Ok(()) = say.send(message(piece)).await else { return Ok(()) };
        next = read(file)?;
    }
    drop(say.send(message(Write_::Finish(FileWriteFinish { bytes: sent }))).await);
    Ok(())
}

fn read(file: &mut File) -> std::io::Result<Option<Write_>> {
    let mut buffer = vec![0_u8; CHUNK];
    let length = file.read(&mut buffer)?;
    buffer.truncate(length);
    Ok((length > 0).then(|| Write_::Data(buffer.into())))
}
