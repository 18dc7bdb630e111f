//! Installing a tree that differs in few files from one that was installed: those are put in the place of the old ones, and what was made
//! with them is made anew.
//!
//! A complete install leaves two notes in its image: which installed files are which source files (`origins.pl`, in the images), and what
//! the tree consisted of. A change of anything else than those source files, such as of a Makefile, installs all of it again.

use super::images::{INSTALL_CAPABILITY, Said, install_mounts, install_process};
use crate::engine::{Image, Images, Mount, StepRoot};
use crate::error::{Error, Result};
use crate::image::build::Builder;
use crate::image::cache;
use crate::image::run::{RunNetwork, Sandbox};
use crate::rooted::Root;
use crate::source::{Listing, Prepared};
use std::collections::BTreeSet;
use std::path::Path;

const ORIGINS: &str = "/var/lib/oardocker/origins";
const LISTING: &str = "/var/lib/oardocker/listing";
/// In the images: puts files in place.
const SCRIPT: &str = "/usr/local/lib/oardocker/refresh.sh";
/// Where it finds them.
const CHANGED_INSIDE: &str = "/tmp/postinstall";

/// What a complete install left of a role.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) image: Image,
    pub(super) said: Said,
    /// The files of the tree that it was made of.
    pub(super) listing: Listing,
    /// Those that are in the image as they are, or with their names filled in.
    pub(super) plain: BTreeSet<String>,
}

/// Notes in an image what it was made of.
pub(super) fn note(step: &StepRoot, listing: &Listing) -> Result<()> {
    Root::open(&step.root)?.replace(Path::new(LISTING), listing.text().as_bytes(), 0o644)
}

/// The source files that `origins.pl` tells of.
pub(super) fn plain(origins: &str) -> BTreeSet<String> {
    let source = |line: &str| {
        let mut parts = line.split('\t');
        (parts.next() == Some("file")).then(|| parts.next().map(ToOwned::to_owned)).flatten()
    };
    origins.lines().filter_map(source).collect()
}

/// The source files of those installed files that a list of `refresh.pl` begins its lines with.
pub(super) fn sources_of(origins: &str, put: &str) -> BTreeSet<String> {
    let paths: BTreeSet<&str> = put.lines().filter_map(|line| line.split('\t').next()).collect();
    let source = |line: &str| {
        let mut parts = line.split('\t').skip(1);
        let source = parts.next()?;
        paths.contains(parts.next()?).then(|| source.to_owned())
    };
    origins.lines().filter_map(source).collect()
}

/// Looks for what an install left on top of an image.
pub(super) async fn find(images: &dyn Images, key: &str, below: &Image) -> Result<Option<Anchor>> {
    let Some((image, labels)) = cache::find(images, key, below).await? else { return Ok(None) };
    let Some(said) = Said::of(&labels) else { return Ok(None) };
    let noted = notes(images, &image).await?;
    Ok(noted.map(|(origins, listing)| Anchor { image, said, listing, plain: plain(&origins) }))
}

/// What is noted in an image of what it was made of: the text of `origins.pl`, and the tree.
pub(super) async fn notes(images: &dyn Images, image: &Image) -> Result<Option<(String, Listing)>> {
    let step = images.begin_step(image.chain_id().as_deref()).await?;
    let read = || -> Result<Option<(String, String)>> {
        let root = Root::open(&step.root)?;
        Ok(root.text(ORIGINS)?.zip(root.text(LISTING)?))
    };
    let noted = read();
    images.abort_step(step.clone()).await?;
    Ok(noted?.map(|(origins, listing)| (origins, Listing::read(&listing))))
}

/// The files that have to be put in place so that all roles have this tree; or one of those for which that does not do.
pub(super) fn changed<'a>(anchors: &[Anchor], now: &'a Listing) -> std::result::Result<BTreeSet<&'a str>, String> {
    let mut all = BTreeSet::new();
    for anchor in anchors {
        let changes = now.changed_since(&anchor.listing);
        let more = |path: &&str| !anchors.iter().any(|anchor| anchor.plain.contains(*path));
        // make looks at times.
        let more = changes.contents.iter().chain(&changes.touched).copied().find(more);
        if let Some(path) = changes.others.first().map(String::as_str).or(more) {
            return Err(path.to_owned());
        }
        all.extend(changes.contents);
    }
    Ok(all)
}

/// Puts the files of a role in place: the image with one more layer.
pub(super) async fn run(
    builder: &Builder,
    role: &str,
    anchor: &Anchor,
    source: &Prepared,
    files: &[&str],
) -> Result<Image> {
    let mut image = anchor.image.clone();
    if files.is_empty() {
        return Ok(image);
    }
    let dir = builder.scratch_dir("refresh-")?;
    source.copy_files(files, dir.path())?;
    let mut mounts = install_mounts();
    mounts.push(Mount::bind(dir.path().to_string_lossy(), CHANGED_INSIDE, true));
    let process = install_process(&image, ["/bin/bash", SCRIPT, CHANGED_INSIDE].map(Into::into).to_vec());
    let step = builder.images.begin_step(image.chain_id().as_deref()).await?;
    let outcome = async {
        let capabilities = vec![INSTALL_CAPABILITY.into()];
        let sandbox = Sandbox { mounts, capabilities, network: RunNetwork::None };
        let (code, tail) = builder.run_in(&step, process, sandbox, role).await?;
        if code != 0 {
            return Err(Error::new(format!("{SCRIPT} ended with exit code {code} on {role}")).detail(tail));
        }
        Ok(())
    }
    .await;
    image.layers.push(builder.finish(step, outcome).await?);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::ImageConfiguration;

    fn anchor(plain: &[&str], listing: &str) -> Anchor {
        Anchor {
            image: Image::new(ImageConfiguration::default(), Vec::new()),
            said: Said::default(),
            listing: Listing::read(listing),
            plain: plain.iter().map(|path| (*path).to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_put_in_place_and_what_is_not() {
        let before = "100644\t1\t\tMakefile\n100644\t1\t\ta.pl\n100644\t1\t\tb.pm\n100755\t1\t\tc\n";
        let anchors = || [anchor(&["a.pl"], before), anchor(&["a.pl", "b.pm", "c"], before)];
        let now = |text: &str| Listing::read(text);
        for (change, expected) in [
            (("", ""), Ok(&[][..])),
            (("1\t\ta.pl", "2\t\ta.pl"), Ok(&["a.pl"])),
            // Of one role alone.
            (("1\t\tb.pm", "2\t\tb.pm"), Ok(&["b.pm"])),
            (("1\t\tMakefile", "1\t2\tMakefile"), Err("Makefile")),
            (("100644\t1\t\ta.pl\n", ""), Err("a.pl")),
            (("100755\t1\t\tc", "100644\t1\t\tc"), Err("c")),
            (("100755\t1\t\tc", "100755\t1\t\tc\n100644\t1\t\td"), Err("d")),
        ] {
            let now = now(&before.replace(change.0, change.1));
            let found = changed(&anchors(), &now).map(|all| all.into_iter().collect::<Vec<_>>());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{change:?}");
        }
        let origins = "file\ta.pl\t/usr/a\tabc\nfile\tb.in\t/usr/b\tabc\nvalue\tX\tY\nused\t/usr/c\n";
        assert_eq!(plain(origins).into_iter().collect::<Vec<_>>(), ["a.pl", "b.in"]);
        assert_eq!(sources_of(origins, "/usr/b\t1\n/usr/x\t2\n").into_iter().collect::<Vec<_>>(), ["b.in"]);
    }
}
