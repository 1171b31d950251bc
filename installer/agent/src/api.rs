//! The API: who we are, the status of Services, and Events about them.

use std::net::IpAddr;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::ask::{Key, Note};
use crate::config::Config;
use crate::trouble::{Kind, Trouble};

/// Who writes.
const NAME: &str = "ingot-load-balancer";

/// Bookmarks come every minute: who says nothing for longer is gone.
const SILENCE: Duration = Duration::from_secs(150);

/// What a watch gives.
pub type Watch<K> = BoxStream<'static, watcher::Result<watcher::Event<K>>>;

/// The client. Only the cluster's own CA vouches for the API.
///
/// # Errors
/// CA or token cannot be read.
pub fn client(config: &Config) -> Result<Client, Trouble> {
    let wrong = |what: String| Trouble::new(Kind::Configuration, what);
    let uri = format!("https://{}", config.endpoint).parse().map_err(|e| wrong(format!("{}: {e}", config.endpoint)))?;
    for path in [&config.ca_file, &config.token_file] {
        std::fs::metadata(path).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
    }
    let mut of = kube::Config::new(uri);
    of.root_cert_file = Some(config.ca_file.clone());
    of.auth_info.token_file = Some(config.token_file.to_string_lossy().into_owned());
    of.connect_timeout = Some(Duration::from_secs(5));
    of.read_timeout = Some(SILENCE);
    of.reset_reader_on_write = true;
    Client::try_from(of).map_err(|e| Trouble::of(&e))
}

/// Everything of a kind, and what becomes of it; after an error it tries again by itself.
pub fn watch<K>(client: &Client) -> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(Api::<K>::all(client.clone()), watcher::Config::default()).backoff(Waits::default()).boxed()
}

/// Half a second, then twice as long each time, at most 5 s: the rules of an API that is back are wanted soon.
#[derive(Debug, Default)]
struct Waits(u32);

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(500).saturating_mul(1 << self.0.min(4)).min(Duration::from_secs(5));
        self.0 = self.0.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// Says which address the Service has, or that it has none. Refused where the Service has changed since `version`.
///
/// # Errors
/// The API does not take it.
pub async fn write(client: &Client, key: &Key, version: &str, address: Option<IpAddr>) -> Result<(), kube::Error> {
    let ingress: Vec<_> = address.iter().map(|ip| serde_json::json!({ "ip": ip })).collect();
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": version },
        "status": { "loadBalancer": { "ingress": ingress } },
    });
    let api: Api<Service> = Api::namespaced(client.clone(), &key.namespace);
    api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// Tells a note as an Event of the Service.
///
/// # Errors
/// The API does not take it.
pub async fn tell(client: &Client, key: &Key, uid: &str, note: &Note) -> Result<(), kube::Error> {
    let now = Some(Time(Timestamp::now()));
    let event = Event {
        metadata: ObjectMeta { generate_name: Some(format!("{}.", key.name)), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        },
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        type_: Some("Warning".to_owned()),
        source: Some(EventSource { component: Some(NAME.to_owned()), host: None }),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &key.namespace);
    api.create(&PostParams::default(), &event).await.map(drop)
}
