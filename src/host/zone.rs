//! The time zone of this machine.

/// The host's time zone, as in `Europe/Paris`; none where it has none or does not tell its name.
pub fn time_zone() -> Option<String> {
    let link = std::fs::read_link("/etc/localtime").ok();
    let linked = link.and_then(|to| Some(to.to_str()?.split_once("zoneinfo/")?.1.to_owned()));
    let named = || std::fs::read_to_string("/etc/timezone").ok().map(|text| text.trim().to_owned());
    linked.or_else(named).filter(|zone| is_zone(zone))
}

/// Whether a text can be the name of a time zone: it is made part of a path.
pub fn is_zone(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-');
    !text.is_empty() && text.split('/').all(|part| !part.is_empty() && part.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_time_zones() {
        for good in ["UTC", "Europe/Paris", "America/Argentina/Buenos_Aires", "Etc/GMT+1"] {
            assert!(is_zone(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "Europe//Paris", ":Europe/Paris", "CET-1CEST,M3.5.0", "a b"] {
            assert!(!is_zone(bad), "{bad}");
        }
    }
}
