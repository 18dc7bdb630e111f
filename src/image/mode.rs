//! `--chmod`: an octal number, or words such as `u=rwX,go=rX`. Pure.

use serde::Serialize;

/// What becomes of a mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) enum Mode {
    /// This.
    Exact(u32),
    /// Changes of what it was, in order.
    Changed(Vec<Change>),
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    /// Whose bits, as a mask of all nine and the special three.
    who: u32,
    /// `+`, `-` or `=`.
    sign: char,
    /// Letters behind it.
    bits: String,
}

impl Mode {
    /// Reads one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("--chmod={text}: it is an octal number up to 7777, or words such as u=rwX,go=rX");
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777).map(Self::Exact).ok_or_else(bad);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let end = clause.find(['+', '-', '=']).ok_or_else(bad)?;
            let (who, mut rest) = clause.split_at(end);
            let who = who.chars().try_fold(0, |all, c| Some(all | mask(c)?)).ok_or_else(bad)?;
            let who = if who == 0 { 0o7777 } else { who };
            while let Some(sign) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
                let bits = &rest[1..end];
                if !bits.chars().all(|c| "rwxXstugo".contains(c)) {
                    return Err(bad());
                }
                changes.push(Change { who, sign, bits: bits.to_owned() });
                rest = &rest[end..];
            }
        }
        Ok(Self::Changed(changes))
    }

    /// What a mode becomes.
    pub(super) fn of(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Exact(mode) => *mode,
            Self::Changed(changes) => changes.iter().fold(mode & 0o7777, |mode, change| change.of(mode, is_dir)),
        }
    }

    /// That of directories that are made for what is copied.
    pub(super) fn of_made(mode: Option<&Self>) -> u32 {
        if let Some(Self::Exact(mode)) = mode { *mode } else { 0o755 }
    }
}

fn mask(who: char) -> Option<u32> {
    Some(match who {
        'u' => 0o4700,
        'g' => 0o2070,
        'o' => 0o1007,
        'a' => 0o7777,
        _ => return None,
    })
}

impl Change {
    fn of(&self, mode: u32, is_dir: bool) -> u32 {
        let thrice = |bits: u32| bits << 6 | bits << 3 | bits;
        let bits = self.bits.chars().fold(0, |all, c| {
            all | match c {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if is_dir || mode & 0o111 != 0 => 0o111,
                's' => 0o6000,
                't' => 0o1000,
                'u' => thrice(mode >> 6 & 7),
                'g' => thrice(mode >> 3 & 7),
                'o' => thrice(mode & 7),
                _ => 0,
            }
        }) & self.who;
        match self.sign {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !self.who | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, mode, is_dir, expected) in [
            ("755", 0o600, false, 0o755),
            ("4711", 0o600, false, 0o4711),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, false, 0o700),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o755, true, 0o1755),
            ("g=u", 0o750, false, 0o770),
            ("a=r", 0o4777, false, 0o444),
            ("u+x-w", 0o644, false, 0o544),
        ] {
            assert_eq!(Mode::parse(text).unwrap().of(mode, is_dir), expected, "{text} {mode:o}");
        }
        for bad in ["", "9", "77777", "rw", "u+q", "z+x", "u=r,"] {
            assert!(Mode::parse(bad).is_err(), "{bad}");
        }
    }
}
