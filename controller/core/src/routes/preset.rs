//! What is known of each ingress controller: how a route has to look so that it wins there.
//!
//! One row for each controller, by the `controller` that an IngressClass names, each with its source beside it. A controller
//! that is not here gets a plain Ingress.

use super::PathType;

/// A key and a value.
pub(super) type Pair = (&'static str, &'static str);

/// What a route looks like for a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Preset {
    /// What an IngressClass names, alone or with `/` and an instance's name behind it.
    controllers: &'static [&'static str],
    /// Classes that are known by the annotation `kubernetes.io/ingress.class` alone.
    classes: &'static [&'static str],
    /// The path type that is tried first.
    pub(super) path_type: PathType,
    /// One Ingress is made for each of these sets of annotations.
    pub(super) annotations: &'static [&'static [Pair]],
    /// Whether the path goes into the user's own Ingress unless its issuer says otherwise: one address for each Ingress, or one
    /// Ingress for each host.
    pub(super) edit_in_place: bool,
    /// Whether what is behind a route must be pods of the Ingress's own namespace: endpoints that name no pod are left out.
    pub(super) needs_own_pods: bool,
}

/// On every route, whatever its controller: external-dns leaves a resource alone whose annotation names another controller than
/// `dns-controller`, so it publishes no address for a challenge.
///
/// Source: external-dns, docs/annotations/annotations.md, "external-dns.alpha.kubernetes.io/controller", and "Annotation
/// prefix" of v0.23: `external-dns.kubernetes.io/` since v0.22.
pub(super) const ALWAYS: &[Pair] = &[
    ("external-dns.alpha.kubernetes.io/controller", "none"),
    ("external-dns.kubernetes.io/controller", "none"),
];

/// A controller that nothing is known of.
const PLAIN: Preset = Preset {
    controllers: &[],
    classes: &[],
    path_type: PathType::Exact,
    annotations: &[&[]],
    edit_in_place: false,
    needs_own_pods: false,
};

