//! What one Ingress asks for, from its annotations.

use std::collections::{BTreeMap, BTreeSet};

use evercert_api::certificate::{IssuerKind, IssuerRef};
use evercert_api::{CertificateSpec, Reason};
use k8s_openapi::api::networking::v1::Ingress;

use super::annotations::{
    ANNOTATIONS, CERT_MANAGER, Field, ISSUER_GROUP, ISSUER_KIND, KUBE_LEGO_OWN, OWN, TLS_ACME, Use,
    WITHOUT_EQUAL, blank, nearest, object_name, yes_or_no,
};
use super::{Dialect, SourceConfig};
use crate::routes::{class_of, is_route};

/// How an Ingress stands to the source.
pub(super) enum Stance {
    /// It is not looked at, and what it has stays.
    Aside,
    /// It asks for nothing.
    Silent,
    /// It asks for Certificates.
    Asks(Box<Reading>),
}

/// What its annotations say.
pub(super) struct Reading {
    /// A spec but for Secret and names; `None` where it is not clear who is to sign.
    pub(super) template: Option<CertificateSpec>,
    /// Fields of which something cannot be read.
    pub(super) broken: BTreeSet<Field>,
    /// Whether each host has a certificate of its own.
    pub(super) per_host: bool,
}

/// Sentences by reason.
pub(super) type Said = Vec<(Reason, String)>;

/// Reads one Ingress.
pub(super) fn read(
    ingress: &Ingress,
    config: &SourceConfig,
    default_class: Option<&str>,
    said: &mut Said,
) -> Stance {
    if is_route(ingress) || is_filtered(ingress, config, default_class) {
        return Stance::Aside;
    }
    let none = BTreeMap::new();
    let all = ingress.metadata.annotations.as_ref().unwrap_or(&none);
    let annotations = Annotations { all, config };
    if config.dialects.contains(&Dialect::KubeLego)
        && KUBE_LEGO_OWN
            .iter()
            .any(|key| annotations.get(key).is_some())
    {
        return Stance::Aside;
    }
    say_unknown(&annotations, said);
    let issuer = match annotations.issuer() {
        Ok(Some(issuer)) => Some(issuer),
        Ok(None) => {
            say_homeless(&annotations, said);
            // Without the option that let it ask, its Certificate is not taken away: a slip must not end a renewal.
            return if annotations.asks_by_an_option() {
                Stance::Aside
            } else {
                Stance::Silent
            };
        }
        Err(sentence) => {
            said.push((Reason::AnnotationInvalid, sentence));
            None
        }
    };
    say_ignored(&annotations, said);
    let mut reading = Reading {
        template: None,
        broken: BTreeSet::new(),
        per_host: config.per_host,
    };
    let nobody = || IssuerRef {
        name: String::new(),
        kind: IssuerKind::Issuer,
    };
    let is_clear = issuer.is_some();
    let mut spec = blank(issuer.unwrap_or_else(nobody));
    for annotation in ANNOTATIONS {
        let Some((key, text)) = annotations.find(annotation.name, annotation.is_cert_managers)
        else {
            continue;
        };
        let read = match annotation.is_for {
            Use::Issuer => Ok(()),
            Use::PerHost => yes_or_no(text).map(|per_host| reading.per_host = per_host),
            Use::Sets(field, set) => set(text, &mut spec).inspect_err(|_| {
                reading.broken.insert(field);
            }),
        };
        if let Err(wanted) = read {
            let sentence = format!("{key} is {text:?}, and is left out: write {wanted}");
            said.push((Reason::AnnotationInvalid, sentence));
        }
    }
    for field in Field::ALL {
        if !reading.broken.contains(&field)
            && let Err(sentence) = field.check(&spec)
        {
            reading.broken.insert(field);
            said.push((Reason::AnnotationInvalid, sentence));
        }
    }
    let plain = blank(spec.issuer_ref.clone());
    for field in &reading.broken {
        field.copy(&plain, &mut spec);
    }
    reading.template = is_clear.then_some(spec);
    Stance::Asks(Box::new(reading))
}

fn is_filtered(ingress: &Ingress, config: &SourceConfig, default_class: Option<&str>) -> bool {
    let class = class_of(ingress).or(default_class);
    !config.classes.is_empty() && !class.is_some_and(|class| config.classes.contains(class))
}

struct Annotations<'a> {
    all: &'a BTreeMap<String, String>,
    config: &'a SourceConfig,
}

