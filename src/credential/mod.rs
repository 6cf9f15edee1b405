//! Credentials: what they are, where they may go, and how their values are held.
