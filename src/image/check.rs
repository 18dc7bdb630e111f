//! `build --check`: what is wrong or doubtful in a Dockerfile, found without building. Rules have BuildKit's names.

use super::config;
use super::dockerfile::lines::{self, Line};
use super::dockerfile::{self, Action, Dockerfile, Fault, Words, short};
use super::evaluate::{self, Around, Change, Evaluation};
use super::order::named;
use super::shell::Shell;
use super::tree::Tree;
use crate::engine::Image;
use crate::error::Result;
use crate::rooted::Root;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line and column, from 1.
    pub place: (usize, usize),
    /// The rule; none: it cannot be built.
    pub rule: Option<&'static str>,
    /// In one sentence.
    pub what: String,
    /// The line itself, short enough for a message.
    pub text: String,
}

/// What is found in a Dockerfile, in its order.
#[derive(Debug)]
pub struct Report {
    /// In order.
    pub findings: Vec<Finding>,
    /// Whether a warning counts as an error: `# check=error=true`.
    pub strict: bool,
}

/// Looks at the Dockerfile of a build context.
pub fn check(context: &Root, args: &BTreeMap<String, String>) -> Result<Report> {
    let text = context.needed("Dockerfile")?;
    let found = RefCell::new(Vec::new());
    let finder = Finder { text: &text, found };
    let (directives, file) = match lines::split(&text).and_then(|(d, lines)| Ok((d, lines, dockerfile::parse(&text)?)))
    {
        Err(fault) => {
            finder.fault(&fault);
            (None, None)
        }
        Ok((directives, lines, file)) => {
            lines.iter().for_each(|line| finder.line(line));
            finder.casing(&lines);
            (directives.check, Some(file))
        }
    };
    if let Some(file) = &file {
        finder.stages(file, args);
        finder.evaluate(file, args, &Tree::context(context)?);
    }
    let (skipped, strict) = options(directives.as_deref().unwrap_or_default());
    let mut findings = finder.found.into_inner();
    findings.retain(|f: &Finding| f.rule.is_none_or(|rule| !skipped.iter().any(|s| s == "all" || s == rule)));
    findings.sort_by(|a, b| (a.place, a.rule).cmp(&(b.place, b.rule)));
    findings.dedup();
    Ok(Report { findings, strict })
}

/// `skip=A,B;error=true`.
fn options(text: &str) -> (Vec<String>, bool) {
    let part = |name: &str| {
        text.split(';').find_map(|p| p.trim().strip_prefix(name)?.trim_start().strip_prefix('=').map(str::trim))
    };
    let skipped = part("skip").unwrap_or_default().split(',').map(|s| s.trim().to_owned()).collect();
    (skipped, part("error") == Some("true"))
}

struct Finder<'a> {
    text: &'a str,
    found: RefCell<Vec<Finding>>,
}

