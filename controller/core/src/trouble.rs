//! One table of what goes wrong on the way to a certificate: what it means, what to do, and when the next attempt is. The
//! sentences of conditions are made from it, and the page for users (`docs/troubleshooting.md`) is printed from it.

use crate::fault::Problem;
use crate::forwarder::REMEDIES;
use crate::reach::{Seen, Sight};

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The word: a problem's type, or what a finding is called on the page.
    pub word: &'static str,
    /// What it means: a clause without a full stop. Empty where the CA's own words say it.
    pub means: &'static str,
    /// What to do: a clause without a full stop.
    pub remedy: &'static str,
    /// When the next attempt is: a clause without a full stop.
    pub next: &'static str,
}

const AFTER_BACKOFF: &str =
    "after 1, 10 and 100 minutes, then 6 to 24 hours; at once when spec, issuer or Ingress change";
const WHEN_CHANGED: &str = "when spec, issuer or Ingress change, and once a day";
const WHEN_ALLOWED: &str = "when the CA allows it";
const BY_ITSELF: &str = "by itself, within a minute";

/// The problems that a CA names (RFC 8555 §6.7, RFC 9773 §7.4 and drafts), by their types without the prefix.
pub const PROBLEMS: [Row; 18] = [
    Row {
        word: "dns",
        means: "the CA's resolvers find no address for the name",
        remedy: "make the name resolve to your ingress controller in public DNS",
        next: AFTER_BACKOFF,
    },
    Row {
        word: "connection",
        means: "the CA gets no connection to the name's address",
        remedy: "let the CA reach port 80 of the name's address, and make the name lead to your ingress controller",
        next: AFTER_BACKOFF,
    },
    Row {
        word: "unauthorized",
        means: "something else than the solver answers the CA",
        remedy: "make http://<name>/.well-known/acme-challenge/ lead to your ingress controller",
        next: AFTER_BACKOFF,
    },
    Row {
        word: "incorrectResponse",
        means: "something else than the solver answers the CA",
        remedy: "make http://<name>/.well-known/acme-challenge/ lead to your ingress controller",
        next: AFTER_BACKOFF,
    },
    Row {
        word: "tls",
        means: "the CA was redirected to https, and that fails",
        remedy: "the name redirects to https and that fails: let the challenge path through without a redirect",
        next: AFTER_BACKOFF,
    },
    Row {
        word: "caa",
        means: "CAA records of the name allow other CAs only",
        remedy: "allow this CA in the name's CAA record",
        next: AFTER_BACKOFF,
    },
    Row {
        word: "rejectedIdentifier",
        means: "the CA's policy forbids the name",
        remedy: "this CA will not sign that name: remove it from dnsNames or ipAddresses, or use another issuer; an IP address may need a \
                 profile of its own (spec.profile)",
        next: WHEN_CHANGED,
    },
    Row {
        word: "unsupportedIdentifier",
        means: "the CA signs no names of this kind",
        remedy: "this CA will not sign that name: remove it from dnsNames or ipAddresses, or use another issuer; an IP address may need a \
                 profile of its own (spec.profile)",
        next: WHEN_CHANGED,
    },
    Row {
        word: "externalAccountRequired",
        means: "the CA wants accounts bound to one of its own",
        remedy: "get a key id and a MAC key for an external account binding from the CA, and name them in \
                 spec.acme.externalAccountBinding",
        next: WHEN_CHANGED,
    },
    Row {
        word: "userActionRequired",
        means: "the CA wants a person to act, such as to agree to new terms",
        remedy: "open the page that the CA names and do what it asks, such as agreeing to new terms",
        next: "when the account is looked up again, every few minutes",
    },
    Row {
        word: "invalidContact",
        means: "the CA does not take the contact",
        remedy: "write another address into spec.acme.email, or leave it out",
        next: WHEN_CHANGED,
    },
    Row {
        word: "unsupportedContact",
        means: "the CA does not take such a contact",
        remedy: "write another address into spec.acme.email, or leave it out",
        next: WHEN_CHANGED,
    },
    Row {
        word: "accountDoesNotExist",
        means: "the CA has forgotten the account",
        remedy: "the account will be registered again with the same key",
        next: BY_ITSELF,
    },
    Row {
        word: "invalidProfile",
        means: "the CA does not offer the profile",
        remedy: "name another profile in spec.profile.name, or none",
        next: WHEN_CHANGED,
    },
    Row {
        word: "badPublicKey",
        means: "the CA does not take keys of this kind",
        remedy: "choose another spec.privateKey",
        next: WHEN_CHANGED,
    },
    Row {
        word: "badCSR",
        means: "the CA does not take the request",
        remedy: "choose another spec.privateKey",
        next: WHEN_CHANGED,
    },
    Row {
        word: "rateLimited",
        means: "a limit of the CA is used up",
        remedy: "nothing: the next attempt waits until the CA allows it",
        next: WHEN_ALLOWED,
    },
    Row {
        word: "serverInternal",
        means: "the CA itself is in trouble",
        remedy: "nothing: the CA is asked again, less often the longer it lasts",
        next: "after 15 s, then a quarter of the outage so far, 10 minutes at most",
    },
];

