//! Whether a file is a whole tarball with OAR in it.

use super::{MARKS, not_oar};
use crate::error::{Context as _, Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _};
use std::path::Path;

/// Reads the whole archive, so that a truncated download is found before anything is built on it. `name` is for messages.
pub(super) fn check(file: &File, name: &str) -> Result<()> {
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
