//! One instruction: its flags and arguments.

use super::fault::Fault;
use super::flags::{self, Flags};
use super::lines::{Line, document};
use super::mount::Mount;
use super::{Action, Argument, Copy, Health, Run, RunNetwork, Stage, Words, split_keyword, words};

/// FROM.
pub(super) fn from(line: &Line, escape: char) -> Result<Stage, Fault> {
    let (_, rest) = split_keyword(&line.text);
    let (mut flags, rest) = flags::split(line.number, "FROM", rest, escape);
    let platform = flags.one("platform")?;
    flags.done()?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (from, name) = match words.as_slice() {
        [from] => (from, None),
        [from, between, name] if between.eq_ignore_ascii_case("as") => (from, Some(name.to_lowercase())),
        _ => return Err(Fault::at(line.number, "FROM is written as FROM image or FROM image AS name")),
    };
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
    };
    if let Some(name) = name.as_deref().filter(|name| !is_name(name)) {
        let what = format!(
            "{name:?} cannot be the name of a stage: it begins with a letter, and has letters, digits, -, _ and ."
        );
        return Err(Fault::at(line.number, what).about(*words.last().expect("there are three")));
    }
    Ok(Stage { line: line.number, name, from: (*from).to_owned(), platform, steps: Vec::new() })
}

/// Any other.
pub(super) fn action(line: &Line, escape: char) -> Result<Action, Fault> {
    let number = line.number;
    let (keyword, rest) = split_keyword(&line.text);
    let upper = keyword.to_uppercase();
    let (mut flags, rest) = flags::split(number, keyword, rest, escape);
    let needed =
        || if rest.is_empty() { Err(Fault::at(number, format!("{upper} needs an argument"))) } else { Ok(rest) };
    let action = match upper.as_str() {
        "ARG" => Action::Arg(arguments(number, needed()?, escape)?),
        "ENV" => Action::Env(words::pairs(number, "ENV", rest, escape)?),
        "LABEL" => Action::Label(words::pairs(number, "LABEL", rest, escape)?),
        "RUN" => Action::Run(Box::new(run(line, &mut flags, needed()?)?)),
        "COPY" | "ADD" => Action::Copy(Box::new(copy(line, &upper, &mut flags, needed()?)?)),
        "USER" => Action::User(needed()?.to_owned()),
        "WORKDIR" => Action::Workdir(needed()?.to_owned()),
        "EXPOSE" => Action::Expose(needed()?.split_whitespace().map(str::to_owned).collect()),
        "VOLUME" => Action::Volume(volumes(number, needed()?)?),
        "STOPSIGNAL" => Action::StopSignal(needed()?.to_owned()),
        "SHELL" => Action::Shell(shell(number, needed()?)?),
        "CMD" => Action::Cmd(words::command(number, needed()?)?),
        "ENTRYPOINT" => Action::Entrypoint(words::command(number, needed()?)?),
        "MAINTAINER" => Action::Maintainer(needed()?.to_owned()),
        "HEALTHCHECK" => Action::Healthcheck(healthcheck(number, &mut flags, needed()?)?),
        "ONBUILD" => Action::Onbuild(onbuild(line, needed()?, escape)?),
        _ => {
            let known = nearest(&upper);
            let fault = Fault::at(number, format!("{keyword} is no instruction")).about(keyword);
            return Err(known.map_or(fault.clone(), |known| fault.hint(format!("is {known} meant?"))));
        }
    };
    flags.done()?;
    Ok(action)
}

const KEYWORDS: [&str; 17] = [
    "FROM",
    "ARG",
    "ENV",
    "LABEL",
    "RUN",
    "COPY",
    "ADD",
    "USER",
    "WORKDIR",
    "EXPOSE",
    "VOLUME",
    "STOPSIGNAL",
    "SHELL",
    "CMD",
    "ENTRYPOINT",
    "HEALTHCHECK",
    "ONBUILD",
];

