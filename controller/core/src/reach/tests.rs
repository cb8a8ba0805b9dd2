use std::net::IpAddr;

use super::{Finding, Hop, Look, Public, Seen, Sight, Verdict, Way, build_findings};
use crate::trouble::Cause;

const ENTRY: &str = "198.18.0.2";
const OTHER: &str = "198.18.0.9";
const IPV6: &str = "2001:db8::9";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn sight(address: &str, what: Seen, status: Option<u16>) -> Sight {
    Sight {
        status,
        ..Sight::of(Some((ip(address), 80).into()), what)
    }
}

fn missing(address: &str) -> Look {
    Look::Wrong(sight(address, Seen::NotFound, Some(404)))
}

fn silent(address: &str) -> Look {
    Look::Unreachable(sight(address, Seen::Silent, None))
}

fn way(entry: &[(&str, Look)], public: &[(&str, Look)]) -> Way {
    let all = |looks: &[(&str, Look)]| {
        let looks = looks.iter();
        looks.map(|(a, look)| (ip(a), look.clone())).collect()
    };
    Way {
        solver: None,
        service: None,
        entry_points: all(entry),
        public: Public::Asked(all(public)),
    }
}

fn with_public(mut way: Way, public: Public) -> Way {
    way.public = public;
    way
}

/// The verdict's word, its hop and its cause.
fn judge(way: &Way) -> (&'static str, Option<(Hop, Cause)>) {
    let of = |finding: &Finding| Some((finding.hop, finding.cause));
    match way.judge() {
        Verdict::Reachable => ("reachable", None),
        Verdict::Unverified(finding) => ("unverified", of(&finding)),
        Verdict::Unreachable(finding) => ("unreachable", of(&finding)),
        Verdict::Wrong(finding) => ("wrong", of(&finding)),
    }
}

#[test]
fn an_address_of_the_public_name_that_answers_wrongly_is_wrong_whatever_the_entry_point_says() {
    let good = || Look::Reachable;
    let elsewhere = ("wrong", Some((Hop::PublicName, Cause::Elsewhere)));
    for entry in [good(), missing(ENTRY), silent(ENTRY)] {
        assert_eq!(
            judge(&way(&[(ENTRY, entry)], &[(OTHER, missing(OTHER))])),
            elsewhere
        );
    }
    let one_of_two = way(
        &[(ENTRY, good())],
        &[(ENTRY, good()), (OTHER, missing(OTHER))],
    );
    assert_eq!(judge(&one_of_two), elsewhere);
    // The same address is the entry point, and nothing is known of another.
    let same = way(&[(ENTRY, missing(ENTRY))], &[(ENTRY, missing(ENTRY))]);
    assert_eq!(
        judge(&same),
        ("wrong", Some((Hop::EntryPoint, Cause::NoRule)))
    );
    let no_entry = way(&[], &[(OTHER, missing(OTHER))]);
    assert_eq!(
        judge(&no_entry),
        ("wrong", Some((Hop::PublicName, Cause::NoRule)))
    );
}

#[test]
fn a_public_name_that_is_good_is_reachable_whatever_the_entry_point_says() {
    for entry in [Look::Reachable, missing(ENTRY), silent(ENTRY)] {
        assert_eq!(
            judge(&way(&[(ENTRY, entry)], &[(OTHER, Look::Reachable)])).0,
            "reachable"
        );
    }
    assert_eq!(judge(&way(&[], &[(OTHER, Look::Reachable)])).0, "reachable");
}

#[test]
fn an_aaaa_record_that_leads_elsewhere_while_the_a_record_is_good_is_a_finding_of_its_own() {
    let with = |ipv6: Look| {
        way(
            &[(ENTRY, Look::Reachable)],
            &[(ENTRY, Look::Reachable), (IPV6, ipv6)],
        )
    };
    let stale = Some((Hop::PublicName, Cause::StaleIpv6));
    assert_eq!(judge(&with(missing(IPV6))), ("wrong", stale));
    assert_eq!(judge(&with(silent(IPV6))), ("unverified", stale));
    // This machine has no IPv6: it cannot tell.
    let no_route = Look::Unreachable(sight(IPV6, Seen::NoRoute, None));
    assert_eq!(judge(&with(no_route)).0, "reachable");
}

