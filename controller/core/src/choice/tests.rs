use evercert_api::certificate::whole_seconds;
use jiff::SignedDuration;

use super::*;
use crate::fault::{Fault, Problem, Subproblem};
use crate::observe::IssuerFacts;
use crate::plan::fixtures::{fault, now};

fn ready(name: &str) -> Signatory {
    Signatory {
        id: format!("Issuer/{name}"),
        issuer: IssuerObservation::Ready(IssuerFacts {
            id: format!("Issuer/{name}"),
            directory: format!("https://{name}.example/dir"),
            generation: 1,
            renewal_info: false,
            profiles: Vec::new(),
            profile: None,
        }),
        fingerprint: format!("{name}-1"),
        policy: None,
        caa: None,
    }
}

fn not_ready(name: &str, reason: &str) -> Signatory {
    Signatory {
        issuer: IssuerObservation::NotReady {
            facts: None,
            reason: reason.into(),
            message: "why".into(),
        },
        ..ready(name)
    }
}

fn refused(name: &str) -> RefusalStatus {
    RefusalStatus {
        issuer: format!("Issuer/{name}"),
        time: whole_seconds(now()),
        message: "no more certificates".into(),
        fingerprint: format!("{name}-1"),
    }
}

fn choose(all: &[Signatory], refusals: &[RefusalStatus]) -> Choice {
    choose_issuer(all, refusals, None, now())
}

fn at(all: &[Signatory], refusals: &[RefusalStatus]) -> usize {
    choose(all, refusals).at
}

fn gives(fault: Fault) -> bool {
    gives_way(&Failure {
        reason: Reason::OrderFailed,
        message: "words".into(),
        fault,
    })
}

fn said(kind: &str, class: FaultClass) -> Fault {
    Fault {
        problem: Some(Problem {
            kind: kind.into(),
            detail: "words".into(),
            subproblems: Vec::new(),
        }),
        http_status: Some(403),
        ..fault(class)
    }
}

fn compound(kinds: &[&str]) -> Fault {
    let mut whole = said("compound", FaultClass::Permanent);
    let part = |kind: &&str| Subproblem {
        identifier: Some("a.example".into()),
        kind: (*kind).into(),
        detail: String::new(),
    };
    if let Some(problem) = &mut whole.problem {
        problem.subproblems = kinds.iter().map(part).collect();
    }
    whole
}

#[test]
fn an_issuer_gives_way_where_its_ca_alone_refuses_for_good_and_else_stays() {
    let table = [
        ("rejectedIdentifier", true),
        ("unsupportedIdentifier", true),
        ("unauthorized", true),
        ("externalAccountRequired", true),
        ("badPublicKey", true),
        ("badSignatureAlgorithm", true),
        ("malformed", false),
        ("badCSR", false),
        ("invalidProfile", false),
        ("userActionRequired", false),
        ("accountDoesNotExist", false),
        ("invalidContact", false),
        ("unsupportedContact", false),
        ("rateLimited", false),
        ("caa", false),
        ("dns", false),
        ("connection", false),
        ("tls", false),
        ("incorrectResponse", false),
        ("serverInternal", false),
        ("badNonce", false),
        ("alreadyReplaced", false),
        ("alreadyRevoked", false),
        ("badRevocationReason", false),
        ("orderNotReady", false),
        ("unknown", false),
    ];
    for (kind, expected) in table {
        let class = classify(kind, Some(403), Place::NewOrder);
        assert_eq!(gives(said(kind, class)), expected, "{kind}");
    }
    // A name's challenge failed: the same word, another meaning.
    assert!(!gives(said("unauthorized", FaultClass::Validation)));
    assert!(!gives(said("unauthorized", FaultClass::Gone)));
}

#[test]
fn several_problems_at_once_give_way_if_none_of_them_stays() {
    assert!(gives(compound(&["rejectedIdentifier"])));
    assert!(gives(compound(&["rejectedIdentifier", "caa"])));
    assert!(!gives(compound(&["rejectedIdentifier", "malformed"])));
    assert!(!gives(compound(&["malformed"])));
    assert!(!gives(compound(&[])));
}

#[test]
fn a_paused_name_does_not_give_way() {
    let mut paused = said("rateLimited", FaultClass::Permanent);
    if let Some(problem) = &mut paused.problem {
        problem.detail = "see https://portal.example/unpause?jwt=abc".into();
    }
    assert!(!gives(paused));
    let by_page = Fault {
        help_url: Some("https://portal.example/unpause?jwt=abc".into()),
        ..said("rejectedIdentifier", FaultClass::Permanent)
    };
    assert!(!gives(by_page));
}

#[test]
fn without_a_problem_document_the_cas_own_ways_give_way_and_what_is_wrong_here_does_not() {
    let lasting = |reason| {
        gives_way(&Failure {
            reason,
            message: "words".into(),
            fault: fault(FaultClass::Permanent),
        })
    };
    assert!(lasting(Reason::Rejected) && lasting(Reason::BadAnswer));
    assert!(!lasting(Reason::OrderFailed));
    assert!(!gives(fault(FaultClass::Account)));
}

