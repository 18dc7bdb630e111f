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
    keep_with(images, key, image, BTreeMap::new()).await
}

/// The same with labels of one's own.
pub async fn keep_with(
    images: &dyn Images,
    key: &str,
    image: &Image,
    mut labels: BTreeMap<String, String>,
) -> Result<()> {
    let layer = serde_json::to_string(&image.layers.last()).map_err(|e| Error::new(e.to_string()))?;
    labels.insert(LABEL.to_owned(), layer);
    images.put_image(&format!("{CACHE}{key}"), image, &labels).await.map(drop)
}

/// What was kept of an image on top of another, and the labels that it was kept with, if it is there and unpacked.
pub async fn find(images: &dyn Images, key: &str, below: &Image) -> Result<Option<(Image, BTreeMap<String, String>)>> {
    let name = format!("{CACHE}{key}");
    let Some(record) = images.images().await?.into_iter().find(|record| record.name == name) else { return Ok(None) };
    let Some(kept) = images.image(&name).await? else { return Ok(None) };
    let Some(above) = kept.layers.strip_prefix(below.layers.as_slice()) else { return Ok(None) };
    let mut whole = below.clone();
    whole.layers.extend_from_slice(above);
    let there = images.has_chain(&whole.chain_id().unwrap_or_default()).await?;
    Ok(there.then_some((whole, record.labels)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Compression;
    use crate::engine::fake::Fake;

    #[tokio::test]
    async fn a_layer_is_found_by_its_key_and_what_is_no_step_is_not() {
        let fake = Fake::new().unwrap();
        let layer =
            Layer { digest: "sha256:1".into(), diff_id: "sha256:2".into(), size: 3, compression: Compression::Zstd };
        let image = Image::new(crate::image::config::new(), vec![layer]);
        keep(&fake, "k1", &image).await.unwrap();
        // One of a later oardocker, which says it in another way, and an image.
        let odd = BTreeMap::from([(LABEL.to_owned(), "{}".to_owned())]);
        fake.put_image(&format!("{CACHE}k2"), &image, &odd).await.unwrap();
        fake.put_image("oardocker/trixie-node:latest", &image, &BTreeMap::new()).await.unwrap();
        let cache = load(&fake).await.unwrap();
        assert_eq!(cache.keys().collect::<Vec<_>>(), ["k1"]);
        assert_eq!(cache["k1"].diff_id, "sha256:2");
    }
}
