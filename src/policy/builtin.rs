//! The policies that come with the program; `extends` and callers name them.

/// Names and documents; a row here and a file are all that a new one needs.
const DOCUMENTS: &[(&str, &str)] = &[
    ("deny-all", include_str!("../../policies/deny-all.yaml")),
    ("package-registries", include_str!("../../policies/package-registries.yaml")),
];

/// The document of that name.
pub(super) fn document(name: &str) -> Option<&'static str> {
    DOCUMENTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// All names, for messages.
pub(super) fn names() -> String {
    DOCUMENTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
