//! The page about the annotations, from the table that reads them.

use std::fmt::Write;

use super::annotations::{ANNOTATIONS, CERT_MANAGER, OWN, WITHOUT_EQUAL};

/// The page as Markdown.
#[must_use]
pub fn build_document() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("| annotation | values | what it is |\n|---|---|---|\n");
    for a in ANNOTATIONS {
        let _ = writeln!(page, "| `{OWN}{}` | {} | {} |", a.name, a.values, a.meaning);
    }
    page.push_str(BEHAVIOUR);
    let equal: Vec<String> = ANNOTATIONS
        .iter()
        .filter(|a| a.is_cert_managers)
        .map(|a| format!("`{CERT_MANAGER}{}`", a.name))
        .collect();
    let _ = writeln!(page, "{COMPATIBILITY}{}.\n", equal.join(", "));
    page.push_str(
        "These are not heeded, and an event says so:\n\n| annotation | why |\n|---|---|\n",
    );
    for (name, why) in WITHOUT_EQUAL {
        let _ = writeln!(page, "| `{name}` | {why} |");
    }
    page
}

const INTRODUCTION: &str = "\
<!-- Written by `evercert annotations`: change controller/core/src/source, not this file. -->
# Annotations of an Ingress

An Ingress that names an issuer by annotation gets a Certificate for each of its `tls` entries: named after the entry's Secret, for
the entry's hosts, owned by the Ingress. Each field of a Certificate's spec has an annotation; `kubectl explain certificate.spec`
says more about each. An annotation with an empty value counts as none.

";

const BEHAVIOUR: &str = "
`kubernetes.io/tls-acme: \"true\"` opts in as well, where the operator was started with `--default-issuer`.

- An annotation that is added, changed or taken out is so in the Certificate at once. One that cannot be read leaves its field as it
  is, and an event on the Ingress says what to write.
- When an entry, the issuer's annotation or the Ingress is taken away, its Certificate is removed. The Secret stays, unless the
  deletion policy is `Delete`.
- While an entry names a Secret, but no host that can be certified, the Certificate that it had stays as it is.
- Several entries, or several Ingresses of a namespace, that name one Secret have one certificate for all their hosts. Where they
  differ in anything else, the oldest Ingress counts.
- A Certificate or Secret that somebody else made is left alone, and so is an Ingress that owns a Certificate of cert-manager.
- A namespace with the label `evercert.dev/ingress-source: disabled` is not looked at; with `--ingress-namespaces labelled` only those
  with `evercert.dev/ingress-source: enabled` are. With `--ingress-classes` only Ingresses of these classes are looked at. What is not
  looked at stays as it is: its Certificates are neither changed nor removed.
- A field that no annotation sets may be set on the Certificate by hand, such as `suspend`.

";

const COMPATIBILITY: &str = "\
## The spellings of others

With `--annotation-compat cert-manager` these mean the same, where Evercert's own annotation is not there; the issuer is Evercert's of
that name, and `cert-manager.io/issuer-kind: ClusterIssuer` is heeded: ";
