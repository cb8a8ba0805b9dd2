//! Which annotations of an Ingress are read: one table that both parses and documents them.

use evercert_api::CertificateSpec;
use evercert_api::certificate::{
    DeletionPolicy, Fallback, FallbackMode, FallbackTrigger, IssuerKind, IssuerRef, KeyAlgorithm,
    OutputFormat, PrivateKey, Profile, ProfilePolicy, SecretTemplate,
};
use evercert_api::duration::parse_duration;
use evercert_api::issuer::SecretRef;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};

/// What Evercert's own annotations begin with.
pub(super) const OWN: &str = "evercert.dev/";
/// What those of cert-manager begin with that have an equal here.
pub(super) const CERT_MANAGER: &str = "cert-manager.io/";
/// Opts an Ingress in with the operator's default issuer.
pub(super) const TLS_ACME: &str = "kubernetes.io/tls-acme";
/// Annotations of kube-lego on the Ingress of its own solver.
pub(super) const KUBE_LEGO_OWN: [&str; 2] = [
    "kubernetes.io/tls-acme-challenge-endpoints",
    "kubernetes.io/kube-lego-managed",
];
/// cert-manager's annotations that say more about the issuer.
pub(super) const ISSUER_KIND: &str = "cert-manager.io/issuer-kind";
pub(super) const ISSUER_GROUP: &str = "cert-manager.io/issuer-group";

/// A field of the Certificate's spec, as annotations set it: what is wrong with a part of it concerns the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    AlternateIssuers,
    PrivateKey,
    Renewal,
    Profile,
    Fallback,
    SecretTemplate,
    OutputFormats,
    DeletionPolicy,
    Suspend,
}

impl Field {
    pub(super) const ALL: [Self; 9] = [
        Self::AlternateIssuers,
        Self::PrivateKey,
        Self::Renewal,
        Self::Profile,
        Self::Fallback,
        Self::SecretTemplate,
        Self::OutputFormats,
        Self::DeletionPolicy,
        Self::Suspend,
    ];

    /// The field in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::AlternateIssuers => "the alternate issuers",
            Self::PrivateKey => "the private key",
            Self::Renewal => "the time of renewal",
            Self::Profile => "the profile",
            Self::Fallback => "the fallback",
            Self::SecretTemplate => "the Secret's template",
            Self::OutputFormats => "the output formats",
            Self::DeletionPolicy => "the deletion policy",
            Self::Suspend => "whether it is suspended",
        }
    }

    /// Gives `to` what `from` has there.
    pub(super) fn copy(self, from: &CertificateSpec, to: &mut CertificateSpec) {
        match self {
            Self::AlternateIssuers => to
                .alternate_issuer_refs
                .clone_from(&from.alternate_issuer_refs),
            Self::PrivateKey => to.private_key.clone_from(&from.private_key),
            Self::Renewal => {
                to.renew_before.clone_from(&from.renew_before);
                to.renew_before_percentage = from.renew_before_percentage;
            }
            Self::Profile => to.profile.clone_from(&from.profile),
            Self::Fallback => to.fallback.clone_from(&from.fallback),
            Self::SecretTemplate => to.secret_template.clone_from(&from.secret_template),
            Self::OutputFormats => to.output_formats.clone_from(&from.output_formats),
            Self::DeletionPolicy => to.deletion_policy = from.deletion_policy,
            Self::Suspend => to.suspend = from.suspend,
        }
    }

    /// Whether two specs have the same there.
    pub(super) fn is_same(self, one: &CertificateSpec, other: &CertificateSpec) -> bool {
        let mut copy = one.clone();
        self.copy(other, &mut copy);
        copy == *one
    }

    /// What does not go together in it, a sentence that names the remedy.
    pub(super) fn check(self, spec: &CertificateSpec) -> Result<(), String> {
        match self {
            Self::PrivateKey => check_key(spec.private_key.as_ref()),
            Self::Renewal if spec.renew_before.is_some() && spec.renew_before_percentage.is_some() => Err(
                "evercert.dev/renew-before and evercert.dev/renew-before-percentage exclude each other: keep one of them".to_owned(),
            ),
            Self::Profile if spec.profile.as_ref().is_some_and(|p| p.name.is_empty()) => {
                Err("evercert.dev/profile-policy says nothing without evercert.dev/profile: add it".to_owned())
            }
            Self::Fallback => check_fallback(spec.fallback.as_ref()),
            Self::AlternateIssuers
            | Self::Renewal
            | Self::Profile
            | Self::SecretTemplate
            | Self::OutputFormats
            | Self::DeletionPolicy
            | Self::Suspend => Ok(()),
        }
    }
}

