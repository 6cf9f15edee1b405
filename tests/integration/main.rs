//! Everything that is shown from outside: the architecture, the command line, real sandboxes.

mod host;
mod layers;
mod run;
