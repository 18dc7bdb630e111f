//! What ADD fetches: a file by HTTP, or the tree of a git repository.

use super::layer::append_symlink;
use crate::error::{Doing as _, Error, Result};
use crate::host::git::{Git, Owner};
use crate::rooted::{Root, open_plain, own_path};
use rustix::fs::FileType;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Whether ADD takes it from a server.
pub(super) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// A git repository: `URL`, `URL#ref`, `URL#ref:subdir`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GitSource {
    /// As written.
    pub text: String,
    url: String,
    reference: Option<String>,
    subdir: Option<String>,
    /// Whether `.git` is kept.
    keep_git_dir: bool,
    /// The commit that it must be.
    checksum: Option<String>,
    /// The commit that it is.
    commit: Option<String>,
}

impl GitSource {
    /// Whether ADD takes it for a repository.
    pub(super) fn parse(text: &str) -> Result<Option<Self>> {
        let (url, fragment) = text.split_once('#').map_or((text, None), |(url, fragment)| (url, Some(fragment)));
        let of_ssh = url
            .split_once('@')
            .is_some_and(|(user, rest)| !user.contains(['/', ':']) && !user.is_empty() && rest.contains(':'));
        let by_scheme = ["git://", "ssh://"].iter().any(|scheme| url.starts_with(scheme));
        let of_http = is_url(url) && url.trim_end_matches('/').strip_suffix(".git").is_some();
        if is_url(url) && url.split_once('?').is_some_and(|(path, _)| path.strip_suffix(".git").is_some()) {
            let error = Error::new(format!("{text}: a query of a git repository is not supported"));
            return Err(error.hint("write URL#ref or URL#ref:subdir"));
        }
        if !(of_ssh || by_scheme || of_http) {
            return Ok(None);
        }
        let (reference, subdir) = fragment.map_or((None, None), |f| match f.split_once(':') {
            Some((reference, subdir)) => (Some(reference), Some(subdir)),
            None => (Some(f), None),
        });
        let given = |part: Option<&str>| part.filter(|p| !p.is_empty()).map(str::to_owned);
        let (reference, subdir) = (given(reference), given(subdir));
        if url.starts_with('-') || reference.as_deref().is_some_and(|r| r.starts_with('-')) {
            return Err(Error::new(format!("{text} begins with a dash, which git takes for an option")));
        }
        let (text, url) = (text.to_owned(), url.to_owned());
        Ok(Some(Self { text, url, reference, subdir, ..Self::default() }))
    }

    /// With what options say of it.
    pub(super) fn with(self, checksum: Option<String>, keep_git_dir: bool) -> Self {
        Self { keep_git_dir, checksum, ..self }
    }

    /// What of it counts in a layer.
    pub(super) fn key(&self) -> serde_json::Value {
        serde_json::json!({"git": self.url, "commit": self.commit, "subdir": self.subdir, "keep": self.keep_git_dir})
    }
}

/// Something that was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    file: File,
    /// Its name at its destination.
    pub name: String,
    /// When it was changed, in seconds since 1970.
    pub time: Option<i64>,
    /// Whether it is a tree as a tar file.
    pub is_tree: bool,
}

impl Fetched {
    /// The file, from its beginning.
    pub(super) fn open(&self) -> Result<File> {
        File::open(own_path(&self.file)).doing(|| format!("cannot open {}", self.name))
    }
}

/// Downloads a file, which has no name here; checked against its checksum. Its digest comes with it.
pub(super) async fn download(url: &str, checksum: Option<&str>, dir: &Path, limit: u64) -> Result<(Fetched, String)> {
    let doing = || format!("cannot add {url}");
    let file = tempfile::tempfile_in(dir).doing(doing)?;
    let to = file.try_clone().doing(doing)?;
    let answer = crate::net::download(url, to, limit, |_| {}).await?;
    let algorithm = checksum.and_then(|sum| sum.split_once(':')).map_or("sha256", |(name, _)| name);
    let found = digest(algorithm, File::open(own_path(&file)).doing(doing)?).doing(doing)?;
    if let Some(wanted) = checksum.filter(|wanted| !found.eq_ignore_ascii_case(wanted)) {
        return Err(Error::new(format!("its checksum is {found}, not {wanted}"))).doing(doing);
    }
    let name = name_of(url).or_else(|| Some(answer.name).filter(|name| is_name(name))).unwrap_or_default();
    let time = answer.modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map(|t| t.as_secs() as i64);
    Ok((Fetched { file, name, time, is_tree: false }, found))
}