fn check_key(key: Option<&PrivateKey>) -> Result<(), String> {
    let Some(PrivateKey {
        algorithm,
        size: Some(size),
        ..
    }) = key
    else {
        return Ok(());
    };
    let (sizes, words): (&[u16], _) = match algorithm {
        KeyAlgorithm::Ecdsa => (
            &[256, 384],
            "256 or 384 for ECDSA, or evercert.dev/private-key-algorithm: RSA for 2048, 3072 and 4096",
        ),
        KeyAlgorithm::Rsa => (&[2048, 3072, 4096], "2048, 3072 or 4096 for RSA"),
    };
    if sizes.contains(size) {
        return Ok(());
    }
    Err(format!(
        "evercert.dev/private-key-size: {size} does not fit: write {words}"
    ))
}

fn check_fallback(fallback: Option<&Fallback>) -> Result<(), String> {
    match fallback.map(|f| (f.mode, &f.secret_ref)) {
        Some((FallbackMode::Secret, None)) => Err(
            "evercert.dev/fallback-mode: Secret wants the Secret with your own certificate: name it by evercert.dev/fallback-secret"
                .to_owned(),
        ),
        Some((FallbackMode::SelfSigned | FallbackMode::None, Some(_))) => Err(
            "evercert.dev/fallback-secret goes with evercert.dev/fallback-mode: Secret: add that, or take the Secret out".to_owned(),
        ),
        Some((FallbackMode::Secret, Some(_)) | (FallbackMode::SelfSigned | FallbackMode::None, None)) | None => Ok(()),
    }
}

type Read = fn(&str, &mut CertificateSpec) -> Result<(), String>;

/// What an annotation is for.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// It names the issuer, and opts the Ingress in.
    Issuer,
    /// It sets a part of a field; the error says what to write.
    Sets(Field, Read),
    /// It says whether each host has a certificate of its own.
    PerHost,
}

/// One annotation of an Ingress.
pub struct Annotation {
    /// Its name behind `evercert.dev/`.
    pub name: &'static str,
    /// Whether `cert-manager.io/` with the same name means the same.
    pub is_cert_managers: bool,
    /// What may be written.
    pub values: &'static str,
    /// What it does.
    pub meaning: &'static str,
    pub(super) is_for: Use,
}

impl std::fmt::Debug for Annotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Annotation").field(&self.name).finish()
    }
}

macro_rules! annotations {
    ($($name:literal $compat:ident $values:literal $meaning:literal => $is_for:expr;)+) => {
        /// Every annotation of Evercert's on an Ingress.
        pub const ANNOTATIONS: &[Annotation] = &[$(Annotation {
            name: $name,
            is_cert_managers: annotations!(@ $compat),
            values: $values,
            meaning: $meaning,
            is_for: $is_for,
        }),+];
    };
    (@ both) => { true };
    (@ own) => { false };
}

