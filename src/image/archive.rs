//! Archives that ADD unpacks: which files are some, and their bytes without compression, of bounded size.

use super::extract::Limited;
use crate::engine::Compression;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};

/// So much memory xz may want, in bytes; what layers may be compressed with has its own bounds.
const MEMORY: u64 = 256 << 20;

/// How a file is compressed, told by its first bytes.
fn decompressed(mut file: File) -> io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    (&mut file).take(6).read_to_end(&mut head)?;
    file.rewind()?;
    let buffered = |file| BufReader::with_capacity(1 << 16, file);
    Ok(if head.starts_with(b"\x1f\x8b") {
        Compression::Gzip.open(file)?
    } else if head.starts_with(b"BZh") {
        Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(file)))
    } else if head.starts_with(b"\xfd7zXZ\0") {
        let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY, liblzma::stream::CONCATENATED)?;
        Box::new(liblzma::bufread::XzDecoder::new_stream(buffered(file), stream))
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
        Compression::Zstd.open(file)?
    } else {
        Compression::Plain.open(file)?
    })
}

/// Whether a file is an archive: its first entry can be read.
pub(super) fn is_archive(file: File) -> io::Result<bool> {
    let limited = Limited::new(decompressed(file)?, 64 << 20);
    let mut archive = tar::Archive::new(super::tarfile::Checked::new(limited));
    Ok(archive.entries()?.next().is_some_and(|entry| entry.is_ok()))
}

/// An archive of at most so many bytes.
pub(super) fn open(file: File, limit: u64) -> io::Result<tar::Archive<impl Read>> {
    Ok(tar::Archive::new(super::tarfile::Checked::new(Limited::new(decompressed(file)?, limit))))
}
