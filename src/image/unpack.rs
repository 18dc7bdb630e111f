//! A layer's tar applied to the tree of the layers below: the way in for what was pulled or bootstrapped.
//!
//! The tree is a build step's root, so a deletion here becomes a whiteout there. Tars are hostile until proven otherwise:
//! every path is resolved as if the tree were `/`, and the whole must have the digest that the image promises.

use super::extract::{Extractor, Kind, LIMIT, Limited};
use super::run::finish;
use super::tarfile::Checked;
use crate::engine::{Images, Layer, chain_id};
use crate::error::{Doing as _, Error, Result};
use crate::rooted::Root;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tar::Archive;

/// Unpacks a layer whose blob was stored, on top of the layers below. Returns the chain id.
pub async fn unpack(images: &dyn Images, layer: &Layer, blob: &Path, parent: Option<&str>) -> Result<String> {
    let chain = chain_id(parent.into_iter().chain([layer.diff_id.as_str()])).expect("one layer at least");
    if images.has_chain(&chain).await? {
        return Ok(chain);
    }
    let step = images.begin_step(parent).await?;
    let (blob, kept, root) = (blob.to_owned(), layer.clone(), step.root.clone());
    let applied = tokio::task::spawn_blocking(move || apply(&kept, &blob, &root)).await;
    let applied = applied.doing(|| format!("cannot unpack layer {}", layer.digest)).and_then(|applied| applied);
    finish(images, step, applied.map(|()| layer.clone())).await?;
    Ok(chain)
}

/// Hashes what is read.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

fn apply(layer: &Layer, blob: &Path, root: &Path) -> Result<()> {
    let doing = || format!("cannot unpack layer {}", layer.diff_id);
    let root = Root::open(root)?;
    let tar = File::open(blob).and_then(|blob| layer.compression.open(blob)).doing(doing)?;
    let hashing = Hashing { inner: Limited::new(tar, LIMIT), hash: Sha256::new() };
    let mut archive = Archive::new(Checked::new(hashing));
    Extractor::new(root, Path::new("/"), Kind::Layer, LIMIT).unpack(&mut archive).doing(doing)?;
    let mut rest = archive.into_inner().into_inner();
    io::copy(&mut rest, &mut io::sink()).doing(doing)?;
    let found = format!("sha256:{}", hex::encode(rest.hash.finalize()));
    if found != layer.diff_id {
        return Err(Error::new(format!("its content has digest {found}"))).doing(doing);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Compression;
    use flate2::write::GzEncoder;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    use tar::{Builder, EntryType, Header};

    fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o640);
        header.set_mtime(1_000_000_000);
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header
    }

    /// Applies a layer with these entries: name, and content or, for a name that ends in a slash, nothing.
    fn layer(dir: &Path, entries: &[(&str, &str)]) -> Result<()> {
        let mut builder = Builder::new(Vec::new());
        for (name, text) in entries {
            let kind = if name.ends_with('/') { EntryType::Directory } else { EntryType::Regular };
            let mut header = header(kind, text.len());
            if kind.is_dir() {
                header.set_mode(0o750);
            }
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        run(dir, builder)
    }

    fn told(diff_id: String, compression: Compression) -> Layer {
        Layer { diff_id, digest: String::new(), size: 0, compression }
    }

    fn run(dir: &Path, builder: Builder<Vec<u8>>) -> Result<()> {
        let tar = builder.into_inner().unwrap();
        let blob = dir.join("blob");
        let mut gzip = GzEncoder::new(File::create(&blob).unwrap(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &tar).unwrap();
        gzip.finish().unwrap();
        apply(&told(crate::engine::sha256(&tar), Compression::Gzip), &blob, &dir.join("root"))
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        dir
    }

    #[test]
    fn deletions_and_opaque_directories() {
        let dir = tree();
        let root = dir.path().join("root");
        layer(dir.path(), &[("d/", ""), ("d/old", "1"), ("d/sub/", ""), ("d/sub/x", "1"), ("gone", "1"), ("t/", "")])
            .unwrap();
        layer(dir.path(), &[(".wh.gone", ""), ("d/new", "2"), ("d/.wh..wh..opq", ""), ("t", "a file now")]).unwrap();
        assert!(!root.join("gone").exists());
        let names: Vec<_> = fs::read_dir(root.join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["new"], "what came from below is gone, what this layer brought stays");
        assert_eq!(fs::read(root.join("t")).unwrap(), b"a file now");
        let meta = fs::metadata(root.join("d/new")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::os::unix::fs::MetadataExt::mtime(&meta), 1_000_000_000);
    }

    #[test]
    fn hostile_layers_stay_inside() {
        let dir = tree();
        assert!(layer(dir.path(), &[("../evil", "x")]).unwrap_err().to_string().contains("it leads out of the tree"));
        assert!(layer(dir.path(), &[("/evil", "x")]).is_err());
        for name in [".wh...", ".wh..", ".wh.", "d/.wh..."] {
            assert!(layer(dir.path(), &[("d/", ""), (name, "")]).is_err(), "{name}");
        }
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "1").unwrap();
        let mut builder = Builder::new(Vec::new());
        let mut link = header(EntryType::Symlink, 0);
        link.set_link_name_literal(outside.as_os_str().as_bytes()).unwrap();
        builder.append_data(&mut link, "way", io::empty()).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 1), "way/evil", &b"x"[..]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0), "way/.wh.secret", io::empty()).unwrap();
        let _ = run(dir.path(), builder);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let mut builder = Builder::new(Vec::new());
        let mut hard = header(EntryType::Link, 0);
        hard.set_link_name_literal("../outside/secret").unwrap();
        builder.append_data(&mut hard, "stolen", io::empty()).unwrap();
        assert!(run(dir.path(), builder).is_err());
    }

    #[test]
    fn another_content_than_promised_is_refused() {
        let dir = tree();
        let blob = dir.path().join("blob");
        fs::write(&blob, Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
        let layer = told("sha256:00".into(), Compression::Plain);
        let error = apply(&layer, &blob, &dir.path().join("root")).unwrap_err();
        assert!(error.to_string().contains("its content has digest"), "{error}");
    }
}