/// What a CA that looks from several places in the world says before a problem that only some of them had.
const FROM_AFAR: &str = "secondary validation";

/// A problem of the way to the name that some of the CA's places had, and the first one not.
pub const SECONDARY: Row = Row {
    word: "any, with \"During secondary validation\" in its words",
    means: "the CA looks from several places in the world: the first one gets there, and some of the others do not",
    remedy: "let port 80 answer the whole world, at least at /.well-known/acme-challenge/: a filter by country, one against bots, or a DNS \
             that answers by place turns some of the CA's places away",
    next: AFTER_BACKOFF,
};

/// The row of a problem, where the table has one.
#[must_use]
pub fn find_row(problem: &Problem) -> Option<&'static Row> {
    let is_of_the_way = [
        "connection",
        "dns",
        "incorrectResponse",
        "tls",
        "unauthorized",
    ];
    if is_of_the_way.contains(&problem.kind.as_str())
        && problem.detail.to_ascii_lowercase().contains(FROM_AFAR)
    {
        return Some(&SECONDARY);
    }
    find_problem(&problem.kind)
}

/// The row of a problem's type, where the table has one.
#[must_use]
pub fn find_problem(kind: &str) -> Option<&'static Row> {
    PROBLEMS.iter().find(|row| row.word == kind)
}

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident { $word:literal, $means:literal, $remedy:literal }),* $(,)?) => {
        /// What a finding of the self-check is likely to mean.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $name),* }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its row.
            #[must_use]
            pub fn row(self) -> &'static Row {
                match self {
                    $(Self::$name => &Row { word: $word, means: $means, remedy: $remedy, next: LOOKS }),*
                }
            }
        }
    };
}

/// The self-check looks again by itself.
const LOOKS: &str = "looked at again within 5 s";

