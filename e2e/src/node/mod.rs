//! Plays a kubelet where there is none: binds pods whose image it knows, runs each as a process in a network of its own on the
//! world's bridge, probes it, and reports its status, so that the real Deployment and EndpointSlice controllers do the rest.
//!
//! ```text
//! Pending ──bind──► Pending (ours) ──start──► Running, not ready ──probe──► Running, ready
//!                                                 ▲        │ exit
//!                                                 └─delay──┘          deletionTimestamp ──TERM, KILL──► gone
//! ```
//!
//! It leaves out what the tests do not need: more than one container, volumes (the token of the ServiceAccount apart), liveness
//! probes, user ids, limits. A pod that asks for more than it can do stays Pending, and its status says why.

mod heartbeat;
mod image;
mod network;
mod pod;
mod probe;
mod process;
mod spec;
mod status;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::PostParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

pub use image::Images;
pub use process::{POD_ROLE, become_pod};

/// The node's name.
pub const NAME: &str = "node";

/// What every pod of the node shares.
struct Kubelet {
    client: Client,
    images: Images,
    dir: PathBuf,
    network: network::Network,
    cluster_ca: PathBuf,
}

/// Plays the node until the process ends. Pods' logs and files are in `dir`.
///
/// # Errors
/// The node cannot be registered, or there is no bridge.
pub async fn play(client: Client, images: Images, dir: PathBuf, cluster_ca: PathBuf) -> Result<()> {
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let network = network::Network::find()?;
    heartbeat::register(&client).await?;
    tokio::spawn(heartbeat::beat(client.clone()));
    let kubelet = Arc::new(Kubelet {
        client: client.clone(),
        images,
        dir,
        network,
        cluster_ca,
    });
    let mut running: HashMap<String, watch::Sender<pod::Wish>> = HashMap::new();
    let mut events = Box::pin(watcher(Api::<Pod>::all(client), watcher::Config::default()));
    loop {
        match events.try_next().await {
            Ok(Some(Event::Apply(pod) | Event::InitApply(pod))) => {
                kubelet.clone().see(pod, &mut running).await;
            }
            Ok(Some(Event::Delete(pod))) => {
                if let Some(wish) = running.remove(&pod.uid().unwrap_or_default()) {
                    let _ = wish.send(pod::Wish::Gone);
                }
            }
            Ok(Some(Event::Init | Event::InitDone)) => {}
            Ok(None) => return Ok(()),
            Err(error) => eprintln!("watching pods: {error}"),
        }
    }
}

impl Kubelet {
    async fn see(
        self: Arc<Self>,
        pod: Pod,
        running: &mut HashMap<String, watch::Sender<pod::Wish>>,
    ) {
        let uid = pod.uid().unwrap_or_default();
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        match bound {
            None if pod.metadata.deletion_timestamp.is_none() && self.images.knows(&pod) => {
                if let Err(error) = self.bind(&pod).await {
                    eprintln!("binding {}: {error:#}", pod.name_any());
                }
            }
            Some(NAME) => {
                let wish = running.entry(uid).or_insert_with(|| {
                    let (sender, receiver) = watch::channel(pod::Wish::Run);
                    tokio::spawn(pod::live(self.clone(), pod.clone(), receiver));
                    sender
                });
                if pod.metadata.deletion_timestamp.is_some() {
                    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
                    let _ = wish.send(pod::Wish::Stop {
                        grace: u64::try_from(grace).unwrap_or(0),
                    });
                }
            }
            _ => {}
        }
    }

    /// What a scheduler does.
    async fn bind(&self, pod: &Pod) -> Result<()> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(NAME.into()),
                ..ObjectReference::default()
            },
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let _: Status = pods
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await?;
        Ok(())
    }
}
