//! `RUN --mount`: what it says, before variables are expanded and after.

use super::super::shell::{Lookup, Shell};
use super::super::size;

/// What kind of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::image) enum Kind {
    /// A directory or file of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that stays from build to build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file that the image does not keep.
    Secret,
    /// The caller's ssh agent.
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::image) enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after another.
    Locked,
}

/// One mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(in crate::image) struct Mount {
    /// What kind.
    pub kind: Kind,
    /// A stage or an image.
    pub from: Option<String>,
    /// Path in where it comes from.
    pub source: Option<String>,
    /// Path in the step.
    pub target: Option<String>,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Of a cache, a secret or an agent.
    pub id: Option<String>,
    /// Of a cache.
    pub sharing: Sharing,
    /// Whether the build fails without the secret or the agent.
    pub required: bool,
    /// Of a tmpfs, in bytes.
    pub size: Option<u64>,
    /// Of a cache, a secret or an agent.
    pub mode: Option<u32>,
    /// Of a cache, a secret or an agent.
    pub uid: Option<u32>,
    /// Of a cache, a secret or an agent.
    pub gid: Option<u32>,
    /// A secret's variable.
    pub env: Option<String>,
    /// As written.
    #[serde(skip)]
    text: String,
}

impl Mount {
    /// Reads what can be read before variables have values.
    pub(in crate::image) fn parse(text: &str) -> Result<Self, String> {
        let all = fields(text)?;
        let named = |f: &String| {
            f.split_once('=').filter(|(key, _)| key.eq_ignore_ascii_case("from")).map(|(_, v)| v.to_owned())
        };
        let from = all.iter().find_map(named);
        if let Some(from) = from.as_ref().filter(|from| from.contains('$')) {
            return Err(format!("from={from}: it cannot have variables in it; name a stage for it"));
        }
        let known = Self::of(text, &|value| Ok(value.to_owned()));
        if !text.contains('$') {
            return known;
        }
        // A variable may stand where a number is wanted; what is named has to be known before.
        Ok(Self { text: text.into(), from, ..known.unwrap_or_default() })
    }

    /// With variables expanded.
    pub(in crate::image) fn expanded(&self, shell: Shell, lookup: Lookup<'_>) -> Result<Self, String> {
        Self::of(&self.text, &|value| shell.word(value, lookup))
    }

    fn of(text: &str, expand: &dyn Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let mut mount = Self { text: text.to_owned(), ..Self::default() };
        let mut read_only = None;
        for field in fields(text)? {
            let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(k, v)| (k, Some(v)));
            let key = key.to_lowercase();
            let value = value.map(expand).transpose()?;
            if value.is_none() && !matches!(key.as_str(), "ro" | "readonly" | "rw" | "readwrite" | "required") {
                return Err(format!("--mount: {field} needs a value"));
            }
            mount.set(&key, &value.unwrap_or_else(|| "true".into()), &mut read_only)?;
        }
        mount.read_only = read_only.unwrap_or(!matches!(mount.kind, Kind::Cache | Kind::Tmpfs));
        mount.checked()
    }

    fn set(&mut self, key: &str, value: &str, read_only: &mut Option<bool>) -> Result<(), String> {
        let bad = |what: &str| format!("--mount: {key}={value}: it is {what}");
        let boolean = || match value.to_lowercase().as_str() {
            "true" | "1" | "t" => Ok(true),
            "false" | "0" | "f" => Ok(false),
            _ => Err(bad("true or false")),
        };
        let number = || value.parse::<u32>().map(Some).map_err(|_| bad("a number"));
        match key {
            "type" => {
                self.kind = kind(&value.to_lowercase()).ok_or_else(|| bad("bind, cache, tmpfs, secret or ssh"))?;
            }
            "from" => self.from = Some(value.into()),
            "source" | "src" => self.source = Some(value.into()),
            "target" | "dst" | "destination" => self.target = Some(value.into()),
            "ro" | "readonly" => *read_only = Some(boolean()?),
            "rw" | "readwrite" => *read_only = Some(!boolean()?),
            "required" => self.required = boolean()?,
            "size" => self.size = Some(size::bytes(value).ok_or_else(|| bad("a size such as 64m"))?),
            "id" => self.id = Some(value.into()),
            "sharing" => {
                self.sharing = match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(bad("shared, private or locked")),
                }
            }
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                self.mode = Some(mode.ok_or_else(|| bad("an octal number"))?);
            }
            "uid" => self.uid = number()?,
            "gid" => self.gid = number()?,
            "env" => self.env = Some(value.into()),
            _ => return Err(format!("--mount: there is no option {key}")),
        }
        Ok(())
    }

    /// What does not go together.
    fn checked(self) -> Result<Self, String> {
        use Kind::{Bind, Cache, Secret, Ssh, Tmpfs};
        let allowed: [(&str, bool, &[Kind]); 8] = [
            ("required", self.required, &[Secret, Ssh]),
            ("size", self.size.is_some(), &[Tmpfs]),
            ("sharing", self.sharing != Sharing::Shared, &[Cache]),
            ("mode", self.mode.is_some(), &[Cache, Secret, Ssh]),
            ("uid", self.uid.is_some(), &[Cache, Secret, Ssh]),
            ("gid", self.gid.is_some(), &[Cache, Secret, Ssh]),
            ("env", self.env.is_some(), &[Secret]),
            ("from", self.from.is_some(), &[Bind, Cache]),
        ];
        if let Some((key, ..)) = allowed.iter().find(|(_, given, kinds)| *given && !kinds.contains(&self.kind)) {
            return Err(format!("--mount: a mount of type {} has no {key}", name(self.kind)));
        }
        if self.kind == Cache && self.source.is_some() && self.from.is_none() {
            return Err("--mount: a part of a cache (source without from) is not supported: mount the whole".into());
        }
        let needs_target = matches!(self.kind, Bind | Cache | Tmpfs);
        if needs_target && self.target.as_deref().unwrap_or_default().is_empty() {
            return Err(format!("--mount: a mount of type {} needs a target", name(self.kind)));
        }
        if self.kind == Secret && self.id.is_some() && self.source.is_some() {
            return Err("--mount: a secret has either an id or a source".into());
        }
        if self.kind == Secret && self.id.is_none() && self.source.is_none() && self.target.is_none() {
            return Err("--mount: a secret needs an id".into());
        }
        Ok(self)
    }
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "bind" => Kind::Bind,
        "cache" => Kind::Cache,
        "tmpfs" => Kind::Tmpfs,
        "secret" => Kind::Secret,
        "ssh" => Kind::Ssh,
        _ => return None,
    })
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bind => "bind",
        Kind::Cache => "cache",
        Kind::Tmpfs => "tmpfs",
        Kind::Secret => "secret",
        Kind::Ssh => "ssh",
    }
}

/// The fields between commas; one in double quotes may have commas in it.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err("--mount: a double quote is not closed".into());
    }
    fields.push(field);
    if fields.iter().any(String::is_empty) {
        Err("--mount: there is nothing between two commas".into())
    } else {
        Ok(fields)
    }
}
