//! All of them lie in 198.18.0.0/15, the range for tests between networks (RFC 2544), and exist only inside the world.

/// The node's name in the cluster, at the level `node`.
pub const NODE_NAME: &str = "node";
/// The node: API server, Pebble, its DNS server.
pub const NODE: &str = "198.18.0.1";
/// The ingress controller's ports 80 and 443. Every name of the world's DNS leads here unless a test says otherwise.
pub const INGRESS: &str = "198.18.0.2";
/// A machine of somebody else's: nobody listens there unless a story does.
pub const SITE: &str = "198.18.0.3";
/// The network of pods.
pub const PODS: &str = "198.18.1.0/24";
/// The node's own address in the pods' network. At the level `plane` it is on the bridge, and whoever plays a pod takes
/// another one of that network; at the level `node` the addresses are the runtime's to give.
pub const PODS_GATEWAY: &str = "198.18.1.1";
/// The network of Services. Nothing answers in it at the level `plane`: there is no kube-proxy.
pub const SERVICES: &str = "198.19.0.0/16";
/// The API server's port at [`NODE`].
pub const API_SERVER_PORT: u16 = 6443;
/// Pebble's ACME port at [`NODE`].
pub const PEBBLE_PORT: u16 = 14000;
/// Pebble's management port at [`NODE`] (`/roots/0`, `/cert-status-by-serial/…`).
pub const PEBBLE_MANAGEMENT_PORT: u16 = 15000;
/// Pebble's DNS server. It answers on port 53 of the node as well, for the resolver of everything in the world.
pub const DNS: &str = "198.18.0.1:8053";
/// Where the DNS server's records are changed: `POST /add-a`, `/clear-a`, `/set-servfail` and the like.
pub const DNS_MANAGEMENT: &str = "198.18.0.1:8055";
