//! Where OAR comes from: something on the host that an install container can read, or the suite's own packages.
//!
//! Knows tar files, directories, git and HTTP; knows no container. The user's files are never written to.

mod clone;
mod history;
mod http;
mod listing;
mod tarball;
mod watch;

pub use listing::{Changes, Listing};
pub use watch::TreeWatch;

use crate::error::{Doing as _, Error, Result};
use crate::host;
use crate::rooted::{Root, pin};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// The file by which an OAR source tree is known: OAR 2's version, or OAR 3's package.
const MARKS: [&str; 2] = ["sources/core/common-libs/lib/OAR/Version.pm", "oar/__init__.py"];

/// The word for Debian's packages. A file of that name is `./deb`.
pub const PACKAGES: &str = "deb";

/// What the user named, looked at and found to be OAR. It is held open: what its path comes to mean later does not matter.
#[derive(Debug)]
pub struct Source {
    /// For messages.
    name: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tarball(tarball::Tarball),
    Directory(Root),
    Git(Root),
    Packages,
}

/// What the install script is given.
#[derive(Debug)]
pub struct Prepared {
    /// What to mount read-only.
    pub form: Form,
    /// Where that is, removed with this value.
    _place: Option<Place>,
}

impl Prepared {
    /// What is in it; none for what changes without us.
    pub fn listing(&self) -> Result<Option<Listing>> {
        Listing::of(&self.form)
    }

    /// The files of it at these paths, with their directories, copied to one of ours.
    pub fn copy_files(&self, paths: &[&str], to: &Path) -> Result<()> {
        let to = Root::open(to)?;
        self.each_of(paths, |path, bytes| to.replace(path, &bytes, 0o644))
    }

    /// The same as a tar archive.
    pub fn archive(&self, paths: &[&str]) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        self.each_of(paths, |path, bytes| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, bytes.as_slice()).doing(|| format!("cannot pack {}", path.display()))
        })?;
        archive.into_inner().doing(|| "cannot pack the changed files".into())
    }

    fn each_of(&self, paths: &[&str], mut work: impl FnMut(&Path, Vec<u8>) -> Result<()>) -> Result<()> {
        let Form::Directory(tree) = &self.form else { return Err(Error::new("it is no directory")) };
        let tree = Root::beneath(tree)?;
        paths.iter().map(Path::new).try_for_each(|path| {
            let bytes = tree.read_bytes(path).doing(|| format!("cannot read {}", path.display()))?;
            work(path, bytes)
        })
    }
}

/// A source as the install container sees it.
#[derive(Debug)]
pub enum Form {
    /// A tarball on the host.
    File(PathBuf),
    /// A directory on the host.
    Directory(PathBuf),
    /// Nothing to mount.
    Packages,
}

/// A directory of ours in which a source is mounted, or a copy of it is made.
#[derive(Debug)]
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        // What stays mounted is neither followed nor lost: removing does not go into it.
        let _ = host::unmount_below(self.0.path()).and_then(|()| host::remove_dir(self.0.path()));
        self.0.disable_cleanup(true);
    }
}

/// Opens what the user named: a path, the URL of a tarball, `git+URL[@ref]` or `deb`. Clones are kept in the env dir, tarballs
/// come to `scratch`.
pub async fn open(text: &str, env_dir: &Root, scratch: &Path, say: &(dyn Fn(&str) + Sync)) -> Result<Source> {
    if text == PACKAGES {
        return Ok(Source { name: "Debian's packages".into(), kind: Kind::Packages });
    }
    if let Some(repository) = text.strip_prefix("git+") {
        let (url, reference) = clone::parse(repository);
        return of_tree(clone::fetch(&url, reference.as_deref(), env_dir, say)?);
    }
    match text.split_once("://") {
        Some(("http" | "https", _)) => {
            let tarball = http::download(text, scratch, say).await?;
            Ok(Source { name: text.into(), kind: Kind::Tarball(tarball) })
        }
        Some(("file", path)) => local(path, scratch),
        Some((scheme, _)) => Err(Error::new(format!("{scheme} URLs cannot be installed from"))
            .hint("use http, https or file for tarballs, and git+URL for repositories")),
        None => local(text, scratch),
    }
}

