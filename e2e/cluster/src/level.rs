//! How much of a cluster a world is, and how much of one this machine can be.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::geteuid;

use crate::cgroup::Cgroups;
use crate::{World, process};

/// In the environment of whoever wants another level than the highest that this machine has.
const WANTED: &str = "EVERCERT_LEVEL";

/// How much of a cluster a world is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Level {
    /// Control plane, CA and ingress controller; no node, so no pod runs. Needs neither root nor a container runtime.
    Plane,
    /// A node besides: containerd, kubelet, kube-proxy and scheduler. Needs root with nearly all capabilities.
    Node,
}

impl Level {
    /// The level of a world here: what `EVERCERT_LEVEL` says, else the highest that this machine has. Inside of a world it is
    /// that world's.
    ///
    /// # Errors
    /// `EVERCERT_LEVEL` is neither `plane` nor `node`, or is `node` where that cannot be (with the reasons).
    pub fn here() -> Result<Self> {
        if let Some(world) = World::current() {
            return Ok(world.level());
        }
        let wanted = match std::env::var(WANTED) {
            Ok(value) if !value.is_empty() => Some(value.parse().context(WANTED)?),
            _ => None,
        };
        match wanted {
            Some(Self::Node) => Self::Node.check().context(WANTED).map(|()| Self::Node),
            None if Self::missing_for_node().is_empty() => Ok(Self::Node),
            Some(Self::Plane) | None => Ok(Self::Plane),
        }
    }

    /// Whether a world of this level can be here.
    pub(crate) fn check(self) -> Result<()> {
        let missing = match self {
            Self::Plane => Vec::new(),
            Self::Node => Self::missing_for_node(),
        };
        if !missing.is_empty() {
            bail!(
                "no world of level {self} can be here: {}",
                missing.join("; ")
            );
        }
        Ok(())
    }

    /// Why no world of level `node` can be here, a sentence for each reason; empty where it can.
    #[must_use]
    pub fn missing_for_node() -> Vec<String> {
        if !geteuid().is_root() {
            return vec!["this user is not root".to_owned()];
        }
        let mut missing: Vec<_> = missing_rights().into_iter().collect();
        missing.extend(missing_programs());
        match Cgroups::here() {
            Ok(cgroups) => missing.extend(cgroups.missing()),
            Err(error) => missing.push(format!("{error:#}")),
        }
        if !Path::new("/dev/kmsg").exists() {
            missing.push("/dev/kmsg is not there, and the kubelet reads it".to_owned());
        }
        // The trial has no sense without rights and programs.
        if missing.is_empty() {
            missing.extend(failed_mounts());
        }
        missing
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plane => "plane",
            Self::Node => "node",
        })
    }
}

impl FromStr for Level {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Plane, Self::Node]
            .into_iter()
            .find(|level| level.to_string() == text)
            .ok_or_else(|| anyhow!("a world's level is plane or node, not {text:?}"))
    }
}

/// What a container runtime's default container has, and what makes mounts and networks (capabilities(7)).
const CAPABILITIES: [(&str, u32); 16] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_MKNOD", 27),
    ("CAP_AUDIT_WRITE", 29),
    ("CAP_SETFCAP", 31),
];

fn missing_rights() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if !initial {
        return Some("root is an ordinary user of this machine (a user namespace)".to_owned());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lacking = lacking_capabilities(&status);
    (!lacking.is_empty()).then(|| format!("root lacks {} here", lacking.join(", ")))
}

/// From the text of /proc/self/status.
fn lacking_capabilities(status: &str) -> Vec<&'static str> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    CAPABILITIES
        .iter()
        .filter(|(_, bit)| mask & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect()
}

const PROGRAMS: [(&str, &str); 6] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
];
/// Debian's place, and the one of the plugins' own releases.
const CNI: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
/// A pair of cables for each pod with routes on the node, so that every packet passes its rules: between ports of a bridge that
/// would take a kernel module which changes the bridges of the whole machine.
const CNI_PLUGINS: [&str; 3] = ["ptp", "host-local", "loopback"];

fn missing_programs() -> Vec<String> {
    let mut missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| process::find_program(program).is_none())
        .map(|(program, package)| format!("the program {program} is missing (package {package})"))
        .collect();
    if cni_plugins().is_none() {
        missing.push(format!(
            "the CNI plugins {} are neither in {} (package containernetworking-plugins)",
            CNI_PLUGINS.join(", "),
            CNI.join(" nor in ")
        ));
    }
    missing
}

/// The folder that has every CNI plugin of a node.
pub(crate) fn cni_plugins() -> Option<PathBuf> {
    CNI.iter()
        .map(PathBuf::from)
        .find(|dir| CNI_PLUGINS.iter().all(|plugin| dir.join(plugin).is_file()))
}

/// Some walls around a container are not seen in its capabilities: they are tried.
fn failed_mounts() -> Option<String> {
    const MOUNTS: &str =
        "mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run";
    let mut trial = Command::new(process::find_program("unshare")?);
    trial
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--cgroup",
            "--propagation",
            "private",
        ])
        .args(["sh", "-c", MOUNTS])
        .stdin(Stdio::null());
    match trial.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "mounts of its own are forbidden here ({})",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare does not start: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_is_named_as_it_is_read() {
        for level in [Level::Plane, Level::Node] {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        }
        let error = "nodes".parse::<Level>().unwrap_err().to_string();
        assert_eq!(error, "a world's level is plane or node, not \"nodes\"");
    }

    #[test]
    fn capabilities_that_a_plain_container_lacks_are_named() {
        let docker = "Name:\tsh\nCapEff:\t00000000a80425fb\n";
        assert_eq!(
            lacking_capabilities(docker),
            ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]
        );
        // Root without CAP_SYS_RESOURCE.
        let here = "CapEff:\t000001fffeffffff\n";
        assert!(lacking_capabilities(here).is_empty());
    }
}
