//! What a builder asks of an image store, and the words for it: layers, images, and build steps on them.

use super::blob::{Blob, Layer};
use super::oci::{CONFIG, MANIFEST};
use super::spec::StepSpec;
use crate::error::{Doing as _, Error, Result};
use async_trait::async_trait;
use oci_spec::image::{ImageConfiguration, RootFs};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::sync::mpsc;

/// The chain id of a stack of layers (OCI image spec): the name of the snapshot that holds them all.
pub fn chain_id(diff_ids: impl IntoIterator<Item = impl AsRef<str>>) -> Option<String> {
    diff_ids.into_iter().fold(None, |parent, diff_id| {
        Some(match parent {
            None => diff_id.as_ref().to_owned(),
            Some(parent) => sha256(format!("{parent} {}", diff_id.as_ref()).as_bytes()),
        })
    })
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// What Docker's image configurations have beyond those of the OCI.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DockerConfig {
    /// Of shell forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Instructions for whoever builds upon it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// How it is seen that it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<serde_json::Value>,
}

/// An image: its configuration and its layers from the bottom up.
#[derive(Debug, Clone)]
pub struct Image {
    /// The OCI image configuration; its rootfs section is filled in by the store from `layers`.
    pub config: ImageConfiguration,
    /// What Docker adds to that.
    pub docker: DockerConfig,
    /// From the bottom up.
    pub layers: Vec<Layer>,
}

impl Image {
    /// One that says nothing that only Docker knows.
    pub fn new(config: ImageConfiguration, layers: Vec<Layer>) -> Self {
        Self { config, docker: DockerConfig::default(), layers }
    }

    /// Of a configuration as it is stored; the layers are told by the digests in it and by blobs that hold them.
    pub fn read(config: &[u8], blobs: Vec<Blob>) -> Result<Self> {
        #[derive(Deserialize)]
        struct Whole {
            config: Option<DockerConfig>,
        }
        let doing = || "cannot read its configuration".into();
        let docker = serde_json::from_slice::<Whole>(config).doing(doing)?.config.unwrap_or_default();
        let config: ImageConfiguration = serde_json::from_slice(config).doing(doing)?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != blobs.len() {
            let (blobs, diff_ids) = (blobs.len(), diff_ids.len());
            return Err(Error::new(format!("its manifest has {blobs} layers and its configuration {diff_ids}")));
        }
        let layers = blobs.into_iter().zip(diff_ids).map(|(blob, diff_id)| blob.layer(diff_id.clone()));
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { config, docker, layers })
    }

    /// The snapshot that holds all layers.
    pub fn chain_id(&self) -> Option<String> {
        chain_id(self.layers.iter().map(|l| &l.diff_id))
    }

    /// The image's own id, which is the digest of its configuration with its layers, and that as it is stored.
    pub fn configuration(&self) -> serde_json::Result<(String, Vec<u8>)> {
        let mut config = self.config.clone();
        let mut rootfs = RootFs::default();
        rootfs.set_diff_ids(self.layers.iter().map(|l| l.diff_id.clone()).collect());
        config.set_rootfs(rootfs);
        // With sorted keys, whatever the type's own order.
        let mut value = serde_json::to_value(config)?;
        if let serde_json::Value::Object(docker) = serde_json::to_value(&self.docker)?
            && !docker.is_empty()
        {
            let of = value.as_object_mut().expect("a configuration is an object").entry("config");
            of.or_insert_with(|| json!({})).as_object_mut().expect("it is one").extend(docker);
        }
        let bytes = serde_json::to_vec(&value)?;
        Ok((sha256(&bytes), bytes))
    }

    /// Variables of its programs.
    pub fn env(&self) -> Vec<String> {
        self.config.config().as_ref().and_then(|c| c.env().clone()).unwrap_or_default()
    }

    /// Directories that it wants to be there.
    pub fn volumes(&self) -> Vec<String> {
        self.config.config().as_ref().and_then(|c| c.volumes().clone()).unwrap_or_default()
    }

    /// The same with one more label in its configuration.
    pub fn labelled(&self, key: &str, value: &str) -> Self {
        let mut image = self.clone();
        let mut config = image.config.config().clone().unwrap_or_default();
        config.labels_mut().get_or_insert_default().insert(key.into(), value.into());
        image.config.set_config(Some(config));
        image
    }

    /// The manifest of a configuration of this digest and size in bytes.
    pub(super) fn manifest(&self, config: &str, size: usize) -> serde_json::Value {
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": size},
            "layers": self.layers.iter()
                .map(|l| json!({"mediaType": l.compression.media_type(), "digest": l.digest, "size": l.size}))
                .collect::<Vec<_>>(),
        })
    }
}

/// What a list of images tells without reading any blob.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// As in `oardocker/trixie-node:latest`.
    pub name: String,
    /// Digest of the manifest.
    pub id: String,
    /// When the image was last put under its name.
    pub created: SystemTime,
    /// Labels that were given at [`Images::put_image`].
    pub labels: BTreeMap<String, String>,
}

/// A writable root filesystem on top of a stack of layers, mounted on the host.
#[derive(Debug, Clone)]
pub struct StepRoot {
    /// The store's name for it.
    pub key: String,
    /// The whole tree, as a step sees it.
    pub root: PathBuf,
    /// Only what this step changed, in overlay form; equal to `root` when there is no layer below.
    pub changes: PathBuf,
    /// Chain id of the layers below.
    pub parent: Option<String>,
}

/// The verbs of an image store.
#[async_trait]
pub trait Images: Send + Sync {
    /// All images of oardocker.
    async fn images(&self) -> Result<Vec<ImageRecord>>;
    /// One image with its configuration.
    async fn image(&self, name: &str) -> Result<Option<Image>>;
    /// Stores configuration and manifest and puts the image under a name. Returns the image's id.
    async fn put_image(&self, name: &str, image: &Image, labels: &BTreeMap<String, String>) -> Result<String>;
    /// Forgets names; what nothing else refers to is freed.
    async fn remove_images(&self, names: &[String]) -> Result<()>;

    /// Whether the layers are unpacked, ready to be built upon.
    async fn has_chain(&self, chain_id: &str) -> Result<bool>;
    /// Stores a layer blob from a file, checked against its digest.
    async fn put_layer(&self, layer: &Layer, file: &Path) -> Result<()>;

    /// Makes and mounts a writable root on top of a stack of layers.
    async fn begin_step(&self, parent: Option<&str>) -> Result<StepRoot>;
    /// Runs a container on the step's root until its process ends; both of its streams go to `output`. Its exit code.
    async fn run_step(&self, step: &StepRoot, spec: &StepSpec, output: mpsc::Sender<Vec<u8>>) -> Result<u32>;
    /// Keeps what the step changed as a layer: the blob was stored with [`Images::put_layer`]. Returns the chain id.
    async fn commit_step(&self, step: StepRoot, layer: &Layer) -> Result<String>;
    /// Throws the step away, with what still runs in it.
    async fn abort_step(&self, step: StepRoot) -> Result<()>;

    /// Throws away build steps of oardockers that were killed.
    async fn recover(&self) -> Result<()>;
    /// Gives up what protects half-done work; call when the work is done or given up.
    async fn release(&self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_image_spec() {
        let a = sha256(b"a");
        let b = sha256(b"b");
        assert_eq!(chain_id(Vec::<String>::new()), None);
        assert_eq!(chain_id([&a]), Some(a.clone()));
        assert_eq!(chain_id([&a, &b]), Some(sha256(format!("{a} {b}").as_bytes())));
    }
}
