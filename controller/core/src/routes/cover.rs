//! Which user's Ingress covers a name, and in which class.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use evercert_api::children::stable_hash;
use evercert_api::issuer::Placement;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::edit::strip;
use super::preset::{self, Preset};
use super::{ENTRY_POINTS, is_route};
use crate::key::ObjectKey;

/// The annotation that named a class before `spec.ingressClassName` did.
const LEGACY_CLASS: &str = "kubernetes.io/ingress.class";
/// The annotation that makes an IngressClass the cluster's default.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// An ingress class by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteClass(pub String);

/// The hosts of the users' Ingresses, Evercert's own left out, by class.
///
/// An Ingress without a class counts for the cluster's default class; where there is no default, for every class.
#[derive(Debug, Default)]
pub struct IngressIndex {
    default: Option<RouteClass>,
    /// The IngressClasses by name, and what is known of the controller of each.
    known: BTreeMap<String, &'static Preset>,
    /// Classes that are known only by the annotation of a user's Ingress, no IngressClass of that name exists.
    legacy: BTreeSet<RouteClass>,
    exact: HashMap<String, Vec<Holder>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<Holder>>,
    /// Rules without host, and default backends.
    every: Vec<Holder>,
    /// The addresses of all Ingresses, by class.
    addresses: BTreeMap<Option<RouteClass>, BTreeSet<IpAddr>>,
}

/// An Ingress that has a rule for a host.
#[derive(Debug, Clone)]
struct Holder {
    class: Option<RouteClass>,
    addresses: Vec<IpAddr>,
    /// Of what a person can change in it.
    mark: u64,
    /// When it was made, and which one it is.
    place: (Option<Timestamp>, ObjectKey),
}

/// What covers a name in a class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cover {
    /// The host that a rule for the name must carry.
    pub(super) host: Option<String>,
    /// Addresses in the status of the covering Ingresses, at most [`ENTRY_POINTS`].
    pub(super) entry_points: Vec<IpAddr>,
    /// The covering Ingresses, the oldest first.
    pub(super) ingresses: Vec<ObjectKey>,
}

