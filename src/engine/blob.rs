//! A layer as a compressed blob: what manifests say of one, and the tar in it.

use crate::error::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufReader, Read};

/// Reading one takes at most this much memory, as a power of two in bytes: a stranger says how much it wants.
const WINDOW_LOG: u32 = 27;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// It is the tar itself.
    Plain,
    /// What all registries give, and what is not told otherwise.
    #[default]
    Gzip,
    /// What is made here.
    Zstd,
}

impl Compression {
    /// That of a blob of this media type, in the words of the OCI or of Docker.
    pub fn of(media_type: &str) -> Option<Self> {
        let kind = media_type.strip_prefix("application/vnd.oci.image.layer.v1.");
        match kind.or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff."))? {
            "tar" => Some(Self::Plain),
            "tar+gzip" | "tar.gzip" => Some(Self::Gzip),
            "tar+zstd" | "tar.zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The tar in a blob.
    pub fn open(self, blob: File) -> io::Result<Box<dyn Read + Send>> {
        let blob = BufReader::with_capacity(1 << 20, blob);
        Ok(match self {
            Self::Plain => Box::new(blob),
            Self::Gzip => Box::new(MultiGzDecoder::new(blob)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(blob)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }

    /// The media type in the words of the OCI.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// One layer of an image: the digest of its tar, of its compressed blob, and the blob's size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// sha256 of the uncompressed tar.
    pub diff_id: String,
    /// sha256 of the blob.
    pub digest: String,
    /// Size of the blob in bytes.
    pub size: u64,
    /// How the blob is compressed.
    #[serde(default)]
    pub compression: Compression,
}

/// A layer's blob as a manifest tells of it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// sha256 of it.
    pub digest: String,
    /// Its size in bytes, as it stands there.
    pub size: i64,
    /// What it is.
    pub media_type: String,
}

impl Blob {
    pub(super) fn layer(self, diff_id: String) -> Result<Layer> {
        let Self { digest, size, media_type } = self;
        let compression = Compression::of(&media_type).ok_or_else(|| {
            Error::new(format!("its layer {digest} is of type {media_type}; tar, tar+gzip and tar+zstd are supported"))
        })?;
        let size = u64::try_from(size).map_err(|_| Error::new(format!("its layer {digest} has the size {size}")))?;
        Ok(Layer { diff_id, digest, size, compression })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_have_their_media_types_and_older_layers_are_gzip() {
        for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
            assert_eq!(Compression::of(compression.media_type()), Some(compression));
        }
        let docker = |kind: &str| Compression::of(&format!("application/vnd.docker.image.rootfs.diff.{kind}"));
        assert_eq!(docker("tar.gzip"), Some(Compression::Gzip));
        for other in ["tar.bzip2", "foreign.tar.gzip", ""] {
            assert_eq!(docker(other), None, "{other}");
        }
        let kept: Layer = serde_json::from_str(r#"{"diff_id": "a", "digest": "b", "size": 1}"#).unwrap();
        assert_eq!(kept.compression, Compression::Gzip);
    }
}
