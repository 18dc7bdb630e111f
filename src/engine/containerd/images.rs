//! Images: manifests and configurations in the content store, names in the image store.

use super::streams::Fifos;
use super::{Containerd, SNAPSHOTTER, content, snapshots};
use crate::engine::oci::MANIFEST;
use crate::engine::{Blob, Image, ImageRecord, Images, Layer, StepRoot, StepSpec};
use crate::error::{Doing as _, Error, Result};
use async_trait::async_trait;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image as Record, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types::Descriptor;
use oci_spec::image::ImageManifest;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tonic::Code;

#[async_trait]
impl Images for Containerd {
    async fn images(&self) -> Result<Vec<ImageRecord>> {
        let answer = self
            .client
            .images()
            .list(ListImagesRequest { filters: Vec::new() })
            .await
            .doing(|| "cannot list images of containerd".into())?;
        Ok(answer.into_inner().images.into_iter().map(record).collect())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        let target = match self.client.images().get(GetImageRequest { name: name.into() }).await {
            Ok(answer) => answer.into_inner().image.and_then(|i| i.target),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(status).doing(|| format!("cannot look up image {name}")),
        };
        let Some(target) = target else { return Ok(None) };
        let doing = || format!("cannot read image {name}");
        let manifest = content::read(&self.client, &target.digest).await.doing(doing)?;
        let manifest: ImageManifest = serde_json::from_slice(&manifest).doing(doing)?;
        let config = content::read(&self.client, manifest.config().digest().as_ref()).await.doing(doing)?;
        let blob = |blob: &oci_spec::image::Descriptor| Blob {
            digest: blob.digest().to_string(),
            size: blob.size().try_into().unwrap_or(-1),
            media_type: blob.media_type().to_string(),
        };
        Image::read(&config, manifest.layers().iter().map(blob).collect()).map(Some).doing(doing)
    }

    async fn put_image(&self, name: &str, image: &Image, labels: &BTreeMap<String, String>) -> Result<String> {
        self.client.hold_lease().await?;
        let doing = || format!("cannot store image {name}");
        let (_, config) = image.configuration().doing(doing)?;
        let config_size = config.len();
        // The collector follows these labels from an image's name down to its blobs and its unpacked snapshot.
        let config_labels = image
            .chain_id()
            .map(|chain| (format!("containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"), chain))
            .into_iter()
            .collect();
        let config_digest = content::write(&self.client, config, config_labels).await.doing(doing)?;
        let manifest = image.manifest(&config_digest, config_size).to_string().into_bytes();
        let size = manifest.len() as i64;
        let mut manifest_labels = HashMap::from([("containerd.io/gc.ref.content.config".to_owned(), config_digest)]);
        for (i, layer) in image.layers.iter().enumerate() {
            manifest_labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone());
        }
        let digest = content::write(&self.client, manifest, manifest_labels).await.doing(doing)?;
        let target =
            Descriptor { media_type: MANIFEST.into(), digest: digest.clone(), size, annotations: HashMap::new() };
        let record = Record {
            name: name.into(),
            labels: labels.clone().into_iter().collect(),
            target: Some(target),
            ..Record::default()
        };
        let created = self
            .client
            .images()
            .create(CreateImageRequest { image: Some(record.clone()), source_date_epoch: None })
            .await;
        match created {
            Ok(_) => {}
            Err(status) if status.code() == Code::AlreadyExists => {
                self.client
                    .images()
                    .update(UpdateImageRequest { image: Some(record), update_mask: None, source_date_epoch: None })
                    .await
                    .doing(doing)?;
            }
            Err(status) => return Err(status).doing(doing),
        }
        Ok(digest)
    }

    async fn remove_images(&self, names: &[String]) -> Result<()> {
        let mut errors = Vec::new();
        for (i, name) in names.iter().enumerate() {
            // The last one waits for the collector, so that "removed" means that the space is free.
            let sync = i + 1 == names.len();
            let request = DeleteImageRequest { name: name.clone(), sync, target: None };
            match self.client.images().delete(request).await {
                Err(status) if status.code() != Code::NotFound => {
                    errors.extend(Err::<(), _>(status).doing(|| format!("cannot remove image {name}")).err());
                }
                _ => {}
            }
        }
        Error::all(errors)
    }

    async fn has_chain(&self, chain_id: &str) -> Result<bool> {
        snapshots::exists(&self.client, chain_id).await
    }

    async fn put_layer(&self, layer: &Layer, file: &Path) -> Result<()> {
        content::put_layer(&self.client, layer, file).await
    }

    async fn begin_step(&self, parent: Option<&str>) -> Result<StepRoot> {
        self.recover_steps().await?;
        self.mount_step(parent).await
    }

    async fn run_step(&self, step: &StepRoot, spec: &StepSpec, output: mpsc::Sender<Vec<u8>>) -> Result<u32> {
        self.run_in_step(step, spec, output).await
    }

    async fn commit_step(&self, step: StepRoot, layer: &Layer) -> Result<String> {
        self.keep_step(&step, layer).await
    }

    async fn abort_step(&self, step: StepRoot) -> Result<()> {
        self.throw_away(&step.key).await
    }

    async fn recover(&self) -> Result<()> {
        self.recover_steps().await?;
        Fifos::recover(&self.machine);
        self.client.recover_leases().await
    }

    async fn release(&self) -> Result<()> {
        self.client.release_lease().await
    }
}

fn record(image: Record) -> ImageRecord {
    ImageRecord {
        name: image.name,
        id: image.target.map(|t| t.digest).unwrap_or_default(),
        created: image.updated_at.map_or(UNIX_EPOCH, system_time),
        labels: image.labels.into_iter().collect(),
    }
}

/// Times before 1970 do not occur.
pub(super) fn system_time(t: prost_types::Timestamp) -> SystemTime {
    SystemTime::try_from(t).unwrap_or(UNIX_EPOCH)
}
