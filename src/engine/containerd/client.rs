//! The gRPC connection: namespace and lease on every request, version check, errors in the user's words.

use super::NAMESPACE;
use crate::error::{Doing as _, Error, Result};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{
    CreateNamespaceRequest, CreateRequest, DeleteRequest, GetNamespaceRequest, ListRequest, Namespace,
};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Oldest containerd with everything that is used here.
const OLDEST: (u32, u32) = (1, 6);

/// Half-done work of a killed oardocker is freed by containerd after this many hours.
const LEASE_HOURS: u64 = 6;

/// How long an answer may take: hundreds of containers may be asked for at once.
pub(super) const LIMIT: Duration = Duration::from_secs(600);

/// A containerd that does not tell its version within this time does not work.
const SILENCE: Duration = Duration::from_secs(30);

/// A cheap handle; clones share the connection and the lease.
#[derive(Debug, Clone)]
pub(super) struct Client {
    channel: Channel,
    lease: Arc<Mutex<Option<String>>>,
    /// Held while one is made.
    leasing: Arc<tokio::sync::Mutex<()>>,
}

/// Adds the namespace, and the lease once there is one, to each request.
#[derive(Debug, Clone)]
pub(super) struct Headers {
    limit: Option<Duration>,
    lease: Option<MetadataValue<tonic::metadata::Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        if let Some(limit) = self.limit {
            request.set_timeout(limit);
        }
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

/// A service client with our headers.
pub(super) type Service = InterceptedService<Channel, Headers>;

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self> {
        let connecting = tokio::time::timeout(SILENCE, containerd_client::connect(socket)).await;
        let channel = connecting
            .map_err(|_| silent())?
            .doing(|| format!("cannot reach containerd at {}", socket.display()))
            .map_err(|e| {
                e.hint("is containerd running, and are you root?")
                    .hint("`--docker-host managed` lets oardocker run a containerd of its own")
            })?;
        Ok(Self { channel, lease: Arc::default(), leasing: Arc::default() })
    }

    pub(super) async fn check_version(&self) -> Result<String> {
        let answer = tokio::time::timeout(SILENCE, VersionClient::new(self.channel.clone()).version(()))
            .await
            .map_err(|_| silent())?
            .doing(|| "cannot ask containerd for its version".into())?
            .into_inner();
        accept(answer.version.trim_start_matches('v'))
    }

    pub(super) async fn ensure_namespace(&self) -> Result<()> {
        let headers = Headers { limit: Some(LIMIT), lease: None };
        let mut namespaces = NamespacesClient::with_interceptor(self.channel.clone(), headers);
        let get = || GetNamespaceRequest { name: NAMESPACE.into() };
        if namespaces.get(get()).await.is_ok() {
            return Ok(());
        }
        let namespace = Namespace { name: NAMESPACE.into(), labels: HashMap::new() };
        match namespaces.create(CreateNamespaceRequest { namespace: Some(namespace) }).await {
            Ok(_) => Ok(()),
            // containerd 1.6 says Unknown where newer ones say AlreadyExists; another oardocker may have won the race.
            Err(_) if namespaces.get(get()).await.is_ok() => Ok(()),
            Err(status) => Err(status).doing(|| format!("cannot create containerd namespace {NAMESPACE}")),
        }
    }

    fn service(&self, limit: Option<Duration>) -> Service {
        let lease = self.lease().map(|id| id.parse().expect("lease ids are ASCII"));
        InterceptedService::new(self.channel.clone(), Headers { limit, lease })
    }