impl IngressIndex {
    /// Reads the cluster's Ingresses and classes; their order does not matter.
    #[must_use]
    pub fn new<'a>(
        ingresses: impl IntoIterator<Item = &'a Ingress>,
        classes: impl IntoIterator<Item = &'a IngressClass>,
    ) -> Self {
        let classes: Vec<&IngressClass> = classes.into_iter().collect();
        let preset = |class: &&IngressClass| {
            let controller = class.spec.as_ref().and_then(|s| s.controller.as_deref());
            let preset = preset::of_controller(controller.unwrap_or_default());
            Some((class.metadata.name.clone()?, preset))
        };
        let mut index = Self {
            default: default_class(&classes),
            known: classes.iter().filter_map(preset).collect(),
            ..Self::default()
        };
        for ingress in ingresses.into_iter().filter(|i| !is_route(i)) {
            index.add(ingress);
        }
        index
    }

    fn add(&mut self, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else { return };
        let legacy = ingress
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(LEGACY_CLASS));
        let class = match (&spec.ingress_class_name, legacy) {
            (Some(name), _) => Some(RouteClass(name.clone())),
            (None, Some(name)) => {
                let class = RouteClass(name.clone());
                if !self.known.contains_key(name) {
                    self.legacy.insert(class.clone());
                }
                Some(class)
            }
            (None, None) => self.default.clone(),
        };
        let holder = Holder {
            class,
            addresses: addresses(ingress),
            mark: mark(ingress),
            place: place(ingress),
        };
        self.addresses
            .entry(holder.class.clone())
            .or_default()
            .extend(&holder.addresses);
        if spec.default_backend.is_some() {
            self.every.push(holder.clone());
        }
        for rule in spec.rules.iter().flatten() {
            let holders = match rule.host.as_deref() {
                None | Some("") => &mut self.every,
                Some(host) => match host.strip_prefix("*.") {
                    Some(suffix) => self.wildcard.entry(suffix.to_owned()).or_default(),
                    None => self.exact.entry(host.to_owned()).or_default(),
                },
            };
            holders.push(holder.clone());
        }
    }

    /// The cluster's default class.
    #[must_use]
    pub fn default_class(&self) -> Option<&str> {
        self.default.as_ref().map(|class| class.0.as_str())
    }

    /// The class for a route of `name`: the source Ingress's, else the issuer's, else that of the Ingresses that serve the host where they agree, else
    /// the cluster's default.
    ///
    /// # Errors
    /// A sentence that begins with "no ingress class" and names the remedy.
    pub fn class_for(
        &self,
        source: Option<&str>,
        issuer: Option<&str>,
        name: &str,
    ) -> Result<RouteClass, String> {
        if let Some(class) = source {
            // An ingress controller may know its class by name alone, and the user's own Ingress has it.
            return Ok(RouteClass(class.to_owned()));
        }
        if let Some(class) = issuer {
            let class = RouteClass(class.to_owned());
            // A cluster without any IngressClass may know classes by annotation only.
            if self.known.is_empty()
                || self.known.contains_key(&class.0)
                || self.legacy.contains(&class)
            {
                return Ok(class);
            }
            let known: Vec<&str> = self.known.keys().map(String::as_str).collect();
            return Err(format!(
                "no ingress class: IngressClass {} does not exist; mend spec.acme.http01.ingressClassName on the issuer, \
                 there are: {}",
                class.0,
                known.join(", ")
            ));
        }
        let of = |holders: &[Holder]| -> BTreeSet<RouteClass> {
            holders.iter().filter_map(|h| h.class.clone()).collect()
        };
        let is_address = name.parse::<IpAddr>().is_ok();
        let mut serving = of(if is_address {
            &self.every
        } else {
            self.exact(name)
        });
        if serving.is_empty() {
            serving = of(self.wildcard(name));
        }
        if serving.len() <= 1
            && let Some(class) = serving.pop_first()
        {
            return Ok(class);
        }
        if let Some(class) = &self.default {
            return Ok(class.clone());
        }
        let why = if serving.is_empty() {
            format!("the issuer names none, no Ingress serves {name}")
        } else {
            let names: Vec<&str> = serving.iter().map(|c| c.0.as_str()).collect();
            format!(
                "the issuer names none, Ingresses of the classes {} serve {name}",
                names.join(", ")
            )
        };
        Err(format!(
            "no ingress class: {why}, and the cluster has no default IngressClass; set \
             spec.acme.http01.ingressClassName on the issuer"
        ))
    }

    /// Addresses in the status of the Ingresses that cover `name` in `class`, at most [`ENTRY_POINTS`]. An IP address, which no rule
    /// is for, is compared with the addresses of every Ingress of the class.
    #[must_use]
    pub fn entry_points(&self, class: &RouteClass, name: &str) -> Vec<IpAddr> {
        if name.parse::<IpAddr>().is_ok() {
            let in_class = self
                .addresses
                .iter()
                .filter(|(c, _)| c.as_ref().is_none_or(|c| c == class));
            let all: BTreeSet<IpAddr> = in_class.flat_map(|(_, found)| found).copied().collect();
            return all.into_iter().take(ENTRY_POINTS).collect();
        }
        self.cover(class, name).entry_points
    }

    /// A hash of what a person can change in the users' Ingresses that cover `names`, in whatever class: another one means that a
    /// failure may have been repaired there.
    #[must_use]
    pub fn mark<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> u64 {
        let mut marks: Vec<u64> = Vec::new();
        for name in names {
            let is_address = name.parse::<IpAddr>().is_ok();
            let exact = if is_address { &[] } else { self.exact(name) };
            let covering = [exact, self.wildcard(name), &self.every];
            let first = covering.into_iter().find(|holders| !holders.is_empty());
            marks.extend(first.into_iter().flatten().map(|holder| holder.mark));
        }
        marks.sort_unstable();
        marks.dedup();
        let texts: Vec<String> = marks.iter().map(u64::to_string).collect();
        let parts: Vec<&str> = texts.iter().map(String::as_str).collect();
        stable_hash(&parts)
    }

    /// Whether a route in `class` leads through a forwarder in its own namespace: where its issuer wants it so, or says nothing
    /// and the class's controller takes no other pods.
    #[must_use]
    pub fn is_forwarded(&self, placement: Option<Placement>, class: &RouteClass) -> bool {
        match placement {
            Some(Placement::Namespace) => true,
            Some(Placement::Operator) => false,
            None => self.preset(class).needs_own_pods,
        }
    }

    /// What is known of the controller of `class`.
    pub(super) fn preset(&self, class: &RouteClass) -> &'static Preset {
        let known = self.known.get(&class.0).copied();
        known.unwrap_or_else(|| preset::of_class(&class.0))
    }

    /// Whether Ingresses of `class` say so by annotation only.
    pub(super) fn is_legacy(&self, class: &RouteClass) -> bool {
        self.legacy.contains(class)
    }

    /// The exact host, else the wildcard one label up, else a rule without host; the exact name where nothing covers it.
    pub(super) fn cover(&self, class: &RouteClass, name: &str) -> Cover {
        let is_address = name.parse::<IpAddr>().is_ok();
        let in_class = |host: Option<String>, holders: &[Holder]| -> Option<Cover> {
            let mut places = BTreeSet::new();
            let mut addresses: Vec<IpAddr> = Vec::new();
            for holder in holders
                .iter()
                .filter(|h| h.class.as_ref().is_none_or(|c| c == class))
            {
                places.insert(&holder.place);
                for address in &holder.addresses {
                    if addresses.len() < ENTRY_POINTS && !addresses.contains(address) {
                        addresses.push(*address);
                    }
                }
            }
            (!places.is_empty()).then(|| Cover {
                host,
                entry_points: addresses,
                ingresses: places.into_iter().map(|(_, key)| key.clone()).collect(),
            })
        };
        let exact = || Some(name.to_owned());
        if is_address {
            // The host of a rule is never an address.
            return in_class(None, &self.every).unwrap_or_default();
        }
        let wildcard = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        in_class(exact(), self.exact(name))
            .or_else(|| in_class(wildcard, self.wildcard(name)))
            .or_else(|| in_class(None, &self.every))
            .unwrap_or_else(|| Cover {
                host: exact(),
                ..Cover::default()
            })
    }

    fn exact(&self, name: &str) -> &[Holder] {
        self.exact.get(name).map_or(&[], Vec::as_slice)
    }

    fn wildcard(&self, name: &str) -> &[Holder] {
        let suffix = name.split_once('.').map(|(_, rest)| rest);
        suffix
            .filter(|_| name.parse::<IpAddr>().is_err())
            .and_then(|s| self.wildcard.get(s))
            .map_or(&[], Vec::as_slice)
    }
}