annotations! {
    "issuer" both "a name" "the Issuer in the Ingress's namespace that signs; opts the Ingress in"
        => Use::Issuer;
    "cluster-issuer" both "a name" "the ClusterIssuer that signs; opts the Ingress in"
        => Use::Issuer;
    "alternate-issuers" own "`Issuer/NAME` or `ClusterIssuer/NAME`, separated by commas" "`alternateIssuerRefs`: who signs when the first refuses for good, in this order"
        => Use::Sets(Field::AlternateIssuers, |text, spec| {
            let all: Result<Vec<IssuerRef>, String> = text.split(',').map(issuer_ref).collect();
            spec.alternate_issuer_refs = all?;
            Ok(())
        });
    "private-key-algorithm" both "`ECDSA` (default), `RSA`" "`privateKey.algorithm`"
        => Use::Sets(Field::PrivateKey, |text, spec| { key(spec).algorithm = word(text, "ECDSA or RSA")?; Ok(()) });
    "private-key-size" both "`256`, `384`; `2048`, `3072`, `4096`" "`privateKey.size`"
        => Use::Sets(Field::PrivateKey, |text, spec| { key(spec).size = Some(number(text, "256 or 384, or with RSA 2048, 3072 or 4096")?); Ok(()) });
    "private-key-rotation-policy" both "`Always` (default), `Never`" "`privateKey.rotationPolicy`: whether each certificate has a new key"
        => Use::Sets(Field::PrivateKey, |text, spec| { key(spec).rotation_policy = word(text, "Always or Never")?; Ok(()) });
    "renew-before" both "a duration such as `720h` or `1h30m`" "`renewBefore`: how long before its end a certificate is renewed"
        => Use::Sets(Field::Renewal, |text, spec| match parse_duration(text) {
            Some(_) => { spec.renew_before = Some(text.to_owned()); Ok(()) }
            None => Err("a duration above zero in hours, minutes and seconds, such as 720h, 1h30m or 90s".to_owned()),
        });
    "renew-before-percentage" both "`1` to `66`" "`renewBeforePercentage`: the same in hundredths of the lifetime"
        => Use::Sets(Field::Renewal, |text, spec| {
            let wanted = "a number from 1 to 66";
            let percentage = number(text, wanted)?;
            let good = (1..=66).contains(&percentage);
            spec.renew_before_percentage = Some(good.then_some(percentage).ok_or(wanted)?);
            Ok(())
        });
    "profile" own "a name that the issuer's `status.profiles` lists" "`profile.name`"
        => Use::Sets(Field::Profile, |text, spec| {
            let good = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic());
            profile(spec).name = good.then(|| text.to_owned()).ok_or("the name of a profile that the CA offers")?;
            Ok(())
        });
    "profile-policy" own "`Preferred` (default), `Required`" "`profile.policy`: what to do where the CA does not offer it"
        => Use::Sets(Field::Profile, |text, spec| { profile(spec).policy = word(text, "Preferred or Required")?; Ok(()) });
    "fallback-mode" own "`SelfSigned` (default), `Secret`, `None`" "`fallback.mode`: what stands in while there is no certificate"
        => Use::Sets(Field::Fallback, |text, spec| { fallback(spec).mode = word(text, "SelfSigned, Secret or None")?; Ok(()) });
    "fallback-secret" own "a Secret's name" "`fallback.secretRef.name`: your own certificate, with mode `Secret`"
        => Use::Sets(Field::Fallback, |text, spec| { fallback(spec).secret_ref = Some(SecretRef { name: object_name(text)? }); Ok(()) });
    "fallback-trigger" own "`OnFailure` (default), `Immediately`" "`fallback.trigger`"
        => Use::Sets(Field::Fallback, |text, spec| { fallback(spec).trigger = word(text, "OnFailure or Immediately")?; Ok(()) });
    "secret-template" both "JSON: `{\"labels\": {…}, \"annotations\": {…}}`" "`secretTemplate`: labels and annotations of the Secret"
        => Use::Sets(Field::SecretTemplate, |text, spec| { spec.secret_template = Some(template(text)?); Ok(()) });
    "output-formats" own "`CombinedPEM`" "`outputFormats`, separated by commas: more forms of key and chain in the Secret"
        => Use::Sets(Field::OutputFormats, |text, spec| {
            let formats: Result<Vec<OutputFormat>, String> = text.split(',').map(|one| word(one.trim(), "CombinedPEM")).collect();
            let mut formats = formats?;
            formats.dedup();
            spec.output_formats = formats;
            Ok(())
        });
    "deletion-policy" own "`Retain` (default), `Delete`" "`deletionPolicy`: what becomes of the Secret when the Certificate goes, also when the Ingress no longer asks for it"
        => Use::Sets(Field::DeletionPolicy, |text, spec| { spec.deletion_policy = word::<DeletionPolicy>(text, "Retain or Delete")?; Ok(()) });
    "suspend" own "`true`, `false` (default)" "`suspend`: nothing new is started"
        => Use::Sets(Field::Suspend, |text, spec| { spec.suspend = yes_or_no(text)?; Ok(()) });
    "certificate-per-host" own "`true`, `false`; default is the operator's `--certificate-per-host`"
        "each host of a `tls` entry has a certificate of its own, in Secret `<secretName>-<host>`; an entry of one host is as it is"
        => Use::PerHost;
}

