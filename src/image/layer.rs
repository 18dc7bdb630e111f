//! A layer from a directory of changes: a deterministic tar in OCI form, compressed.
//!
//! Reads overlay form (whiteouts are 0:0 devices, opaque directories carry an attribute) and writes the image spec's:
//! `.wh.NAME` and `.wh..wh..opq`. Entries are sorted; times are whole seconds; sparse files are written out.

use crate::engine::{Compression, Layer};
use crate::error::{Doing as _, Error, Result};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Level 9 takes four times as long and saves a tenth, on a disk that only this machine reads.
const LEVEL: i32 = 3;

/// Compresses, and hashes what comes out.
type Blob = zstd::Encoder<'static, Hashing<BufWriter<File>>>;

/// Attributes that are overlayfs's own book-keeping; the second where it is mounted without root.
const OVERLAY: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// Writes the layer of everything below `changes` to a file. Nothing in it is younger than `epoch`, in seconds since 1970.
pub fn write(changes: &Path, to: &Path, epoch: Option<i64>) -> Result<Layer> {
    let doing = || format!("cannot write the layer of {}", changes.display());
    let mut builder = Builder::new(BufWriter::with_capacity(1 << 20, blob(to, processors()).doing(doing)?));
    builder.sparse(false);
    builder.follow_symlinks(false);
    let mut writer = Writer { builder, linked: HashMap::new(), epoch };
    writer.directory(changes, Path::new("")).doing(doing)?;
    finish(writer.builder.into_inner().doing(doing)?).doing(doing)
}

/// Compresses a tar that exists already, such as a bootstrapped root filesystem.
pub fn from_tar(mut tar: impl io::Read, to: &Path) -> Result<Layer> {
    let doing = || format!("cannot write layer {}", to.display());
    let mut out = BufWriter::with_capacity(1 << 20, blob(to, processors()).doing(doing)?);
    io::copy(&mut tar, &mut out).doing(doing)?;
    finish(out).doing(doing)
}

/// What is written to it is compressed by other threads, one for each processor. Their number does not change the bytes.
fn blob(to: &Path, threads: usize) -> io::Result<Hashing<Blob>> {
    let mut blob = zstd::Encoder::new(Hashing::new(BufWriter::with_capacity(1 << 20, File::create(to)?)), LEVEL)?;
    blob.multithread(threads as u32)?;
    Ok(Hashing::new(blob))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn finish(out: BufWriter<Hashing<Blob>>) -> io::Result<Layer> {
    let (blob, diff_id, _) = out.into_inner().map_err(io::IntoInnerError::into_error)?.finish();
    let (mut file, digest, size) = blob.finish()?.finish();
    file.flush()?;
    Ok(Layer { diff_id, digest, size, compression: Compression::Zstd })
}

/// Counts and hashes what goes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, format!("sha256:{}", hex::encode(self.hash.finalize())), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Writer<W: Write> {
    builder: Builder<W>,
    /// First path of each file with several names.
    linked: HashMap<(u64, u64), PathBuf>,
    epoch: Option<i64>,
}

