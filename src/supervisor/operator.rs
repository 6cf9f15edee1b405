//! What the operator wrote: configuration, default policy, credentials. Read once, checked before anything starts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statfs::statfs;
use nix::unistd::{User, geteuid};

use super::{Failure, ServeOptions};
use crate::config::Config;
use crate::credential::{self, Source};
use crate::jail::wire::{Changes, Document, Refusal};
use crate::policy::Policy;

/// uid and gid of the daemon where the machine has no user `hands`; outside the ranges that distributions give out.
const DAEMON_UID: u32 = 64_213;
/// Largest secret in bytes.
const LARGEST_SECRET: u64 = 64 * 1024;

/// File systems (`linux/magic.h`) that only this machine changes: ext4, XFS, btrfs, f2fs, tmpfs, ramfs, overlay, ZFS.
const LOCAL: &[i64] =
    &[0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x8584_58f6, 0x794c_7630, 0x2fc1_2fc1];

/// The operator's documents.
#[derive(Debug)]
pub(super) struct Operator {
    config: Config,
    documents: BTreeMap<Document, (String, String)>,
    roots: Vec<String>,
    credentials: credential::Document,
    /// Relative paths of secrets are relative to the document that names them.
    beside: PathBuf,
}

impl Operator {
    pub(super) fn load(options: &ServeOptions) -> Result<Self, Failure> {
        let mut documents = BTreeMap::new();
        let config = match options.config.clone().or_else(default_config) {
            Some(path) => {
                let text = read(Document::Configuration, &path, &mut documents)?;
                Config::parse(&text, &path).map_err(|error| invalid(&path, error))?
            }
            None => Config::default(),
        };
        if let Some(path) = &config.policy {
            let text = read(Document::Policy, path, &mut documents)?;
            Policy::parse(&text, &path.to_string_lossy()).map_err(|error| invalid(path, error))?;
        }
        let mut credentials = credential::Document::empty();
        let mut beside = PathBuf::from("/");
        if let Some(path) = options.credentials.as_ref().or(config.credentials.as_ref()) {
            let path = std::path::absolute(path).map_err(|error| invalid(path, error))?;
            let text = read(Document::Credentials, &path, &mut documents)?;
            credentials = credential::Document::parse(&text, &path.to_string_lossy())
                .map_err(|error| invalid(&path, error))?;
            beside = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        }
        let root = |path: &PathBuf| fs::read_to_string(path).map_err(|error| invalid(path, error));
        let roots = config.egress.roots.iter().map(root).collect::<Result<_, _>>()?;
        Ok(Self { config, documents, roots, credentials, beside })
    }

    pub(super) fn documents(&self) -> BTreeMap<Document, (String, String)> {
        self.documents.clone()
    }

    pub(super) fn roots(&self) -> Vec<String> {
        self.roots.clone()
    }

    /// uid of the daemon: configured, or that of the user `hands`, or a fixed one.
    pub(super) fn daemon_uid(&self) -> u32 {
        if !geteuid().is_root() {
            return geteuid().as_raw();
        }
        let named = || User::from_name("hands").ok().flatten().map(|user| user.uid.as_raw());
        self.config.daemon_uid.or_else(named).unwrap_or(DAEMON_UID)
    }

    /// A secret that the credentials name, to read from, and what tells of its changes. The daemon can name no other
    /// file.
    pub(super) fn open_secret(&self, name: &str) -> Result<(Changes, Vec<OwnedFd>), Refusal> {
        let refuse = |detail: String| Refusal::new("open a secret", format!("{name}: {detail}"));
        let found = self.credentials.find(name).ok_or_else(|| refuse("no such credential".into()))?;
        match found.source() {
            Source::File(path) => {
                let path = self.beside.join(path);
                // Before it is opened, so that no change falls between the two.
                let watch = watch(&path);
                // A FIFO in its place must not hold the supervisor up.
                let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
                let file = file.map_err(|error| refuse(format!("{}: {error}", path.display())))?;
                let facts = file.metadata().map_err(|error| refuse(error.to_string()))?;
                if !facts.is_file() || facts.len() > LARGEST_SECRET {
                    return Err(refuse(format!("{} is no file of at most 64 KiB", path.display())));
                }
                let changes = if watch.is_some() { Changes::Watched } else { Changes::Unknown };
                Ok((changes, std::iter::once(file.into()).chain(watch).collect()))
            }
            Source::Env(variable) => {
                let value = std::env::var(variable);
                let value = value.map_err(|_unset| refuse(format!("variable {variable} is not set")))?;
                let secret = in_memory(&value).map_err(|error| refuse(error.to_string()))?;
                Ok((Changes::Never, vec![secret]))
            }
        }
    }
}

/// A descriptor that can be read once anything happens in the directory of a file, or in that which a link leads to.
/// None where the kernel would not see every change.
fn watch(path: &Path) -> Option<OwnedFd> {
    let what = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    for path in [path, &path.canonicalize().ok()?] {
        let directory = path.parent()?;
        if !LOCAL.contains(&statfs(directory).ok()?.filesystem_type().0) {
            return None;
        }
        inotify.add_watch(directory, what).ok()?;
    }
    inotify.as_fd().try_clone_to_owned().ok()
}

fn in_memory(value: &str) -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("secret", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(value.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.into())
}

/// Where the configuration stands unless another is named.
fn default_config() -> Option<PathBuf> {
    let path = if geteuid().is_root() {
        PathBuf::from("/etc/hands/hands.toml")
    } else {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
        let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?;
        base.join("hands/hands.toml")
    };
    path.exists().then_some(path)
}

fn read(
    kind: Document,
    path: &Path,
    documents: &mut BTreeMap<Document, (String, String)>,
) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|error| invalid(path, error))?;
    documents.insert(kind, (path.to_string_lossy().into_owned(), text.clone()));
    Ok(text)
}

#[expect(clippy::needless_pass_by_value, reason = "callers have an error of their own to give away")]
fn invalid(path: &Path, error: impl ToString) -> Failure {
    Failure::new("configuration", path.display(), error.to_string())
}