/// cert-manager's annotations that have no equal here, and why.
pub(super) const WITHOUT_EQUAL: &[(&str, &str)] = &[
    (
        "cert-manager.io/duration",
        "the CA decides how long a certificate lasts, and may offer a choice by evercert.dev/profile",
    ),
    (
        "cert-manager.io/usages",
        "the CA decides what a certificate may be used for",
    ),
    (
        "cert-manager.io/common-name",
        "the names are the hosts of the tls entry",
    ),
    (
        "cert-manager.io/alt-names",
        "the names are the hosts of the tls entry: list them there",
    ),
    (
        "cert-manager.io/ip-sans",
        "the names are the hosts of the tls entry: list them there",
    ),
    (
        "cert-manager.io/private-key-encoding",
        "a key is always PKCS #8",
    ),
    (
        "cert-manager.io/issue-temporary-certificate",
        "evercert.dev/fallback-trigger: Immediately does it",
    ),
    (
        "acme.cert-manager.io/http01-ingress-class",
        "the route has the class of the Ingress itself",
    ),
    (
        "acme.cert-manager.io/http01-ingress-ingressclassname",
        "the route has the class of the Ingress itself",
    ),
];

fn key(spec: &mut CertificateSpec) -> &mut PrivateKey {
    spec.private_key.get_or_insert_default()
}

fn profile(spec: &mut CertificateSpec) -> &mut Profile {
    spec.profile.get_or_insert_with(|| Profile {
        name: String::new(),
        policy: ProfilePolicy::default(),
    })
}

fn fallback(spec: &mut CertificateSpec) -> &mut Fallback {
    spec.fallback.get_or_insert_with(|| Fallback {
        mode: FallbackMode::default(),
        secret_ref: None,
        trigger: FallbackTrigger::default(),
    })
}

/// A word of a closed list, as the API has it.
fn word<'de, T: Deserialize<'de>>(text: &'de str, wanted: &str) -> Result<T, String> {
    let text: StrDeserializer<'de, WordError> = text.into_deserializer();
    T::deserialize(text).map_err(|_| wanted.to_owned())
}

fn number<T: std::str::FromStr>(text: &str, wanted: &str) -> Result<T, String> {
    text.parse().map_err(|_| wanted.to_owned())
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "true or false".to_owned())
}

/// A name as Kubernetes takes it for an object (RFC 1123 §2.1).
pub(super) fn object_name(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let edges = [label.bytes().next(), label.bytes().last()];
        edges.iter().all(|b| b.is_some_and(inner)) && label.bytes().all(|b| inner(b) || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err("an object's name: lower case letters, digits, '-' and '.'".to_owned())
}

/// `Kind/name`.
fn issuer_ref(text: &str) -> Result<IssuerRef, String> {
    let kinds = [IssuerKind::Issuer, IssuerKind::ClusterIssuer];
    let read = text.trim().split_once('/').and_then(|(kind, name)| {
        let kind = kinds.into_iter().find(|k| k.as_str() == kind)?;
        let name = object_name(name).ok()?;
        Some(IssuerRef { name, kind })
    });
    read.ok_or_else(|| "Issuer/NAME or ClusterIssuer/NAME, separated by commas".to_owned())
}

fn template(text: &str) -> Result<SecretTemplate, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Template {
        #[serde(default)]
        labels: std::collections::BTreeMap<String, String>,
        #[serde(default)]
        annotations: std::collections::BTreeMap<String, String>,
    }
    let read: Template = serde_json::from_str(text).map_err(|error| {
        format!(
            "JSON such as {{\"labels\": {{\"team\": \"shop\"}}, \"annotations\": {{}}}} ({error})"
        )
    })?;
    Ok(SecretTemplate {
        labels: read.labels,
        annotations: read.annotations,
    })
}

/// A spec with nothing but an issuer.
pub(super) fn blank(issuer_ref: IssuerRef) -> CertificateSpec {
    CertificateSpec {
        secret_name: String::new(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        issuer_ref,
        alternate_issuer_refs: Vec::new(),
        private_key: None,
        renew_before: None,
        renew_before_percentage: None,
        profile: None,
        fallback: None,
        secret_template: None,
        output_formats: Vec::new(),
        deletion_policy: DeletionPolicy::default(),
        suspend: false,
    }
}

/// The known annotation that an unknown name comes next to, if one is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let near = ANNOTATIONS.iter().map(|a| (distance(name, a.name), a.name));
    near.filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, name)| name)
}

/// How many letters have to be put in, taken out or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((b, above), before) in other.iter().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or_default();
            next.push((before + usize::from(a != *b)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
