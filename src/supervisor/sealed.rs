//! Our own executable as a sealed copy in memory, so that nothing that runs in a jail can reach the file on disk
//! through `/proc/PID/exe` (CVE-2019-5736).

use std::ffi::CString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::fexecve;

use super::Failure;

/// Name of the copy, as `/proc/self/exe` shows it.
const NAME: &str = "hands";
/// `MFD_EXEC` of `linux/memfd.h`, Linux 6.3.
const MFD_EXEC: u32 = 0x10;

/// Makes this process run from the sealed copy; returns at once if it does already.
pub(super) fn ensure() -> Result<(), Failure> {
    let shown = std::fs::read_link("/proc/self/exe").map_err(failed)?;
    if shown.as_os_str().as_bytes().starts_with(b"/memfd:") {
        return Ok(());
    }
    let mut program = File::open("/proc/self/exe").map_err(failed)?;
    let copy = create().map_err(failed)?;
    let mut copy = File::from(copy);
    std::io::copy(&mut program, &mut copy).map_err(failed)?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).map_err(failed)?;
    let arguments: Vec<CString> =
        std::env::args_os().filter_map(|text| CString::new(text.as_bytes()).ok()).collect();
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect();
    match fexecve(&copy, &arguments, &environment) {
        Ok(never) => match never {},
        Err(errno) => Err(failed(errno)),
    }
}

/// A memory file that may be executed; kernels before 6.3 do not know the flag that says so and allow it always.
fn create() -> nix::Result<std::os::fd::OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(NAME, flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(NAME, flags),
        other => other,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers have an error of their own to give away")]
fn failed(error: impl ToString) -> Failure {
    let remedy = format!("{}; /proc must be mounted and vm.memfd_noexec below 2", error.to_string());
    Failure::new("run from a sealed copy", "/proc/self/exe", remedy)
}