impl<W: Write> Writer<W> {
    /// Writes what is below a directory, not the directory itself.
    fn directory(&mut self, path: &Path, name: &Path) -> Result<()> {
        let doing = || format!("cannot read {}", path.display());
        let mut names: Vec<OsString> =
            fs::read_dir(path).and_then(|d| d.map(|e| e.map(|e| e.file_name())).collect()).doing(doing)?;
        names.sort_unstable();
        if is_opaque(path).doing(doing)? {
            self.marker(&name.join(".wh..wh..opq"))?;
        }
        for child in names {
            self.entry(&path.join(&child), &name.join(&child))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> Result<()> {
        let doing = || format!("cannot store {}", path.display());
        let meta = fs::symlink_metadata(path).doing(doing)?;
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            let mut marker = OsString::from(".wh.");
            marker.push(name.file_name().unwrap_or_default());
            return self.marker(&name.with_file_name(marker));
        }
        if name.file_name().is_some_and(|n| n.as_bytes().starts_with(b".wh.")) {
            return Err(Error::new(format!(
                "the name of {} begins with .wh., which image layers reserve for deletions",
                name.display()
            )));
        }
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = header(&meta, self.epoch);
        if !kind.is_dir() && meta.nlink() > 1 {
            match self.linked.get(&(meta.dev(), meta.ino())) {
                Some(first) => {
                    header.set_entry_type(EntryType::Link);
                    header.set_size(0);
                    let first = first.clone();
                    return self.builder.append_link(&mut header, name, &first).doing(doing);
                }
                None => self.linked.insert((meta.dev(), meta.ino()), name.into()),
            };
        }
        self.attributes(path)?;
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.builder.append_data(&mut header, slashed(name), io::empty()).doing(doing)?;
            self.directory(path, name)
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(path).doing(doing)?;
            append_symlink(&mut self.builder, &mut header, name, &target).doing(doing)
        } else if kind.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(meta.len());
            let file = File::open(path).doing(doing)?;
            self.builder.append_data(&mut header, name, io::Read::take(file, meta.len())).doing(doing)
        } else {
            header.set_entry_type(if kind.is_fifo() {
                EntryType::Fifo
            } else if kind.is_block_device() {
                EntryType::Block
            } else {
                EntryType::Char
            });
            header.set_device_major(nix::sys::stat::major(meta.rdev()) as u32).doing(doing)?;
            header.set_device_minor(nix::sys::stat::minor(meta.rdev()) as u32).doing(doing)?;
            self.builder.append_data(&mut header, name, io::empty()).doing(doing)
        }
    }

    /// An empty file whose name says what is gone.
    fn marker(&mut self, name: &Path) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o600);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.builder
            .append_data(&mut header, name, io::empty())
            .doing(|| format!("cannot store the deletion {}", name.display()))
    }

    /// Extended attributes go in front of their entry, as pax records.
    fn attributes(&mut self, path: &Path) -> Result<()> {
        let doing = || format!("cannot read the attributes of {}", path.display());
        let mut found = Vec::new();
        for name in xattr::list(path).doing(doing)? {
            let text = name.to_string_lossy();
            if text == "trusted.overlay.redirect" || text == "trusted.overlay.metacopy" {
                // Our own mounts make none.
                return Err(Error::new(format!("{} carries {text}: a part of it is elsewhere", path.display())));
            }
            if OVERLAY.iter().any(|own| text.starts_with(own)) {
                continue;
            }
            if let Some(value) = xattr::get(path, &name).doing(doing)? {
                found.push((format!("SCHILY.xattr.{text}"), value));
            }
        }
        found.sort();
        if found.is_empty() {
            return Ok(());
        }
        let records = found.iter().map(|(k, v)| (k.as_str(), v.as_slice()));
        self.builder.append_pax_extensions(records).doing(doing)
    }
}

fn header(meta: &Metadata, epoch: Option<i64>) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(meta.mtime().min(epoch.unwrap_or(i64::MAX)).max(0) as u64);
    header
}

/// A symbolic link. Its target is data: `append_link` would tidy it up, and is for one that is too long for the header only.
pub(super) fn append_symlink<W: io::Write>(
    builder: &mut Builder<W>,
    header: &mut Header,
    name: &Path,
    target: &Path,
) -> io::Result<()> {
    if header.set_link_name_literal(target.as_os_str().as_bytes()).is_ok() {
        builder.append_data(header, name, io::empty())
    } else {
        builder.append_link(header, name, target)
    }
}

fn slashed(name: &Path) -> PathBuf {
    let mut bytes = name.as_os_str().as_bytes().to_vec();
    bytes.push(b'/');
    PathBuf::from(OsString::from_vec(bytes))
}