#[test]
fn a_public_name_that_cannot_be_seen_from_here_leaves_the_word_to_the_entry_point() {
    for (public, cause) in [
        (
            Public::Asked(vec![(ip(OTHER), silent(OTHER))]),
            Cause::Silent,
        ),
        (Public::Unresolved, Cause::NotResolving),
    ] {
        let entry = |look| with_public(way(&[(ENTRY, look)], &[]), public.clone());
        let unseen = Some((Hop::PublicName, cause));
        assert_eq!(judge(&entry(Look::Reachable)), ("unverified", unseen));
        assert_eq!(
            judge(&entry(missing(ENTRY))),
            ("wrong", Some((Hop::EntryPoint, Cause::NoRule)))
        );
        assert_eq!(
            judge(&entry(silent(ENTRY))),
            ("unreachable", Some((Hop::EntryPoint, Cause::Silent)))
        );
        let none = with_public(way(&[], &[]), public);
        assert_eq!(judge(&none), ("unreachable", unseen));
    }
    let unasked = |entry: &[(&str, Look)]| judge(&with_public(way(entry, &[]), Public::NotAsked));
    assert_eq!(unasked(&[(ENTRY, Look::Reachable)]).0, "reachable");
    assert_eq!(
        unasked(&[]),
        ("unreachable", Some((Hop::EntryPoint, Cause::NoEntryPoint)))
    );
}

#[test]
fn of_several_addresses_of_an_entry_point_one_good_is_enough_and_wrong_must_be_all() {
    let entry = |looks: &[(&str, Look)]| judge(&with_public(way(looks, &[]), Public::NotAsked)).0;
    assert_eq!(
        entry(&[(ENTRY, missing(ENTRY)), (OTHER, Look::Reachable)]),
        "reachable"
    );
    assert_eq!(
        entry(&[(ENTRY, missing(ENTRY)), (OTHER, silent(OTHER))]),
        "unreachable"
    );
    assert_eq!(
        entry(&[(ENTRY, missing(ENTRY)), (OTHER, missing(OTHER))]),
        "wrong"
    );
}

#[test]
fn a_gateways_error_is_said_of_the_first_hop_behind_it_that_is_not_good() {
    let gateway = |solver: Option<Look>, service: Option<Look>| {
        let error = Look::Wrong(sight(ENTRY, Seen::ServerError, Some(503)));
        let mut way = with_public(way(&[(ENTRY, error)], &[]), Public::NotAsked);
        (way.solver, way.service) = (solver, service);
        judge(&way).1.unwrap()
    };
    let silent = || Some(silent("10.0.0.7"));
    let good = || Some(Look::Reachable);
    assert_eq!(gateway(None, None), (Hop::EntryPoint, Cause::Gateway));
    assert_eq!(gateway(good(), good()), (Hop::EntryPoint, Cause::Gateway));
    assert_eq!(
        gateway(silent(), silent()),
        (Hop::Solver, Cause::SolverSilent)
    );
    assert_eq!(
        gateway(good(), silent()),
        (Hop::Service, Cause::ServiceSilent)
    );
}

fn told(way: &Way) -> String {
    match way.judge() {
        Verdict::Reachable => "good".to_owned(),
        Verdict::Unverified(f) | Verdict::Unreachable(f) | Verdict::Wrong(f) => f.to_string(),
    }
}