fn local(text: &str, scratch: &Path) -> Result<Source> {
    let doing = || format!("cannot open {text}");
    let path = fs::canonicalize(text)
        .doing(doing)
        .map_err(|e| e.hint("SRC is a tarball, a directory with OAR's sources, a git working tree, or the word deb"))?;
    if path.is_dir() {
        return of_tree(Root::beneath(&path)?);
    }
    let parent = Root::open(path.parent().unwrap_or(Path::new("/")))?;
    let file = parent.file(Path::new(path.file_name().unwrap_or_default())).doing(doing)?;
    let name = path.display().to_string();
    let tarball = tarball::open(file, None, &name, scratch)?;
    Ok(Source { name, kind: Kind::Tarball(tarball) })
}

fn of_tree(tree: Root) -> Result<Source> {
    let name = tree.path().display().to_string();
    if !MARKS.iter().any(|m| tree.is_file(Path::new(m))) {
        return Err(not_oar(&name));
    }
    let kind = if tree.entry(Path::new(".git")).is_ok() { Kind::Git(tree) } else { Kind::Directory(tree) };
    Ok(Source { name, kind })
}

impl Source {
    /// Makes it mountable. Of a git working tree only what git knows is copied, so that build products stay out.
    pub fn prepare(&self, scratch: &Path) -> Result<Prepared> {
        if let Kind::Packages = self.kind {
            return Ok(Prepared { form: Form::Packages, _place: None });
        }
        let doing = || format!("cannot prepare {}", self.name);
        // The owner of a tree works in there.
        host::make_dir(scratch, 0o711)?;
        let dir = tempfile::Builder::new().prefix("source-").tempdir_in(scratch).doing(doing)?;
        let place = Place(dir);
        let at = place.0.path().join("source");
        let form = match &self.kind {
            Kind::Tarball(tarball) => {
                pin(&tarball.file, &at).doing(doing)?;
                Form::File(at)
            }
            Kind::Directory(tree) => {
                pin(&tree.lockable()?, &at).doing(doing)?;
                Form::Directory(at)
            }
            Kind::Git(tree) => {
                host::make_dir(place.0.path(), 0o711)?;
                pin(&tree.lockable()?, &at).doing(doing)?;
                let copy = place.0.path().join("copy");
                host::make_dir(&copy, 0o700)?;
                // Its owner could put something else in its place; where it is shown he cannot.
                let tracked = place.0.path().join("tracked");
                pin(&clone::copy_tree(tree, &at, &copy)?.lockable()?, &tracked).doing(doing)?;
                Form::Directory(tracked)
            }
            Kind::Packages => unreachable!("handled above"),
        };
        Ok(Prepared { form, _place: Some(place) })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn not_oar(name: &str) -> Error {
    Error::new(format!("{name} holds no OAR sources"))
        .hint(format!("looked for {} (OAR 2.5 and 2.6) and {} (OAR 3); older ones are not served", MARKS[0], MARKS[1]))
}

#[cfg(test)]
mod tests {
    /// git in a tree of the tests' own.
    fn git_in(dir: &Path, args: &[&str]) -> Result<String> {
        crate::host::git::Git::own(dir.into()).run(args)
    }

    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn oar_tree(dir: &Path) {
        let file = dir.join(MARKS[0]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "my $OARVersion = \"2.6.1\";").unwrap();
    }

    fn tarball(dir: &Path, top: &str) -> PathBuf {
        let path = dir.join("x.tar.gz");
        let mut builder = tar::Builder::new(GzEncoder::new(fs::File::create(&path).unwrap(), Compression::fast()));
        builder.append_dir_all(top, dir.join("tree")).unwrap();
        builder.into_inner().unwrap().finish().unwrap();
        path
    }

    fn message(text: &Path) -> String {
        // Never a directory that is others' as well: its mode is set.
        let scratch = tempfile::tempdir().unwrap();
        let error = local(&text.to_string_lossy(), scratch.path()).unwrap_err().to_string();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "nothing half done stays");
        error
    }

    fn prepared(path: &Path, scratch: &Path) -> Prepared {
        local(&path.to_string_lossy(), scratch).unwrap().prepare(scratch).unwrap()
    }

    fn directory(prepared: &Prepared) -> &Path {
        match &prepared.form {
            Form::Directory(path) => path,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn deb_is_a_word() {
        let tmp = tempfile::tempdir().unwrap();
        let env_dir = Root::beneath(tmp.path()).unwrap();
        let source = open("deb", &env_dir, tmp.path(), &|_| ()).await.unwrap();
        assert_eq!(source.to_string(), "Debian's packages");
        assert!(matches!(source.prepare(tmp.path()).unwrap().form, Form::Packages));
        for path in ["./deb", "Deb", "deb/"] {
            assert!(
                open(path, &env_dir, tmp.path(), &|_| ()).await.unwrap_err().to_string().contains("No such file"),
                "{path}"
            );
        }
    }

    #[test]
    #[ignore = "mounts, which needs root: make test runs it"]
    fn tarballs() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path();
        fs::create_dir(dir.join("tree")).unwrap();
        let path = tarball(dir, "oar-2.6.1");
        assert!(message(&path).contains("holds no OAR sources"));
        oar_tree(&dir.join("tree"));
        fs::write(dir.join("tree/big"), vec![7; 200_000]).unwrap();
        let path = tarball(dir, "oar-2.6.1");
        assert!(matches!(prepared(&path, dir).form, Form::File(_)));
        let bytes = fs::read(&path).unwrap();
        for cut in [0, 1, 10, bytes.len() / 2, bytes.len() - 4] {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(message(&path).contains("is not a complete tar"), "cut at {cut}");
        }
        // The same with xz, in two streams, as a parallel xz makes them.
        let mut tar = Vec::new();
        std::io::copy(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut tar).unwrap();
        let xz = |bytes: &[u8]| {
            let mut out = Vec::new();
            std::io::copy(&mut liblzma::read::XzEncoder::new(bytes, 1), &mut out).unwrap();
            out
        };
        let bytes = [xz(&tar[..1000]), xz(&tar[1000..])].concat();
        let path = dir.join("oar.tar.xz");
        fs::write(&path, &bytes).unwrap();
        let there =
            || fs::read_dir(dir).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|x| x == "tar"));
        let source = local(path.to_str().unwrap(), dir).unwrap();
        assert_eq!(there().count(), 1);
        assert!(matches!(source.prepare(dir).unwrap().form, Form::File(_)));
        drop(source);
        for cut in [7, bytes.len() / 2, bytes.len() - 4] {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(message(&path).contains("is not a complete tar.xz file"), "cut at {cut}");
        }
        assert_eq!(there().count(), 0);
        fs::write(&path, b"BZh91AY&SY").unwrap();
        assert!(message(&path).contains("is compressed with bzip2"));
        fs::write(&path, "no tar at all, but long enough to be read as one".repeat(40)).unwrap();
        assert!(message(&path).contains("is not a complete tar"));
        assert!(message(&dir.join("none")).contains("No such file"));
    }

