//! Which images there are to build, what each starts from, and which comes first.

use super::dockerfile::{self, Dockerfile};
use super::expand;
use super::name::Name;
use crate::error::{Error, Result};
use crate::rooted::Root;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One image to build.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Short name for prefixes: the role, or the base image's name.
    pub title: String,
    /// Names under which other Dockerfiles find it in FROM.
    pub known_as: Vec<Name>,
    /// Name in the store.
    pub tag: String,
    /// Folder with the Dockerfile; the build context.
    pub context: Arc<Root>,
    /// Values for its `ARG`s.
    pub args: BTreeMap<String, String>,
    /// Labels for the store.
    pub labels: BTreeMap<String, String>,
}

/// What a definition starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// Another definition, by index.
    Built(usize),
    /// Something outside: local, in a registry, or bootstrapped.
    Outside(String),
}

pub(super) fn parse(context: &Root) -> Result<Dockerfile> {
    dockerfile::parse(&context.path().join("Dockerfile").display().to_string(), &context.needed("Dockerfile")?)
}

/// The FROM of a build context's Dockerfile, expanded.
pub fn from(context: &Root, args: &BTreeMap<String, String>) -> Result<String> {
    parse(context).map(|parsed| expanded_from(&parsed, args))
}

fn expanded_from(file: &Dockerfile, args: &BTreeMap<String, String>) -> String {
    let default = |name: &str| file.global_args.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.clone());
    expand::expand(&file.from, &|name| args.get(name).cloned().or_else(|| default(name)))
}

pub(super) fn bases(definitions: &[Definition], parsed: &[Dockerfile]) -> Vec<Base> {
    parsed
        .iter()
        .zip(definitions)
        .map(|(file, definition)| {
            let from = expanded_from(file, &definition.args);
            definitions
                .iter()
                .position(|d| d.known_as.contains(&Name::new(&from)))
                .map_or(Base::Outside(from), Base::Built)
        })
        .collect()
}

/// Parents before children.
pub(super) fn order(definitions: &[Definition], bases: &[Base]) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < definitions.len() {
        let before = order.len();
        for (i, base) in bases.iter().enumerate() {
            let ready = match base {
                Base::Outside(_) => true,
                Base::Built(p) => order.contains(p),
            };
            if ready && !order.contains(&i) {
                order.push(i);
            }
        }
        if order.len() == before {
            let stuck: Vec<_> =
                (0..definitions.len()).filter(|i| !order.contains(i)).map(|i| definitions[i].title.as_str()).collect();
            return Err(Error::new(format!("the FROM lines of {} go in a circle", stuck.join(", "))));
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn root() -> Arc<Root> {
        Arc::new(Root::beneath(Path::new("/")).unwrap())
    }

    fn definition(title: &str, known_as: &str) -> Definition {
        Definition {
            title: title.into(),
            known_as: vec![Name::new(known_as)],
            tag: known_as.into(),
            context: root(),
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    fn file(from: &str) -> Dockerfile {
        dockerfile::parse("D", &format!("FROM {from}")).unwrap()
    }

    #[test]
    fn parents_come_first_and_circles_are_told() {
        let definitions = [definition("node", "o/t-node:base"), definition("base", "o/t-base")];
        let parsed = [file("o/t-base:latest"), file("debian:trixie")];
        let found = bases(&definitions, &parsed);
        assert_eq!(found, [Base::Built(1), Base::Outside("debian:trixie".into())]);
        assert_eq!(order(&definitions, &found).unwrap(), [1, 0]);
        let parsed = [file("o/t-base"), file("o/t-node:base")];
        let error = order(&definitions, &bases(&definitions, &parsed)).unwrap_err();
        assert_eq!(error.to_string(), "the FROM lines of node, base go in a circle");
    }
}
