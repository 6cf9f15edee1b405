//! What was found out about this machine, one layer at a time.

use super::wire::Strength;

/// One thing that Hands relies on.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its name.
    pub layer: String,
    /// Whether it holds here.
    pub strength: Strength,
    /// What was found.
    pub found: String,
    /// What to do if it does not hold; empty otherwise.
    pub remedy: String,
}

impl Finding {
    /// A finding; the remedy of one that holds is left out.
    #[must_use]
    pub fn new(layer: &str, strength: Strength, found: impl Into<String>, remedy: &str) -> Self {
        let remedy = if strength == Strength::InForce { "" } else { remedy };
        Self { layer: layer.to_owned(), strength, found: found.into(), remedy: remedy.to_owned() }
    }
}
