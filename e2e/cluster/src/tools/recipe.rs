//! What the programs are built from. The pins are part of this program, so it needs no checkout to build them.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// One Go module of ours, with `tool` lines or a program of its own, and the programs taken from it.
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) go_mod: &'static str,
    pub(super) go_sum: &'static str,
    /// Its own main.go; empty where it has none.
    pub(super) main: &'static str,
    pub(super) ldflags: &'static str,
    /// Go's build tags, with commas.
    pub(super) tags: &'static str,
    /// (program, package)
    pub(super) programs: &'static [(&'static str, &'static str)],
}

macro_rules! pinned {
    ($name:literal) => {
        (
            include_str!(concat!("../../tools/", $name, "/go.mod")),
            include_str!(concat!("../../tools/", $name, "/go.sum")),
        )
    };
}

const fn module(
    name: &'static str,
    (go_mod, go_sum): (&'static str, &'static str),
    ldflags: &'static str,
    programs: &'static [(&'static str, &'static str)],
) -> Module {
    Module {
        name,
        go_mod,
        go_sum,
        main: "",
        ldflags,
        tags: "",
        programs,
    }
}

/// What the rules of alerts are tested by. Without the clients of the clouds that a Prometheus can find its targets in: a fifth
/// of its packages.
const PROMTOOL: Module = Module {
    tags: "remove_all_sd",
    ..module(
        "promtool",
        pinned!("promtool"),
        "-s -w",
        &[("promtool", "github.com/prometheus/prometheus/cmd/promtool")],
    )
};

/// What the node's own images consist of. Without a C library, so that it runs where there is nothing else.
const POD: Module = Module {
    name: "pod",
    go_mod: include_str!("../../tools/pod/go.mod"),
    go_sum: "",
    main: include_str!("../../tools/pod/main.go"),
    ldflags: "-s -w",
    tags: "",
    programs: &[("pod", ".")],
};

pub(super) const MODULES: &[Module] = &[
    module(
        "kubernetes",
        pinned!("kubernetes"),
        // Without them the API server calls itself v0.0.0-master and clients that compare versions stumble.
        "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37",
        &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
    ),
    module(
        "etcd",
        pinned!("etcd"),
        "-s -w",
        &[("etcd", "go.etcd.io/etcd/server/v3")],
    ),
    module(
        "pebble",
        pinned!("pebble"),
        "-s -w",
        &[
            ("pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble"),
            (
                "pebble-challtestsrv",
                "github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv",
            ),
        ],
    ),
    module(
        "contour",
        pinned!("contour"),
        "-s -w",
        &[("contour", CONTOUR_PACKAGE)],
    ),
    module(
        "helm",
        pinned!("helm"),
        "-s -w",
        &[("helm", "helm.sh/helm/v4/cmd/helm")],
    ),
    PROMTOOL,
    POD,
];

const CONTOUR_PACKAGE: &str = "github.com/projectcontour/contour/cmd/contour";
/// The module whose folder has Contour's CRDs and roles.
pub(super) const CONTOUR_MODULE: &str = "github.com/projectcontour/contour";
/// Those files, in the module and, by their last part, in the tools' folder.
pub(super) const CONTOUR_MANIFESTS: &[&str] = &[
    "examples/contour/01-crds.yaml",
    "examples/contour/02-role-contour.yaml",
];
/// Envoy's wheel, pinned by its hash.
pub(super) const ENVOY_REQUIREMENTS: &str = include_str!("../../tools/envoy/requirements.txt");
/// Envoy inside of its wheel.
pub(super) const ENVOY_IN_WHEEL: &str = "envoy/_bin/envoy";

/// Every file of a complete folder.
pub(super) fn files() -> impl Iterator<Item = &'static str> {
    MODULES
        .iter()
        .flat_map(|module| module.programs.iter().map(|(program, _)| *program))
        .chain(["envoy"])
        .chain(
            CONTOUR_MANIFESTS
                .iter()
                .map(|path| path.rsplit('/').next().unwrap_or(path)),
        )
}

/// A hash of everything that the programs come from, in hexadecimal digits.
pub(super) fn fingerprint(go_version: &str) -> String {
    let mut hasher = SipHasher13::new();
    let mut add = |text: &str| {
        hasher.write(text.as_bytes());
        // Ends each part, so that text moved from one part to the next changes the hash.
        hasher.write_u8(0xff);
    };
    for module in MODULES {
        let Module {
            name,
            go_mod,
            go_sum,
            main,
            ldflags,
            tags,
            programs: _,
        } = module;
        for text in [name, go_mod, go_sum, main, ldflags, tags] {
            add(text);
        }
        for (program, package) in module.programs {
            add(program);
            add(package);
        }
    }
    for path in CONTOUR_MANIFESTS {
        add(path);
    }
    add(ENVOY_REQUIREMENTS);
    add(go_version);
    add(std::env::consts::ARCH);
    let hash = hasher.finish128();
    format!("{:016x}{:016x}", hash.h1, hash.h2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_go_gives_another_folder() {
        assert_eq!(fingerprint("go1.26.8"), fingerprint("go1.26.8"));
        assert_ne!(fingerprint("go1.26.8"), fingerprint("go1.26.9"));
    }

    #[test]
    fn a_complete_folder_has_fourteen_programs_and_contours_manifests() {
        let files: Vec<_> = files().collect();
        assert_eq!(files.len(), 16, "{files:?}");
        assert!(files.contains(&"01-crds.yaml"), "{files:?}");
    }
}
