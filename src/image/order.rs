//! Which images there are to build, what each starts from, and which comes first.

use super::dockerfile::{self, Action, Argument, Dockerfile, Fault, Step, short};
use super::evaluate;
use super::name::Name;
use crate::error::{Error, Result};
use crate::rooted::Root;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
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

impl Definition {
    /// Values for its `ARG`s, its own before those that all have.
    pub(super) fn given(&self, args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        args.iter().chain(&self.args).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// What a definition starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// Another definition, by index.
    Built(usize),
    /// Something outside: local, in a registry, or bootstrapped.
    Outside(String),
}

/// A Dockerfile with its text, for messages.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: Dockerfile,
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// An error about an instruction.
    pub(super) fn told(&self, line: usize, error: Error) -> Error {
        let (line, column) = Fault::at(line, "").place(&self.text);
        error.within(format!("{}:{line}:{column}: {}", self.path.display(), short(self.line(line))))
    }

    /// Whether it has an ARG of this name, or needs none for it.
    pub(super) fn takes(&self, name: &str) -> bool {
        let declares = |arguments: &[Argument]| arguments.iter().any(|argument| argument.name == name);
        let steps = self.file.stages.iter().flat_map(|stage| &stage.steps);
        let mut declared = steps.filter_map(|step| if let Action::Arg(all) = &step.action { Some(all) } else { None });
        declares(&self.file.global_args) || declared.any(|all| declares(all)) || evaluate::is_predefined(name)
    }

    fn line(&self, line: usize) -> &str {
        self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim()
    }
}

pub(super) fn parse(context: &Root) -> Result<Source> {
    let (path, text) = (context.path().join("Dockerfile"), context.needed("Dockerfile")?);
    let file = dockerfile::parse(&text).map_err(|fault| fault.told(&path.display().to_string(), &text))?;
    Ok(Source { file, path, text })
}

/// The images outside that a build context's Dockerfile starts from, expanded.
pub fn from(context: &Root, args: &BTreeMap<String, String>) -> Result<Vec<String>> {
    references(&parse(context)?, args)
}

/// What a step takes from elsewhere by a name: `--from` of COPY, which may be the number of a stage, and that of mounts, which may not.
pub(super) fn named(step: &Step) -> Vec<(&str, bool)> {
    match &step.action {
        Action::Copy(copy) => copy.from.as_deref().map(|name| (name, true)).into_iter().collect(),
        Action::Run(run) => run.mounts.iter().filter_map(|mount| Some((mount.from.as_deref()?, false))).collect(),
        _ => Vec::new(),
    }
}

/// The images outside that the last stage needs.
fn references(source: &Source, args: &BTreeMap<String, String>) -> Result<Vec<String>> {
    wanted(source, args).map(|(_, outside)| outside)
}

/// The stages that the last one needs, in order.
pub(super) fn needed(source: &Source, args: &BTreeMap<String, String>) -> Result<BTreeSet<usize>> {
    wanted(source, args).map(|(stages, _)| stages)
}

fn wanted(source: &Source, args: &BTreeMap<String, String>) -> Result<(BTreeSet<usize>, Vec<String>)> {
    let file = &source.file;
    let globals = evaluate::globals(file, args)?;
    let (mut todo, mut seen, mut outside) = (vec![file.stages.len() - 1], BTreeSet::new(), Vec::new());
    while let Some(index) = todo.pop() {
        if !seen.insert(index) {
            continue;
        }
        let stage = &file.stages[index];
        let base = evaluate::base(file, stage, &globals).map_err(|e| source.told(stage.line, e))?;
        let names = stage.steps.iter().flat_map(named).map(|(name, is_copy)| (name.to_owned(), is_copy));
        for (name, numbers) in std::iter::once((base, false)).chain(names) {
            match file.stage(&name, index, numbers) {
                Some(stage) => todo.push(stage),
                // It is told when the stage is made.
                None if numbers && name.parse::<usize>().is_ok() => {}
                None if name != "scratch" && !outside.contains(&name) => outside.push(name),
                None => {}
            }
        }
    }
    Ok((seen, outside))
}

/// By name, what each definition's Dockerfile takes from elsewhere.
pub(super) fn bases(
    definitions: &[Definition],
    parsed: &[impl Borrow<Source>],
    args: &BTreeMap<String, String>,
) -> Result<Vec<BTreeMap<String, Base>>> {
    let base = |from: &String| {
        let known = definitions.iter().position(|d| d.known_as.contains(&Name::new(from)));
        known.map_or_else(|| Base::Outside(from.clone()), Base::Built)
    };
    let of = |(source, definition): (&_, &Definition)| {
        let source: &Source = Borrow::borrow(source);
        let names = references(source, &definition.given(args))?;
        Ok(names.into_iter().map(|name| (name.clone(), base(&name))).collect())
    };
    parsed.iter().zip(definitions).map(of).collect()
}

/// Parents before children.
pub(super) fn order(definitions: &[Definition], bases: &[BTreeMap<String, Base>]) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < definitions.len() {
        let before = order.len();
        for (i, bases) in bases.iter().enumerate() {
            let is_ready = |base: &Base| match base {
                Base::Outside(_) => true,
                Base::Built(p) => order.contains(p),
            };
            if bases.values().all(is_ready) && !order.contains(&i) {
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

    fn file(text: &str) -> Source {
        Source { file: dockerfile::parse(text).unwrap(), path: "D".into(), text: text.into() }
    }

    fn of(definitions: &[Definition], parsed: &[Source]) -> Vec<BTreeMap<String, Base>> {
        bases(definitions, parsed, &BTreeMap::new()).unwrap()
    }

    #[test]
    fn parents_come_first_and_circles_are_told() {
        let definitions = [definition("node", "o/t-node:base"), definition("base", "o/t-base")];
        let parsed = [file("FROM o/t-base:latest"), file("FROM debian:trixie")];
        let found = of(&definitions, &parsed);
        assert_eq!(found[0]["o/t-base:latest"], Base::Built(1));
        assert_eq!(found[1]["debian:trixie"], Base::Outside("debian:trixie".into()));
        assert_eq!(order(&definitions, &found).unwrap(), [1, 0]);
        let parsed = [file("FROM o/t-base"), file("FROM scratch\nCOPY --from=o/t-node:base /a /b")];
        let error = order(&definitions, &of(&definitions, &parsed)).unwrap_err();
        assert_eq!(error.to_string(), "the FROM lines of node, base go in a circle");
    }

    #[test]
    fn only_what_the_last_stage_needs_is_asked_for() {
        let text = "ARG B=two\nFROM one AS unused\nFROM $B AS a\nFROM a AS b\nRUN --mount=from=three,target=/t x\nFROM scratch\n\
                    COPY --from=b /x /x\nCOPY --from=1 /y /y\nCOPY --from=9 /z /z";
        assert_eq!(references(&file(text), &BTreeMap::new()).unwrap(), ["two", "three"]);
        let given = BTreeMap::from([("B".to_owned(), "given".to_owned())]);
        assert_eq!(references(&file("ARG B\nFROM ${B}"), &given).unwrap(), ["given"]);
        assert!(
            references(&file("ARG B\nFROM ${B}"), &BTreeMap::new()).unwrap_err().to_string().contains("names no image")
        );
    }
}
