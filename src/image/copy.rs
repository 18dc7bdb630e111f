//! COPY and ADD: what they hash to, and how sources enter the tree. The rules are those of BuildKit.
//!
//! Whatever the context or an archive holds, nothing outside the image's root is touched.

use super::EPOCH;
use super::archive;
use super::dockerfile::mount::{Kind as MountKind, Mount};
use super::extract::{Extractor, Kind, is_portable};
use super::mode::Mode;
use super::pattern::{Patterns, cleaned, is_pattern};
use super::place::Place;
use super::remote::{Fetched, GitSource};
use super::tree::{Choice, Entry, Tree, kind};
use crate::error::{Doing as _, Error, Result};
use crate::rooted::{Root, link_target, open_plain};
use rustix::fs::{FileType, Stat};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What is copied where.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// In order.
    pub sources: Vec<Source>,
    /// Absolute path in the image; a trailing slash means a directory.
    pub dest: String,
    /// Whether archives of the tree are unpacked.
    pub unpack: bool,
    /// Whether links on the way to the destination are replaced.
    pub link: bool,
    /// Whether the directories that sources are in are copied too.
    pub parents: bool,
    /// What is left out of directories.
    pub exclude: Vec<String>,
    /// Owner of everything; without one that of the image copied from, of an archive, or root.
    pub owner: Option<(u32, u32)>,
    /// Mode of everything, if given.
    pub mode: Option<Mode>,
}

/// Something to copy.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Path or pattern in the tree.
    Path(String),
    /// A file that stands in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// What is in it.
        content: String,
    },
    /// A file from a server.
    Url {
        /// Where.
        url: String,
        /// `sha256:...` that it must have.
        checksum: Option<String>,
        /// Whether an archive is unpacked.
        unpack: bool,
    },
    /// A git repository.
    Git(GitSource),
}

/// What one path names: where it leads, what is there, and the name that it has at its destination.
struct Found {
    path: PathBuf,
    stat: Stat,
    name: OsString,
}

