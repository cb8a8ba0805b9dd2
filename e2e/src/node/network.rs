//! Addresses of pods, and the cable from the bridge into a pod's network namespace.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use evercert_cluster::address;

/// The addresses that are given out: 198.18.1.10 and up.
const FIRST: u8 = 10;
const LAST: u8 = 250;

pub(super) struct Network {
    bridge: String,
    taken: Mutex<BTreeSet<u8>>,
    cables: AtomicU32,
}

impl Network {
    /// The bridge that has the pods' gateway.
    pub(super) fn find() -> Result<Self> {
        let shown = ip(&[
            "-oneline",
            "-4",
            "address",
            "show",
            "to",
            address::PODS_GATEWAY,
        ])?;
        let bridge = shown
            .split_whitespace()
            .nth(1)
            .context("no interface has the address of the pods' gateway")?;
        Ok(Self {
            bridge: bridge.to_owned(),
            taken: Mutex::default(),
            cables: AtomicU32::new(0),
        })
    }

    /// A free address of the pods' network.
    pub(super) fn take(&self) -> Result<String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (FIRST..=LAST)
            .find(|last| !taken.contains(last))
            .context("no address is free")?;
        taken.insert(free);
        Ok(format!("198.18.1.{free}"))
    }

    pub(super) fn give_back(&self, address: &str) {
        if let Some(last) = last_byte(address) {
            self.taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&last);
        }
    }

    /// Lays a cable from the bridge to `eth0` of the network namespace that process `pid` is in. It goes with the namespace.
    pub(super) fn connect(&self, pid: u32, address: &str) -> Result<()> {
        let last = last_byte(address).context("not an address of a pod")?;
        // The kernel takes an old cable away some time after its namespace, so each has a name of its own.
        let cable = format!("pod{}", self.cables.fetch_add(1, Ordering::Relaxed));
        // One hardware address for each IP address, so that neighbours that remember it are right when the address moves on.
        let hardware = format!("0a:58:c6:12:01:{last:02x}");
        let pid = pid.to_string();
        let peer = ["peer", "name", "eth0", "address", &hardware, "netns", &pid];
        ip(&[&["link", "add", &cable, "type", "veth"][..], &peer].concat())?;
        ip(&["link", "set", &cable, "master", &self.bridge, "up"])?;
        Ok(())
    }
}

/// Sets up the inside: called by the pod's own process.
pub(super) fn configure_inside(address: &str) -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    ip(&["link", "set", "eth0", "up"])?;
    ip(&["route", "add", "default", "via", address::PODS_GATEWAY])?;
    Ok(())
}

fn last_byte(address: &str) -> Option<u8> {
    address.rsplit('.').next()?.parse().ok()
}

fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("starting `ip`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), said.trim());
    }
    ensure!(
        said.trim().is_empty(),
        "ip {}: {}",
        args.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
