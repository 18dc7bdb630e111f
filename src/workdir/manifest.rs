//! `manifest.json`, in all forms that oar-docker ever wrote.

use crate::error::{Doing as _, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What an environment consists of.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// Environments whose files are copied first.
    #[serde(default)]
    pub parents: Vec<String>,
    /// File names that `init` never overwrites.
    #[serde(default)]
    pub ignore_if_exists: Vec<String>,
    /// Values for `ARG`s of the Dockerfiles.
    #[serde(default)]
    pub build_args: BTreeMap<String, String>,
    /// The script in the images that installs; null when there is nothing to install.
    #[serde(default)]
    pub install_script: Option<String>,
    /// For messages.
    #[serde(default = "oar")]
    pub install_software_name: String,
    /// Roles it is installed on.
    #[serde(default)]
    pub install_on: Vec<String>,
    /// Order of the lists that are printed.
    #[serde(default)]
    pub build_order: Vec<String>,
    /// Whether nodes have user namespaces, where `start` is not told.
    #[serde(default)]
    pub userns: Option<Userns>,
    #[serde(default)]
    net_services: Option<Value>,
    #[serde(default)]
    web_services: Option<Value>,
}

fn oar() -> String {
    "OAR".into()
}

/// Whether nodes have user namespaces of their own, as `--userns` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Userns {
    /// Where engine and kernel can.
    #[default]
    Auto,
    /// The host's root is every node's.
    Off,
    /// That, or no cluster.
    Require,
}

impl Userns {
    /// The words.
    pub const ALL: [(&'static str, Self); 3] = [("auto", Self::Auto), ("off", Self::Off), ("require", Self::Require)];

    /// Reads one of them.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.ok_or_else(|| Error::usage(format!("{text:?} is not one of auto, off and require")))
    }
}

/// One line of the Network Services box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What it is.
    pub title: String,
    /// Path, or any text that follows the address.
    pub path: String,
    /// Port of the frontend.
    pub port: u16,
    /// What goes before the address.
    pub scheme: String,
}

impl Manifest {
    /// Reads a manifest.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).doing(|| "bad JSON".into())?;
        if !value.is_object() {
            return Err(Error::new("it is not a JSON object"));
        }
        let manifest: Self = serde_json::from_value(value).doing(|| "bad JSON".into())?;
        manifest.services()?;
        Ok(manifest)
    }

    /// The network services, from `net_services` or the older `web_services`; lists of 2 to 4 fields, or a table.
    pub fn services(&self) -> Result<Vec<Service>> {
        let value = self.net_services.as_ref().or(self.web_services.as_ref());
        let service = |fields: &[&str]| -> Result<Service> {
            let [title, path, rest @ ..] = fields else {
                return Err(Error::new(format!("network service {fields:?} needs a title and a path")));
            };
            let port = rest.first().unwrap_or(&"80");
            Ok(Service {
                title: (*title).into(),
                path: (*path).into(),
                port: port
                    .trim()
                    .parse()
                    .ok()
                    .filter(|p| *p > 0)
                    .ok_or_else(|| Error::new(format!("network service {title:?} has the port {port:?}")))?,
                scheme: (*rest.get(1).unwrap_or(&"http://")).into(),
            })
        };
        match value {
            None => Ok(Vec::new()),
            Some(Value::Object(table)) => {
                table.iter().map(|(title, path)| service(&[title, path.as_str().unwrap_or("/")])).collect()
            }
            Some(Value::Array(rows)) => rows
                .iter()
                .map(|row| {
                    let fields: Vec<String> = row
                        .as_array()
                        .map(|r| r.iter().map(|f| f.as_str().map_or_else(|| f.to_string(), Into::into)).collect())
                        .unwrap_or_default();
                    service(&fields.iter().map(String::as_str).collect::<Vec<_>>())
                })
                .collect(),
            Some(_) => Err(Error::new("net_services must be a list of lists")),
        }
    }

    /// Ports of the frontend that the host publishes: 80 and those of the services.
    pub fn ports(&self) -> Result<Vec<u16>> {
        let mut ports: Vec<u16> = self.services()?.iter().map(|s| s.port).chain([80]).collect();
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_in_every_form() {
        let text =
            r#"{"net_services": [["A", "/a"], ["B", "/b", "6668"], ["C", " (tcp)", "5000", "TCP: "], ["D", "", 443]]}"#;
        let manifest = Manifest::parse(text).unwrap();
        let services = manifest.services().unwrap();
        assert_eq!((services[0].port, services[0].scheme.as_str()), (80, "http://"));
        assert_eq!((services[2].port, services[2].scheme.as_str()), (5000, "TCP: "));
        assert_eq!(manifest.ports().unwrap(), [80, 443, 5000, 6668]);
        let old = Manifest::parse(r#"{"web_services": {"Monika": "/monika"}}"#).unwrap();
        assert_eq!(old.services().unwrap()[0].path, "/monika");
        assert_eq!(Manifest::parse("{}").unwrap().ports().unwrap(), [80]);
    }

    #[test]
    fn mistakes_are_named() {
        for bad in ["", "[]", r#"{"net_services": [["A"]]}"#, r#"{"net_services": [["A", "/", "x"]]}"#] {
            assert!(Manifest::parse(bad).is_err(), "{bad}");
        }
    }
}
