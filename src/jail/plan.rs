//! The plan of a jail: pure data that says what its root holds, made and tested without any privilege.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::image::Image;
use super::wire::JailRequest;
use crate::sys::mount::Attributes;

/// Where the working directory of every workspace is.
pub const WORKSPACE: &str = "/workspace";
/// Where its home directory is.
pub const HOME: &str = "/home/agent";
/// User and group of commands inside.
pub const AGENT: u32 = 1000;
/// Size of the root itself, which holds only what we make, in bytes.
const ROOT_SIZE: u64 = 16 * 1024 * 1024;
/// Size of `/tmp` and of `/dev/shm` where no limit is asked for, in bytes.
const TMP_SIZE: u64 = 1024 * 1024 * 1024;

/// Character devices shown in `/dev`, with the numbers that they must have.
const DEVICES: &[(&str, u64, u64)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Files of /proc that tell about or steer the machine.
const MASKED_FILES: &[&str] = &[
    "cmdline",
    "config.gz",
    "kallsyms",
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "sched_debug",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
];
/// The same for directories.
const MASKED_DIRECTORIES: &[&str] =
    &["acpi", "asound", "bus", "driver", "dynamic_debug", "fs", "irq", "mpt", "scsi", "tty"];

/// What the root of a jail holds and how it got there, in order.
#[derive(Debug, Default)]
pub struct Plan {
    /// Trees of the machine or the state directory that are shown.
    pub sources: Vec<Source>,
    /// Steps on the new root.
    pub steps: Vec<Step>,
}

/// Something that exists outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path on the machine; the operator's or ours, never a caller's.
    pub path: PathBuf,
    /// How it is shown.
    pub attributes: Attributes,
    /// Whether owners are shown through the workspace's identity map, as for everything it may write.
    pub owned: bool,
    /// The device number that it must have.
    pub device: Option<(u64, u64)>,
}

/// One thing to make below the new root. Paths are absolute inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An empty directory, with its parents.
    Directory(PathBuf, u32),
    /// A symbolic link.
    Link(PathBuf, PathBuf),
    /// A file with the pieces of its content.
    File(PathBuf, Vec<Arc<[u8]>>),
    /// The source of this number, on a directory or a file.
    Show(usize, PathBuf, Shape),
    /// A fresh memory file system of this size in bytes.
    Memory(PathBuf, u64, &'static str),
    /// Process information of the jail's own namespace.
    Processes,
    /// Terminals of its own.
    Terminals,
    /// The null device over a file, if it exists.
    MaskFile(PathBuf),
    /// An empty read-only directory over a directory, if it exists.
    MaskDirectory(PathBuf),
    /// No writes from here on.
    ReadOnly(PathBuf),
}

/// What a mount point must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// For a directory.
    Directory,
    /// For anything else.
    File,
}

/// Where the workspace's own files stand on the machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// State directory.
    pub state_dir: PathBuf,
    /// Home of the user who runs the supervisor, for tool chains.
    pub home: PathBuf,
}

impl Places {
    /// The directory of a workspace's own files.
    #[must_use]
    pub fn workspace(&self, id: &crate::id::Id) -> PathBuf {
        self.state_dir.join("workspaces").join(id.as_str())
    }

    /// The directory of a named volume.
    #[must_use]
    pub fn volume(&self, name: &crate::id::Id) -> PathBuf {
        self.state_dir.join("volumes").join(name.as_str())
    }
}

impl Plan {
    /// What all workspaces of an image have in common, whoever they belong to.
    #[must_use]
    pub fn of_image(image: &Image, places: &Places) -> Self {
        let mut plan = Self::default();
        plan.system(image, places);
        plan.made(image);
        plan.devices();
        plan.processes();
        plan
    }

    /// What one start of a workspace adds. `roots` are the machine's trusted certificates.
    #[must_use]
    pub fn of_workspace(image: &Image, request: &JailRequest, places: &Places, roots: &Arc<[u8]>) -> Self {
        let mut plan = Self::default();
        if let Some(bundle) = image.trust_bundles.first() {
            let authority = format!("\n{}", request.authority).into_bytes();
            plan.steps.push(Step::File(bundle.clone(), vec![Arc::clone(roots), authority.into()]));
        }
        let tmp = request.limits.tmp.unwrap_or(TMP_SIZE);
        plan.steps.push(Step::Memory("/dev/shm".into(), tmp, "1777"));
        plan.steps.push(Step::Memory("/tmp".into(), tmp, "1777"));
        plan.persistent(request, places);
        plan.steps.push(Step::ReadOnly(PathBuf::from("/")));
        plan
    }

    /// Size of the root in bytes.
    #[must_use]
    pub fn root_size() -> u64 {
        ROOT_SIZE
    }

    fn show(&mut self, source: Source, at: &Path, shape: Shape) {
        self.steps.push(Step::Show(self.sources.len(), at.to_path_buf(), shape));
        self.sources.push(source);
    }

