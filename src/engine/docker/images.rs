//! Images enter the engine by its load API, in a tar that is an OCI image layout (which Podman reads) and has the table of
//! contents of `docker save` beside it (which Docker reads). Layers that the engine has are left out of it, and the others are plain:
//! no Docker before 23 takes what our store keeps.

use super::Docker;
use super::api::is;
use crate::engine::oci::MANIFEST;
use crate::engine::{Compression, Image, Layer, chain_id, sha256};
use crate::error::{Doing as _, Result};
use bollard::body_try_stream;
use bollard::query_parameters::{
    ImportImageOptions, ListImagesOptionsBuilder, RemoveImageOptions, RemoveImageOptionsBuilder,
};
use futures::TryStreamExt as _;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use tokio_util::io::{ReaderStream, SyncIoBridge};

/// Label with the id that an image has in our store: an engine's own ids follow rules of its own.
const ID: &str = "oardocker.image";

/// Bytes on their way between the thread that packs and the engine.
const PIPE: usize = 1 << 20;

/// A layer on its way into the engine, as a tar.
struct Tar {
    /// What it is called there.
    path: String,
    /// Bytes, which have to be said before they are sent.
    size: u64,
    blob: PathBuf,
    compression: Compression,
}

impl Tar {
    fn of(layer: &Layer, blob: PathBuf) -> Result<Self> {
        let mut tar = Self { path: place(&layer.diff_id), size: 0, blob, compression: layer.compression };
        let counted = tar.open().and_then(|mut data| io::copy(&mut data, &mut io::sink()));
        tar.size = counted.doing(|| format!("cannot read layer {}", layer.digest))?;
        Ok(tar)
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.compression.open(File::open(&self.blob)?)
    }
}

/// Where a blob is in an image layout.
fn place(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}

impl Docker {
    /// Puts an image into the engine unless it is there, configuration and all.
    pub(super) async fn ensure_loaded(&self, name: &str, image: &Image) -> Result<()> {
        let doing = || format!("cannot load image {name} into {}", self.info.name);
        let (id, _) = image.configuration().doing(doing)?;
        // Its layers stay where they are while they are read.
        self.store.hold()?;
        let mut old = None;
        match self.api.inspect_image(name).await {
            Ok(found) => {
                let labels = found.config.and_then(|c| c.labels).unwrap_or_default();
                if labels.get(ID) == Some(&id) {
                    return Ok(());
                }
                old = found.id;
            }
            Err(e) if is(&e, 404) => {}
            Err(e) => return Err(e).doing(doing),
        }
        let labelled = image.labelled(ID, &id);
        let known = self.known_chains().await.doing(doing)?;
        let mut outcome = self.load(name, &labelled, &known).await;
        // How an engine finds a layer again is its own business: one that does not gets them all.
        if outcome.is_err() && !known.is_empty() {
            outcome = self.load(name, &labelled, &BTreeSet::new()).await;
        }
        outcome.doing(doing)?;
        // The one that had the name before would stay without any; not while the user's own containers need it.
        if let Some(old) = old {
            let _ = self.api.remove_image(&old, None::<RemoveImageOptions>, None).await;
        }
        Ok(())
    }

    /// Chain ids of the layers that the engine has.
    async fn known_chains(&self) -> Result<BTreeSet<String>> {
        let all = ListImagesOptionsBuilder::default().all(true).build();
        let listed = self.api.list_images(Some(all)).await.doing(|| "cannot list its images".into())?;
        let mut known = BTreeSet::new();
        for image in listed {
            // One that vanishes meanwhile is no error.
            let Ok(found) = self.api.inspect_image(&image.id).await else { continue };
            let layers = found.root_fs.and_then(|r| r.layers).unwrap_or_default();
            known.extend((1..=layers.len()).filter_map(|n| chain_id(&layers[..n])));
        }
        Ok(known)
    }

    /// The image of plain layers, and those of them that the engine lacks.
    fn plain(&self, image: &Image, known: &BTreeSet<String>) -> Result<(Image, Vec<Tar>)> {
        let (mut plain, mut tars) = (image.clone(), BTreeMap::new());
        for (i, layer) in plain.layers.iter_mut().enumerate() {
            let chain = chain_id(image.layers[..=i].iter().map(|l| &l.diff_id));
            // Nobody asks for the size of one that is left out.
            if !chain.is_some_and(|c| known.contains(&c)) {
                let tar = Tar::of(layer, self.store.blob(layer))?;
                layer.size = tar.size;
                tars.insert(tar.path.clone(), tar);
            }
            layer.digest.clone_from(&layer.diff_id);
            layer.compression = Compression::Plain;
        }
        Ok((plain, tars.into_values().collect()))
    }

    async fn load(&self, name: &str, image: &Image, known: &BTreeSet<String>) -> Result<()> {
        let (id, config) = image.configuration().doing(|| "cannot write its configuration".into())?;
        let (plain, tars) = tokio::task::block_in_place(|| self.plain(image, known))?;
        let layers: Vec<String> = plain.layers.iter().map(|l| place(&l.digest)).collect();
        let manifest = plain.manifest(&id, config.len()).to_string();
        let digest = sha256(manifest.as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": MANIFEST, "digest": digest, "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
        }]});
        let contents = json!([{"Config": place(&id), "RepoTags": [name], "Layers": layers}]);
        let texts = [
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".into(), index.to_string().into_bytes()),
            ("manifest.json".into(), contents.to_string().into_bytes()),
            (place(&digest), manifest.into_bytes()),
            (place(&id), config),
        ];
        let (writer, reader) = tokio::io::duplex(PIPE);
        let packing = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            let mut tar = tar::Builder::new(SyncIoBridge::new(writer));
            let mut append = |path: &str, size: u64, data: &mut dyn Read| {
                let mut header = tar::Header::new_gnu();
                header.set_size(size);
                header.set_mode(0o644);
                tar.append_data(&mut header, path, data)
            };
            for (path, bytes) in &texts {
                append(path, bytes.len() as u64, &mut bytes.as_slice())?;
            }
            for layer in tars {
                append(&layer.path, layer.size, &mut layer.open()?)?;
            }
            std::io::Write::flush(&mut tar.into_inner()?)
        });
        let body = body_try_stream(ReaderStream::with_capacity(reader, PIPE));
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let loaded: Result<Vec<_>, _> = self.api.import_image(options, body, None).try_collect().await;
        let packed = packing.await.doing(|| "cannot pack it".into())?;
        // Of a tar that was cut short the engine would only tell that.
        match packed {
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).doing(|| "cannot pack it".into()),
            _ => loaded.map(drop).doing(|| "refused".into()),
        }
    }

    /// Removes an image from the engine.
    pub(super) async fn unload(&self, name: &str) -> Result<()> {
        let force = RemoveImageOptionsBuilder::default().force(true).build();
        match self.api.remove_image(name, Some(force), None).await {
            Err(e) if !is(&e, 404) => Err(e).doing(|| format!("cannot remove image {name} from {}", self.info.name)),
            _ => Ok(()),
        }
    }
}
