//! The world's network: loopback and one bridge, no way out.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{Level, address, process};

const BRIDGE: &str = "kube0";

pub(super) fn prepare(level: Level) -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    // A dummy device does as well where the kernel has no bridges: at this level only addresses are wanted.
    if let Err(error) = ip(&["link", "add", BRIDGE, "type", "bridge"]) {
        eprintln!("no bridge: {error:#}");
        ip(&["link", "add", BRIDGE, "type", "dummy"])?;
    }
    let addresses = [address::NODE, address::INGRESS, address::SITE].into_iter();
    // On a node the pods' network is that of the container runtime.
    let gateway = (level == Level::Plane).then_some(address::PODS_GATEWAY);
    for address in addresses.chain(gateway) {
        ip(&["address", "add", &format!("{address}/24"), "dev", BRIDGE])?;
    }
    ip(&["link", "set", BRIDGE, "up"])?;
    ip(&[
        "route",
        "add",
        address::SERVICES,
        "dev",
        BRIDGE,
        "src",
        address::NODE,
    ])?;
    // The second lets a pod's process bind port 80 without a capability, as container runtimes allow it.
    for (setting, value) in [("ip_forward", "1"), ("ip_unprivileged_port_start", "0")] {
        if let Err(error) = fs::write(format!("/proc/sys/net/ipv4/{setting}"), value) {
            eprintln!("net.ipv4.{setting}={value}: {error}");
        }
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let program = process::find_program("ip").context("the program `ip` is missing")?;
    let output = Command::new(program)
        .args(args)
        .output()
        .context("starting `ip`")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
