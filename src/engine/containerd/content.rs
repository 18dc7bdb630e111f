//! The content store: blobs by digest.

use super::client::{Client, in_time};
use crate::engine::Layer;
use crate::error::{Doing as _, Error, Result};
use containerd_client::services::v1::{
    Info, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use futures::SinkExt as _;
use std::collections::HashMap;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tonic::{Code, Status, Streaming};

/// Bytes per message; gRPC servers refuse messages of more than 16 MiB, and small ones cost time.
const CHUNK: usize = 1 << 20;

/// No manifest and no configuration is larger, in bytes.
const LARGEST: usize = 64 << 20;

/// Reads a whole small blob: a manifest or a configuration.
pub(super) async fn read(client: &Client, digest: &str) -> Result<Vec<u8>> {
    let doing = || format!("cannot read blob {digest} from containerd");
    let request = ReadContentRequest { digest: digest.into(), offset: 0, size: 0 };
    let mut content = client.content();
    let mut stream = in_time(content.read(request)).await.doing(doing)?.into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = in_time(stream.message()).await.doing(doing)? {
        bytes.extend(part.data);
        if bytes.len() > LARGEST {
            return Err(Error::new(format!("it is larger than {} MiB", LARGEST >> 20))).doing(doing);
        }
    }
    let found = crate::engine::sha256(&bytes);
    if found != digest {
        return Err(Error::new(format!("blob {digest} is damaged in containerd: its content has digest {found}"))
            .hint("run `oardocker destroy` and build again"));
    }
    Ok(bytes)
}

/// Stores a small blob with its garbage-collection labels.
pub(super) async fn write(client: &Client, bytes: Vec<u8>, labels: HashMap<String, String>) -> Result<String> {
    let digest = crate::engine::sha256(&bytes);
    let size = bytes.len() as i64;
    send(client, &digest, size, labels, bytes.as_slice()).await?;
    Ok(digest)
}

/// Stores a layer blob from a file.
pub(super) async fn put_layer(client: &Client, layer: &Layer, file: &Path) -> Result<()> {
    client.hold_lease().await?;
    let opened = tokio::fs::File::open(file).await.doing(|| format!("cannot open {}", file.display()))?;
    let labels = HashMap::from([("containerd.io/uncompressed".to_owned(), layer.diff_id.clone())]);
    send(client, &layer.digest, layer.size as i64, labels, opened).await
}

/// Writes and commits one blob; a blob that is already there only gets the labels.
async fn send(
    client: &Client,
    digest: &str,
    total: i64,
    labels: HashMap<String, String>,
    data: impl AsyncRead + Unpin + Send,
) -> Result<()> {
    let doing = || format!("cannot store blob {digest} in containerd");
    let template = WriteContentRequest {
        r#ref: format!("oardocker-{digest}-{:08x}", rand::random::<u32>()),
        total,
        expected: digest.to_owned(),
        ..WriteContentRequest::default()
    };
    let (requests, received) = futures::channel::mpsc::channel(2);
    let mut content = client.content();
    let answers = async { drain(in_time(content.write(received)).await?.into_inner()).await };
    let feeding = feed(data, requests, template, labels.clone());
    tokio::pin!(answers, feeding);
    // A blob that another build has stored meanwhile is answered at once, and nobody reads the rest of it.
    let outcome = tokio::select! {
        outcome = &mut answers => outcome,
        fed = &mut feeding => {
            fed.doing(doing)?;
            answers.await
        }
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(status) if status.code() == Code::AlreadyExists => set_labels(client, digest, labels).await.doing(doing),
        Err(status) => Err(status).doing(doing),
    }
}

/// Cuts the data into messages. Fails only when reading fails: a receiver that hung up reports its own reason.
async fn feed(
    mut data: impl AsyncRead + Unpin,
    mut to: futures::channel::mpsc::Sender<WriteContentRequest>,
    template: WriteContentRequest,
    labels: HashMap<String, String>,
) -> std::io::Result<()> {
    let mut offset = 0;
    loop {
        let mut buffer = vec![0; CHUNK];
        let n = data.read(&mut buffer).await?;
        buffer.truncate(n);
        let mut message = WriteContentRequest { offset, data: buffer, ..template.clone() };
        let last = n == 0;
        if last {
            message.action = WriteAction::Commit as i32;
            message.labels.clone_from(&labels);
        } else {
            message.action = WriteAction::Write as i32;
            offset += n as i64;
        }
        if to.send(message).await.is_err() || last {
            return Ok(());
        }
    }
}

async fn drain(mut answers: Streaming<WriteContentResponse>) -> Result<(), Status> {
    while in_time(answers.message()).await?.is_some() {}
    Ok(())
}

async fn set_labels(client: &Client, digest: &str, labels: HashMap<String, String>) -> Result<(), Status> {
    if labels.is_empty() {
        return Ok(());
    }
    let paths = labels.keys().map(|k| format!("labels.{k}")).collect();
    let info = Info { digest: digest.into(), labels, ..Info::default() };
    let update_mask = Some(prost_types::FieldMask { paths });
    in_time(client.content().update(UpdateRequest { info: Some(info), update_mask })).await.map(drop)
}
