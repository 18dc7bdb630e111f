//! Whether a file is a whole tarball with OAR in it. One that is compressed with xz is unpacked to a plain one, as not every image can.

use super::{MARKS, not_oar};
use crate::error::{Doing as _, Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};

/// What a tree of OAR is far below. A file of a stranger's may claim to unpack to anything.
const MOST: u64 = 1 << 30;

/// The first bytes of what somebody may take for a tarball.
const OTHERS: [(&[u8], &str); 3] = [(b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")];

/// A tarball that has been looked at.
#[derive(Debug)]
pub(super) struct Tarball {
    /// As tar or tar.gz.
    pub(super) file: File,
    /// Where it is, if it is ours: removed with this value.
    ours: Option<PathBuf>,
}

impl Drop for Tarball {
    fn drop(&mut self) {
        let _ = self.ours.take().map(std::fs::remove_file);
    }
}

/// Looks at a tarball, and makes one that images can read of it in `dir`. `ours` is where it is, if it is ours; `name` is for messages.
pub(super) fn open(file: File, ours: Option<PathBuf>, name: &str, dir: &Path) -> Result<Tarball> {
    let mut tarball = Tarball { file, ours };
    let doing = || format!("cannot read {name}");
    let mut head = [0; 6];
    let n = std::os::unix::fs::FileExt::read_at(&tarball.file, &mut head, 0).doing(doing)?;
    if let Some((_, kind)) = OTHERS.iter().find(|(magic, _)| head[..n].starts_with(magic)) {
        return Err(Error::new(format!("{name} is compressed with {kind}"))
            .hint("tar, tar.gz and tar.xz can be installed from; or unpack it, and install the directory"));
    }
    if head == *b"\xfd7zXZ\0" {
        tarball = unpack(&tarball.file, name, dir)?;
    }
    check(&tarball.file, name)?;
    Ok(tarball)
}

fn unpack(mut file: &File, name: &str, dir: &Path) -> Result<Tarball> {
    let doing = || format!("cannot unpack {name}");
    crate::host::make_dir(dir, 0o711)?;
    // What has no name cannot be mounted.
    let (plain, path) = tempfile::Builder::new()
        .suffix(".tar")
        .tempfile_in(dir)
        .doing(doing)?
        .keep()
        .map_err(|e| e.error)
        .doing(doing)?;
    let mut tarball = Tarball { file: plain, ours: Some(path) };
    file.rewind().doing(doing)?;
    // With all streams of the file, as xz itself reads it.
    let mut reader =
        liblzma::bufread::XzDecoder::new_multi_decoder(BufReader::with_capacity(1 << 20, file)).take(MOST + 1);
    let size = std::io::copy(&mut reader, &mut tarball.file).map_err(|e| {
        Error::new(format!("{name} is not a complete tar.xz file: {e}")).hint("was the download cut short?")
    })?;
    if size > MOST {
        return Err(Error::new(format!("{name} unpacks to more than {} GiB", MOST >> 30)));
    }
    Ok(tarball)
}

/// Reads the whole archive, so that a truncated download is found before anything is built on it.
fn check(file: &File, name: &str) -> Result<()> {
    let broken = |e: std::io::Error| {
        Error::new(format!("{name} is not a complete tar or tar.gz file: {e}")).hint("was the download cut short?")
    };
    let doing = || format!("cannot read {name}");
    let mut file = file.try_clone().doing(doing)?;
    let mut head = [0; 2];
    file.rewind().doing(doing)?;
    let n = file.read(&mut head).doing(doing)?;
    file.rewind().doing(doing)?;
    let file = BufReader::with_capacity(1 << 20, file);
    let reader: Box<dyn Read> =
        if n == 2 && head == [0x1f, 0x8b] { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = tar::Archive::new(reader);
    let (mut tops, mut marked, mut entries) = (std::collections::BTreeSet::new(), false, 0_u64);
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let mut parts = path.components();
        let top = parts.next().map(|c| c.as_os_str().to_owned()).unwrap_or_default();
        if path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
            return Err(Error::new(format!("{name} holds {}, which leads out of it", path.display())));
        }
        marked |= MARKS.iter().any(|m| parts.as_path() == Path::new(m));
        if !entry.header().entry_type().is_pax_global_extensions() {
            tops.insert(top);
        }
        entries += 1;
    }
    // The end of the archive, and of the compression, has to be there as well.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(broken)?;
    if entries == 0 {
        return Err(broken(std::io::Error::other("it is empty")));
    }
    if !marked || tops.len() != 1 {
        return Err(not_oar(name));
    }
    Ok(())
}