/// The last part of an address, as files are called.
fn name_of(url: &str) -> Option<String> {
    let path = reqwest::Url::parse(url).ok()?.path().trim_end_matches('/').to_owned();
    let last = path.rsplit('/').next()?;
    let mut bytes = Vec::new();
    let mut rest = last.bytes();
    while let Some(byte) = rest.next() {
        let pair = (byte == b'%').then(|| [rest.next(), rest.next()]);
        bytes.push(match pair {
            None => byte,
            Some(pair) => {
                let digits: Vec<u8> = pair.into_iter().flatten().collect();
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
        });
    }
    String::from_utf8(bytes).ok().filter(|name| is_name(name))
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

fn digest(algorithm: &str, mut file: File) -> Result<String> {
    fn of<D: sha2::Digest>(mut digest: D, file: &mut File) -> io::Result<String> {
        let mut buffer = vec![0; 1 << 16];
        while let n @ 1.. = file.read(&mut buffer)? {
            digest.update(&buffer[..n]);
        }
        Ok(hex::encode(digest.finalize()))
    }
    let sum = match algorithm {
        "sha256" => of(Sha256::new(), &mut file),
        "sha384" => of(Sha384::new(), &mut file),
        "sha512" => of(Sha512::new(), &mut file),
        other => return Err(Error::new(format!("{other} is no kind of checksum: sha256, sha384 and sha512 are"))),
    };
    Ok(format!("{algorithm}:{}", sum.doing(|| "cannot read it".into())?))
}

/// A directory of ours in which git works as the owner of the build context.
struct Workshop {
    dir: tempfile::TempDir,
    git: Git,
}

/// What a build says of git: the caller's agent, if it was given, and the largest file.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    pub(super) agent: Option<PathBuf>,
    pub(super) limit: u64,
}

impl Workshop {
    fn new(context: &Root, scratch: &Path, terms: &Terms) -> Result<Self> {
        let doing = || format!("cannot make a directory in {}", scratch.display());
        let (_, stat) = context.handle(Path::new("/")).doing(doing)?;
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        // Not in what is for root alone.
        let parent = scratch.parent().unwrap_or(scratch);
        let dir = tempfile::tempdir_in(parent).doing(doing)?;
        owner.give(&File::open(dir.path()).doing(doing)?.as_fd()).doing(doing)?;
        let git = Git {
            owner,
            dir: dir.path().into(),
            repository: None,
            offline: false,
            alone: Some(terms.limit),
            agent: terms.agent.clone(),
        };
        Ok(Self { dir, git })
    }
}

/// Finds out which commit is meant.
pub(super) fn resolve(source: &mut GitSource, context: &Root, scratch: &Path, terms: &Terms) -> Result<()> {
    let doing = || format!("cannot add {}", source.text);
    let is_commit = |text: &str| text.len() >= 40 && text.chars().all(|c| c.is_ascii_hexdigit());
    let wanted = source.reference.as_deref().unwrap_or("HEAD");
    let commit = if is_commit(wanted) {
        wanted.to_owned()
    } else {
        let workshop = Workshop::new(context, scratch, terms)?;
        let said =
            workshop.git.run(&["ls-remote", "--", &source.url, wanted, &format!("{wanted}^{{}}")]).doing(doing)?;
        let lines: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once('\t')).collect();
        let places = [
            wanted.to_owned(),
            format!("refs/tags/{wanted}^{{}}"),
            format!("refs/tags/{wanted}"),
            format!("refs/heads/{wanted}"),
        ];
        let found = places.iter().find_map(|place| lines.iter().find(|(_, name)| name == place));
        let missing = || Error::new(format!("it has no branch, tag or commit {wanted:?}"));
        found.map(|(commit, _)| (*commit).to_owned()).ok_or_else(missing).doing(doing)?
    };
    if let Some(sum) =
        source.checksum.as_deref().filter(|sum| !commit.starts_with(&sum.to_lowercase()) || sum.len() < 7)
    {
        return Err(Error::new(format!("{wanted} is commit {commit}, not {sum}"))).doing(doing);
    }
    source.commit = Some(commit);
    Ok(())
}