/// The class that an Ingress names, by field or by the annotation that came before it.
#[must_use]
pub fn class_of(ingress: &Ingress) -> Option<&str> {
    let named = ingress
        .spec
        .as_ref()
        .and_then(|s| s.ingress_class_name.as_deref());
    let annotations = ingress.metadata.annotations.as_ref();
    named.or_else(|| {
        annotations
            .and_then(|a| a.get(LEGACY_CLASS))
            .map(String::as_str)
    })
}

/// When it was made, and which one it is.
fn place(ingress: &Ingress) -> (Option<Timestamp>, ObjectKey) {
    let meta = &ingress.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let key = ObjectKey::new(namespace, meta.name.as_deref().unwrap_or_default());
    (meta.creation_timestamp.as_ref().map(|t| t.0), key)
}

/// Of its spec and annotations; what controllers say in its status does not count, nor what we have put there.
fn mark(ingress: &Ingress) -> u64 {
    let meta = &ingress.metadata;
    let text = |value: serde_json::Result<String>| value.unwrap_or_default();
    stable_hash(&[
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        &text(serde_json::to_string(&strip(ingress))),
        &text(serde_json::to_string(&meta.annotations)),
    ])
}

/// The addresses in an Ingress's status; host names there are left out.
fn addresses(ingress: &Ingress) -> Vec<IpAddr> {
    ingress
        .status
        .iter()
        .filter_map(|s| s.load_balancer.as_ref())
        .filter_map(|l| l.ingress.as_ref())
        .flatten()
        .filter_map(|i| i.ip.as_deref()?.parse().ok())
        .collect()
}

/// The default class: of several the newest, then the first by name, as the API server's admission has it.
fn default_class(classes: &[&IngressClass]) -> Option<RouteClass> {
    let marked = classes.iter().filter(|c| {
        let annotations = c.metadata.annotations.as_ref();
        annotations
            .and_then(|a| a.get(DEFAULT_CLASS))
            .is_some_and(|v| v == "true")
    });
    let newest_first = |c: &&&IngressClass| {
        let created = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (std::cmp::Reverse(created), c.metadata.name.clone())
    };
    marked
        .min_by_key(newest_first)
        .and_then(|c| c.metadata.name.clone())
        .map(RouteClass)
}
