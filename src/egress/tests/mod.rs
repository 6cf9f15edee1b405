//! Tests of the way out on loopback, with real TLS origins and no internet.

mod client;
mod frames;
mod grammar;
mod http2;
mod interception;
mod ledger;
mod names;
mod origin;
mod rates;
mod records;
mod resolver;
mod rig;
mod treatment;
mod upstreams;
mod websocket;