/// The tree of a commit as a tar file: files as they are stored, with the commit's time, without anything that git would run.
pub(super) fn fetch(source: &GitSource, context: &Root, scratch: &Path, terms: &Terms) -> Result<Fetched> {
    let doing = || format!("cannot add {}", source.text);
    let workshop = Workshop::new(context, scratch, terms)?;
    let commit = source.commit.as_deref().unwrap_or_default();
    let git = |args: &[&str]| workshop.git.run(args).doing(doing);
    let clone = ["-c", "core.logAllRefUpdates=false", "clone", "--quiet", "--no-checkout", "--template=", "--"];
    git(&[&clone[..], &[&source.url, "tree"]].concat())?;
    let tree = Git {
        owner: workshop.git.owner,
        dir: workshop.dir.path().join("tree"),
        repository: None,
        offline: false,
        alone: Some(terms.limit),
        agent: terms.agent.clone(),
    };
    if tree.run(&["cat-file", "-e", commit]).is_err() {
        tree.run(&["fetch", "--quiet", "origin", commit]).doing(doing)?;
    }
    let top = source.subdir.as_deref().map(|dir| super::pattern::cleaned(dir).to_string_lossy().into_owned());
    let what = format!("{commit}:{}", top.unwrap_or_default());
    let root = Root::beneath(workshop.dir.path())?;
    // Files as they are stored, whatever the repository says of archives: this file has the last word.
    let plain = b"* -export-ignore -export-subst -filter -ident -text -eol -working-tree-encoding\n";
    root.replace(Path::new("tree/.git/info/attributes"), plain, 0o644).doing(doing)?;
    if tree.run(&["cat-file", "-e", &format!("{commit}:.gitmodules")]).is_ok() {
        return Err(Error::new("it has submodules, which are not supported").hint("ADD each repository by itself"))
            .doing(doing);
    }
    let time = tree.run(&["show", "--no-patch", "--format=%ct", commit]).doing(doing)?;
    let mtime = format!("--mtime=@{}", time.trim());
    // Only newer gits know that option; those of a commit have its time anyway.
    let of_commit: &[&str] = &["-c", "tar.umask=0022", "archive", "--format=tar", "--output=../tree.tar"];
    let of_tree = if what.ends_with(':') { commit } else { what.as_str() };
    let with_time = [of_commit, &[mtime.as_str(), of_tree][..]].concat();
    if tree.run(&with_time).is_err() {
        tree.run(&[of_commit, &[of_tree][..]].concat()).doing(doing)?;
    }
    if source.keep_git_dir {
        tree.run(&["read-tree", commit]).doing(doing)?;
        tree.run(&["update-ref", "--no-deref", "HEAD", commit]).doing(doing)?;
    }
    let tar = root.file(Path::new("tree.tar")).doing(doing)?;
    let file = if source.keep_git_dir {
        with_repository(tar, &root, time.trim().parse().unwrap_or_default(), scratch).doing(doing)?
    } else {
        tar
    };
    Ok(Fetched { file, name: String::new(), time: time.trim().parse().ok(), is_tree: true })
}

/// The same tar with the repository in it, as root's, and with the commit's time.
fn with_repository(tar: File, workshop: &Root, time: u64, scratch: &Path) -> Result<File> {
    let doing = || "cannot keep its .git".to_owned();
    let to = tempfile::tempfile_in(scratch).doing(doing)?;
    let mut builder = tar::Builder::new(to);
    for entry in tar::Archive::new(tar).entries().doing(doing)? {
        let mut entry = entry.doing(doing)?;
        let (mut header, path) = (entry.header().clone(), PathBuf::from(entry.path().doing(doing)?));
        if header.entry_type() != tar::EntryType::XGlobalHeader {
            match entry.link_name().doing(doing)?.map(std::borrow::Cow::into_owned) {
                Some(link) => append_symlink(&mut builder, &mut header, &path, &link).doing(doing)?,
                None => builder.append_data(&mut header, path, &mut entry).doing(doing)?,
            }
        }
    }
    append_tree(&mut builder, workshop, Path::new(".git"), time).doing(doing)?;
    builder.into_inner().doing(doing)
}

