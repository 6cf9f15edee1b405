//! Builds the root file system of a jail from its plan, by descriptors: no path is ever resolved twice.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, major, minor, mkdirat};
use nix::unistd::{fchdir, pivot_root, symlinkat};

use super::plan::{Plan, Shape, Source, Step};
use super::wire::Refusal;
use crate::sys::mount::{Attributes, attach, clone_tree, new_filesystem, set_attributes};

const LOCKED: Attributes = Attributes { read_only: false, devices: false };
const READ_ONLY: Attributes = Attributes { read_only: true, devices: false };

/// A detached copy of something of the machine, ready to be attached.
///
/// With `owners`, trees that the workspace owns are shown through that user namespace's identity map.
///
/// # Errors
/// The path and the step that failed.
pub fn detach(source: &Source, owners: Option<&OwnedFd>) -> Result<OwnedFd, Refusal> {
    let path = &source.path;
    let how =
        OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = openat2(nix::fcntl::AT_FDCWD, path, how).map_err(refuse("open a source", path))?;
    if let Some(expected) = source.device {
        let stat = fstat(&found).map_err(refuse("look at a device", path))?;
        let number = (major(stat.st_rdev), minor(stat.st_rdev));
        if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || number != expected {
            let detail = format!("{} is not the device that it should be", path.display());
            return Err(Refusal::new("check a device", detail));
        }
    }
    let tree = clone_tree(&found).map_err(refuse("copy a mount", path))?;
    let owners = if source.owned { owners } else { None };
    set_attributes(&tree, source.attributes, owners).map_err(|error| {
        let unmapped = owners.is_some() && error.raw_os_error() == Some(libc::EINVAL);
        let step = if unmapped { "show owners through an identity map" } else { "set mount attributes" };
        let remedy = "; its file system can't do that (tmpfs can from Linux 6.3 on): choose a --state-dir on ext4, XFS or btrfs";
        let detail = format!("{}: {error}{}", path.display(), if unmapped { remedy } else { "" });
        Refusal::new(step, detail)
    })?;
    Ok(tree)
}

/// Makes the new root, with what all workspaces of the image have in common, in this process, which must be alone in a
/// new mount namespace. The old root is still there.
///
/// # Errors
/// The step and the object that failed.
pub fn begin(plan: &Plan, sources: Vec<OwnedFd>) -> Result<OwnedFd, Refusal> {
    // Nothing that happens here may reach the machine's own mounts, nor the other way round.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(refuse("make mounts private", "/"))?;
    let size = c_string(&Plan::root_size().to_string());
    let options = [(c"mode", c"0755"), (c"size", size.as_c_str())];
    let tree = new_filesystem(c"tmpfs", &options, LOCKED).map_err(refuse("make the root", "tmpfs"))?;
    // Any directory will do that always exists and below which no state directory is: it is covered from here on,
    // until pivot_root takes the new root away from it.
    let anchor = File::open("/proc").map_err(refuse("open", "/proc"))?;
    attach(&tree, &anchor).map_err(refuse("attach the root", "/proc"))?;
    finish(&tree, plan, sources)?;
    Ok(tree)
}

/// Goes on with what is the workspace's own; the last step, to make the root read-only, enters it before.
///
/// # Errors
/// The step and the object that failed.
pub fn finish(root: &OwnedFd, plan: &Plan, sources: Vec<OwnedFd>) -> Result<(), Refusal> {
    let mut sources: Vec<Option<OwnedFd>> = sources.into_iter().map(Some).collect();
    for step in &plan.steps {
        if *step == Step::ReadOnly("/".into()) {
            pivot(root)?;
        }
        run(root, step, &mut sources)?;
    }
    Ok(())
}

/// /proc is mounted by now: with the old root gone the kernel would refuse it in a user namespace.
fn pivot(root: &OwnedFd) -> Result<(), Refusal> {
    fchdir(root).map_err(refuse("enter the root", "/"))?;
    pivot_root(".", ".").map_err(refuse("pivot_root", "/"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(refuse("detach the old root", "/"))?;
    nix::unistd::chdir("/").map_err(refuse("enter the root", "/"))
}

fn run(root: &OwnedFd, step: &Step, sources: &mut [Option<OwnedFd>]) -> Result<(), Refusal> {
    match step {
        Step::Directory(path, mode) => directory(root, path, *mode).map(drop).map_err(refuse("mkdir", path)),
        Step::Link(path, target) => link(root, path, target).map_err(refuse("symlink", path)),
        Step::File(path, content) => {
            let file = file(root, path, content).map_err(refuse("write", path))?;
            fchmod(&file, Mode::from_bits_truncate(0o644)).map_err(refuse("chmod", path))
        }
        Step::Show(number, path, shape) => {
            let tree = sources.get_mut(*number).and_then(Option::take);
            let tree = tree.ok_or_else(|| Refusal::new("show", format!("{}: no source", path.display())))?;
            let target = target(root, path, *shape).map_err(refuse("make a mount point", path))?;
            attach(tree, target).map_err(refuse("mount", path))
        }
        Step::Memory(path, size, mode) => {
            memory(root, path, *size, mode).map_err(refuse("mount tmpfs", path))
        }
        Step::Processes => {
            // init, whose command line is the supervisor's own, does not show.
            let hidden = [(c"hidepid", c"invisible")];
            let tree = new_filesystem(c"proc", &hidden, LOCKED).map_err(refuse("make procfs", "/proc"))?;
            let target = directory(root, Path::new("/proc"), 0o755).map_err(refuse("mkdir", "/proc"))?;
            attach(&tree, target).map_err(refuse("mount", "/proc"))?;
            forbid_namespaces(&tree).map_err(refuse("forbid namespaces", "/proc/sys/user"))
        }
        Step::Terminals => {
            let options = [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"newinstance", c"")];
            let (devices, path) = (Attributes { devices: true, read_only: false }, "/dev/pts");
            let tree =
                new_filesystem(c"devpts", &options[..2], devices).map_err(refuse("make devpts", path))?;
            let target = directory(root, Path::new(path), 0o755).map_err(refuse("mkdir", path))?;
            attach(tree, target).map_err(refuse("mount", path))
        }
        Step::MaskFile(path) => mask_file(root, path).map_err(refuse("mask", path)),
        Step::MaskDirectory(path) => mask_directory(root, path).map_err(refuse("mask", path)),
        Step::ReadOnly(path) => read_only(root, path).map_err(refuse("make read-only", path)),
    }
}

/// A detached procfs that hides nothing, for init alone: what it has to end may be another's, or not dumpable. Made
/// while an unmasked one is still mounted, without which the kernel allows none.
///
/// # Errors
/// The kernel's.
pub fn processes() -> Result<OwnedFd, Refusal> {
    new_filesystem(c"proc", &[], READ_ONLY).map_err(refuse("make procfs", "for init"))
}

fn refuse<E: Into<io::Error>>(step: &str, object: impl AsRef<Path>) -> impl FnOnce(E) -> Refusal {
    move |error| Refusal::new(step, format!("{}: {}", object.as_ref().display(), error.into()))
}

/// Opens an object below the root without following any link, since the workspace may have written to its parents.
fn lookup(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let inside = path.strip_prefix("/").unwrap_or(path);
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(root, inside, how)?)
}

