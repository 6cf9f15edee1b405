//! The promises of the policy, row by row.