/// What is below `tree/` in the workshop. Its owner may put links there meanwhile: none is followed.
fn append_tree(builder: &mut tar::Builder<File>, workshop: &Root, path: &Path, time: u64) -> io::Result<()> {
    let place = Path::new("tree").join(path);
    let (fd, stat) = workshop.entry(&place)?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mode(stat.st_mode & 0o755);
    header.set_size(0);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, path, io::empty())?;
            for name in workshop.names(&place)? {
                append_tree(builder, workshop, &path.join(name), time)?;
            }
        }
        FileType::RegularFile => {
            let size = u64::try_from(stat.st_size).unwrap_or_default();
            header.set_size(size);
            builder.append_data(&mut header, path, open_plain(&fd, &stat)?.take(size))?;
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek as _;

    #[test]
    fn what_is_a_repository() {
        for (text, url, reference, subdir) in [
            ("https://h/a.git", "https://h/a.git", None, None),
            ("https://h/a.git#v1", "https://h/a.git", Some("v1"), None),
            ("git@h:a/b#v1:sub/dir", "git@h:a/b", Some("v1"), Some("sub/dir")),
            ("git://h/a#:sub", "git://h/a", None, Some("sub")),
            ("ssh://git@h/a", "ssh://git@h/a", None, None),
        ] {
            let git = GitSource::parse(text).unwrap().unwrap();
            assert_eq!(
                (git.url.as_str(), git.reference.as_deref(), git.subdir.as_deref()),
                (url, reference, subdir),
                "{text}"
            );
        }
        for no in ["https://h/a.tar", "a/b", "a@b", "./git@h", "a:b", "@h:x"] {
            assert_eq!(GitSource::parse(no).unwrap(), None, "{no}");
        }
        assert!(GitSource::parse("https://h/a.git#--upload-pack=x").is_err());
        assert!(GitSource::parse("https://h/a.git?ref=v1").is_err());
    }

    #[test]
    fn with_its_repository_a_tree_keeps_its_links_to_the_letter() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree/.git")).unwrap();
        std::fs::write(dir.path().join("tree/.git/HEAD"), "ref").unwrap();
        let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
        let (targets, mut header) = ([Path::new("./s//t/"), Path::new("../a/./b")], tar::Header::new_gnu());
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        for (n, target) in targets.iter().enumerate() {
            append_symlink(&mut builder, &mut header, Path::new(&n.to_string()), target).unwrap();
        }
        let mut tar = builder.into_inner().unwrap();
        tar.rewind().unwrap();
        let mut whole = with_repository(tar, &Root::open(dir.path()).unwrap(), 0, dir.path()).unwrap();
        whole.rewind().unwrap();
        let (mut links, mut names) = (Vec::new(), Vec::new());
        for entry in tar::Archive::new(whole).entries().unwrap() {
            let entry = entry.unwrap();
            links.extend(entry.link_name().unwrap().map(std::borrow::Cow::into_owned));
            names.push(entry.path().unwrap().into_owned());
        }
        assert_eq!(links, targets);
        assert!(names.iter().any(|name| name == Path::new(".git/HEAD")), "{names:?}");
    }

    #[test]
    fn names_of_what_is_downloaded() {
        for (url, expected) in [
            ("http://h/a%20b.txt?x=/y#z", Some("a b.txt")),
            ("http://h/dir/", Some("dir")),
            ("http://h/", None),
            ("http://h", None),
            ("http://h/a%2Fb", None),
            ("http://h/x/%2e%2e", None),
        ] {
            assert_eq!(name_of(url).as_deref(), expected, "{url}");
        }
    }
}
