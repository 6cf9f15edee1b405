//! Workspaces: one life each, joined from jail, storage and egress.

mod types;

pub use types::{
    Command, DirectoryEntry, FileKind, Layer, LayerStatus, PolicySource, ProcessView, SignalScope, Spec,
    Stat, State, TerminalSize, View, VolumeMount,
};
