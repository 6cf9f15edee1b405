//! The caller's own terminal while a command has one of ours.

use std::io::{IsTerminal, stdin, stdout};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::api::proto::TerminalSize;
use crate::sys::terminal::size;

/// A terminal in raw mode; it gets its old mode back when this is dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn enter() -> nix::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(errno) = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.before) {
            // A terminal that is gone has no mode.
            tracing::debug!(%errno, "terminal");
        }
    }
}

/// The size of the terminal that we are used at; `None` if input or output is something else.
pub(super) fn present() -> Option<TerminalSize> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return None;
    }
    let (rows, columns) = size(stdout()).ok()?;
    Some(TerminalSize { rows: rows.into(), columns: columns.into() })
}