    const COMMIT: [&str; 5] = ["-c", "user.name=a", "-c", "user.email=a@b", "commit"];

    /// A git tree with OAR in it.
    fn git_tree(tree: &Path) {
        oar_tree(tree);
        for args in [&["init", "-q"][..], &["add", "."], &[&COMMIT[..], &["-qm", "x"]].concat()] {
            git_in(tree, args).unwrap();
        }
    }

    fn shell(line: &str) {
        assert!(std::process::Command::new("sh").args(["-c", line]).status().unwrap().success(), "{line}");
    }

    #[test]
    #[ignore = "mounts, which needs root: make test runs it"]
    fn what_a_git_tree_says_is_not_run() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, evil) = (tmp.path().join("oar"), tmp.path().join("evil"));
        git_tree(&tree);
        let run = format!("touch {}", evil.display());
        for key in ["core.fsmonitor", "core.sshCommand", "core.pager", "filter.x.clean", "filter.x.smudge"] {
            git_in(&tree, &["config", key, &run]).unwrap();
        }
        for hook in ["post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc"] {
            let path = tree.join(".git/hooks").join(hook);
            fs::write(&path, format!("#!/bin/sh\n{run}\n")).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        fs::write(tree.join(".gitattributes"), "* filter=x\n").unwrap();
        let source = prepared(&tree, &tmp.path().join("scratch"));
        assert!(directory(&source).join(MARKS[0]).is_file());
        assert!(!evil.exists());
    }

    #[test]
    #[ignore = "mounts, which needs root: make test runs it"]
    fn a_git_tree_of_another_account_is_its_owner_s() {
        use std::os::unix::fs::MetadataExt as _;
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: sudo make test");
        let tmp = tempfile::tempdir().unwrap();
        let tree = tmp.path().join("oar");
        git_tree(&tree);
        // Nobody but root can come here, as in root's own home.
        shell(&format!("chown -R 61234:61234 {0} && chmod 700 {1}", tree.display(), tmp.path().display()));
        let scratch = tempfile::tempdir().unwrap();
        fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
        let source = prepared(&tree, &scratch.path().join("scratch"));
        let copy = directory(&source);
        let owner = |name: &str| fs::metadata(copy.join(name)).unwrap().uid();
        assert_eq!((owner(MARKS[0]), owner(".git/HEAD")), (61234, 61234), "git was run by the owner");
        // Of a worktree that is root's, whose repository is not, nobody knows whose word that is.
        let own = tmp.path().join("own");
        shell(&format!("git -c safe.directory='*' -C {} worktree add -q {}", tree.display(), own.display()));
        shell(&format!("chown 0:0 {}/.git", own.display()));
        let error = local(&own.to_string_lossy(), scratch.path())
            .unwrap()
            .prepare(&scratch.path().join("scratch"))
            .unwrap_err();
        assert!(error.to_string().contains("belongs to user"), "{error}");
    }

    #[test]
    fn a_link_in_the_place_of_a_clone_loses_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, env, theirs) = (tmp.path().join("oar"), tmp.path().join("env"), tmp.path().join("theirs"));
        git_tree(&tree);
        git_tree(&theirs);
        fs::create_dir_all(env.join("postinstall")).unwrap();
        std::os::unix::fs::symlink(&theirs, env.join("postinstall/oar-git")).unwrap();
        let env_dir = Root::beneath(&env).unwrap();
        let url = format!("file://{}", tree.display());
        clone::fetch(&url, None, &env_dir, &|_| ()).unwrap();
        assert!(theirs.join(MARKS[0]).is_file(), "what the link led to is still there");
        assert!(
            fs::symlink_metadata(env.join("postinstall/oar-git")).unwrap().is_dir(),
            "the clone took the link's place"
        );
        // What somebody wrote into the clone's configuration is not run by the next update.
        let evil = tmp.path().join("evil");
        let clone = env.join("postinstall/oar-git");
        git_in(&clone, &["config", "core.sshCommand", &format!("touch {}", evil.display())]).unwrap();
        git_in(&clone, &["config", "remote.origin.uploadpack", &format!("touch {}; git-upload-pack", evil.display())])
            .unwrap();
        clone::fetch(&url, None, &env_dir, &|_| ()).unwrap();
        assert!(!evil.exists());
        fs::remove_dir_all(env.join("postinstall")).unwrap();
        std::os::unix::fs::symlink(&theirs, env.join("postinstall")).unwrap();
        assert!(
            clone::fetch(&url, None, &env_dir, &|_| ()).unwrap_err().to_string().contains("leads out of the folder")
        );
    }

    #[test]
    #[ignore = "mounts, which needs root: make test runs it"]
    fn of_a_git_tree_only_what_git_tracks() {
        let tmp = tempfile::tempdir().unwrap();
        let tree = tmp.path().join("oar");
        assert!(message(tmp.path()).contains("holds no OAR sources"));
        oar_tree(&tree);
        assert!(directory(&prepared(&tree, tmp.path())).join(MARKS[0]).is_file());
        for args in [
            &["init", "-q"][..],
            &["add", "."],
            &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
            &["-c", "user.name=a", "-c", "user.email=a@b", "tag", "-am", "x", "2.6.1"],
        ] {
            git_in(&tree, args).unwrap();
        }
        fs::write(tree.join("product.o"), "").unwrap();
        fs::write(tree.join(MARKS[0]), "edited").unwrap();
        let source = prepared(&tree, &tmp.path().join("scratch"));
        let copy = directory(&source).to_owned();
        assert!(!copy.join("product.o").exists());
        assert_eq!(fs::read_to_string(copy.join(MARKS[0])).unwrap(), "edited");
        assert_eq!(git_in(&copy, &["describe", "--tags"]).unwrap().trim(), "2.6.1");
        assert_eq!(git_in(&copy, &["status", "--porcelain"]).unwrap(), format!(" M {}\n", MARKS[0]));
        drop(source);
        assert!(!copy.exists());
        assert!(tree.join("product.o").exists());
    }

    /// A tree with an old version of a large file, a tag, and two commits after that; what `git describe` says there.
    fn long_history(tree: &Path) -> String {
        let commit = |message: &str| {
            git_in(tree, &["add", "."]).unwrap();
            git_in(tree, &[&COMMIT[..], &["-qm", message]].concat()).unwrap();
        };
        oar_tree(tree);
        git_in(tree, &["init", "-q", "-b", "devel"]).unwrap();
        let noise: Vec<u8> = (0..3_000_000).map(|_| rand::random()).collect();
        fs::write(tree.join("large"), noise).unwrap();
        commit("a");
        fs::write(tree.join("large"), "small now").unwrap();
        commit("b");
        git_in(tree, &["-c", "user.name=a", "-c", "user.email=a@b", "tag", "-am", "x", "2.6.1"]).unwrap();
        for message in ["c", "d"] {
            fs::write(tree.join("news"), message).unwrap();
            commit(message);
        }
        git_in(tree, &["describe", "--tags"]).unwrap()
    }

    /// What an installation sees of a tree: what `git describe` says, the branch, and a file.
    #[track_caller]
    fn seen(tree: &Path, scratch: &Path) -> (String, String, String) {
        let source = prepared(tree, scratch);
        let copy = directory(&source);
        let git = |args: &[&str]| git_in(copy, args).unwrap_or_else(|e| e.to_string());
        let file = fs::read_to_string(copy.join("news")).unwrap_or_default();
        (git(&["describe", "--tags"]), git(&["rev-parse", "--abbrev-ref", "HEAD"]).trim().to_owned(), file)
    }

    #[test]
    #[ignore = "mounts, which needs root: make test runs it"]
    fn of_the_history_only_what_describe_wants() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, scratch) = (tmp.path().join("oar"), tmp.path().join("scratch"));
        let described = long_history(&tree);
        assert!(described.starts_with("2.6.1-2-g"), "{described}");
        assert_eq!(seen(&tree, &scratch), (described.clone(), "devel".into(), "d".into()));
        let source = prepared(&tree, &scratch);
        let old = git_in(&tree, &["rev-parse", "HEAD~3:large"]).unwrap();
        assert!(git_in(directory(&source), &["cat-file", "-e", old.trim()]).is_err(), "the old version is not copied");
        assert_eq!(git_in(directory(&source), &["rev-list", "--count", "HEAD"]).unwrap(), "3\n");
        assert_eq!(git_in(directory(&source), &["status", "--porcelain"]).unwrap(), "");

        // A merge of what was begun before the tag.
        let git = |args: &[&str]| git_in(&tree, &[&COMMIT[..4], args].concat()).unwrap();
        git(&["checkout", "-q", "-b", "side", "HEAD~3"]);
        git(&["commit", "-q", "--allow-empty", "-m", "s"]);
        git(&["checkout", "-q", "devel"]);
        git(&["merge", "-q", "--no-ff", "-m", "m", "side"]);
        assert_eq!(seen(&tree, &scratch).0, git(&["describe", "--tags"]));
        git(&["checkout", "-q", "--detach", "HEAD~1"]);
        assert_eq!(seen(&tree, &scratch).1, "HEAD");
        // Nothing committed yet, and no tag.
        let young = tmp.path().join("young");
        oar_tree(&young);
        git_in(&young, &["init", "-q"]).unwrap();
        git_in(&young, &["add", "."]).unwrap();
        assert!(directory(&prepared(&young, &scratch)).join(MARKS[0]).is_file());
        git_in(&young, &[&COMMIT[..], &["-qm", "x"]].concat()).unwrap();
        assert!(seen(&young, &scratch).0.contains("git describe"), "there is nothing to describe");
    }

    #[test]
    #[ignore = "mounts, which needs root: make test runs it"]
    fn clones_that_lack_something_are_copied() {
        let tmp = tempfile::tempdir().unwrap();
        let (origin, scratch) = (tmp.path().join("origin"), tmp.path().join("scratch"));
        let described = long_history(&origin);
        for key in ["uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"] {
            git_in(&origin, &["config", key, "true"]).unwrap();
        }
        let url = format!("file://{}", origin.display());
        let clone = |name: &str, args: &[&str]| {
            let place = tmp.path().join(name);
            shell(&format!("git clone -q {} {url} {}", args.join(" "), place.display()));
            place
        };
        for (name, args) in [
            ("full", &[][..]),
            ("no-blobs", &["--filter=blob:none"]),
            ("no-trees", &["--filter=tree:0"]),
            ("depth", &["--depth=3"]),
            ("bare-of-tags", &["--depth=1"]),
            ("sparse", &["--sparse", "--filter=blob:none"]),
        ] {
            let place = clone(name, args);
            git_in(&place, &["repack", "-adq"]).unwrap();
            if name == "sparse" {
                shell(&format!("git -C {} sparse-checkout set sources", place.display()));
            }
            // Nobody is asked for what is missing.
            git_in(&place, &["remote", "set-url", "origin", "file:///nonexistent"]).unwrap();
            let (version, branch, file) = seen(&place, &scratch);
            assert_eq!(branch, "devel", "{name}");
            assert_eq!(file, "d", "{name}");
            if name != "bare-of-tags" {
                assert_eq!(version, described, "{name}");
            }
        }
        // An object of the past that is lost.
        let old = git_in(&origin, &["rev-parse", "HEAD~3:large"]).unwrap();
        fs::remove_file(origin.join(".git/objects").join(&old[..2]).join(old[2..].trim())).unwrap();
        assert_eq!(seen(&origin, &scratch).0, described);
    }

    #[test]
    #[ignore = "mounts, which needs root: make test runs it"]
    fn worktrees_and_submodules_are_copied() {
        let tmp = tempfile::tempdir().unwrap();
        let (tree, scratch) = (tmp.path().join("oar"), tmp.path().join("scratch"));
        let described = long_history(&tree);
        let git = |dir: &Path, args: &[&str]| {
            git_in(dir, &[&COMMIT[..4], &["-c", "protocol.file.allow=always"], args].concat()).unwrap()
        };
        git(&tree, &["worktree", "add", "-q", "-b", "feature", "../feature"]);
        let feature = tmp.path().join("feature");
        assert_eq!(seen(&feature, &scratch), (described.clone(), "feature".into(), "d".into()));
        // As newer gits can write it.
        fs::write(feature.join(".git"), "gitdir: ../oar/.git/worktrees/feature\n").unwrap();
        assert_eq!(seen(&feature, &scratch), (described.clone(), "feature".into(), "d".into()));

        // OAR as a part of something larger.
        let larger = tmp.path().join("larger");
        fs::create_dir(&larger).unwrap();
        git(&larger, &["init", "-q"]);
        git(&larger, &["submodule", "--quiet", "add", tree.to_str().unwrap(), "parts/oar"]);
        assert_eq!(seen(&larger.join("parts/oar"), &scratch), (described, "devel".into(), "d".into()));
        // And with parts.
        let part = tmp.path().join("part");
        fs::create_dir(&part).unwrap();
        git(&part, &["init", "-q"]);
        fs::write(part.join("file"), "of a submodule").unwrap();
        git(&part, &["add", "."]);
        git(&part, &["commit", "-qm", "x"]);
        git(&tree, &["submodule", "--quiet", "add", part.to_str().unwrap(), "part"]);
        git(&tree, &["commit", "-qm", "y"]);
        let source = prepared(&tree, &scratch);
        assert_eq!(fs::read_to_string(directory(&source).join("part/file")).unwrap(), "of a submodule");
    }
}