fn is_opaque(dir: &Path) -> io::Result<bool> {
    for prefix in OVERLAY {
        match xattr::get(dir, OsStr::new(&format!("{prefix}opaque"))) {
            Ok(Some(value)) if value == b"y" => return Ok(true),
            Err(e) if e.raw_os_error() != Some(nix::libc::EOPNOTSUPP) => return Err(e),
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    /// Unpacks with the system's tar, an implementation that is not ours.
    fn listing(blob: &Path) -> String {
        let out = std::process::Command::new("tar")
            .args(["--zstd", "-tvf"])
            .arg(blob)
            .args(["--numeric-owner", "--utc"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn age(path: &Path) {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn the_same_tree_makes_the_same_layer() {
        let dir = tempfile::tempdir().unwrap();
        let make = |n: &str| {
            let tree = dir.path().join(n);
            fs::create_dir_all(tree.join("b")).unwrap();
            for name in ["b/two", "a", "b/one"] {
                fs::write(tree.join(name), name).unwrap();
                fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o640)).unwrap();
                age(&tree.join(name));
            }
            age(&tree.join("b"));
            write(&tree, &dir.path().join(format!("{n}.tar.zst")), None).unwrap()
        };
        let (one, two) = (make("x"), make("y"));
        assert_eq!(one, two);
        let bytes = fs::read(dir.path().join("x.tar.zst")).unwrap();
        assert_eq!(one.digest, crate::engine::sha256(&bytes));
        assert_eq!(one.size, bytes.len() as u64);
    }

    #[test]
    fn the_number_of_processors_does_not_change_the_layer() {
        let dir = tempfile::tempdir().unwrap();
        // Several megabytes, in words, as a run of one byte has nothing to cut into jobs.
        let text: String = (0..1_500_000u32).map(|n| format!("{} ", n.wrapping_mul(2_654_435_761))).collect();
        let make = |threads: usize, chunk: usize| {
            let mut out = BufWriter::new(blob(&dir.path().join("blob"), threads).unwrap());
            text.as_bytes().chunks(chunk).for_each(|part| out.write_all(part).unwrap());
            finish(out).unwrap()
        };
        let one = make(1, 1 << 20);
        assert_eq!([make(2, 1 << 20), make(7, 999)], [one.clone(), one]);
    }

    #[test]
    fn odd_names_links_and_modes_survive() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        let long = "l".repeat(200);
        fs::create_dir_all(tree.join(&long)).unwrap();
        fs::write(tree.join(&long).join("f".repeat(150)), "deep").unwrap();
        fs::write(tree.join("a"), "x").unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
        symlink(format!("../{}/./x//y", "z".repeat(120)), tree.join("link")).unwrap();
        symlink("./s//t/", tree.join("short")).unwrap();
        let odd = OsStr::from_bytes(b"caf\xe9 \n");
        fs::write(tree.join(odd), "latin1").unwrap();
        let sparse = File::create(tree.join("sparse")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        let blob = dir.path().join("t.tar.zst");
        write(&tree, &blob, None).unwrap();
        let text = listing(&blob);
        assert!(text.contains("-rwsr-xr-x"), "{text}");
        assert!(text.contains("b link to a"), "{text}");
        assert!(text.contains(&format!("link -> ../{}/./x//y", "z".repeat(120))), "{text}");
        assert!(text.contains("short -> ./s//t/"), "{text}");
        assert!(text.contains("3145728"), "{text}");

        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let status =
            std::process::Command::new("tar").args(["--zstd", "-xf"]).arg(&blob).arg("-C").arg(&out).status().unwrap();
        assert!(status.success());
        assert_eq!(fs::read(out.join(odd)).unwrap(), b"latin1");
        assert_eq!(fs::read(out.join(&long).join("f".repeat(150))).unwrap(), b"deep");
        assert_eq!(fs::metadata(out.join("a")).unwrap().ino(), fs::metadata(out.join("b")).unwrap().ino());
    }

    #[test]
    fn attributes_go_along_but_not_those_of_overlayfs() {
        // /tmp may be a filesystem without attributes.
        let dir = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let tree = dir.path().join("t");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("f"), "x").unwrap();
        xattr::set(tree.join("f"), "user.colour", b"blue\0").unwrap();
        xattr::set(tree.join("f"), "user.overlay.origin", b"?").unwrap();
        let blob = dir.path().join("t.tar.zst");
        write(&tree, &blob, None).unwrap();
        let mut archive = tar::Archive::new(Compression::Zstd.open(File::open(&blob).unwrap()).unwrap());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let records: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|r| r.unwrap())
            .map(|r| (r.key().unwrap().to_owned(), r.value_bytes().to_vec()))
            .collect();
        assert_eq!(records, [("SCHILY.xattr.user.colour".to_owned(), b"blue\0".to_vec())]);
    }

    #[test]
    fn a_reserved_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("t")).unwrap();
        fs::write(dir.path().join("t/.wh.x"), "").unwrap();
        assert!(write(&dir.path().join("t"), &dir.path().join("o"), None).is_err());
    }
}
