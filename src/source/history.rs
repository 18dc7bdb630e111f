//! Of a repository's history, what an installation asks git for: the commit that is checked out, its files, and the commits from the
//! last tag to it, which `git describe` counts. Older objects may be many, and need not be there.

use crate::error::Result;
use crate::host::git::Git;
use crate::rooted::Root;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Commits with their parents.
type Commits = HashMap<String, Vec<String>>;

/// Gives `ours`, which is new and whose files are in `new`, that part of the history of `theirs`.
pub(super) fn copy(theirs: &Git, ours: &Git, new: &Root) -> Result<()> {
    // Nothing was ever committed there.
    let Ok(head) = theirs.run(&["rev-parse", "--verify", "--quiet", "HEAD"]) else { return Ok(()) };
    let head = head.trim();
    let tag = theirs.run(&["describe", "--tags", "--abbrev=0", "HEAD"]).ok();
    let commits = commits(theirs, head, tag.as_deref().map(str::trim))?;
    let tags = tags(theirs, &commits)?;

    let mut objects: HashSet<String> = commits.keys().cloned().collect();
    objects.extend(tags.iter().map(|(id, _)| id.clone()));
    // Files that a partial clone has never fetched are left out.
    let of_head = theirs.run(&["rev-list", "--objects", "--missing=allow-any", "--no-walk", "HEAD"])?;
    objects.extend(of_head.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned));
    let list: String = objects.iter().map(|id| format!("{id}\n")).collect();
    let pack = theirs.fed(&["pack-objects", "--quiet", "--stdout"], list.as_bytes())?;
    ours.fed(&["index-pack", "--stdin"], &pack)?;

    // Where the history is cut off.
    let cut = commits.iter().filter(|(_, parents)| !parents.iter().any(|p| commits.contains_key(p)));
    let cut: String = cut.map(|(id, _)| format!("{id}\n")).collect();
    new.replace(Path::new(".git/shallow"), cut.as_bytes(), 0o644)?;
    for (id, name) in &tags {
        ours.run(&["update-ref", name, id])?;
    }
    match theirs.run(&["symbolic-ref", "--quiet", "HEAD"]) {
        Ok(branch) => {
            ours.run(&["update-ref", branch.trim(), head])?;
            ours.run(&["symbolic-ref", "HEAD", branch.trim()])?;
        }
        Err(_) => {
            ours.run(&["update-ref", "--no-deref", "HEAD", head])?;
        }
    }
    // So that `git status` tells the edits; where directories of the commit are missing it cannot.
    let _ = ours.run(&["reset", "--quiet"]);
    Ok(())
}

/// The commits from a tag on, or the last one alone; those of the whole history where a merge leads around the tag, as git does not
/// count alike then.
fn commits(theirs: &Git, head: &str, tag: Option<&str>) -> Result<Commits> {
    let Some(tag) = tag else { return Ok(Commits::from([(head.to_owned(), Vec::new())])) };
    let mut found = parse(&theirs.run(&["rev-list", "--parents", "HEAD", &format!("^{tag}")])?);
    let base = theirs.run(&["rev-parse", "--verify", "--quiet", &format!("{tag}^{{commit}}")])?;
    found.insert(base.trim().to_owned(), Vec::new());
    if found.values().flatten().any(|parent| !found.contains_key(parent)) {
        found = parse(&theirs.run(&["rev-list", "--parents", "HEAD"])?);
    }
    Ok(found)
}

fn parse(text: &str) -> Commits {
    let line = |line: &str| {
        let mut ids = line.split(' ').map(str::to_owned);
        Some((ids.next()?, ids.collect()))
    };
    text.lines().filter_map(line).collect()
}

/// Tags of these commits: the object that each names, and its full name.
fn tags(theirs: &Git, commits: &Commits) -> Result<Vec<(String, String)>> {
    let text = theirs.run(&["for-each-ref", "--format=%(objectname) %(*objectname) %(refname)", "refs/tags"])?;
    let of_ours = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (id, peeled, name) = (words.next()?, words.next()?, words.next()?);
        [id, peeled].iter().any(|id| commits.contains_key(*id)).then(|| (id.to_owned(), name.to_owned()))
    };
    Ok(text.lines().filter_map(of_ours).collect())
}
