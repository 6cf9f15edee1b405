//! Everything that is shown from outside: the architecture, the command line, the API, real sandboxes.

mod api;
mod archives;
mod demo;
mod egress;
mod file_tools;
mod files;
mod host;
mod jail;
mod layers;
mod lifecycle;
mod pause;
mod policy;
mod run;
mod tools;
mod trees;
mod verbs;
