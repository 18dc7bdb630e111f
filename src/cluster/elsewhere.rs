//! Images of other workdirs: `FROM oardocker/trixie-server` where this workdir does not define it.
//!
//! An environment such as oar3-dev builds on an installed one that lives in a folder of its own. Every workdir has its
//! own images, so the newest of that name is taken, and it is said whose it is.

use super::COMMENT_LABEL;
use crate::engine::{ImageRecord, Images};
use crate::error::{Error, Result};
use crate::host::Machine;
use crate::image::name::Name;
use crate::image::order::{self, Definition};
use crate::workdir;
use std::collections::BTreeMap;

/// The names in FROM lines that other workdirs have, each with its name in the engine; and a line about each.
pub async fn find(
    store: &dyn Images,
    machine: &Machine,
    definitions: &[Definition],
) -> Result<(BTreeMap<String, String>, Vec<String>)> {
    let (mut names, mut lines) = (BTreeMap::new(), Vec::new());
    let mut images = None;
    for definition in definitions {
        for from in order::from(&definition.context, &definition.args)? {
            let defined = definitions.iter().any(|d| d.known_as.contains(&Name::new(&from)));
            if defined || names.contains_key(&from) || environment(&from).is_none() {
                continue;
            }
            if store.image(&from).await?.is_some() {
                continue;
            }
            if images.is_none() {
                images = Some(store.images().await?);
            }
            let found = newest(images.as_deref().unwrap_or_default(), &from).ok_or_else(|| missing(&from))?;
            lines.push(format!("{} --> {}", from, whose(found, machine)));
            names.insert(from, found.name.clone());
        }
    }
    Ok((names, lines))
}

/// The environment in `oardocker/trixie-server:latest`. Others, such as `oardocker/debian10`, are a registry's.
fn environment(name: &str) -> Option<&str> {
    let (env, _role) = name.strip_prefix("oardocker/")?.split(':').next()?.rsplit_once('-')?;
    Some(env)
}

/// The environment's id in an image's engine name, if that ends with this name.
fn owner<'a>(image: &'a ImageRecord, name: &str) -> Option<&'a str> {
    workdir::owned(&image.name).filter(|(_, own)| *own == Name::new(name).as_str()).map(|(id, _)| id)
}

fn newest<'a>(images: &'a [ImageRecord], name: &str) -> Option<&'a ImageRecord> {
    images.iter().filter(|i| owner(i, name).is_some()).max_by_key(|i| i.created)
}

fn whose(image: &ImageRecord, machine: &Machine) -> String {
    let id = workdir::owned(&image.name).map_or("", |(id, _)| id);
    let place = workdir::owner(machine, id).map_or_else(|| "a folder that is gone".into(), |p| p.display().to_string());
    let what = image.labels.get(COMMENT_LABEL).map(|c| format!(", {c}")).unwrap_or_default();
    format!("that of environment {id} in {place}{what}")
}

fn missing(name: &str) -> Error {
    let env = environment(name).unwrap_or_default();
    Error::new(format!("no workdir on this machine has the image {}", Name::new(name))).hint(format!(
        "make it in another folder first: oardocker init -e {env} build install SRC, where SRC is a tree or tarball of OAR"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn image(name: &str, age: u64) -> ImageRecord {
        let created = UNIX_EPOCH + Duration::from_secs(age);
        ImageRecord { name: name.into(), id: String::new(), created, labels: BTreeMap::new() }
    }

    #[test]
    fn names_of_environments() {
        assert_eq!(environment("oardocker/trixie-server:latest"), Some("trixie"));
        assert_eq!(environment("oardocker/oar3-dev-node"), Some("oar3-dev"));
        for other in ["oardocker/debian10", "oardocker/base:latest", "debian:trixie-slim", "scratch"] {
            assert_eq!(environment(other), None, "{other}");
        }
    }

    #[test]
    fn the_newest_image_of_the_name_is_taken() {
        let images = [
            image("aa.env/oardocker/trixie-node:latest", 1),
            image("bb.env/oardocker/trixie-node:latest", 3),
            image("cc.env/oardocker/trixie-node:base", 4),
            image("dd.env/oardocker/my-trixie-node:latest", 5),
            image("oardocker/trixie-node:latest", 6),
        ];
        let of = |name| newest(&images, name).map(|i| i.name.as_str());
        assert_eq!(of("oardocker/trixie-node"), Some("bb.env/oardocker/trixie-node:latest"));
        assert_eq!(of("oardocker/trixie-node:base"), Some("cc.env/oardocker/trixie-node:base"));
        assert_eq!(of("oardocker/trixie-server"), None);
        assert!(missing("oardocker/trixie-node:latest").to_string().contains("oardocker/trixie-node:latest"));
    }
}
