//! The caller's proxies, as curl and apt read them from the environment. Build steps are given them, and images do not keep them.

use reqwest::Url;
use std::net::IpAddr;

/// Each in small and in capital letters, as programs look for the one or the other.
const NAMES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"];

/// The variables that are set, of all that BuildKit knows as well.
pub fn proxies() -> Vec<(String, String)> {
    let all = NAMES.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]);
    all.filter_map(|name| Some((name.clone(), std::env::var(&name).ok().filter(|v| !v.is_empty())?))).collect()
}

/// The ports of the host's loopback that these proxies are at.
pub(super) fn local_ports(proxies: &[(String, String)]) -> Vec<u16> {
    let proxies = proxies.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("no_proxy"));
    let mut ports: Vec<u16> = proxies.filter_map(|(_, value)| local_port(value)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn local_port(text: &str) -> Option<u16> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    // What curl takes when a proxy has no port, of any scheme that Url has no word about.
    url.port_or_known_default().or(Some(1080)).filter(|_| is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_on_loopback() {
        for (text, port) in [
            ("http://127.0.0.1:3128", Some(3128)),
            ("http://user:pass@localhost:3128/", Some(3128)),
            ("localhost:8080", Some(8080)),
            ("http://[::1]:3129", Some(3129)),
            ("socks5h://127.0.0.1:1080", Some(1080)),
            ("socks5://127.0.0.1", Some(1080)),
            ("http://127.0.0.1", Some(80)),
            ("http://proxy.lab:3128", None),
            ("http://10.0.0.1:3128", None),
            ("", None),
        ] {
            assert_eq!(local_port(text), port, "{text}");
        }
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let all =
            [set("http_proxy", "http://127.0.0.1:1"), set("NO_PROXY", "127.0.0.1:2"), set("HTTP_PROXY", "localhost:1")];
        assert_eq!(local_ports(&all), [1]);
    }
}
