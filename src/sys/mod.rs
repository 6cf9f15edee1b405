//! Everything that needs `unsafe` or a raw system call, each with why it is needed and why it holds.
#![expect(unsafe_code, reason = "raw system calls live here and nowhere else")]

pub mod net;
