//! The promises of credentials, row by row.
