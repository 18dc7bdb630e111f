//! Cached steps: what a step made is kept as an image named `oardocker.cache/<key>`, where the key hashes all that went into it.

use crate::engine::{Image, Images, Layer};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};

/// Name prefix of cached steps.
pub const CACHE: &str = "oardocker.cache/";

const LABEL: &str = "oardocker.layer";

/// Layers by the keys of the steps that made them.
pub(super) type Cache = HashMap<String, Layer>;

/// All that is known.
pub(super) async fn load(images: &dyn Images) -> Result<Cache> {
    let of = |name: &str, labels: &BTreeMap<String, String>| {
        let key = name.strip_prefix(CACHE)?.to_owned();
        Some((key, serde_json::from_str(labels.get(LABEL)?).ok()?))
    };
    Ok(images.images().await?.into_iter().filter_map(|record| of(&record.name, &record.labels)).collect())
}

/// Keeps the image whose topmost layer a step has made.
pub(super) async fn keep(images: &dyn Images, key: &str, image: &Image) -> Result<()> {
    let layer = serde_json::to_string(&image.layers.last()).map_err(|e| Error::new(e.to_string()))?;
    let labels = BTreeMap::from([(LABEL.to_owned(), layer)]);
    images.put_image(&format!("{CACHE}{key}"), image, &labels).await.map(drop)
}
