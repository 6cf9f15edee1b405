//! Code generated from `proto/`, and its descriptors.
#![expect(
    unused_qualifications,
    clippy::doc_markdown,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    clippy::excessive_nesting,
    clippy::large_enum_variant,
    reason = "generated; the comments of the proto files are the documentation"
)]

/// The compiled proto files, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

include!(concat!(env!("OUT_DIR"), "/hands.v1alpha1.rs"));