causes! {
    /// No rule leads to the solver.
    NoRule {
        "no rule",
        "nothing there leads to the solver: the route is not taken yet, or its ingress class is not the one that is served there",
        "let the class of the name's Ingress, or spec.acme.http01.ingressClassName of its issuer, be that of the controller at this address"
    },
    /// Another site answers.
    OtherSite {
        "another site",
        "another site answers in the solver's place, such as a default backend or a rule that takes every path",
        "let this address serve /.well-known/acme-challenge/ by the controller of the name's ingress class, and take away what answers now"
    },
    /// A login or a list of clients.
    Forbidden {
        "refused",
        "a login, or a list of who may come, stands before the challenge",
        "leave /.well-known/acme-challenge/ open to everybody: a CA comes from addresses that nobody tells"
    },
    /// A gateway's error.
    Gateway {
        "gateway error",
        "a rule is there, and what is behind it does not answer",
        "let the ingress controller reach the pods of evercert-solver in the operator's namespace: look at NetworkPolicies and at what a \
         service mesh wants"
    },
    /// Led away to where the solver is not.
    LedAway {
        "led away",
        "what is not the solver answers there: a login, or a redirect that takes every path",
        "let /.well-known/acme-challenge/ through without a redirect and without a login"
    },
    /// Any other status.
    OtherStatus {
        "another status",
        "this is not the answer of the solver",
        "see what answers there, and let /.well-known/acme-challenge/ lead to the ingress controller"
    },
    /// A redirect that no CA follows.
    BadRedirect {
        "bad redirect",
        "no CA follows it: only http and https, ports 80 and 443, and names",
        "let /.well-known/acme-challenge/ through without a redirect"
    },
    /// Redirects without an end.
    EndlessRedirect {
        "endless redirect",
        "the redirects do not end",
        "let /.well-known/acme-challenge/ through without a redirect"
    },
    /// A redirect to https with the port closed.
    ClosedHttps {
        "https closed",
        "it redirects to https, where nobody speaks TLS",
        "open port 443 there, or let /.well-known/acme-challenge/ through without a redirect"
    },
    /// A proxy in between.
    Proxy {
        "proxy",
        "a proxy stands before the entry point, and answers by itself",
        "let the proxy pass /.well-known/acme-challenge/ on as it is: no redirect, no cache, no page of its own"
    },
    /// DNS does not point here.
    Elsewhere {
        "DNS leads elsewhere",
        "DNS leads to an address that is none of the entry point's",
        "let the A and AAAA records lead to the addresses in the status of the name's Ingress"
    },
    /// A stale AAAA record.
    StaleIpv6 {
        "stale AAAA",
        "the A record leads to the solver and the AAAA record does not, and a CA tries IPv6 first",
        "remove the AAAA record, or let it lead to the entry point"
    },
    /// Not resolving yet.
    NotResolving {
        "not resolving",
        "DNS has no address for it yet, as seen from here",
        "create an A or AAAA record that leads to the entry point; nothing where the CA's DNS has one"
    },
    /// No address in any status.
    NoEntryPoint {
        "no entry point",
        "no Ingress has an address in its status",
        "let the ingress controller write its address into the status of Ingresses; nothing where the name leads to it all the same"
    },
    /// Nobody listens.
    Closed {
        "closed",
        "nobody listens there",
        "let the entry point listen on port 80: that is where a CA begins"
    },
    /// No answer.
    Silent {
        "silent",
        "a firewall, a NetworkPolicy, or a router that does not lead back inside (hairpin NAT)",
        "nothing where the CA gets there; else open port 80 to everybody"
    },
    /// Not HTTP.
    NotHttp {
        "not HTTP",
        "what listens there may want the PROXY protocol, or is no web server",
        "nothing where a load balancer before it speaks the PROXY protocol; else let port 80 speak HTTP"
    },
    /// A private address.
    Private {
        "private address",
        "a view of DNS for the inside, or a wrong record",
        "nothing where public DNS has another address; else mend the record. --self-check-network lets such addresses be asked"
    },
    /// The solver's pod does not answer.
    SolverSilent {
        "solver silent",
        "the entry point has the route, and the solver's pod does not answer",
        "let the ingress controller's pods and the operator's reach those of evercert-solver in the operator's namespace: look at \
         NetworkPolicies, and at the pod"
    },
    /// The routing Service does not answer.
    ServiceSilent {
        "Service silent",
        "the solver's pod answers, and the Service that leads to it does not",
        "look at kube-proxy, or what stands in for it, and at NetworkPolicies in the Certificate's namespace"
    },
}

impl Cause {
    /// What a sight means by itself. One rule that is missing is as likely behind a redirect as before it; a page that is there was
    /// meant by who redirects.
    #[must_use]
    pub fn of(sight: &Sight) -> Self {
        match sight.what {
            Seen::Refused | Seen::OtherStatus | Seen::OtherBody | Seen::TooLong
                if !sight.redirects.is_empty() =>
            {
                Self::LedAway
            }
            Seen::NotFound => Self::NoRule,
            Seen::Refused => Self::Forbidden,
            Seen::ServerError => Self::Gateway,
            Seen::OtherStatus => Self::OtherStatus,
            Seen::OtherBody | Seen::TooLong => Self::OtherSite,
            Seen::BadRedirect => Self::BadRedirect,
            Seen::TooManyRedirects => Self::EndlessRedirect,
            Seen::ClosedHttps => Self::ClosedHttps,
            Seen::Closed => Self::Closed,
            Seen::Silent | Seen::NoRoute => Self::Silent,
            Seen::NotHttp => Self::NotHttp,
            Seen::NotPublic => Self::Private,
            Seen::Unresolved => Self::NotResolving,
            Seen::NoEntryPoint => Self::NoEntryPoint,
        }
    }
}

