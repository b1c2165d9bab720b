//! The services together: what stands between a call from the link and the backends.

use std::sync::Arc;

use bytes::Bytes;
use nex_protocol::link::host::{HostError, HostReply, HostRequest};
use tokio::time::{Instant, timeout_at};

use crate::bucket::Template;
use crate::http::{Browser, Http, MemoryWeb, WebClient};
use crate::kv::{self, KeyValue, MemoryKeyValue, NatsKeyValue};
use crate::messaging::{MemoryBus, Messaging, NatsMessaging, Outbox};
use crate::object::{self, MemoryObjectStore, NatsObjectStore, ObjectStore, Source};
use crate::quota::Quota;
use crate::room::{Room, Rooms};
use crate::settings::{KV_BUCKET, OBJECT_BUCKET};
use crate::{Download, Failure, HostCall, Settings, Tenant};

/// What the services are made of.
#[derive(Clone)]
pub struct Backends {
    /// `kv`.
    pub kv: Arc<dyn KeyValue>,
    /// `objectStore`.
    pub object_store: Arc<dyn ObjectStore>,
    /// `messaging`.
    pub messaging: Arc<dyn Messaging>,
    /// `http`.
    pub http: Arc<dyn Http>,
}

impl Backends {
    /// NATS and the Internet.
    pub fn on_nats(client: async_nats::Client, settings: &Settings) -> Self {
        Self::on_nats_and(client, settings, Arc::new(WebClient::new(&settings.http)))
    }

    fn on_nats_and(client: async_nats::Client, settings: &Settings, http: Arc<dyn Http>) -> Self {
        Self {
            kv: Arc::new(NatsKeyValue::new(client.clone(), settings.kv.clone())),
            object_store: Arc::new(NatsObjectStore::new(client.clone(), settings.object_store.clone())),
            messaging: Arc::new(NatsMessaging::new(client)),
            http,
        }
    }

    /// Nothing but memory.
    pub fn in_memory(settings: &Settings) -> Self {
        Self {
            kv: Arc::new(MemoryKeyValue::new(settings.kv.clone())),
            object_store: Arc::new(MemoryObjectStore::new(settings.object_store.clone())),
            messaging: Arc::new(MemoryBus::default()),
            http: Arc::new(MemoryWeb::new(&settings.http)),
        }
    }
}

/// Names of a tenant's buckets; none where the node does not provide the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Bucket of `kv`.
    pub kv: Option<String>,
    /// Bucket of `objectStore`.
    pub object_store: Option<String>,
}

/// The host services of a node. A clone is the same services.
#[derive(Clone)]
pub struct HostServices {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for HostServices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostServices").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

struct Shared {
    settings: Settings,
    backends: Backends,
    kv_bucket: Result<Template, String>,
    object_bucket: Result<Template, String>,
    outbox: Outbox,
    browser: Browser,
    quota: Arc<Quota>,
    rooms: Arc<Rooms>,
}

impl HostServices {
    /// Services on a NATS connection, and an HTTP client.
    pub fn on_nats(client: async_nats::Client, settings: Settings) -> Self {
        let backends = Backends::on_nats(client, &settings);
        Self::with_backends(backends, settings)
    }

    /// Services that keep everything in memory and reach nothing.
    pub fn in_memory(settings: Settings) -> Self {
        let backends = Backends::in_memory(&settings);
        Self::with_backends(backends, settings)
    }

    /// Services on backends of one's own choice.
    pub fn with_backends(backends: Backends, settings: Settings) -> Self {
        let quota = Arc::new(Quota::new(settings.quota));
        let rooms = Arc::new(Rooms::new(settings.quota.bytes_in_memory));
        Self::build(backends, settings, quota, rooms)
    }

    /// The same services on another NATS connection. A namespace's quota is one, however many connections it has.
    #[must_use]
    pub fn on(&self, client: async_nats::Client) -> Self {
        let Shared { settings, backends, quota, rooms, .. } = &*self.shared;
        let backends = Backends::on_nats_and(client, settings, Arc::clone(&backends.http));
        Self::build(backends, settings.clone(), Arc::clone(quota), Arc::clone(rooms))
    }

