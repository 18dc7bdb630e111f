//! Names of images, as FROM lines and users write them.

use std::fmt;

/// A name with its tag: `debian` and `debian:latest` are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// What somebody wrote.
    pub fn new(text: &str) -> Self {
        // A colon before the last slash is a registry's port.
        let tagged = text.rsplit('/').next().unwrap_or(text).contains(':');
        Self(if tagged { text.into() } else { format!("{text}:latest") })
    }

    /// With the tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_may_be_left_out() {
        for (written, meant) in [
            ("debian", "debian:latest"),
            ("debian:12", "debian:12"),
            ("localhost:5000/oar/base", "localhost:5000/oar/base:latest"),
            ("localhost:5000/oar/base:1", "localhost:5000/oar/base:1"),
        ] {
            assert_eq!(Name::new(written).as_str(), meant);
        }
        assert_eq!(Name::new("o/t-base"), Name::new("o/t-base:latest"));
    }
}