/// The page for users, in Markdown.
#[must_use]
pub fn build_document() -> String {
    let mut page = String::from(
        "<!-- Written by `evercert troubleshooting` (make troubleshooting): change controller/core/src/trouble.rs instead. -->\n\n\
         # Troubleshooting\n\n\
         `kubectl describe certificate NAME` says in its conditions what failed, where, what to do and when the next attempt is. The \
         sentences come from these tables.\n\n\
         ## What the self-check finds\n\n\
         Before the CA is told that a challenge is ready, the way to it is tried: the entry point (the address in the status of the name's \
         Ingress, asked with the name as Host) and the public name (each address that DNS has, port 80); where a gateway's error is \
         the answer, the solver's pod and the Service before it, too. Each hop is good, cannot be reached from here, or is wrong. Only \
         a wrong answer holds the order back, for `spec.acme.http01.selfCheck.budget` (30 s) at most; the way is looked at again at \
         least every 5 s meanwhile. With the mode `Required` anything but a good answer holds it, until the order expires; with \
         `Off` nothing is looked at.\n\n\
         | finding | what it is likely to mean | what to do |\n|---|---|---|\n",
    );
    for cause in Cause::ALL {
        let row = cause.row();
        let cells = [row.word, row.means, row.remedy];
        page.push_str(&line(&cells));
    }
    page.push_str(
        "\n## What a CA answers\n\n\
         The types of problems of RFC 8555 §6.7 and of later ones, without `urn:ietf:params:acme:error:`.\n\n\
         | problem | what it means | what to do | next attempt |\n|---|---|---|---|\n",
    );
    for row in &PROBLEMS {
        let word = format!("`{}`", row.word);
        let cells = [word.as_str(), row.means, row.remedy, row.next];
        page.push_str(&line(&cells));
    }
    page.push_str(&line(&[
        SECONDARY.word,
        SECONDARY.means,
        SECONDARY.remedy,
        SECONDARY.next,
    ]));
    page.push_str(
        "\n## A forwarder that cannot start\n\n\
         With `spec.acme.http01.placement: Namespace`, and by itself with AWS load balancers and GCE, a small pod in the Certificate's \
         namespace passes the challenges on. No order is placed before it is ready; the cluster is asked again by itself, and `Ready` has its \
         words. `PlacementNotAllowed`: the operator has no rights for such pods, set `solver.namespacePlacement: true` in the chart.\n\n\
         | the cluster's words | what to do |\n|---|---|\n",
    );
    for (words, remedy) in REMEDIES {
        page.push_str(&line(&[words, remedy]));
    }
    page
}

fn line(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// What stands in angle brackets is no HTML.
fn cell(text: &str) -> String {
    text.replace('<', "&lt;").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_only_some_of_the_cas_places_see_is_no_closed_port() {
        let remedy = |kind: &str, detail: &str| {
            let problem = crate::plan::fixtures::problem(kind, detail);
            find_row(&problem).map(|row| row.remedy)
        };
        let timeout = "198.51.100.7: Fetching http://a.example/: Timeout during connect";
        let afar = format!("During secondary validation: {timeout}");
        assert_eq!(remedy("connection", &afar), Some(SECONDARY.remedy));
        assert_eq!(
            remedy("connection", timeout),
            find_problem("connection").map(|row| row.remedy)
        );
        // What a CAA record says is the same everywhere.
        assert_eq!(
            remedy("caa", &afar),
            find_problem("caa").map(|row| row.remedy)
        );
        assert_eq!(remedy("other", timeout), None);
    }

    #[test]
    fn every_row_has_a_word_of_its_own_a_remedy_and_a_place_on_the_page() {
        let page = build_document();
        let rows: Vec<&Row> = PROBLEMS
            .iter()
            .chain([&SECONDARY])
            .chain(Cause::ALL.iter().map(|cause| cause.row()))
            .collect();
        let words: BTreeSet<&str> = rows.iter().map(|row| row.word).collect();
        assert_eq!(words.len(), rows.len(), "a word stands twice");
        for row in rows {
            for text in [row.means, row.remedy, row.next] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{row:?}");
            }
            assert!(page.contains(&cell(row.remedy)), "{}", row.word);
        }
        let advice = page.to_lowercase();
        assert!(
            !advice.contains("allow-list"),
            "a CA's addresses are not known"
        );
    }
}
