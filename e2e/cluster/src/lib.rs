//! A real Kubernetes control plane in one process tree: built from published modules, started, entered, ended.
//!
//! A [`World`] is etcd, kube-apiserver, kube-controller-manager, Pebble with its DNS server, and an ingress controller ([`IngressController`]; else Contour with Envoy), in
//! mount, network, pid, uts and ipc namespaces of their own; for an ordinary user in a user namespace as well. That is the
//! level [`Plane`](Level::Plane); at the level [`Node`](Level::Node) it has containerd, kubelet, kube-proxy and scheduler
//! besides, with cgroups of their own. Nothing of it is seen from outside, so worlds stand side by side, and nothing stays when
//! one ends.
//!
//! ```text
//! the caller ──pipe──► supervisor ──pipe──► init (PID 1 of the world) ──► etcd, kube-apiserver, …
//! ```
//!
//! The write end of each pipe is held by the one on the left for as long as it lives and by nobody else. When it closes, the
//! one on the right ends what is right of it: the kernel kills every process of a pid namespace with its PID 1, and the
//! supervisor then removes the cgroups and the state folder. No signal to a remembered pid is needed, and SIGKILL is as good an end as any.
//!
//! The processes of a world are the caller's own program, started again in another role. So every program that brings a world
//! up calls [`take_role`] first in its `main`.

mod cgroup;
mod image;
mod ingress;
mod init;
mod level;
mod pebble;
mod pki;
mod priority;
mod process;
mod role;
mod supervise;
mod tools;
mod traces;
mod world;

/// The addresses of a world, the same in each.
pub mod address;

pub use image::Image;
pub use ingress::{CLASS, CONTROLLER, IngressController, Program};
pub use level::Level;
pub use pebble::Pebble;
pub use priority::Priority;
pub use role::take_role;
pub use tools::Tools;
pub use traces::Traces;
pub use world::{Summary, World};