impl Plan {
    /// Fails for what is not there.
    pub(super) fn check(&self, tree: &Tree) -> Result<()> {
        Patterns::new(self.exclude.iter().map(String::as_str)).map_err(Error::new)?;
        for source in &self.sources {
            match source {
                Source::Path(path) if self.parents => drop(Pivot::all(path, tree, self)?),
                Source::Path(path) => drop(tree.find(path)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Patterns that nothing matches: they are no error.
    pub(super) fn without_match(&self, tree: &Tree) -> Result<Vec<&str>> {
        let mut none = Vec::new();
        for source in &self.sources {
            if let Source::Path(path) = source
                && !self.parents
                && tree.find(path)?.is_empty()
            {
                none.push(path.as_str());
            }
        }
        Ok(none)
    }

    fn choice(&self) -> Result<Choice> {
        let not = Patterns::new(self.exclude.iter().map(String::as_str)).map_err(Error::new)?;
        Ok(Choice { only: None, not })
    }

    fn found(&self, tree: &Tree, source: &str) -> Result<Vec<Found>> {
        let not = self.choice()?.not;
        let mut found = Vec::new();
        for path in tree.find(source)? {
            let (resolved, stat) = tree.look(&path, source)?;
            let name = path.file_name().unwrap_or_default().to_owned();
            if kind(&stat) == FileType::Directory || !not.matches(Path::new(&name)) {
                found.push(Found { path: resolved, stat, name });
            }
        }
        Ok(found)
    }

    /// All that goes into the layer. What a tree of files holds counts by its content: names, kinds, modes, targets and bytes, not
    /// times and owners. Of an image the caller knows the digest.
    pub(super) fn key(&self, context: Option<&Tree>) -> Result<Value> {
        let mut sources = Vec::new();
        for source in &self.sources {
            sources.push(match (source, context) {
                (Source::Path(path), Some(tree)) => json!([path, self.hash(tree, path)?]),
                (Source::Path(path), None) => json!(path),
                (Source::Inline { name, content }, _) => json!({"name": name, "content": content}),
                (Source::Url { url, checksum, unpack }, _) => {
                    json!({"url": url, "checksum": checksum, "unpack": unpack})
                }
                (Source::Git(git), _) => git.key(),
            });
        }
        Ok(
            json!({"sources": sources, "dest": self.dest, "unpack": self.unpack, "link": self.link, "parents": self.parents,
            "exclude": self.exclude, "mode": self.mode}),
        )
    }

    fn hash(&self, tree: &Tree, path: &str) -> Result<String> {
        let mut hash = Sha256::new();
        if self.parents {
            for pivot in Pivot::all(path, tree, self)? {
                hash_below(&mut hash, tree, &pivot.top, &pivot.choice).doing(|| format!("cannot read {path}"))?;
            }
        } else {
            for found in self.found(tree, path)? {
                hash_field(&mut hash, found.name.as_bytes());
                hash_found(&mut hash, tree, &found.path, &found.stat, &self.choice()?)
                    .doing(|| format!("cannot read {}", found.path.display()))?;
            }
        }
        Ok(hex::encode(hash.finalize()))
    }
}

/// What a bind mount of the context shows, as one number.
pub(super) fn mounted(mount: &Mount, context: &Tree) -> Result<Option<String>> {
    if mount.kind != MountKind::Bind || mount.from.is_some() {
        return Ok(None);
    }
    let source = mount.source.as_deref().unwrap_or("/");
    let (path, stat) = context.look(&cleaned(source), source)?;
    let mut hash = Sha256::new();
    hash_found(&mut hash, context, &path, &stat, &Choice::default()).doing(|| format!("cannot read {source}"))?;
    Ok(Some(hex::encode(hash.finalize())))
}

/// Where `--parents` begins to keep directories: at `/./`, or at the top.
struct Pivot {
    top: PathBuf,
    choice: Choice,
}

impl Pivot {
    /// Of one source: its part in front of the pivot may be a pattern.
    fn all(source: &str, tree: &Tree, plan: &Plan) -> Result<Vec<Self>> {
        let (top, rest) = source.split_once("/./").unwrap_or(("", source));
        let rest = cleaned(rest);
        let rest = rest.to_string_lossy();
        let mut all = Vec::new();
        for path in tree.find(top)? {
            let (top, _) = tree.look(&path, source)?;
            if !is_pattern(source) {
                tree.look(&top.join(super::pattern::unescaped(&rest)), source)?;
            }
            let mut choice = plan.choice()?;
            choice.only = (!rest.is_empty()).then(|| Patterns::new([&*rest])).transpose().map_err(Error::new)?;
            all.push(Self { top, choice });
        }
        Ok(all)
    }
}

fn hash_field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn hash_found(hash: &mut Sha256, tree: &Tree, path: &Path, stat: &Stat, choice: &Choice) -> io::Result<()> {
    hash_entry(hash, tree, path, stat)?;
    if kind(stat) == FileType::Directory { hash_below(hash, tree, path, choice) } else { Ok(()) }
}

fn hash_below(hash: &mut Sha256, tree: &Tree, top: &Path, choice: &Choice) -> io::Result<()> {
    for entry in tree.walk(top, choice)? {
        hash_field(hash, entry.below.as_os_str().as_bytes());
        hash_entry(hash, tree, &top.join(&entry.below), &entry.stat)?;
    }
    Ok(())
}

fn hash_entry(hash: &mut Sha256, tree: &Tree, path: &Path, stat: &Stat) -> io::Result<()> {
    let kind = kind(stat);
    let (fd, stat) = tree.root().entry(path)?;
    hash_field(hash, &(stat.st_mode & if kind == FileType::Symlink { 0o170_000 } else { 0o177_777 }).to_le_bytes());
    match kind {
        FileType::Symlink => hash_field(hash, link_target(&fd)?.as_bytes()),
        FileType::RegularFile => {
            hash_field(hash, &stat.st_size.to_le_bytes());
            let mut file = open_plain(&fd, &stat)?;
            for (name, value) in attributes(&file)? {
                hash_field(hash, name.as_bytes());
                hash_field(hash, &value);
            }
            let mut buffer = vec![0; 64 << 10];
            while let n @ 1.. = file.read(&mut buffer)? {
                hash.update(&buffer[..n]);
            }
        }
        FileType::CharacterDevice | FileType::BlockDevice => hash_field(hash, &stat.st_rdev.to_le_bytes()),
        _ => {}
    }
    Ok(())
}

/// The attributes of a file that go where it goes.
fn attributes(file: &std::fs::File) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    use xattr::FileExt as _;
    let names = match file.list_xattr() {
        Err(e) if e.raw_os_error() == Some(nix::libc::ENOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut found = Vec::new();
    for name in names.filter(|name| is_portable(name.as_bytes())) {
        found.extend(file.get_xattr(&name)?.map(|value| (name, value)));
    }
    found.sort();
    Ok(found)
}

/// Where sources come from.
pub(super) struct Supply<'a> {
    /// For paths.
    pub tree: &'a Tree,
    /// For the others, in their order.
    pub fetched: &'a [Fetched],
    /// What an archive may unpack to, in bytes.
    pub limit: u64,
}

/// Puts the sources into the tree at `root`.
pub(super) fn apply(plan: &Plan, supply: &Supply<'_>, root: &Path) -> Result<()> {
    let place = Place::new(Root::open(root)?, plan);
    let copier = Copier { plan, supply, place };
    let mut fetched = supply.fetched.iter();
    for source in &plan.sources {
        match source {
            Source::Path(path) if plan.parents => {
                for pivot in Pivot::all(path, supply.tree, plan)? {
                    copier.tree(supply.tree, &pivot.top, &pivot.choice)?;
                }
            }
            Source::Path(path) => copier.path(path)?,
            Source::Inline { name, content } => copier.bytes(name, &mut content.as_bytes(), 0o644, EPOCH)?,
            Source::Url { url, unpack, .. } => {
                let doing = || format!("cannot add {url}");
                copier.fetched(fetched.next().expect("each was fetched"), *unpack).doing(doing)?;
            }
            Source::Git(git) => {
                let doing = || format!("cannot add {}", git.text);
                copier.fetched(fetched.next().expect("each was fetched"), true).doing(doing)?;
            }
        }
    }
    Ok(())
}

struct Copier<'a> {
    plan: &'a Plan,
    supply: &'a Supply<'a>,
    place: Place<'a>,
}

impl Copier<'_> {
    fn path(&self, source: &str) -> Result<()> {
        let tree = self.supply.tree;
        let found = self.plan.found(tree, source)?;
        let many = self.plan.dest.ends_with('/');
        let files = found.iter().filter(|found| kind(&found.stat) != FileType::Directory).count();
        if files > 1 && !many && !self.place.is_dir() {
            let dest = &self.plan.dest;
            return Err(Error::new(format!("{dest} is no directory, and {source} means {files} files"))
                .hint(format!("write {dest}/")));
        }
        for Found { path, stat, name } in found {
            let doing = || format!("cannot copy {} to {}", path.display(), self.plan.dest);
            if kind(&stat) == FileType::Directory {
                self.tree(tree, &path, &self.plan.choice()?).doing(doing)?;
                continue;
            }
            if self.plan.unpack && kind(&stat) == FileType::RegularFile {
                let open = || tree.root().file(&path).doing(doing);
                if archive::is_archive(open()?).unwrap_or_default() {
                    self.unpack(open()?, false).doing(doing)?;
                    continue;
                }
            }
            let (dir, name) = self.place.of_file(&name, many).doing(doing)?;
            self.entry(tree, &path, &stat, &dir, &name, &mut HashMap::new()).doing(doing)?;
            Place::leave(&dir).doing(doing)?;
        }
        Ok(())
    }

    /// What is below a directory goes into the destination.
    fn tree(&self, tree: &Tree, top: &Path, choice: &Choice) -> Result<()> {
        let dest = self.place.directory()?;
        let (mut links, mut directories) = (HashMap::new(), Vec::new());
        for Entry { below, stat } in tree.walk(top, choice).doing(|| format!("cannot read {}", top.display()))? {
            let doing = || format!("cannot copy {}", top.join(&below).display());
            let parent = Place::below(&dest, below.parent().unwrap_or(Path::new(""))).doing(doing)?;
            let name = below.file_name().unwrap_or_default();
            if kind(&stat) == FileType::Directory {
                let dir = self.place.make_dir(&parent, name, &below)?;
                self.set(&dir, &stat, tree.owned).doing(doing)?;
                directories.push((below, stat));
            } else {
                self.entry(tree, &top.join(&below), &stat, &parent, name, &mut links).doing(doing)?;
            }
        }
        // From the inside out: what is made in a directory changes its time.
        for (below, stat) in directories.iter().rev() {
            let dir = Place::below(&dest, below).doing(|| format!("cannot open {}", below.display()))?;
            Place::date(&dir, OsStr::new("."), stat.st_mtime)
                .doing(|| format!("cannot set the time of {}", below.display()))?;
        }
        let (_, stat) = tree.root().entry(top).doing(|| format!("cannot open {}", top.display()))?;
        let time = if self.plan.parents { EPOCH } else { stat.st_mtime };
        Place::date(&dest, OsStr::new("."), time).doing(|| format!("cannot set the time of {}", self.plan.dest))
    }

    /// Mode and owner of a directory.
    fn set(&self, dir: &OwnedFd, stat: &Stat, owned: bool) -> io::Result<()> {
        self.own(dir, OsStr::new("."), stat, owned)?;
        Place::chmod(dir, OsStr::new("."), self.mode(stat))
    }

    fn mode(&self, stat: &Stat) -> u32 {
        let is_dir = kind(stat) == FileType::Directory;
        self.plan.mode.as_ref().map_or(stat.st_mode & 0o7777, |mode| mode.of(stat.st_mode & 0o7777, is_dir))
    }

    fn own(&self, dir: &OwnedFd, name: &OsStr, stat: &Stat, owned: bool) -> io::Result<()> {
        let theirs = if owned { (stat.st_uid, stat.st_gid) } else { (0, 0) };
        Place::own(dir, name, self.plan.owner.unwrap_or(theirs))
    }

    /// Something that is no directory. A socket is nothing without its program.
    fn entry(
        &self,
        tree: &Tree,
        path: &Path,
        stat: &Stat,
        dir: &OwnedFd,
        name: &OsStr,
        links: &mut HashMap<(u64, u64), PathBuf>,
    ) -> Result<()> {
        if kind(stat) == FileType::Socket {
            return Ok(());
        }
        let doing = || format!("cannot write {}", name.display());
        let (fd, now) = tree.root().entry(path).doing(doing)?;
        if kind(&now) != kind(stat) {
            return Err(Error::new("it has become something else meanwhile"));
        }
        self.place.clear(dir, name)?;
        match kind(stat) {
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    let here = Place::path(dir, name).doing(doing)?;
                    if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
                        return Place::link(first, dir, name).doing(doing);
                    }
                    links.insert((stat.st_dev, stat.st_ino), here);
                }
                let mut from = open_plain(&fd, stat).doing(doing)?;
                let to = Place::write(&mut from, dir, name).doing(doing)?;
                self.own(dir, name, stat, tree.owned).doing(doing)?;
                // After chown, which clears set-id bits and capabilities.
                Place::chmod(dir, name, self.mode(stat)).doing(doing)?;
                Place::set_attributes(&to, &attributes(&from).doing(doing)?).doing(doing)?;
            }
            FileType::Symlink => {
                Place::symlink(&link_target(&fd).doing(doing)?, dir, name).doing(doing)?;
                self.own(dir, name, stat, tree.owned).doing(doing)?;
            }
            other => {
                Place::special(dir, name, other, stat.st_rdev).doing(doing)?;
                self.own(dir, name, stat, tree.owned).doing(doing)?;
                Place::chmod(dir, name, self.mode(stat)).doing(doing)?;
            }
        }
        Place::date(dir, name, stat.st_mtime).doing(doing)
    }

    /// A file of ours.
    fn bytes(&self, name: &str, from: &mut dyn Read, mode: u32, time: i64) -> Result<()> {
        let doing = || format!("cannot write {}", self.plan.dest);
        let (dir, name) = self.place.of_file(OsStr::new(name), self.plan.dest.ends_with('/'))?;
        self.place.clear(&dir, &name)?;
        let mode = self.plan.mode.as_ref().map_or(mode, |m| m.of(mode, false));
        let mut write = || -> io::Result<()> {
            Place::write(from, &dir, &name)?;
            Place::own(&dir, &name, self.plan.owner.unwrap_or((0, 0)))?;
            Place::chmod(&dir, &name, mode)?;
            Place::date(&dir, &name, time)
        };
        write().doing(doing)?;
        Place::leave(&dir).doing(doing)
    }

    fn fetched(&self, fetched: &Fetched, unpack: bool) -> Result<()> {
        if unpack && (fetched.is_tree || archive::is_archive(fetched.open()?).unwrap_or_default()) {
            return self.unpack(fetched.open()?, fetched.is_tree);
        }
        if fetched.name.is_empty() && self.plan.dest.ends_with('/') {
            return Err(Error::new("its address ends without a name").hint("write the file's name at the destination"));
        }
        self.bytes(&fetched.name, &mut fetched.open()?, 0o600, fetched.time.unwrap_or(EPOCH))
    }

    fn unpack(&self, file: std::fs::File, is_tree: bool) -> Result<()> {
        self.place.directory()?;
        let mut archive = archive::open(file, self.supply.limit).doing(|| "cannot open it".into())?;
        let kind = Kind::Added { owner: self.plan.owner, time: EPOCH };
        let extractor = Extractor::new(self.place.top()?, Path::new("/"), kind, self.supply.limit);
        // Of an archive they are nobody's to change, of a repository they are.
        let (not, mode) = if is_tree { (self.plan.choice()?.not, self.plan.mode.clone()) } else { Default::default() };
        extractor.with(not, mode).unpack(&mut archive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::extract::LIMIT;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    /// A context, and a tree to copy to.
    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("c")).unwrap();
            fs::create_dir(dir.path().join("r")).unwrap();
            Self { dir }
        }

        fn context(&self) -> PathBuf {
            self.dir.path().join("c")
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("r")
        }

        fn plan(sources: &[&str], dest: &str) -> Plan {
            let owner = Some((nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()));
            let sources = sources.iter().map(|s| Source::Path((*s).to_owned())).collect();
            Plan { sources, dest: dest.into(), unpack: true, owner, ..Plan::default() }
        }

        fn apply(&self, plan: &Plan) -> Result<()> {
            let tree = Tree::context(&Root::beneath(&self.context()).unwrap())?;
            plan.check(&tree)?;
            apply(plan, &Supply { tree: &tree, fetched: &[], limit: LIMIT }, &self.root())
        }

        fn copy(&self, sources: &[&str], dest: &str) -> Result<()> {
            self.apply(&Self::plan(sources, dest))
        }

        fn key(&self, plan: &Plan) -> String {
            let tree = Tree::context(&Root::beneath(&self.context()).unwrap()).unwrap();
            plan.key(Some(&tree)).unwrap().to_string()
        }

        fn tar(&self, fill: &dyn Fn(&mut tar::Builder<File>)) {
            let mut builder = tar::Builder::new(File::create(self.context().join("x.tar")).unwrap());
            fill(&mut builder);
            builder.finish().unwrap();
        }
    }

    fn entry(builder: &mut tar::Builder<File>, name: &[u8], kind: tar::EntryType, link: &str) {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
    }

    type Fill<'a> = &'a dyn Fn(&mut tar::Builder<File>);

    const REGULAR: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn the_rules_of_copy() {
        let world = World::new();
        let (context, root) = (world.context(), world.root());
        fs::create_dir_all(context.join("d/sub")).unwrap();
        fs::create_dir_all(root.join("have")).unwrap();
        fs::write(context.join("f"), "f").unwrap();
        fs::write(context.join("d/sub/g"), "g").unwrap();
        let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        for name in ["f", "d/sub/g", "d/sub", "d"] {
            File::open(context.join(name)).unwrap().set_modified(long_ago).unwrap();
        }
        let copy = |sources: &[&str], dest: &str| world.copy(sources, dest).unwrap();
        copy(&["f"], "/new");
        copy(&["f"], "/dir/");
        copy(&["f"], "/have");
        copy(&["d"], "/tree");
        copy(&["f"], "/new");
        copy(&["f", "none*"], "/dir/");
        assert_eq!(fs::read(root.join("new")).unwrap(), b"f");
        assert_eq!(fs::read(root.join("dir/f")).unwrap(), b"f");
        assert_eq!(fs::read(root.join("have/f")).unwrap(), b"f");
        assert_eq!(fs::read(root.join("tree/sub/g")).unwrap(), b"g");
        let time = |name: &str| fs::metadata(root.join(name)).unwrap().mtime();
        assert_eq!(
            ["new", "tree", "tree/sub", "tree/sub/g"].map(time),
            [1_000_000_000; 4],
            "what is copied keeps its time"
        );
        assert_eq!([time("dir"), time("have")], [EPOCH; 2], "what has got it has one that is the same each day");
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let world = World::new();
        fs::create_dir_all(world.context().join("rootfs/bin")).unwrap();
        fs::write(world.context().join("rootfs/bin/sh"), "").unwrap();
        fs::create_dir_all(world.root().join("usr/bin")).unwrap();
        symlink("usr/bin", world.root().join("bin")).unwrap();
        let error = world.copy(&["rootfs/"], "/").unwrap_err().to_string();
        assert!(
            error.ends_with("/bin is a link to usr/bin in the image, and a directory cannot take its place"),
            "{error}"
        );
        fs::write(world.context().join("f"), "").unwrap();
        let error = world.copy(&["f"], "/usr/").and_then(|()| world.copy(&["rootfs/bin/sh"], "/bin")).and_then(|()| {
            fs::create_dir(world.root().join("usr/d")).unwrap();
            fs::write(world.context().join("rootfs/d"), "").unwrap();
            world.copy(&["rootfs"], "/usr")
        });
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with("d is a directory in the image, and a file cannot take its place"), "{error}");
        let linked = Plan { link: true, ..World::plan(&["rootfs/"], "/") };
        world.apply(&linked).unwrap();
        assert!(fs::symlink_metadata(world.root().join("bin")).unwrap().is_dir());
    }

    #[test]
    fn special_files() {
        let world = World::new();
        fs::create_dir(world.context().join("d")).unwrap();
        nix::unistd::mkfifo(&world.context().join("d/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(world.context().join("d/socket")).unwrap();
        fs::write(world.context().join("d/one"), "1").unwrap();
        fs::hard_link(world.context().join("d/one"), world.context().join("d/two")).unwrap();
        world.copy(&["d"], "/d").unwrap();
        let meta = |name: &str| fs::symlink_metadata(world.root().join("d").join(name));
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&meta("fifo").unwrap().file_type()));
        assert!(meta("socket").is_err(), "a socket is nothing without its program");
        assert_eq!(meta("one").unwrap().ino(), meta("two").unwrap().ino());
    }

    #[test]
    fn the_key_sees_content_and_mode_but_not_time() {
        let world = World::new();
        let file = world.context().join("f");
        let plan = World::plan(&["f"], "/");
        fs::write(&file, "1").unwrap();
        let first = world.key(&plan);
        File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(world.key(&plan), first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        let changed = world.key(&plan);
        assert_ne!(changed, first);
        fs::write(&file, "2").unwrap();
        assert_ne!(world.key(&plan), changed);
    }

    #[test]
    fn parents_and_what_is_left_out() {
        let world = World::new();
        for name in ["a/b/c.txt", "a/b/d.md", "a/e/f.txt"] {
            let path = world.context().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        world.apply(&Plan { parents: true, ..World::plan(&["a/b/c.txt", "a/./e/*.txt"], "/p/") }).unwrap();
        world.apply(&Plan { parents: true, ..World::plan(&["a*/./**/f.txt", "none*/./x"], "/w/") }).unwrap();
        world.apply(&Plan { exclude: vec!["**/*.md".into()], ..World::plan(&["a"], "/x") }).unwrap();
        world.apply(&Plan { parents: true, ..World::plan(&["**/*.txt"], "/all/") }).unwrap();
        for there in ["p/a/b/c.txt", "p/e/f.txt", "x/b/c.txt", "all/a/b/c.txt", "all/a/e/f.txt", "w/e/f.txt"] {
            assert!(world.root().join(there).exists(), "{there}");
        }
        assert!(!world.root().join("x/b/d.md").exists() && !world.root().join("all/a/b/d.md").exists());
        let missing = Plan { parents: true, ..World::plan(&["a/none"], "/p/") };
        assert!(world.apply(&missing).unwrap_err().to_string().contains("there is no \"a/none\""));
    }

    #[test]
    fn a_tar_keeps_what_it_says() {
        let world = World::new();
        world.tar(&|b| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o1777);
            header.set_mtime(1_000_000_000);
            header.set_size(0);
            b.append_data(&mut header, "open/", io::empty()).unwrap();
            header.set_mode(0o500);
            b.append_data(&mut header, "closed/", io::empty()).unwrap();
            header.set_entry_type(REGULAR);
            b.append_data(&mut header, "closed/f", io::empty()).unwrap();
            entry(b, b"fifo", tar::EntryType::Fifo, "");
            entry(b, b"new/sub/f", REGULAR, "");
        });
        world.copy(&["x.tar"], "/").unwrap();
        let meta = |name: &str| fs::metadata(world.root().join(name)).unwrap();
        assert_eq!((meta("open").mode() & 0o7777, meta("closed").mode() & 0o7777), (0o1777, 0o500));
        assert_eq!(["open", "closed", "closed/f", "new/sub/f"].map(|n| meta(n).mtime()), [1_000_000_000; 4]);
        assert_eq!(["new", "new/sub"].map(|n| meta(n).mtime()), [EPOCH; 2], "it does not name them");
        assert!(std::os::unix::fs::FileTypeExt::is_fifo(&meta("fifo").file_type()));
    }

    #[test]
    fn a_hostile_tar_touches_nothing_outside() {
        let world = World::new();
        let outside = world.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        let to = outside.to_str().unwrap().to_owned();
        let symlink = tar::EntryType::Symlink;
        let attacks: [(&str, Fill<'_>, bool); 11] = [
            ("..", &|b| entry(b, b"../evil", REGULAR, ""), true),
            ("a .. in the middle", &|b| entry(b, b"a/../../evil", REGULAR, ""), true),
            ("an absolute name", &|b| entry(b, b"/evil", REGULAR, ""), true),
            ("a device that deletes", &|b| entry(b, b"dev", tar::EntryType::Char, ""), true),
            ("a hard link to the outside", &|b| entry(b, b"stolen", tar::EntryType::Link, "../outside/secret"), true),
            ("an absolute hard link", &|b| entry(b, b"stolen", tar::EntryType::Link, &format!("{to}/secret")), true),
            (
                "a file through a link",
                &|b| {
                    entry(b, b"way", symlink, &to);
                    entry(b, b"way/evil", REGULAR, "");
                },
                true,
            ),
            (
                "a hard link through a link",
                &|b| {
                    entry(b, b"way", symlink, &to);
                    entry(b, b"stolen", tar::EntryType::Link, "way/secret");
                },
                true,
            ),
            (
                "a file in place of a link",
                &|b| {
                    entry(b, b"way", symlink, &format!("{to}/secret"));
                    entry(b, b"way", REGULAR, "");
                },
                false,
            ),
            ("a deletion outside", &|b| entry(b, b"../outside/.wh.secret", REGULAR, ""), true),
            ("an unknown kind", &|b| entry(b, b"odd", tar::EntryType::new(b'Z'), ""), true),
        ];
        for (what, fill, fails) in attacks {
            let _ = fs::remove_dir_all(world.root());
            fs::create_dir(world.root()).unwrap();
            world.tar(fill);
            assert_eq!(world.copy(&["x.tar"], "/").is_err(), fails, "{what}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
            assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret", "{what}");
            assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1, "{what}");
            assert!(!world.dir.path().join("evil").exists(), "{what}");
        }
    }

    #[test]
    fn a_bomb_is_stopped() {
        let world = World::new();
        let mut header = tar::Header::new_gnu();
        header.set_size(64 << 20);
        header.set_mode(0o644);
        let gzip = flate2::write::GzEncoder::new(
            File::create(world.context().join("b.tgz")).unwrap(),
            flate2::Compression::best(),
        );
        let mut builder = tar::Builder::new(gzip);
        builder.append_data(&mut header, "zeros", io::repeat(0).take(64 << 20)).unwrap();
        builder.into_inner().unwrap().finish().unwrap();
        let tree = Tree::context(&Root::beneath(&world.context()).unwrap()).unwrap();
        let add =
            |limit| apply(&World::plan(&["b.tgz"], "/"), &Supply { tree: &tree, fetched: &[], limit }, &world.root());
        assert!(add(1 << 20).unwrap_err().to_string().ends_with("it unpacks to more than 1 MiB"));
        add(65 << 20).unwrap();
        world.tar(&|b| (0..300).for_each(|n| entry(b, format!("f{n}").as_bytes(), REGULAR, "")));
        let many =
            |limit| apply(&World::plan(&["x.tar"], "/"), &Supply { tree: &tree, fetched: &[], limit }, &world.root());
        assert!(
            many(1 << 20).unwrap_err().to_string().ends_with("it unpacks to more than 1 MiB"),
            "empty files count too"
        );
    }
}