/// The keyword that differs in the fewest letters, if these are few.
fn nearest(word: &str) -> Option<&'static str> {
    let close = |known: &&&str| {
        let same = known.chars().zip(word.chars()).filter(|(a, b)| a == b).count();
        known.len().abs_diff(word.len()) <= 1 && same + 1 >= known.len().min(word.len()) && word.len() > 2
    };
    KEYWORDS.iter().find(close).copied()
}

fn arguments(line: usize, text: &str, escape: char) -> Result<Vec<Argument>, Fault> {
    let argument = |word: String| {
        let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v.to_owned())));
        if name.is_empty() {
            return Err(Fault::at(line, "ARG names cannot be empty").about(word.clone()));
        }
        Ok(Argument { name: name.to_owned(), default })
    };
    words::quoted(text, escape).into_iter().map(argument).collect()
}

fn run(line: &Line, flags: &mut Flags, rest: &str) -> Result<Run, Fault> {
    let number = line.number;
    let mounts = flags.several("mount")?;
    let mounts = mounts.iter().map(|text| Mount::parse(text).map_err(|what| Fault::at(number, what).about(text)));
    let mounts = mounts.collect::<Result<_, _>>()?;
    let network = match flags.one("network")?.as_deref() {
        None | Some("default") => RunNetwork::Default,
        Some("none") => RunNetwork::None,
        Some("host") => RunNetwork::Host,
        Some(other) => {
            let what = format!("RUN --network={other}: it is default, none or host");
            return Err(Fault::at(number, what).about("--network"));
        }
    };
    match flags.one("security")?.as_deref() {
        None | Some("sandbox") => {}
        Some(other) => {
            let what = format!("RUN --security={other} is not supported: every step runs in a sandbox");
            return Err(Fault::at(number, what)
                .about("--security")
                .hint("leave it out; do in a running host what needs more"));
        }
    }
    Ok(Run { words: words::command(number, rest)?, documents: line.documents.clone(), mounts, network })
}

fn copy(line: &Line, keyword: &str, flags: &mut Flags, rest: &str) -> Result<Copy, Fault> {
    let (number, add) = (line.number, keyword == "ADD");
    let fault = |what: &str| Fault::at(number, format!("{keyword}: {what}"));
    let mut words = words::list(number, rest)?;
    if !line.documents.is_empty() {
        // Their words may have blanks in them.
        words = super::lines_words(rest);
    }
    let dest = words.pop().filter(|_| !words.is_empty());
    let dest = dest.ok_or_else(|| fault("it needs a source and a destination"))?;
    let is_document = |word: &String| line.documents.iter().any(|d| document(word).is_some_and(|w| w.name == d.name));
    if is_document(&dest) {
        return Err(fault("a here-document cannot be the destination"));
    }
    let sources = words.into_iter().filter(|word| !is_document(word)).collect();
    let mut copy = Copy {
        add,
        chown: flags.one("chown")?,
        chmod: flags.one("chmod")?,
        link: flags.switch("link")?.unwrap_or_default(),
        exclude: flags.several("exclude")?,
        sources,
        documents: line.documents.clone(),
        dest,
        ..Copy::default()
    };
    if add {
        copy.checksum = flags.one("checksum")?;
        copy.keep_git_dir = flags.switch("keep-git-dir")?.unwrap_or_default();
        copy.unpack = flags.switch("unpack")?;
    } else {
        copy.from = flags.one("from")?;
        copy.parents = flags.switch("parents")?.unwrap_or_default();
    }
    if copy.from.as_ref().is_some_and(|from| from.contains('$')) {
        let fault = fault("--from cannot have variables in it").about("--from");
        return Err(fault.hint("name a stage for it: FROM $IMAGE AS name"));
    }
    if let Some(url) = copy.sources.iter().find(|s| !add && (s.starts_with("http://") || s.starts_with("https://"))) {
        return Err(fault("it cannot copy a URL").about(url.as_str()).hint("ADD does"));
    }
    Ok(copy)
}