const PRESETS: &[Preset] = &[
    // kubernetes/ingress-nginx, docs/user-guide/nginx-configuration/annotations.md: "Server-side HTTPS enforcement through
    // redirect", "External Authentication", "Whitelist source range" ("overrides any global restriction"); configmap.md,
    // "strict-validate-path-type": a path with a dot is refused unless its type is ImplementationSpecific.
    Preset {
        controllers: &["k8s.io/ingress-nginx"],
        path_type: PathType::ImplementationSpecific,
        annotations: &[&[
            ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
            ("nginx.ingress.kubernetes.io/force-ssl-redirect", "false"),
            ("nginx.ingress.kubernetes.io/enable-global-auth", "false"),
            (
                "nginx.ingress.kubernetes.io/whitelist-source-range",
                "0.0.0.0/0,::/0",
            ),
        ]],
        ..PLAIN
    },
    // traefik/traefik, reference/routing-configuration/kubernetes/ingress.md, "On Ingress"; http/routing/rules-and-priority.md,
    // "Priority Calculation": the highest that a user may set on a platform of 32 bits. The redirect of an entry point is
    // higher still: the second Ingress answers where it leads.
    Preset {
        controllers: &["traefik.io/ingress-controller"],
        annotations: &[
            &[TRAEFIK_FIRST],
            &[
                TRAEFIK_FIRST,
                ("traefik.ingress.kubernetes.io/router.tls", "true"),
            ],
        ],
        ..PLAIN
    },
    // haproxytech/kubernetes-ingress, documentation/annotations.md: "Https" (`ssl-redirect`), "Access Control" (`allow-list`).
    // The controller's name: documentation/ingressclass.md.
    Preset {
        controllers: &["haproxy.org/ingress-controller"],
        annotations: &[&[
            ("haproxy.org/ssl-redirect", "false"),
            ("haproxy.org/allow-list", "0.0.0.0/0,::/0"),
        ]],
        ..PLAIN
    },
    // jcmoraisjr/haproxy-ingress, docs/content/en/docs/configuration/keys.md: "SSL redirect", "Allowlist", both of scope Path.
    Preset {
        controllers: &["haproxy-ingress.github.io/controller"],
        annotations: &[&[
            ("haproxy-ingress.github.io/ssl-redirect", "false"),
            (
                "haproxy-ingress.github.io/allowlist-source-range",
                "0.0.0.0/0,::/0",
            ),
        ]],
        ..PLAIN
    },
    // projectcontour/contour, site/content/docs/main/config/annotations.md: redirects are an annotation of the user's Ingress,
    // authentication and IP lists fields of HTTPProxy; a separate Ingress has none of them. Measured with 1.33.
    Preset {
        controllers: &["projectcontour.io/ingress-controller"],
        ..PLAIN
    },
    // nginx/documentation, content/nic/configuration/ingress-resources/advanced-configuration-with-annotations.md,
    // "Auth and SSL/TLS"; content/nic/configuration/host-and-listener-collisions.md: of two Ingresses for a host the oldest wins.
    Preset {
        controllers: &["nginx.org/ingress-controller"],
        annotations: &[&[
            ("nginx.org/ssl-redirect", "false"),
            ("nginx.org/redirect-to-https", "false"),
        ]],
        edit_in_place: true,
        ..PLAIN
    },
    // kubernetes-sigs/aws-load-balancer-controller, docs/guide/ingress/annotations.md, "Authentication" (`auth-type`); its
    // `ssl-redirect` is the whole load balancer's, and each Ingress outside of a group has one. The name:
    // docs/guide/ingress/ingress_class.md. pkg/backend/endpoint_resolver.go (`resolvePodEndpointsWithEndpointsData`): an endpoint
    // without a targetRef to a pod of the Service's own namespace is left out.
    Preset {
        controllers: &["ingress.k8s.aws/alb"],
        annotations: &[&[("alb.ingress.kubernetes.io/auth-type", "none")]],
        edit_in_place: true,
        needs_own_pods: true,
        ..PLAIN
    },
    // kubernetes/ingress-gce, pkg/annotations/ingress.go (classes by annotation, no IngressClass) and
    // pkg/controller/translator/translator.go (`validateAndGetPaths`: older releases know ImplementationSpecific only). Each
    // Ingress has an address of its own. pkg/neg/syncers/endpoints_calculator.go: an endpoint that has no targetRef to a pod is
    // left out of the group of a load balancer.
    Preset {
        classes: &["gce", "gce-internal"],
        path_type: PathType::ImplementationSpecific,
        edit_in_place: true,
        needs_own_pods: true,
        ..PLAIN
    },
    // Azure/application-gateway-kubernetes-ingress, docs/annotations.md, "SSL Redirect"; the class as an annotation there, too.
    Preset {
        controllers: &["azure/application-gateway"],
        classes: &["azure/application-gateway"],
        annotations: &[&[("appgw.ingress.kubernetes.io/ssl-redirect", "false")]],
        ..PLAIN
    },
    // Kong/kubernetes-ingress-controller, internal/annotations/annotations.go, and its "Annotation reference": by `protocols` a
    // route of https alone redirects; `strip-path` would leave nothing of the path; an Exact path is a regular expression
    // there, the one with the highest `regex-priority` wins.
    Preset {
        controllers: &["ingress-controllers.konghq.com/kong"],
        annotations: &[&[
            ("konghq.com/protocols", "http,https"),
            ("konghq.com/strip-path", "false"),
            ("konghq.com/preserve-host", "true"),
            ("konghq.com/regex-priority", "1000000"),
        ]],
        ..PLAIN
    },
    // istio/istio, pilot/pkg/config/kube/ingress/virtualservices.go: the rules of all Ingresses of a host are merged, the
    // longest path first; nothing of it is set by annotations.
    Preset {
        controllers: &["istio.io/ingress-controller"],
        ..PLAIN
    },
];

const TRAEFIK_FIRST: Pair = (
    "traefik.ingress.kubernetes.io/router.priority",
    "2147482647",
);

/// The preset for the controller that an IngressClass names; the plain one where it is not known.
pub(super) fn of_controller(controller: &str) -> &'static Preset {
    let is = |name: &&str| {
        let rest = controller.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found = PRESETS.iter().find(|p| p.controllers.iter().any(is));
    found.unwrap_or(&PLAIN)
}

/// The preset for a class that no IngressClass tells of; the plain one where it is not known.
pub(super) fn of_class(name: &str) -> &'static Preset {
    let found = PRESETS.iter().find(|p| p.classes.contains(&name));
    found.unwrap_or(&PLAIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_controller_has_two_rows_and_no_key_stands_twice_in_a_set() {
        let names: Vec<&str> = PRESETS
            .iter()
            .flat_map(|p| p.controllers.iter().chain(p.classes))
            .copied()
            .collect();
        // The Application Gateway's controller and class are one word.
        let unique: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(unique.len() + 1, names.len());
        for preset in PRESETS {
            assert!(!preset.annotations.is_empty());
            for set in preset.annotations {
                let keys: BTreeSet<&str> = set.iter().chain(ALWAYS).map(|(key, _)| *key).collect();
                assert_eq!(keys.len(), set.len() + ALWAYS.len(), "{set:?}");
            }
        }
    }

    #[test]
    fn a_name_that_only_begins_like_a_controllers_is_not_known() {
        assert_eq!(of_controller("k8s.io/ingress-nginx-fork"), &PLAIN);
        assert_ne!(of_controller("haproxy.org/ingress-controller/blue"), &PLAIN);
        assert_eq!(of_controller(""), &PLAIN);
        assert_eq!(of_class("nginx"), &PLAIN);
    }
}