impl Finder<'_> {
    fn fault(&self, fault: &Fault) {
        self.add(None, fault.clone());
    }

    fn warn(&self, rule: &'static str, line: usize, about: &str, what: impl Into<String>) {
        self.add(Some(rule), Fault::at(line, what).about(about));
    }

    fn add(&self, rule: Option<&'static str>, fault: Fault) {
        let place = fault.place(self.text);
        let text = short(self.text.lines().nth(place.0.saturating_sub(1)).unwrap_or_default().trim());
        self.found.borrow_mut().push(Finding { place, rule, what: fault.what, text });
    }

    /// What is seen in one line.
    fn line(&self, line: &Line) {
        let number = line.number;
        let words: Vec<&str> = line.text.split_whitespace().collect();
        let keyword = words[0];
        if line.has_gap {
            self.warn("NoEmptyContinuation", number, "", "an empty line is within an instruction");
        }
        match keyword.to_uppercase().as_str() {
            "FROM" => self.from(number, keyword, &words),
            "MAINTAINER" => self.warn(
                "MaintainerDeprecated",
                number,
                keyword,
                "MAINTAINER is deprecated: write LABEL org.opencontainers.image.authors=...",
            ),
            upper @ ("ENV" | "LABEL") if words.get(1).is_some_and(|word| !word.contains('=')) => {
                self.warn(
                    "LegacyKeyValueFormat",
                    number,
                    words[1],
                    format!("write {upper} name=value, with an equals sign"),
                );
            }
            upper @ ("ENV" | "ARG") => {
                let names = words[1..].iter().map(|word| word.split('=').next().unwrap_or_default());
                for name in names.filter(|name| is_secret(name)) {
                    self.warn(
                        "SecretsUsedInArgOrEnv",
                        number,
                        name,
                        format!("{upper} {name}: what is secret stays in the image; use RUN --mount=type=secret"),
                    );
                }
            }
            "EXPOSE" => words[1..].iter().for_each(|port| self.port(number, port)),
            _ => {}
        }
    }

    fn from(&self, number: usize, keyword: &str, words: &[&str]) {
        let lower = |text: &str| text.chars().all(|c| !c.is_uppercase());
        let [.., between, name] = words else { return };
        if words.len() >= 4 && between.eq_ignore_ascii_case("as") {
            if lower(keyword) != lower(between) {
                self.warn("FromAsCasing", number, between, format!("{keyword} and {between} are not written alike"));
            }
            if !lower(name) {
                self.warn(
                    "StageNameCasing",
                    number,
                    name,
                    format!("the name of a stage is in lower case: {}", name.to_lowercase()),
                );
            }
            if matches!(name.to_lowercase().as_str(), "context" | "scratch") {
                self.warn("ReservedStageName", number, name, format!("{name} cannot be the name of a stage"));
            }
        }
        match words.iter().find_map(|word| word.strip_prefix("--platform=")) {
            Some("$TARGETPLATFORM" | "${TARGETPLATFORM}") => {
                self.warn(
                    "RedundantTargetPlatform",
                    number,
                    "--platform",
                    "the target's platform is meant without saying it",
                );
            }
            Some(platform) if !platform.contains('$') => {
                self.warn(
                    "FromPlatformFlagConstDisallowed",
                    number,
                    "--platform",
                    format!("the platform is always {platform}"),
                );
            }
            _ => {}
        }
    }

    fn port(&self, number: usize, port: &str) {
        if port.split_once('/').is_some_and(|(_, protocol)| protocol.chars().any(char::is_uppercase)) {
            self.warn("ExposeProtoCasing", number, port, format!("{port}: a protocol is in lower case"));
        }
        if port.contains(':') && !port.contains('$') {
            self.warn(
                "ExposeInvalidFormat",
                number,
                port,
                format!("{port}: an address or a port of the host means nothing here"),
            );
        }
    }

    /// Keywords are written like most of them.
    fn casing(&self, lines: &[Line]) {
        let keywords =
            || lines.iter().map(|line| (line.number, line.text.split_whitespace().next().unwrap_or_default()));
        let upper = keywords().filter(|(_, k)| *k == k.to_uppercase()).count();
        let lower = keywords().filter(|(_, k)| *k == k.to_lowercase()).count();
        for (number, keyword) in keywords() {
            let wanted = if lower > upper { keyword.to_lowercase() } else { keyword.to_uppercase() };
            if keyword != wanted {
                self.warn(
                    "ConsistentInstructionCasing",
                    number,
                    keyword,
                    format!("{keyword} is written {wanted} like the others"),
                );
            }
        }
    }

    /// What is seen of stages together.
    fn stages(&self, file: &Dockerfile, args: &BTreeMap<String, String>) {
        let mut names = BTreeSet::new();
        for stage in &file.stages {
            if let Some(name) = stage.name.as_ref().filter(|name| !names.insert((*name).clone())) {
                self.warn("DuplicateStageName", stage.line, name, format!("a second stage is called {name}"));
            }
            let globals = evaluate::globals(file, &BTreeMap::new()).unwrap_or_default();
            let declared = |name: &str| globals.contains_key(name) || file.global_args.iter().any(|a| a.name == name);
            for name in variables(file, &stage.from, &|name| globals.get(name).cloned()) {
                if !declared(&name) {
                    let what = format!("FROM uses {name}, and no ARG before it declares that");
                    self.warn("UndefinedArgInFrom", stage.line, &name, what);
                } else if evaluate::base(file, stage, &globals).is_err() && !args.contains_key(&name) {
                    self.warn(
                        "InvalidDefaultArgInFrom",
                        stage.line,
                        &name,
                        format!("{name} has no default with which FROM names an image"),
                    );
                }
            }
            for (kind, only) in [("CMD", "CMD"), ("ENTRYPOINT", "ENTRYPOINT"), ("HEALTHCHECK", "HEALTHCHECK")] {
                let of = |action: &Action| match action {
                    Action::Cmd(_) => "CMD",
                    Action::Entrypoint(_) => "ENTRYPOINT",
                    Action::Healthcheck(_) => "HEALTHCHECK",
                    _ => "",
                };
                let all: Vec<usize> = stage.steps.iter().filter(|s| of(&s.action) == kind).map(|s| s.line).collect();
                for line in all.iter().rev().skip(1) {
                    self.warn(
                        "MultipleInstructionsDisallowed",
                        *line,
                        only,
                        format!("another {only} of this stage comes later and replaces it"),
                    );
                }
            }
        }
    }

    /// Goes through the steps as a build would, without running any.
    fn evaluate(&self, file: &Dockerfile, args: &BTreeMap<String, String>, context: &Tree) {
        let globals = match evaluate::globals(file, args) {
            Ok(globals) => globals,
            Err(e) => return self.fault(&Fault::at(file.stages[0].line, format!("the ARGs before it: {e}"))),
        };
        let mut states: Vec<(Evaluation, bool)> = Vec::new();
        for (index, stage) in file.stages.iter().enumerate() {
            let base = evaluate::base(file, stage, &globals);
            if let Err(e) = &base {
                self.fault(&Fault::at(stage.line, e.to_string()));
            }
            let base = base.unwrap_or_default();
            let below = file.stage(&base, index, false);
            let (mut state, known) = if let Some(other) = below {
                (states[other].0.next_stage(), states[other].1)
            } else {
                let nothing = Image::new(config::new(), Vec::new());
                (Evaluation::new(file, nothing, args, &globals, None), base == "scratch")
            };
            let mut has_dir = known;
            for step in &stage.steps {
                let images = named(step).into_iter().map(|(name, _)| (name.to_owned(), state.image.clone())).collect();
                let around = Around { context, images: &images };
                self.step(file, step, &state, known, &mut has_dir);
                match state.evaluate(step, &around) {
                    // What the image below sets is not known.
                    Err(_) if !known && step.text.contains('?') => {}
                    Err(e) => self.fault(&Fault::at(step.line, e.to_string())),
                    Ok(Some(Change::Copy(copy))) if copy.from.is_none() => {
                        for pattern in copy.plan.without_match(context).unwrap_or_default() {
                            self.warn(
                                "CopyIgnoredFile",
                                step.line,
                                pattern,
                                format!("nothing in the context matches {pattern}"),
                            );
                        }
                    }
                    Ok(_) => {}
                }
            }
            states.push((state, known));
        }
    }

    fn step(&self, file: &Dockerfile, step: &dockerfile::Step, state: &Evaluation, known: bool, has_dir: &mut bool) {
        match &step.action {
            Action::Cmd(Words::Shell(_)) | Action::Entrypoint(Words::Shell(_))
                if state.image.docker.shell.is_none() =>
            {
                self.warn(
                    "JSONArgsRecommended",
                    step.line,
                    "",
                    "a JSON array lets signals reach the program, and not a shell",
                );
            }
            Action::Workdir(dir) => {
                if !*has_dir && !dir.starts_with(['/', '$']) {
                    self.warn(
                        "WorkdirRelativePath",
                        step.line,
                        dir,
                        format!("WORKDIR {dir} depends on the image below"),
                    );
                }
                *has_dir = true;
            }
            _ => {}
        }
        if known {
            for text in texts(&step.action) {
                for name in variables(file, text, &|name| state.value(name)) {
                    if !text.contains(&format!("{name}:-"))
                        && !text.contains(&format!("{name}-"))
                        && !text.contains(&format!("{name}:+"))
                    {
                        self.warn("UndefinedVar", step.line, &name, format!("{name} has no value here"));
                    }
                }
            }
        }
    }
}