#[test]
fn the_first_signs_until_it_has_refused_for_good() {
    let all = [ready("a"), ready("b")];
    assert_eq!(at(&all, &[]), 0);
    let choice = choose(&all, &[refused("a")]);
    assert_eq!(choice.at, 1);
    let why = choice.because.unwrap();
    assert!(why.starts_with("Issuer/a refused at 2"), "{why}");
    assert!(why.contains("no more certificates"), "{why}");
    assert_eq!(at(&[ready("a")], &[refused("a")]), 0, "there is no other");
    for reason in [
        "AccountDeactivated",
        "AccountRefused",
        "EABRejected",
        "ExternalAccountRequired",
    ] {
        let choice = choose(&[not_ready("a", reason), ready("b")], &[]);
        assert_eq!(choice.at, 1, "{reason}");
        assert!(choice.because.unwrap().contains(reason), "{reason}");
    }
    for reason in [
        "CAUnavailable",
        "RateLimited",
        "TermsNotAgreed",
        "UserActionRequired",
        "Starting",
    ] {
        assert_eq!(
            at(&[not_ready("a", reason), ready("b")], &[]),
            0,
            "{reason}"
        );
    }
}

#[test]
fn others_are_asked_in_the_order_of_the_spec() {
    let all = [ready("a"), ready("b"), ready("c")];
    let both = [refused("b"), refused("a")];
    assert_eq!(at(&all, &both[1..]), 1);
    assert_eq!(at(&all, &both), 2);
    assert_eq!(at(&all, &both[..1]), 0);
}

#[test]
fn a_refusal_counts_for_a_day_and_until_spec_or_issuer_change_or_another_has_signed() {
    let all = [ready("a"), ready("b")];
    let mut refusal = refused("a");
    refusal.time = whole_seconds(now() - SignedDuration::from_hours(25));
    assert_eq!(at(&all, &[refusal]), 0);
    let mut changed = ready("a");
    changed.fingerprint = "a-2".into();
    assert_eq!(at(&[changed, ready("b")], &[refused("a")]), 0);
    let issued = |seconds| {
        let at = now() + SignedDuration::from_secs(seconds);
        choose_issuer(&all, &[refused("a")], Some(at), now()).at
    };
    assert_eq!(issued(-1), 1);
    assert_eq!(issued(0), 0, "signed within the same second");
    assert_eq!(issued(1), 0);
}

#[test]
fn a_first_that_has_refused_is_not_asked_again_for_a_day_though_nobody_else_can_sign() {
    let until = now() + SignedDuration::from_hours(24);
    let both = [refused("a"), refused("b")];
    let starting = not_ready("b", "Starting");
    for (b, refusals) in [(ready("b"), &both[..]), (starting, &both[..1])] {
        let choice = choose(&[ready("a"), b], refusals);
        let held = choice.held.unwrap();
        assert_eq!((choice.at, held.until), (0, until));
        assert!(held.message.contains("Issuer/a refused at 2"), "{held:?}");
    }
    assert_eq!(choose(&[ready("a"), ready("b")], &both[..1]).held, None);
    assert_eq!(choose(&[ready("a"), ready("b")], &both[1..]).held, None);
    let alone = choose(&[ready("a")], &both);
    assert_eq!(alone.held, None, "its backoff is what it waits for");
}

#[test]
fn whoever_cannot_sign_or_must_not_is_passed_over_with_the_reason() {
    let forbidden = Signatory {
        caa: Some(CaaAnswer::Forbidden("the CAA records forbid it".into())),
        ..ready("b")
    };
    let all = [ready("a"), forbidden.clone(), ready("c")];
    let choice = choose(&all, &[refused("a")]);
    assert_eq!(choice.at, 2);
    let why = choice.passed_over.unwrap();
    assert_eq!(why, "Issuer/b is not tried: the CAA records forbid it");

    let choice = choose(&[ready("a"), forbidden], &[refused("a")]);
    assert_eq!((choice.at, choice.because), (0, None));
    assert!(choice.passed_over.unwrap().contains("CAA"));

    let unknown = Signatory {
        caa: Some(CaaAnswer::Unknown("no answer".into())),
        ..ready("b")
    };
    assert_eq!(at(&[ready("a"), unknown], &[refused("a")]), 1);
    let both = [refused("a"), refused("b")];
    let choice = choose(&[ready("a"), ready("b")], &both);
    assert_eq!(choice.at, 0);
    let why = choice.passed_over.unwrap();
    assert!(
        why.contains("Issuer/b is not tried: it has refused at 2"),
        "{why}"
    );
    let missing = Signatory {
        issuer: IssuerObservation::Missing,
        ..ready("b")
    };
    let not_here = Signatory {
        policy: Some("the ClusterIssuer's policy does not allow it".into()),
        ..ready("d")
    };
    let rest = [
        ready("a"),
        missing,
        not_ready("c", "EABRejected"),
        not_here,
        ready("e"),
    ];
    let choice = choose(&rest, &[refused("a")]);
    assert_eq!(choice.at, 4);
    let why = choice.passed_over.unwrap();
    for word in ["does not exist", "EABRejected", "policy"] {
        assert!(why.contains(word), "{why}");
    }
}