fn volumes(line: usize, text: &str) -> Result<Vec<String>, Fault> {
    let volumes: Vec<String> = words::list(line, text)?.iter().map(|v| v.trim().to_owned()).collect();
    if volumes.is_empty() || volumes.iter().any(String::is_empty) {
        return Err(Fault::at(line, "VOLUME needs paths that are not empty"));
    }
    Ok(volumes)
}

fn shell(line: usize, text: &str) -> Result<Vec<String>, Fault> {
    match words::json(line, text)? {
        Some(words) if !words.is_empty() => Ok(words),
        Some(_) => Err(Fault::at(line, "SHELL needs at least one string in its array")),
        None => Err(Fault::at(line, "SHELL needs a JSON array").hint("as in SHELL [\"/bin/bash\", \"-c\"]")),
    }
}

fn healthcheck(line: usize, flags: &mut Flags, text: &str) -> Result<Health, Fault> {
    let (kind, rest) = split_keyword(text);
    if kind.eq_ignore_ascii_case("none") {
        return match rest {
            "" => Ok(Health { test: vec!["NONE".into()], ..Health::default() }),
            _ => Err(Fault::at(line, "HEALTHCHECK NONE has no arguments")),
        };
    }
    if !kind.eq_ignore_ascii_case("cmd") {
        return Err(Fault::at(line, format!("HEALTHCHECK {kind}: it is CMD or NONE")).about(kind));
    }
    let mut health = Health::default();
    for (time, name) in health.times.iter_mut().zip(["interval", "timeout", "start-period", "start-interval"]) {
        if let Some(text) = flags.one(name)? {
            let fault = |what: String| {
                Fault::at(line, format!("HEALTHCHECK --{name}={text}: {what}")).about(format!("--{name}"))
            };
            *time = nanoseconds(&text).ok_or_else(|| fault("it is a time such as 30s, 1m30s or 500ms".into()))?;
            if (1..1_000_000).contains(time) {
                return Err(fault("it cannot be less than 1ms".into()));
            }
        }
    }
    if let Some(text) = flags.one("retries")? {
        let fault = || Fault::at(line, format!("HEALTHCHECK --retries={text}: it is a number")).about("--retries");
        health.retries = text.parse::<u32>().map_err(|_| fault())?.into();
    }
    let (kind, words) = match words::command(line, rest)? {
        Words::Exec(words) => ("CMD", words),
        Words::Shell(text) => ("CMD-SHELL", Some(text).filter(|t| !t.is_empty()).into_iter().collect()),
    };
    if words.is_empty() {
        return Err(Fault::at(line, "HEALTHCHECK CMD needs a command"));
    }
    health.test = std::iter::once(kind.to_owned()).chain(words).collect();
    Ok(health)
}

/// A Go duration: `1h2m3.5s`.
fn nanoseconds(text: &str) -> Option<u64> {
    let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    if text == "0" {
        return Some(0);
    }
    let (mut rest, mut sum) = (text, 0.0_f64);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit = &rest[end..][..rest[end..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - end)];
        sum += number * units.iter().find(|(name, _)| *name == unit)?.1;
        rest = &rest[end + unit.len()..];
    }
    (!text.is_empty() && sum < 9e18).then_some(sum.round() as u64)
}

/// What is kept, with its here-documents; it has to be an instruction that could stand there.
fn onbuild(line: &Line, rest: &str, escape: char) -> Result<String, Fault> {
    let (keyword, _) = split_keyword(rest);
    let upper = keyword.to_uppercase();
    if matches!(upper.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
        return Err(Fault::at(line.number, format!("ONBUILD {upper} is not allowed")).about(keyword));
    }
    action(&Line { text: rest.to_owned(), ..line.clone() }, escape)?;
    let documents = line.documents.iter().map(|d| format!("\n{}{}", d.text, d.name));
    Ok(std::iter::once(rest.to_owned()).chain(documents).collect())
}
