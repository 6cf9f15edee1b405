//! Everything that is shown from outside: the architecture, the command line, real sandboxes.

mod layers;