/// Names that a text uses and that have no value.
fn variables(file: &Dockerfile, text: &str, known: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let unknown = RefCell::new(Vec::new());
    let lookup = |name: &str| {
        let value = known(name);
        if value.is_none() && name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            unknown.borrow_mut().push(name.to_owned());
        }
        value
    };
    let _ = Shell::new(file.directives.escape).word(text, &lookup);
    unknown.into_inner()
}

/// The texts of an instruction in which variables are replaced.
fn texts(action: &Action) -> Vec<&str> {
    match action {
        Action::Env(pairs) | Action::Label(pairs) => pairs.iter().map(|(_, value)| value.as_str()).collect(),
        Action::Copy(copy) => copy.sources.iter().chain([&copy.dest]).map(String::as_str).collect(),
        Action::User(text) | Action::Workdir(text) | Action::StopSignal(text) => vec![text],
        Action::Expose(texts) | Action::Volume(texts) => texts.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Whether a name is one that secrets have.
fn is_secret(name: &str) -> bool {
    let parts: Vec<String> = name.to_lowercase().split(['_', '-']).map(str::to_owned).collect();
    let is = |part: &str| {
        matches!(
            part,
            "apikey"
                | "auth"
                | "credential"
                | "credentials"
                | "key"
                | "password"
                | "passwd"
                | "pword"
                | "secret"
                | "token"
        )
    };
    parts.iter().any(|part| is(part)) && !parts.iter().any(|part| part == "public")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
        std::fs::write(dir.path().join("there"), "").unwrap();
        let report = check(&Root::beneath(dir.path()).unwrap(), &BTreeMap::new()).unwrap();
        let of = |f: &Finding| format!("{}:{} {}", f.place.0, f.place.1, f.rule.unwrap_or("error"));
        report.findings.iter().map(of).collect()
    }

    #[test]
    fn what_is_right_is_not_complained_about() {
        let text =
            "ARG B=scratch\nFROM $B AS one\nARG A=1\nENV C=${A:-2} D=$PATH\nCOPY there /x\nWORKDIR /w\nCMD [\"x\"]\n";
        assert_eq!(findings(text), [""; 0]);
    }

    #[test]
    fn every_rule_finds_its_fault() {
        for (text, expected) in [
            ("FROM a\nFLY away", "2:1 error"),
            ("FROM a\nCOPY none /x", "2:1 error"),
            ("FROM a\nCOPY --chmod=9 there /x", "2:1 error"),
            ("FROM a\nRUN --security=insecure x", "2:5 error"),
            ("FROM ${", "1:1 error"),
            ("FROM a as b", "1:8 FromAsCasing"),
            ("FROM a AS B", "1:11 StageNameCasing"),
            ("FROM a AS scratch", "1:11 ReservedStageName"),
            ("FROM a AS b\nFROM a AS b", "2:11 DuplicateStageName"),
            ("FROM --platform=linux/amd64 scratch", "1:6 FromPlatformFlagConstDisallowed"),
            ("FROM --platform=$TARGETPLATFORM a", "1:6 RedundantTargetPlatform"),
            ("FROM a\nrun x\nRUN y", "2:1 ConsistentInstructionCasing"),
            ("FROM a\nMAINTAINER me", "2:1 MaintainerDeprecated"),
            ("FROM a\nENV A b", "2:5 LegacyKeyValueFormat"),
            ("FROM a\nENV MY_TOKEN=x", "2:5 SecretsUsedInArgOrEnv"),
            ("FROM a\nRUN x \\\n\n y", "2:1 NoEmptyContinuation"),
            ("FROM a\nCMD x", "2:1 JSONArgsRecommended"),
            ("FROM a\nWORKDIR w", "2:9 WorkdirRelativePath"),
            ("FROM a\nCMD [\"x\"]\nCMD [\"y\"]", "2:1 MultipleInstructionsDisallowed"),
            ("FROM a\nEXPOSE 80/TCP", "2:8 ExposeProtoCasing"),
            ("FROM a\nEXPOSE 1:80", "2:8 ExposeInvalidFormat"),
            ("FROM scratch\nENV A=$NONE", "2:8 UndefinedVar"),
            ("FROM a\nCOPY there none* /x/", "2:12 CopyIgnoredFile"),
        ] {
            assert_eq!(findings(text), [expected], "{text}");
        }
        assert!(findings("FROM $NONE").contains(&"1:7 UndefinedArgInFrom".to_owned()));
        assert!(findings("ARG A\nFROM $A").contains(&"2:7 InvalidDefaultArgInFrom".to_owned()));
    }

    #[test]
    fn a_directive_turns_rules_off_and_makes_them_strict() {
        assert_eq!(findings("# check=skip=JSONArgsRecommended\nFROM a\nCMD x"), [""; 0]);
        assert_eq!(options("skip=A, B;error=true"), (vec!["A".into(), "B".into()], true));
    }
}
