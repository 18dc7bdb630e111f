//! An image's configuration as instructions change it.

use super::dockerfile::Health;
use crate::engine::Image;
use oci_spec::image::{Arch, Config, ImageConfiguration, Os};
use serde_json::json;
use std::collections::BTreeSet;

/// The architecture of this machine in the words of images.
pub(super) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// That of an image on nothing.
pub(super) fn new() -> ImageConfiguration {
    let mut config = ImageConfiguration::default();
    let mut runtime = Config::default();
    runtime.set_env(Some(vec![format!("PATH={PATH}")])).set_working_dir(Some("/".into()));
    config.set_config(Some(runtime));
    config.set_architecture(if cfg!(target_arch = "aarch64") { Arch::ARM64 } else { Arch::Amd64 });
    config.set_os(Os::Linux);
    config
}

/// What an image's configuration says.
pub(super) trait Configured {
    /// The part that is about its programs.
    fn runtime(&self) -> Config;
    /// Changes that.
    fn edit(&mut self, change: impl FnOnce(&mut Config) -> &mut Config);
    /// Its USER.
    fn user(&self) -> String;
    /// Its WORKDIR, or the top.
    fn workdir(&self) -> String;
    /// Sets a variable: one that is there keeps its place.
    fn set_variable(&mut self, name: &str, value: &str);
}

impl Configured for Image {
    fn runtime(&self) -> Config {
        self.config.config().clone().unwrap_or_default()
    }

    fn edit(&mut self, change: impl FnOnce(&mut Config) -> &mut Config) {
        let mut config = self.runtime();
        change(&mut config);
        self.config.set_config(Some(config));
    }

    fn user(&self) -> String {
        self.runtime().user().clone().unwrap_or_default()
    }

    fn workdir(&self) -> String {
        self.runtime().working_dir().clone().filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into())
    }

    fn set_variable(&mut self, name: &str, value: &str) {
        let mut env = self.env();
        let new = format!("{name}={value}");
        match env.iter_mut().find(|e| e.split_once('=').is_some_and(|(n, _)| n == name)) {
            Some(old) => *old = new,
            None => env.push(new),
        }
        self.edit(|config| config.set_env(Some(env)));
    }
}

/// A set with more names.
pub(super) fn with(names: Option<&Vec<String>>, more: impl IntoIterator<Item = String>) -> Vec<String> {
    names.into_iter().flatten().cloned().chain(more).collect::<BTreeSet<_>>().into_iter().collect()
}

/// HEALTHCHECK as configurations have it.
pub(super) fn health(health: &Health) -> serde_json::Value {
    let names = ["Interval", "Timeout", "StartPeriod", "StartInterval"];
    let mut value = json!({"Test": health.test});
    let given = names.into_iter().zip(health.times).chain([("Retries", health.retries)]);
    for (name, number) in given.filter(|(_, number)| *number != 0) {
        value[name] = json!(number);
    }
    value
}

/// The ports of an EXPOSE: `80`, `53/udp`, `8000-8002/tcp`.
pub(super) fn ports(text: &str) -> Result<Vec<String>, String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let range = range.rsplit(':').next().unwrap_or(range);
    let protocol = protocol.to_lowercase();
    let number = |text: &str| text.parse::<u16>().ok();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last && matches!(protocol.as_str(), "tcp" | "udp" | "sctp") => {
            Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
        }
        _ => Err(format!("EXPOSE {text}: it is a port such as 80, 53/udp or 8000-8002/tcp")),
    }
}

/// What a program finds others by where an image does not say it.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Fails for what names no signal: `TERM`, `SIGTERM`, `15`, `SIGRTMIN+3`.
pub(super) fn check_signal(text: &str) -> Result<(), String> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = ["RTMIN", "RTMAX"].iter().find_map(|base| name.strip_prefix(base));
    let known = match (name.parse::<i32>(), real_time) {
        (Ok(number), _) => (1..=64).contains(&number),
        (_, Some("")) => true,
        (_, Some(offset)) => {
            offset.get(1..).unwrap_or_default().parse::<u32>().is_ok_and(|n| n <= 30) && offset.starts_with(['+', '-'])
        }
        _ => format!("SIG{name}").parse::<nix::sys::signal::Signal>().is_ok(),
    };
    if known { Ok(()) } else { Err(format!("STOPSIGNAL {text}: there is no such signal")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_signals() {
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(ports("8000-8002").unwrap(), ["8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!(ports("8080:80").unwrap(), ["80/tcp"], "which port of a host is not an image's to say");
        for bad in ["x", "", "80/x", "9-8", "70000", "1-", "/tcp"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
        for good in ["TERM", "SIGTERM", "sigkill", "15", "SIGRTMIN+3", "RTMAX-1", "RTMIN"] {
            assert!(check_signal(good).is_ok(), "{good}");
        }
        for bad in ["", "SIGNO", "0", "65", "RTMIN3", "RTMIN+99", "-1"] {
            assert!(check_signal(bad).is_err(), "{bad}");
        }
    }
}
