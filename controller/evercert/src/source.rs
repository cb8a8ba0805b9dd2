//! What `evercert controller` is told about Ingresses as the source of Certificates.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use evercert_api::certificate::{IssuerKind, IssuerRef};
use evercert_core::source::{Dialect, SourceConfig};

#[derive(Args, Debug)]
pub(crate) struct SourceArgs {
    /// Who signs for an Ingress with kubernetes.io/tls-acme: "true", such as ClusterIssuer/letsencrypt; an Issuer is that of the
    /// Ingress's namespace
    #[arg(
        long,
        env = "EVERCERT_DEFAULT_ISSUER",
        value_name = "KIND/NAME",
        value_parser = parse_issuer,
        help_heading = "Ingresses"
    )]
    default_issuer: Option<IssuerRef>,

    /// Spellings of others that are read beside the annotations evercert.dev/…
    #[arg(
        long,
        env = "EVERCERT_ANNOTATION_COMPAT",
        value_enum,
        value_delimiter = ',',
        help_heading = "Ingresses"
    )]
    annotation_compat: Vec<Compat>,

    /// Each host of a tls entry has a certificate of its own, where the Ingress does not say by evercert.dev/certificate-per-host
    #[arg(
        long,
        env = "EVERCERT_CERTIFICATE_PER_HOST",
        help_heading = "Ingresses"
    )]
    certificate_per_host: bool,

    /// Only Ingresses of these classes are looked at [default: of all]
    #[arg(
        long,
        env = "EVERCERT_INGRESS_CLASSES",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Ingresses"
    )]
    ingress_classes: Vec<String>,

    /// The ingress classes and the controller of each as its IngressClass names it, joined by commas: only with --namespaces, where they
    /// cannot be read
    #[arg(
        long,
        env = "EVERCERT_CLASS_CONTROLLERS",
        value_name = "CLASS=CONTROLLER",
        value_delimiter = ',',
        value_parser = parse_class,
        help_heading = "Ingresses"
    )]
    class_controllers: Vec<(String, String)>,

    /// In which namespaces Ingresses are looked at; the label evercert.dev/ingress-source is on the namespace
    #[arg(
        long,
        env = "EVERCERT_INGRESS_NAMESPACES",
        value_enum,
        default_value_t = Namespaces::All,
        help_heading = "Ingresses"
    )]
    ingress_namespaces: Namespaces,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Compat {
    /// cert-manager.io/issuer, cluster-issuer and others: docs/annotations.md lists them
    CertManager,
    /// kubernetes.io/tls-acme; the Ingresses of kube-lego's own solver are left alone
    KubeLego,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Namespaces {
    /// In those without the label value disabled
    All,
    /// In those with the label value enabled
    Labelled,
}

fn parse_issuer(text: &str) -> Result<IssuerRef, String> {
    let kinds = [IssuerKind::Issuer, IssuerKind::ClusterIssuer];
    let read = text.split_once('/').and_then(|(kind, name)| {
        let kind = kinds.into_iter().find(|k| k.as_str() == kind)?;
        let name = name.to_owned();
        (!name.is_empty()).then_some(IssuerRef { name, kind })
    });
    read.ok_or_else(|| "write Issuer/NAME or ClusterIssuer/NAME".to_owned())
}

fn parse_class(text: &str) -> Result<(String, String), String> {
    let both = text.trim().split_once('=');
    let both = both.filter(|(class, controller)| !class.is_empty() && !controller.is_empty());
    both.map(|(class, controller)| (class.to_owned(), controller.to_owned()))
        .ok_or_else(|| "write CLASS=CONTROLLER".to_owned())
}

impl SourceArgs {
    /// Whether the options go together, where the operator is confined to some namespaces or not.
    pub(crate) fn check(&self, is_confined: bool) -> Result<()> {
        ensure!(
            is_confined || self.class_controllers.is_empty(),
            "--class-controllers is for an operator with --namespaces: any other reads the IngressClasses of the cluster"
        );
        ensure!(
            !is_confined || self.ingress_namespaces == Namespaces::All,
            "--ingress-namespaces labelled needs the labels of namespaces, which an operator with --namespaces may not read: leave it out, \
             and name in --namespaces those that you mean"
        );
        let default = self.default_issuer.as_ref();
        ensure!(
            !is_confined || default.is_none_or(|issuer| issuer.kind == IssuerKind::Issuer),
            "--default-issuer is a ClusterIssuer, which an operator with --namespaces may not read: name an Issuer, which each of the \
             namespaces has to have"
        );
        ensure!(
            self.default_issuer.is_some() || !self.annotation_compat.contains(&Compat::KubeLego),
            "--annotation-compat kube-lego reads kubernetes.io/tls-acme, which names no issuer: add --default-issuer"
        );
        Ok(())
    }

    /// The controller of each ingress class that it is told.
    pub(crate) fn class_controllers(&self) -> BTreeMap<String, String> {
        self.class_controllers.iter().cloned().collect()
    }

    pub(crate) fn config(&self) -> SourceConfig {
        let dialect = |compat: &Compat| match compat {
            Compat::CertManager => Dialect::CertManager,
            Compat::KubeLego => Dialect::KubeLego,
        };
        SourceConfig {
            default_issuer: self.default_issuer.clone(),
            dialects: self.annotation_compat.iter().map(dialect).collect(),
            per_host: self.certificate_per_host,
            classes: self.ingress_classes.iter().cloned().collect(),
            only_labelled: self.ingress_namespaces == Namespaces::Labelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        source: SourceArgs,
    }

    fn read(line: &[&str]) -> Result<SourceConfig, String> {
        read_where(false, line)
    }

    fn read_where(is_confined: bool, line: &[&str]) -> Result<SourceConfig, String> {
        let line = std::iter::once(&"x").chain(line);
        let read = Line::try_parse_from(line).map_err(|e| e.to_string())?;
        read.source.check(is_confined).map_err(|e| e.to_string())?;
        Ok(read.source.config())
    }

    #[test]
    fn without_options_only_our_own_annotations_of_every_ingress_count() {
        assert_eq!(read(&[]), Ok(SourceConfig::default()));
    }

    #[test]
    fn every_option_is_read() {
        let line = [
            "--default-issuer=ClusterIssuer/le",
            "--annotation-compat=cert-manager,kube-lego",
            "--certificate-per-host",
            "--ingress-classes=a,b",
            "--ingress-namespaces=labelled",
        ];
        let config = SourceConfig {
            default_issuer: Some(IssuerRef {
                name: "le".into(),
                kind: IssuerKind::ClusterIssuer,
            }),
            dialects: [Dialect::CertManager, Dialect::KubeLego].into(),
            per_host: true,
            classes: ["a".to_owned(), "b".to_owned()].into(),
            only_labelled: true,
        };
        assert_eq!(read(&line), Ok(config));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_remedy() {
        for bad in ["le", "Secret/le", "Issuer/"] {
            let refusal = read(&["--default-issuer", bad]).unwrap_err();
            assert!(refusal.contains("write Issuer/NAME"), "{refusal}");
        }
        let refusal = read(&["--annotation-compat", "kube-lego"]).unwrap_err();
        assert!(refusal.contains("add --default-issuer"), "{refusal}");
    }

    #[test]
    fn one_that_is_confined_is_told_what_it_cannot_read_and_any_other_reads_it() {
        let classes = "--class-controllers=web=projectcontour.io/c";
        assert!(read_where(true, &[classes, "--default-issuer=Issuer/ca"]).is_ok());
        for (is_confined, bad, told) in [
            (false, classes, "is for an operator with --namespaces"),
            (
                true,
                "--ingress-namespaces=labelled",
                "labels of namespaces",
            ),
            (true, "--default-issuer=ClusterIssuer/le", "name an Issuer"),
        ] {
            let refusal = read_where(is_confined, &[bad]).unwrap_err();
            assert!(refusal.contains(told), "{refusal}");
            assert!(read_where(!is_confined, &[bad]).is_ok(), "{bad}");
        }
    }
}
