//! Images enter the engine in the form of `docker save`: a tar with the configuration, the layers and a table of contents.

use super::Docker;
use super::containers::is;
use crate::engine::store;
use crate::engine::{Image, chain_id};
use crate::error::{Context as _, Error, Result};
use bollard::body_try_stream;
use bollard::query_parameters::{ImportImageOptions, ListImagesOptionsBuilder, RemoveImageOptionsBuilder};
use futures::TryStreamExt as _;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use tokio_util::io::{ReaderStream, SyncIoBridge};

/// Label with the id that an image has in our store: an engine's own ids follow rules of its own.
const ID: &str = "oardocker.image";

/// Bytes on their way between the thread that packs and the engine.
const PIPE: usize = 1 << 20;

impl Docker {
    /// Puts an image into the engine unless it is there, configuration and all.
    pub(super) async fn ensure_loaded(&self, name: &str, image: &Image) -> Result<()> {
        let doing = || format!("cannot load image {name} into {}", self.info.name);
        let (id, _) = store::configuration(image)?;
        match self.api.inspect_image(name).await {
            Ok(found) => {
                let labels = found.config.and_then(|c| c.labels).unwrap_or_default();
                if labels.get(ID) == Some(&id) {
                    return Ok(());
                }
            }
            Err(e) if is(&e, 404) => {}
            Err(e) => return Err(e).doing(doing),
        }
        let mut labelled = image.clone();
        let mut whole = serde_json::to_value(&labelled.config).doing(doing)?;
        whole["config"]["Labels"][ID] = json!(id);
        labelled.config = serde_json::from_value(whole).doing(doing)?;
        let known = if self.knows_layers { self.known_chains().await.doing(doing)? } else { BTreeSet::new() };
        self.load(name, &labelled, &known).await.doing(doing)
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

    async fn load(&self, name: &str, image: &Image, known: &BTreeSet<String>) -> Result<()> {
        let (id, config) = store::configuration(image)?;
        let config_name = format!("{}.json", id.trim_start_matches("sha256:"));
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        let mut layers = Vec::new();
        for (i, layer) in image.layers.iter().enumerate() {
            let path = format!("{}.tar.gz", layer.digest.trim_start_matches("sha256:"));
            // The engine looks for the layer's chain before it opens the file.
            let there = chain_id(image.layers[..=i].iter().map(|l| &l.diff_id)).is_some_and(|c| known.contains(&c));
            if !there && !layers.contains(&path) {
                files.push((path.clone(), self.store.blob(layer)));
            }
            layers.push(path);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": layers}]).to_string();
        let (writer, reader) = tokio::io::duplex(PIPE);
        let packing = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            let mut tar = tar::Builder::new(SyncIoBridge::new(writer));
            for (path, bytes) in [(config_name.as_str(), config.as_slice()), ("manifest.json", manifest.as_bytes())] {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, path, bytes)?;
            }
            for (path, blob) in files {
                tar.append_file(&path, &mut File::open(&blob)?)?;
            }
            std::io::Write::flush(&mut tar.into_inner()?)
        });
        let body = body_try_stream(ReaderStream::with_capacity(reader, PIPE));
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let said: Vec<_> = self.api.import_image(options, body, None).try_collect().await.doing(|| "refused".into())?;
        packing.await.doing(|| "cannot pack it".into())?.doing(|| "cannot pack it".into())?;
        match said.into_iter().find_map(|line| line.error_detail?.message) {
            Some(error) => Err(Error::new(error)),
            None => Ok(()),
        }
    }

    /// Removes images from the engine; those that never entered it are none.
    pub(super) async fn unload(&self, names: &[String]) -> Result<()> {
        let mut errors = Vec::new();
        for name in names.iter().filter(|n| n.contains(".env/")) {
            let force = RemoveImageOptionsBuilder::default().force(true).build();
            match self.api.remove_image(name, Some(force), None).await {
                Err(e) if !is(&e, 404) => {
                    let what = || format!("cannot remove image {name} from {}", self.info.name);
                    errors.extend(Err::<(), _>(e).doing(what).err());
                }
                _ => {}
            }
        }
        Error::all(errors)
    }
}