    /// Makes sure that what is written from now on is kept until [`Client::release_lease`].
    pub(super) async fn hold_lease(&self) -> Result<()> {
        let _one = self.leasing.lock().await;
        if self.lease().is_none() {
            let expire = std::time::SystemTime::now() + std::time::Duration::from_secs(LEASE_HOURS * 3600);
            let id = format!("oardocker-{}-{:08x}", std::process::id(), rand::random::<u32>());
            let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), rfc3339(expire))]);
            let headers = Headers { limit: Some(LIMIT), lease: None };
            LeasesClient::with_interceptor(self.channel.clone(), headers)
                .create(CreateRequest { id: id.clone(), labels })
                .await
                .doing(|| "cannot create a containerd lease".into())?;
            *self.lease.lock().expect("no panics under this lock") = Some(id);
        }
        Ok(())
    }

    fn lease(&self) -> Option<String> {
        self.lease.lock().expect("no panics under this lock").clone()
    }

    pub(super) async fn release_lease(&self) -> Result<()> {
        let Some(id) = self.lease() else { return Ok(()) };
        match self.leases().delete(DeleteRequest { id: id.clone(), sync: false }).await {
            Err(status) if status.code() != Code::NotFound => {
                Err(status).doing(|| format!("cannot release containerd lease {id}"))
            }
            _ => {
                self.lease.lock().expect("no panics under this lock").take();
                Ok(())
            }
        }
    }

    /// Deletes the leases of oardockers that were killed; containerd then frees what they held.
    pub(super) async fn recover_leases(&self) -> Result<()> {
        let doing = || "cannot list the leases of containerd".to_owned();
        let listed = self.leases().list(ListRequest { filters: Vec::new() }).await.doing(doing)?.into_inner().leases;
        for lease in listed {
            let owner = lease.id.strip_prefix("oardocker-").and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let request = DeleteRequest { id: lease.id.clone(), sync: false };
                match self.leases().delete(request).await {
                    Err(status) if status.code() != Code::NotFound => {
                        return Err(status).doing(|| format!("cannot delete containerd lease {}", lease.id));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    pub(super) fn images(&self) -> ImagesClient<Service> {
        ImagesClient::new(self.service(Some(LIMIT)))
    }
    /// Streams of messages, each of which has the limit of [`in_time`].
    pub(super) fn content(&self) -> ContentClient<Service> {
        ContentClient::new(self.service(None))
    }
    pub(super) fn snapshots(&self) -> SnapshotsClient<Service> {
        SnapshotsClient::new(self.service(Some(LIMIT)))
    }
    pub(super) fn containers(&self) -> ContainersClient<Service> {
        ContainersClient::new(self.service(Some(LIMIT)))
    }
    pub(super) fn tasks(&self) -> TasksClient<Service> {
        TasksClient::new(self.service(Some(LIMIT)))
    }
    /// For waiting until something ends, which may take for ever.
    pub(super) fn ends(&self) -> TasksClient<Service> {
        TasksClient::new(self.service(None))
    }
    pub(super) fn introspection(&self) -> IntrospectionClient<Service> {
        IntrospectionClient::new(self.service(Some(LIMIT)))
    }
    fn leases(&self) -> LeasesClient<Service> {
        LeasesClient::new(self.service(Some(LIMIT)))
    }
}

/// What to say of a containerd that does not answer.
fn silent() -> Error {
    Error::new(format!("containerd does not answer within {} s", SILENCE.as_secs()))
        .hint("restart it (systemctl restart containerd), or let oardocker run its own: --docker-host managed")
}

/// The next message of a stream, or the answer to one, within the limit.
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("no answer within {} s", LIMIT.as_secs()));
    tokio::time::timeout(LIMIT, answer).await.map_err(late)?
}

/// The version, if it is recent enough. Development versions without numbers are believed to be.
fn accept(version: &str) -> Result<String> {
    let mut numbers = version.split(['.', '~', '-', '+']).map(|n| n.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(Error::new(format!(
            "containerd {version} is too old: oardocker needs {}.{} or newer",
            OLDEST.0, OLDEST.1
        ))
        .hint("install a newer containerd, or name another one with --docker-host containerd://PATH")),
        _ => Ok(version.to_owned()),
    }
}

/// `2026-01-02T03:04:05Z`, as containerd and the image spec want times.
pub(super) fn rfc3339(time: std::time::SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_refused() {
        for good in ["1.6.20~ds1", "1.7.24", "2.1.9", "main-abcdef"] {
            assert_eq!(accept(good).unwrap(), good);
        }
        for old in ["1.4.13~ds1", "0.2.5", "1.5.0-rc1"] {
            assert!(accept(old).unwrap_err().to_string().contains("too old"), "{old}");
        }
    }
}