impl<'a> Annotations<'a> {
    /// The value, which is not empty.
    fn get(&self, key: &str) -> Option<&'a str> {
        let value = self.all.get(key)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// Our own, else the equal of cert-manager, with its key.
    fn find(&self, name: &str, is_cert_managers: bool) -> Option<(String, &'a str)> {
        let own = format!("{OWN}{name}");
        if let Some(value) = self.get(&own) {
            return Some((own, value));
        }
        if !is_cert_managers || !self.speaks_cert_manager() {
            return None;
        }
        let theirs = format!("{CERT_MANAGER}{name}");
        self.get(&theirs).map(|value| (theirs, value))
    }

    fn speaks_cert_manager(&self) -> bool {
        self.config.dialects.contains(&Dialect::CertManager)
    }

    /// Who is to sign; `None` when it does not ask.
    fn issuer(&self) -> Result<Option<IssuerRef>, String> {
        if let Some(own) = self.issuer_of(OWN, IssuerKind::Issuer)? {
            return Ok(Some(own));
        }
        if self.speaks_cert_manager() && !self.is_for_another_group() {
            let kind = match self.get(ISSUER_KIND) {
                Some("ClusterIssuer") => IssuerKind::ClusterIssuer,
                Some(_) | None => IssuerKind::Issuer,
            };
            if let Some(theirs) = self.issuer_of(CERT_MANAGER, kind)? {
                return Ok(Some(theirs));
            }
        }
        let asks = self.get(TLS_ACME) == Some("true");
        Ok(self.config.default_issuer.clone().filter(|_| asks))
    }

    /// Whether it asks in words that are heeded by an option of the operator only.
    fn asks_by_an_option(&self) -> bool {
        let theirs = ["issuer", "cluster-issuer"].map(|word| format!("{CERT_MANAGER}{word}"));
        self.get(TLS_ACME) == Some("true") || theirs.iter().any(|key| self.get(key).is_some())
    }

    fn issuer_of(&self, prefix: &str, kind: IssuerKind) -> Result<Option<IssuerRef>, String> {
        let issuer = self.get(&format!("{prefix}issuer"));
        let cluster = self.get(&format!("{prefix}cluster-issuer"));
        let (name, kind) = match (issuer, cluster) {
            (None, None) => return Ok(None),
            (Some(name), None) => (name, kind),
            (None, Some(name)) => (name, IssuerKind::ClusterIssuer),
            (Some(_), Some(_)) => {
                return Err(format!(
                    "{prefix}issuer and {prefix}cluster-issuer exclude each other: keep one of them"
                ));
            }
        };
        let name = object_name(name)
            .map_err(|wanted| format!("the issuer is called {name:?}: write {wanted}"))?;
        Ok(Some(IssuerRef { name, kind }))
    }

    /// cert-manager's issuers of other groups are not ours to play.
    fn is_for_another_group(&self) -> bool {
        let group = self.get(ISSUER_GROUP);
        group.is_some_and(|group| !["cert-manager.io", "evercert.dev"].contains(&group))
    }

    /// Our own that are there, without the prefix.
    fn own(&self) -> impl Iterator<Item = &'a str> {
        let names = self.all.keys().filter_map(|key| key.strip_prefix(OWN));
        names.filter(|name| self.get(&format!("{OWN}{name}")).is_some())
    }
}

fn is_known(name: &str) -> bool {
    ANNOTATIONS.iter().any(|a| a.name == name)
}

fn say_unknown(annotations: &Annotations<'_>, said: &mut Said) {
    for name in annotations.own().filter(|name| !is_known(name)) {
        let remedy = nearest(name).map_or_else(
            || "docs/annotations.md lists those that there are".to_owned(),
            |near| format!("did you mean {OWN}{near}?"),
        );
        let sentence = format!("{OWN}{name} is not known: {remedy}");
        said.push((Reason::AnnotationUnknown, sentence));
    }
}

/// Annotations of ours on an Ingress that opts in nowhere.
fn say_homeless(annotations: &Annotations<'_>, said: &mut Said) {
    if let Some(name) = annotations.own().find(|name| is_known(name)) {
        let sentence = format!(
            "{OWN}{name} is there, but no issuer is named: add {OWN}issuer or {OWN}cluster-issuer"
        );
        said.push((Reason::NoIssuerNamed, sentence));
    }
}

fn say_ignored(annotations: &Annotations<'_>, said: &mut Said) {
    if !annotations.speaks_cert_manager() {
        return;
    }
    for (key, why) in WITHOUT_EQUAL {
        if annotations.get(key).is_some() {
            said.push((
                Reason::AnnotationIgnored,
                format!("{key} is not heeded: {why}"),
            ));
        }
    }
}
