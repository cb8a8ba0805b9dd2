//! The configuration files of a node, from what is known of the host. Nothing here touches it.

use std::path::Path;

use serde_json::{Value, json};

use super::SCRATCH;
use crate::address;
use crate::cgroup::Version;

/// What holds the namespaces of each pod.
pub(super) const PAUSE: &str = "localhost/evercert-pause:1";
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";
pub(super) const PROXY_HEALTH: &str = "127.0.0.1:10256";

/// For containerd 1.6 and later. Its state is in /run, which is the world's own.
pub(super) fn containerd(cni_plugins: &Path, cni_config: &Path) -> String {
    format!(
        r#"version = 2
root = "{SCRATCH}/containerd"
state = "/run/containerd"
# The first makes a folder in /opt.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Root of a container may lack CAP_SYS_RESOURCE, and then nobody's score may sink below its own.
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        # There is no systemd in a world.
        SystemdCgroup = false
"#,
        bin = cni_plugins.display(),
        conf = cni_config.display(),
    )
}

/// The network of pods: a pair of cables for each, and a route on the node.
pub(super) fn cni() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": format!("{SCRATCH}/cni/addresses"),
                "ranges": [[{"subnet": address::PODS, "gateway": address::PODS_GATEWAY}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

pub(super) fn kubelet(version: Version, client_ca: &Path) -> Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": client_ca},
        },
        "authorization": {"mode": "Webhook"},
        // Pods resolve names as the CA does: without a search list, for the DNS server has an answer to every name.
        "clusterDNS": [address::NODE],
        "clusterDomain": "",
        "resolvConf": "",
        "maxOpenFiles": 20000,
        "oomScoreAdj": 0,
        // The settings it wants are the whole machine's; it finds files of ours there.
        "protectKernelDefaults": true,
        "makeIPTablesUtilChains": false,
        "failSwapOn": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    });
    // Version 1 is on its way out: the kubelet refuses it unless it is asked for.
    if let (Version::One, Some(config)) = (version, config.as_object_mut()) {
        config.insert("failCgroupV1".to_owned(), json!(false));
    }
    config
}

pub(super) fn kube_proxy(kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": address::NODE_NAME,
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": address::PODS,
        "healthzBindAddress": PROXY_HEALTH,
        // The table of connections has one size for the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_is_asked_for_version_1_of_cgroups_only_where_that_is() {
        let ca = Path::new("/ca.crt");
        let (one, two) = (kubelet(Version::One, ca), kubelet(Version::Two, ca));
        assert_eq!(one["failCgroupV1"], false);
        assert!(two.get("failCgroupV1").is_none(), "{two}");
        // No systemd runs in a world, whatever the host has.
        assert_eq!(
            (&one["cgroupDriver"], &two["cgroupDriver"]),
            (&json!("cgroupfs"), &json!("cgroupfs"))
        );
        assert!(containerd(ca, ca).contains("SystemdCgroup = false"));
    }

    #[test]
    fn containerd_writes_nowhere_but_in_run() {
        let text = containerd(Path::new("/usr/lib/cni"), Path::new("/run/x"));
        let written = text.lines().filter(|line| {
            ["root = ", "state = ", "  address = "]
                .iter()
                .any(|key| line.starts_with(key))
        });
        for line in written {
            assert!(line.contains("\"/run/"), "{line}");
        }
        assert!(
            text.contains("disabled_plugins = [\"io.containerd.internal.v1.opt\""),
            "{text}"
        );
    }

    #[test]
    fn no_setting_of_the_whole_machine_is_changed() {
        let proxy = kube_proxy(Path::new("/k"));
        for key in ["maxPerCore", "min"] {
            assert_eq!(proxy["conntrack"][key], 0);
        }
        assert_eq!(
            kubelet(Version::Two, Path::new("/ca"))["protectKernelDefaults"],
            true
        );
    }
}