    fn system(&mut self, image: &Image, places: &Places) {
        for path in &image.system {
            if let Ok(target) = std::fs::read_link(path) {
                self.steps.push(Step::Link(path.clone(), target));
            } else if let Ok(found) = std::fs::metadata(path) {
                let shape = if found.is_dir() { Shape::Directory } else { Shape::File };
                self.show(Source::system(path), path, shape);
            }
        }
        for toolchain in &image.toolchains {
            if let Some(found) = toolchain.locate(&places.home) {
                self.show(Source::system(&found), &toolchain.at, Shape::Directory);
            }
        }
    }

    fn made(&mut self, image: &Image) {
        for (path, text) in &image.files {
            self.steps.push(Step::File(path.clone(), vec![text.as_bytes().into()]));
        }
        if let Some((first, others)) = image.trust_bundles.split_first() {
            self.steps.extend(others.iter().map(|path| Step::Link(path.clone(), first.clone())));
        }
        for path in &image.directories {
            self.steps.push(Step::Directory(path.clone(), 0o755));
        }
        for (path, target) in &image.links {
            self.steps.push(Step::Link(path.clone(), target.clone()));
        }
    }

    fn devices(&mut self) {
        self.steps.push(Step::Directory("/dev".into(), 0o755));
        for (name, major, minor) in DEVICES {
            let path = Path::new("/dev").join(name);
            let attributes = Attributes { devices: true, read_only: false };
            let device = Some((*major, *minor));
            self.show(Source { path: path.clone(), attributes, owned: false, device }, &path, Shape::File);
        }
        self.steps.push(Step::Terminals);
        let links = [
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ];
        for (name, target) in links {
            self.steps.push(Step::Link(Path::new("/dev").join(name), target.into()));
        }
        self.steps.push(Step::Memory("/run".into(), ROOT_SIZE, "0755"));
    }

    fn processes(&mut self) {
        self.steps.push(Step::Processes);
        let proc = Path::new("/proc");
        self.steps.extend(MASKED_FILES.iter().map(|name| Step::MaskFile(proc.join(name))));
        self.steps.extend(MASKED_DIRECTORIES.iter().map(|name| Step::MaskDirectory(proc.join(name))));
        self.steps.push(Step::ReadOnly(proc.join("sys")));
    }

    fn persistent(&mut self, request: &JailRequest, places: &Places) {
        let own = places.workspace(&request.workspace);
        self.show(Source::owned(own.join("workspace"), false), Path::new(WORKSPACE), Shape::Directory);
        self.show(Source::owned(own.join("home"), false), Path::new(HOME), Shape::Directory);
        for (name, path, read_only) in &request.volumes {
            let source = Source::owned(places.volume(name), *read_only);
            self.show(source, Path::new(path), Shape::Directory);
        }
    }
}

impl Source {
    fn system(path: &Path) -> Self {
        let attributes = Attributes { read_only: true, devices: false };
        Self { path: path.to_path_buf(), attributes, owned: false, device: None }
    }

    fn owned(path: PathBuf, read_only: bool) -> Self {
        Self { path, attributes: Attributes { read_only, devices: false }, owned: true, device: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::wire::Limits;

    fn plan() -> Plan {
        let request = JailRequest {
            workspace: "ws-1".parse().expect("id"),
            generation: 1,
            image: "host".into(),
            volumes: vec![("data".parse().expect("id"), "/data".into(), true)],
            authority: "CERTIFICATE".into(),
            limits: Limits::default(),
            seccomp: "default".into(),
        };
        let places = Places { state_dir: "/state".into(), home: "/nowhere".into() };
        let image = Image::built_in("host").expect("image");
        let mut plan = Plan::of_image(&image, &places);
        let own = Plan::of_workspace(&image, &request, &places, &Arc::from(&b"ROOTS"[..]));
        let offset = plan.sources.len();
        plan.sources.extend(own.sources);
        plan.steps.extend(own.steps.into_iter().map(|step| match step {
            Step::Show(number, path, shape) => Step::Show(number + offset, path, shape),
            step => step,
        }));
        plan
    }

    #[test]
    fn i_18_only_the_listed_devices_may_be_opened() {
        for source in plan().sources {
            assert_eq!(source.attributes.devices, source.device.is_some(), "{source:?}");
        }
    }

    #[test]
    fn i_29_what_is_not_the_workspaces_own_is_read_only() {
        let plan = plan();
        for source in &plan.sources {
            assert!(source.owned || source.attributes.read_only || source.device.is_some(), "{source:?}");
        }
        assert_eq!(plan.steps.last(), Some(&Step::ReadOnly("/".into())));
    }

    #[test]
    fn h_27_trust_bundles_hold_the_machines_roots_and_ours() {
        let bundles = plan().steps.into_iter().filter_map(|step| match step {
            Step::File(path, content) if path.ends_with("ca-certificates.crt") => Some(content.concat()),
            _ => None,
        });
        let all: Vec<_> = bundles.collect();
        assert_eq!(all, vec![b"ROOTS\nCERTIFICATE"]);
    }

    #[test]
    fn v_13_the_plan_shows_nothing_of_home_root_or_var() {
        for source in plan().sources {
            let text = source.path.display().to_string();
            let own = text.starts_with("/state/") || text.starts_with("/dev/");
            let system =
                ["/usr", "/bin", "/sbin", "/lib", "/etc/"].iter().any(|start| text.starts_with(start));
            assert!(own || system, "{text}");
        }
    }
}
