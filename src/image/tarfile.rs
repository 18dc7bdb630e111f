//! A tar on its way to whoever reads it, checked for what would fill the memory: names and attributes are read whole, and an archive
//! can claim that they have gigabytes.

use std::io::{self, Read};

/// The longest name or set of attributes, in bytes: Linux takes 64 KiB of attributes and paths of 4 KiB.
const LONGEST: u64 = 1 << 20;

/// What comes next.
#[derive(Debug)]
enum Next {
    /// A header, of which so much is there.
    Header(Vec<u8>),
    /// So many bytes of something, with what is kept of them.
    Body { left: u64, kept: Option<Vec<u8>> },
    /// Headers that go on with the map of a sparse file; the file's bytes come after them.
    Sparse { head: Vec<u8>, then: u64 },
}

/// Passes a tar on.
#[derive(Debug)]
pub(super) struct Checked<R> {
    inner: R,
    next: Next,
    ended: bool,
}

const BLOCK: usize = 512;

impl<R> Checked<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, next: Next::Header(Vec::new()), ended: false }
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let mut seen = &buffer[..n];
        while !seen.is_empty() && !self.ended {
            seen = self.see(seen)?;
        }
        Ok(n)
    }
}

impl<R> Checked<R> {
    /// Looks at the beginning; what is left.
    fn see<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        match &mut self.next {
            Next::Header(head) => {
                let rest = fill(head, bytes);
                if head.len() == BLOCK {
                    let head = std::mem::take(head);
                    self.next = self.header(&head)?;
                }
                Ok(rest)
            }
            Next::Sparse { head, then } => {
                let rest = fill(head, bytes);
                if head.len() == BLOCK {
                    // Whether another one follows stands behind its 21 pieces.
                    self.next = if head[504] == 0 {
                        Next::Body { left: *then, kept: None }.or_header()
                    } else {
                        Next::Sparse { head: Vec::new(), then: *then }
                    };
                }
                Ok(rest)
            }
            Next::Body { left, kept } => {
                let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                if let Some(kept) = kept {
                    kept.extend_from_slice(&bytes[..n]);
                }
                *left -= n as u64;
                if *left == 0 {
                    let kept = std::mem::replace(&mut self.next, Next::Header(Vec::new())).kept();
                    kept.as_deref().map_or(Ok(()), check_records)?;
                }
                Ok(&bytes[n..])
            }
        }
    }

    fn header(&mut self, head: &[u8]) -> io::Result<Next> {
        if head.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(Next::Header(Vec::new()));
        }
        let mut block = tar::Header::new_old();
        block.as_mut_bytes().copy_from_slice(head);
        let kind = block.entry_type();
        let said = block.entry_size()?;
        let is_long = kind.is_gnu_longname() || kind.is_gnu_longlink();
        let is_pax = kind.is_pax_local_extensions() || kind.is_pax_global_extensions();
        if (is_long || is_pax) && said > LONGEST {
            return Err(io::Error::other(format!(
                "an entry has a name or attributes of {said} bytes: {LONGEST} at most"
            )));
        }
        let blocks =
            said.checked_add(BLOCK as u64 - 1).ok_or_else(|| io::Error::other("an entry has no possible size"))?;
        let left = blocks / BLOCK as u64 * BLOCK as u64;
        if kind.is_gnu_sparse() && head[482] != 0 {
            return Ok(Next::Sparse { head: Vec::new(), then: left });
        }
        let kept = is_pax.then(|| Vec::with_capacity(usize::try_from(said).unwrap_or_default()));
        Ok(Next::Body { left, kept }.or_header())
    }
}

impl Next {
    fn kept(self) -> Option<Vec<u8>> {
        if let Self::Body { kept, .. } = self { kept } else { None }
    }

    fn or_header(self) -> Self {
        if matches!(self, Self::Body { left: 0, .. }) { Self::Header(Vec::new()) } else { self }
    }
}

fn fill<'a>(head: &mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
    let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - head.len()));
    head.extend_from_slice(now);
    rest
}

/// Records that a reader could understand in another way than we do are refused: sizes, maps of sparse files, and what is no record.
fn check_records(records: &[u8]) -> io::Result<()> {
    let end = records.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    for record in tar::PaxExtensions::new(&records[..end]) {
        let record = record.map_err(|_| io::Error::other("the attributes of an entry are damaged"))?;
        match record.key_bytes() {
            b"size" => return Err(io::Error::other("an entry has 8 GiB or more, which is not supported")),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(io::Error::other(
                    "sparse files in this form are not supported: make it without tar's --sparse",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Archive, Builder, EntryType, Header};

    fn names(tar: &[u8]) -> io::Result<Vec<String>> {
        let mut archive = Archive::new(Checked::new(tar));
        archive.entries()?.map(|e| Ok(e?.path()?.display().to_string())).collect()
    }

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    #[test]
    fn what_is_right_passes() {
        let mut builder = Builder::new(Vec::new());
        let long = "d/".repeat(100) + "f";
        builder.append_data(&mut header(EntryType::Regular, 700), &long, &[b'x'; 700][..]).unwrap();
        builder.append_pax_extensions([("SCHILY.xattr.user.a", &b"1"[..])]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 600), "pax", &[b'x'; 600][..]).unwrap();
        builder.append_data(&mut header(EntryType::Regular, 0), "last", io::empty()).unwrap();
        let tar = builder.into_inner().unwrap();
        assert_eq!(names(&tar).unwrap(), [long.as_str(), "pax", "last"]);
    }

    #[test]
    fn a_name_of_gigabytes_is_refused_before_it_is_read() {
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader] {
            let mut tar = header(kind, 5 << 30).as_bytes().to_vec();
            tar.extend([b'x'; 4096]);
            assert!(names(&tar).unwrap_err().to_string().contains("at most"), "{kind:?}");
        }
        assert!(names(header(EntryType::Regular, u64::MAX).as_bytes()).is_err());
    }

    #[test]
    fn what_another_reader_could_understand_in_another_way_is_refused() {
        for record in [("size", "600"), ("GNU.sparse.major", "1")] {
            let mut builder = Builder::new(Vec::new());
            builder.append_pax_extensions([(record.0, record.1.as_bytes())]).unwrap();
            builder.append_data(&mut header(EntryType::Regular, 0), "f", io::empty()).unwrap();
            let error = names(&builder.into_inner().unwrap()).unwrap_err().to_string();
            assert!(error.contains("not supported"), "{record:?}: {error}");
        }
    }
}
