//! Pulling an image from a registry.

use super::unpack::unpack;
use crate::engine::{Blob, Image, Images};
use crate::error::{Doing as _, Error, Result, root_cause};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A registry that does not answer within this time does not exist, for a build that has other ways to go on.
const CONNECT: Duration = Duration::from_secs(5);

/// Pulls an image's layers into the engine; does not name it.
pub async fn pull(images: &dyn Images, name: &str, scratch: &Path, cancel: &CancellationToken) -> Result<Image> {
    let doing = || format!("cannot pull {name}");
    let reference: Reference =
        name.parse().map_err(|e: oci_client::ParseError| Error::new(e.to_string())).doing(doing)?;
    let registry = reference.resolve_registry().to_owned();
    crate::net::use_tls();
    let client = Client::new(ClientConfig {
        // A registry on the loopback interface has no certificate.
        protocol: if is_loopback(&registry) { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT),
        ..ClientConfig::default()
    });
    let auth = RegistryAuth::Anonymous;
    let failed = |e: oci_client::errors::OciDistributionError| Error::new(root_cause(&e));
    let asked = wanted(cancel, client.pull_manifest_and_config(&reference, &auth)).await?;
    let (manifest, _, config) = asked.map_err(failed).doing(doing)?;
    let blob = |blob: &OciDescriptor| Blob {
        digest: blob.digest.clone(),
        size: blob.size,
        media_type: blob.media_type.clone(),
    };
    let image = Image::read(config.as_bytes(), manifest.layers.iter().map(blob).collect()).doing(doing)?;
    let mut parent: Option<String> = None;
    for (blob, layer) in manifest.layers.iter().zip(&image.layers) {
        // Another image of the same build may pull the same layer at the same time.
        let file = scratch.join(format!("pull-{:016x}", rand::random::<u64>()));
        let mut out = tokio::fs::File::create(&file).await.doing(doing)?;
        wanted(cancel, client.pull_blob(&reference, blob, &mut out)).await?.map_err(failed).doing(doing)?;
        tokio::io::AsyncWriteExt::flush(&mut out).await.doing(doing)?;
        images.put_layer(layer, &file).await.doing(doing)?;
        parent = Some(unpack(images, layer, &file, parent.as_deref()).await.doing(doing)?);
        let _ = tokio::fs::remove_file(&file).await;
    }
    Ok(image)
}

/// Goes on with what has nothing half done in the engine until the user does not want it any more.
async fn wanted<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T> {
    cancel.run_until_cancelled(work).await.ok_or_else(Error::interrupted)
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(h, _)| h);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_registries_are_plain_http() {
        for (registry, plain) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("localhost", true),
            ("docker.io", false),
            ("192.168.1.1:5000", false),
            ("localhost.example.org", false),
        ] {
            assert_eq!(is_loopback(registry), plain, "{registry}");
        }
    }
}