/// The directory at `path`, made with its parents where it is missing; a link anywhere on the way is an error.
fn directory(root: &OwnedFd, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = root.try_clone()?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        match mkdirat(&at, name, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(Errno::EEXIST) => at = openat(&at, name, flags, Mode::empty())?,
            // A read-only parent: what is there will do, what is missing cannot be made.
            Err(Errno::EROFS) => {
                at = openat(&at, name, flags, Mode::empty()).map_err(|_missing| Errno::EROFS)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(at)
}

fn parent<'a>(root: &OwnedFd, path: &'a Path) -> io::Result<(OwnedFd, &'a Path)> {
    let name = path.file_name().map(Path::new).ok_or(Errno::EINVAL)?;
    Ok((directory(root, path.parent().unwrap_or(path), 0o755)?, name))
}

fn link(root: &OwnedFd, path: &Path, target: &Path) -> io::Result<()> {
    let (parent, name) = parent(root, path)?;
    Ok(symlinkat(target, &parent, name)?)
}

fn file(root: &OwnedFd, path: &Path, content: &[Arc<[u8]>]) -> io::Result<File> {
    let (parent, name) = parent(root, path)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(&parent, name, flags, Mode::from_bits_truncate(0o644))?);
    content.iter().try_for_each(|piece| file.write_all(piece))?;
    Ok(file)
}

fn target(root: &OwnedFd, path: &Path, shape: Shape) -> io::Result<OwnedFd> {
    if shape == Shape::Directory {
        return directory(root, path, 0o755);
    }
    drop(file(root, path, &[])?);
    lookup(root, path)
}

fn memory(root: &OwnedFd, path: &Path, size: u64, mode: &str) -> io::Result<()> {
    let (size, mode) = (c_string(&size.to_string()), c_string(mode));
    let options: [(&CStr, &CStr); 2] = [(c"size", &size), (c"mode", &mode)];
    attach(new_filesystem(c"tmpfs", &options, LOCKED)?, directory(root, path, 0o755)?)
}

/// Also where a filter would fail: no process in here, whatever it calls, gets a user namespace of its own.
///
/// The file is reached from the procfs that was made a moment ago and that no command has seen.
fn forbid_namespaces(proc: &OwnedFd) -> io::Result<()> {
    let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV,
    );
    File::from(openat2(proc, "sys/user/max_user_namespaces", how)?).write_all(b"0")
}

fn exists(root: &OwnedFd, path: &Path) -> bool {
    let inside = path.strip_prefix("/").unwrap_or(path);
    fstatat(root, inside, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

fn mask_file(root: &OwnedFd, path: &Path) -> io::Result<()> {
    if !exists(root, path) {
        return Ok(());
    }
    let null = clone_tree(lookup(root, Path::new("/dev/null"))?)?;
    set_attributes(&null, Attributes { read_only: true, devices: true }, None)?;
    attach(null, lookup(root, path)?)
}

fn mask_directory(root: &OwnedFd, path: &Path) -> io::Result<()> {
    if !exists(root, path) {
        return Ok(());
    }
    let empty = new_filesystem(c"tmpfs", &[(c"size", c"4096"), (c"mode", c"0555")], READ_ONLY)?;
    attach(empty, lookup(root, path)?)
}

fn read_only(root: &OwnedFd, path: &Path) -> io::Result<()> {
    if path == Path::new("/") {
        // The root's own mount only: what is mounted on it has its own attributes.
        let flags = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV;
        return Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?);
    }
    let found = lookup(root, path)?;
    let tree = clone_tree(&found)?;
    set_attributes(&tree, READ_ONLY, None)?;
    attach(tree, found)
}

fn c_string(text: &str) -> CString {
    // Numbers and octal modes hold no NUL.
    CString::new(std::ffi::OsStr::new(text).as_bytes()).unwrap_or_default()
}

/// Number of a descriptor, for messages and close lists.
pub(super) fn number(descriptor: impl AsFd) -> i32 {
    descriptor.as_fd().as_raw_fd()
}