/// Each of the causes that people meet, in the words that they read.
#[test]
fn a_finding_says_at_which_hop_what_was_seen_what_it_means_and_what_to_do() {
    let at_entry = |sight: Sight, is_answer: bool| {
        let look = if is_answer {
            Look::Wrong(sight)
        } else {
            Look::Unreachable(sight)
        };
        told(&with_public(way(&[(ENTRY, look)], &[]), Public::NotAsked))
    };
    let served = |what, status, server: &str| Sight {
        server: Some(server.to_owned()),
        ..sight(ENTRY, what, Some(status))
    };
    let redirected = Sight {
        redirects: vec!["https://www.example/.well-known/acme-challenge/tok".into()],
        ..Sight::of(Some((ip(ENTRY), 443).into()), Seen::ClosedHttps)
    };
    let led_away = Sight {
        redirects: vec!["https://login.example/".into()],
        ..sight(ENTRY, Seen::OtherBody, Some(200))
    };
    let proxied = Sight {
        server: Some("cloudflare".into()),
        ..sight(OTHER, Seen::OtherStatus, Some(409))
    };
    let elsewhere = |look| told(&way(&[(ENTRY, Look::Reachable)], &[(OTHER, look)]));
    let cases = [
        (
            at_entry(served(Seen::NotFound, 404, "envoy"), true),
            "at the entry point: 198.18.0.2:80 answers 404 (server \"envoy\"): nothing there leads to the solver: the route is not taken \
             yet, or its ingress class is not the one that is served there. Remedy: let the class of the name's Ingress, or \
             spec.acme.http01.ingressClassName of its issuer, be that of the controller at this address",
        ),
        (
            at_entry(served(Seen::OtherBody, 200, "nginx"), true),
            "at the entry point: 198.18.0.2:80 answers 200 (server \"nginx\"): another site answers in the solver's place, such as a default \
             backend or a rule that takes every path. Remedy: let this address serve /.well-known/acme-challenge/ by the controller of the \
             name's ingress class, and take away what answers now",
        ),
        (
            at_entry(led_away, true),
            "at the entry point: 198.18.0.2:80 answers 200 after a redirect to https://login.example/: what is not the solver answers \
             there: a login, or a redirect that takes every path. Remedy: let /.well-known/acme-challenge/ through without a redirect and \
             without a login",
        ),
        (
            at_entry(redirected, true),
            "at the entry point: 198.18.0.2:443 does not speak TLS after a redirect to https://www.example/.well-known/acme-challenge/tok: \
             it redirects to https, where nobody speaks TLS. Remedy: open port 443 there, or let /.well-known/acme-challenge/ through \
             without a redirect",
        ),
        (
            at_entry(sight(ENTRY, Seen::Silent, None), false),
            "the entry point cannot be reached from here: 198.18.0.2:80 gives no answer: a firewall, a NetworkPolicy, or a router that does not \
             lead back inside (hairpin NAT). Remedy: nothing where the CA gets there; else open port 80 to everybody",
        ),
        (
            elsewhere(missing(OTHER)),
            "at the public name: 198.18.0.9:80 answers 404: DNS leads to an address that is none of the entry point's (198.18.0.2). \
             Remedy: let the A and AAAA records lead to the addresses in the status of the name's Ingress",
        ),
        (
            elsewhere(Look::Wrong(proxied)),
            "at the public name: 198.18.0.9:80 answers 409 (server \"cloudflare\"): a proxy stands before the entry point, and answers by \
             itself. Remedy: let the proxy pass /.well-known/acme-challenge/ on as it is: no redirect, no cache, no page of its own",
        ),
        (
            told(&way(
                &[(ENTRY, Look::Reachable)],
                &[(ENTRY, Look::Reachable), (IPV6, silent(IPV6))],
            )),
            "the public name cannot be reached from here: [2001:db8::9]:80 gives no answer: the A record leads to the solver and the AAAA \
             record does not, and a CA tries IPv6 first (198.18.0.2). Remedy: remove the AAAA record, or let it lead to the entry point",
        ),
        (
            told(&with_public(
                way(&[(ENTRY, Look::Reachable)], &[]),
                Public::Unresolved,
            )),
            "the public name cannot be reached from here: it does not resolve: DNS has no address for it yet, as seen from here. Remedy: \
             create an A or AAAA record that leads to the entry point; nothing where the CA's DNS has one",
        ),
        (
            told(&with_public(way(&[], &[]), Public::NotAsked)),
            "the entry point cannot be reached from here: no Ingress has an address in its status. Remedy: let the ingress controller write \
             its address into the status of Ingresses; nothing where the name leads to it all the same",
        ),
    ];
    for (told, words) in cases {
        assert_eq!(told, words);
    }
}

#[test]
fn what_a_hundred_names_have_in_common_is_said_once() {
    let names: Vec<String> = (0..100).map(|n| format!("n{n}.example")).collect();
    let seen: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "404")).collect();
    assert_eq!(
        build_findings(&seen),
        "n0.example, n1.example, n2.example, n3.example, n4.example, and 95 more: 404"
    );
    let all: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), name.as_str()))
        .collect();
    assert!(build_findings(&all).ends_with("n2.example: n2.example; and 97 other findings"));
}