    fn build(backends: Backends, settings: Settings, quota: Arc<Quota>, rooms: Arc<Rooms>) -> Self {
        let shared = Shared {
            kv_bucket: Template::parse(Settings::template_or(&settings.kv, KV_BUCKET)),
            object_bucket: Template::parse(Settings::template_or(&settings.object_store, OBJECT_BUCKET)),
            outbox: Outbox::new(settings.messaging.clone(), settings.denied_subjects.clone()),
            browser: Browser::new(settings.http.clone()),
            quota,
            rooms,
            backends,
            settings,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes the tenant's buckets and names them: those of services that the node provides.
    ///
    /// # Errors
    /// Why a bucket cannot be made, or is not there.
    pub async fn provision(&self, tenant: &Tenant) -> Result<Buckets, Failure> {
        let Shared { settings, backends, kv_bucket, object_bucket, .. } = &*self.shared;
        let mut buckets = Buckets::default();
        if settings.kv.enabled {
            let bucket = named(kv_bucket, tenant)?;
            backends.kv.provision(&bucket).await?;
            buckets.kv = Some(bucket);
        }
        if settings.object_store.enabled {
            let bucket = named(object_bucket, tenant)?;
            backends.object_store.provision(&bucket).await?;
            buckets.object_store = Some(bucket);
        }
        Ok(buckets)
    }

    /// Does what a tenant's function asks, by the call's deadline. Dropping it ends everything it was doing.
    pub async fn call(&self, tenant: &Tenant, call: HostCall) -> Result<(HostReply, Bytes), HostError> {
        let HostCall { request, body, upload, download, deadline } = call;
        let shared = &*self.shared;
        let room = shared.rooms.room(&tenant.namespace);
        if let Err(failure) = shared.admit(tenant, &request, &body).and_then(|()| room.take(body.len())) {
            return Err(HostError::new(&request, failure.code, failure.message));
        }
        let download = Download::new(download, Arc::clone(&shared.quota), tenant.namespace.clone());
        let source = Source::new(body, upload, Arc::clone(&shared.quota), tenant.namespace.clone());
        let done =
            match timeout_at(deadline, shared.dispatch(tenant, &request, source, &download, &room, deadline)).await {
                Ok(done) => done,
                Err(_) => Err(Failure::timeout("the call's deadline passed")),
            };
        // What was not counted as it was collected is here now.
        let done = done.and_then(|(reply, body)| room.hold(body.len()).map(|()| (reply, room.kept_by(body))));
        match done {
            Ok((reply, body)) => {
                shared.quota.charge(&tenant.namespace, body.len(), Instant::now());
                Ok((reply, body))
            }
            Err(failure) => Err(HostError::new(&request, failure.code, failure.message)),
        }
    }
}

impl Shared {
    fn admit(&self, tenant: &Tenant, request: &HostRequest, body: &Bytes) -> Result<(), Failure> {
        let settings = &self.settings;
        let (enabled, service) = match request {
            HostRequest::Kv(_) => (settings.kv.enabled, "kv"),
            HostRequest::ObjectStore(_) => (settings.object_store.enabled, "objectStore"),
            HostRequest::Messaging(_) => (settings.messaging.enabled, "messaging"),
            HostRequest::Http(_) => (settings.http.enabled, "http"),
        };
        if !enabled {
            return Err(Failure::unsupported(format!("this node does not provide {service}")));
        }
        self.quota.admit(&tenant.namespace, body.len(), Instant::now())
    }

    async fn dispatch(
        &self,
        tenant: &Tenant,
        request: &HostRequest,
        source: Source,
        download: &Download,
        room: &Room,
        deadline: Instant,
    ) -> Result<(HostReply, Bytes), Failure> {
        let backends = &self.backends;
        match request {
            HostRequest::Kv(request) => {
                let bucket = named(&self.kv_bucket, tenant)?;
                kv::call(&*backends.kv, &bucket, request, source.into_body(), download).await
            }
            HostRequest::ObjectStore(request) => {
                let bucket = named(&self.object_bucket, tenant)?;
                object::call(&*backends.object_store, &bucket, request, source, download).await
            }
            HostRequest::Messaging(request) => {
                self.outbox.call(&*backends.messaging, request, source.into_body(), room, deadline).await
            }
            // Apart: it is far larger than all others, whose calls would have to be made as large.
            HostRequest::Http(request) => {
                Box::pin(self.browser.call(&*backends.http, request, source.into_body(), room)).await
            }
        }
    }
}

fn named(template: &Result<Template, String>, tenant: &Tenant) -> Result<String, Failure> {
    match template {
        Ok(template) => Ok(template.bucket(tenant)),
        Err(problem) => Err(Failure::unavailable(format!("the node's bucket_name {problem}"))),
    }
}
