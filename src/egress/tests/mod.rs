//! Tests of the way out on loopback, with real TLS origins and no internet.
