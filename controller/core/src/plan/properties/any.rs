//! Observations of any kind, and those from which a certificate can be had.

use evercert_api::Reason;
use evercert_api::certificate::{
    FailureStatus, Fallback, FallbackMode, KeyAlgorithm, RenewalInfoStatus, WindowStatus,
    whole_seconds,
};
use evercert_api::issuer::SelfCheckMode;
use jiff::{SignedDuration, Timestamp};
use proptest::option::of as some;
use proptest::prelude::*;
use proptest::sample::select;

use crate::adopt::find_obstacle;
use crate::circuit::build_refused;
use crate::facts::{CertificateFacts, Damage, KeyKind};
use crate::fault::FaultClass;
use crate::observe::{
    ForeignSecret, ForwarderState, Gate, Marks, Observed, OrderObservation, Presented, Reach,
    Refusal, SELF_SIGNED, SecretObservation, Seen, SolverState, TlsSecret,
};
use crate::order::{OrderState, OrderView, ProofState};
use crate::plan::fixtures::{
    self, DAY, at, authorization, certificate, challenge_url, fault, now, observed, order, problem,
};
use crate::plan::later;
use crate::reach::SelfCheck;
use crate::served::Served;

/// Mostly near `now`, on both sides of every threshold, and now and then absurd.
pub(in crate::plan) fn instant() -> BoxedStrategy<Timestamp> {
    prop_oneof![
        8 => (-120_i64..120).prop_map(at),
        4 => (-100 * DAY..100 * DAY).prop_map(at),
        1 => select(vec![Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH, now()]),
    ]
    .boxed()
}

fn some_names() -> BoxedStrategy<Vec<String>> {
    select(vec![
        &["a.example", "b.example"][..],
        &["b.example", "a.example", "a.example"],
        &["a.example"],
        &["c.example"],
        &["*.example"],
        &[],
    ])
    .prop_map(|names| names.iter().map(|n| (*n).to_owned()).collect())
    .boxed()
}

fn key_kind() -> BoxedStrategy<KeyKind> {
    prop_oneof![
        6 => Just(KeyKind::Ecdsa(256)),
        1 => Just(KeyKind::Rsa(2048)),
        1 => Just(KeyKind::Other),
    ]
    .boxed()
}

pub(in crate::plan) fn facts() -> BoxedStrategy<CertificateFacts> {
    let serial = select(vec!["01", "02", "03"]);
    (serial, instant(), instant(), some_names(), key_kind())
        .prop_map(
            |(serial, not_before, not_after, names, key)| CertificateFacts {
                not_before,
                not_after,
                names,
                key,
                ..certificate(serial, &[], 0, 0)
            },
        )
        .boxed()
}

fn marks() -> BoxedStrategy<Marks> {
    let issuer = select(vec![fixtures::ISSUER, "Issuer/other", "Issuer/self"]);
    let directory = select(vec![fixtures::DIRECTORY, SELF_SIGNED]);
    (
        some(issuer),
        some(directory),
        some(some_names()),
        some(instant()),
    )
        .prop_map(|(issuer, directory, names, issued_at)| Marks {
            issuer: issuer.map(str::to_owned),
            directory: directory.map(str::to_owned),
            names,
            profile: None,
            issued_at,
            revoke: None,
        })
        .boxed()
}

pub(in crate::plan) fn secret() -> BoxedStrategy<SecretObservation> {
    let content = prop_oneof![
        6 => facts().prop_map(Ok),
        1 => select(vec![
            Damage::MissingData,
            Damage::InvalidCertificate,
            Damage::InvalidKeyPair
        ]).prop_map(Err),
    ];
    let immutable = proptest::bool::weighted(0.05);
    let ours = (content, marks(), any::<bool>(), any::<bool>(), immutable).prop_map(
        |(content, marks, fallback, marks_in_step, immutable)| {
            SecretObservation::Ours(TlsSecret {
                content,
                marks,
                fallback,
                immutable,
                marks_in_step,
            })
        },
    );
    let content = prop_oneof![3 => facts().prop_map(Ok), 1 => Just(Err(Damage::InvalidKeyPair))];
    let foreign =
        (content, any::<bool>(), any::<bool>()).prop_map(|(content, fallback, claimed)| {
            SecretObservation::Foreign(ForeignSecret {
                content,
                fallback,
                claim: claimed.then(|| "Flux".to_owned()),
            })
        });
    prop_oneof![
        3 => Just(SecretObservation::Missing),
        6 => ours,
        2 => foreign,
        1 => Just(SecretObservation::WrongType("Opaque".into())),
    ]
    .boxed()
}

fn issuer(o: Observed) -> BoxedStrategy<Observed> {
    prop_oneof![
        4 => Just(o.clone()),
        2 => Just(o.clone().offering_renewal_info()),
        1 => Just(o.clone().self_signed()),
        1 => Just(o.clone().without_issuer()),
        1 => Just(o.with_issuer_not_ready()),
    ]
    .boxed()
}

fn view() -> BoxedStrategy<OrderView> {
    use OrderState::{Invalid, Pending, Processing, Ready, Valid};
    use ProofState as P;
    let proof = || {
        select(vec![
            P::Pending,
            P::Pending,
            P::Processing,
            P::Valid,
            P::Invalid,
            P::Ended,
        ])
    };
    (
        select(vec![
            Pending, Pending, Pending, Ready, Processing, Valid, Invalid,
        ]),
        (proof(), proof(), any::<bool>()),
        prop_oneof![5 => Just(fixtures::names()), 1 => some_names()],
        some(instant()),
        some(select(vec![
            "dns",
            "compound",
            "rateLimited",
            "serverInternal",
            "",
        ])),
        some(instant()),
        instant(),
    )
        .prop_map(
            |(state, (a, b, offered), names, expires, error, retry_after, read_at)| {
                let mut view = OrderView {
                    names,
                    expires,
                    error: error.map(|kind| problem(kind, "words")),
                    authorizations: vec![
                        authorization("a.example", a),
                        authorization("b.example", b),
                    ],
                    retry_after,
                    read_at,
                    ..order(state)
                };
                if !offered {
                    view.authorizations[0].challenge = None;
                }
                view
            },
        )
        .boxed()
}

fn reach() -> BoxedStrategy<Reach> {
    let seen = (instant(), instant()).prop_map(|(since, at)| Seen {
        since,
        at,
        what: "404".into(),
    });
    prop_oneof![
        Just(Reach::Reachable),
        seen.clone().prop_map(Reach::Unverified),
        seen.clone().prop_map(Reach::Unreachable),
        seen.prop_map(Reach::Wrong),
    ]
    .boxed()
}

fn self_check() -> BoxedStrategy<SelfCheck> {
    let mode = select(vec![
        SelfCheckMode::Advisory,
        SelfCheckMode::Advisory,
        SelfCheckMode::Required,
        SelfCheckMode::Off,
    ]);
    (mode, 1_i64..600)
        .prop_map(|(mode, budget)| SelfCheck {
            mode,
            budget: SignedDuration::from_secs(budget),
        })
        .boxed()
}

fn with_order(o: Observed) -> BoxedStrategy<Observed> {
    let class = select(vec![
        FaultClass::RateLimited,
        FaultClass::Validation,
        FaultClass::Unavailable,
        FaultClass::Account,
        FaultClass::Permanent,
        FaultClass::Transient,
        FaultClass::Gone,
        FaultClass::NotReady,
    ]);
    let read = (
        view(),
        any::<bool>(),
        some(instant()),
        some(reach()),
        some(reach()),
    );
    let b = o.clone();
    let c = o.clone();
    let presented = select(vec![
        Presented::No,
        Presented::Pending,
        Presented::Applied,
        Presented::Applied,
        Presented::Failed("denied".into()),
    ]);
    let under_way = prop_oneof![
        1 => Just(o.clone().with_unread_order()),
        1 => (class, some(instant()), instant(), 0_u32..9).prop_map(move |(class, retry_after, at, times)| {
            let mut o = b.clone().with_unread_order();
            let mut fault = fault(class);
            fault.retry_after = retry_after;
            o.order = OrderObservation::Failed { fault, at, times };
            o
        }),
        6 => read.prop_map(move |(view, told, changed, a, b)| {
            let mut o = c.clone().with_order(view);
            if told {
                o = o.accepted(&["a.example"]);
            }
            if let Some(at) = changed {
                o = o.changed(at);
            }
            o.reach.extend(a.map(|r| ("a.example".to_owned(), r)));
            o.reach.extend(b.map(|r| ("b.example".to_owned(), r)));
            o
        }),
    ];
    let under_way = (
        under_way,
        presented,
        some(instant()),
        instant(),
        self_check(),
    )
        .prop_map(|(mut o, presented, expires, created, check)| {
            o.presented = presented;
            o.self_check = check;
            if let Some(order) = &mut o.status.order {
                order.expires = expires.map(whole_seconds);
                order.created_at = whole_seconds(created);
            }
            o
        });
    prop_oneof![1 => Just(o), 1 => under_way].boxed()
}

fn spec(o: Observed) -> BoxedStrategy<Observed> {
    let names = prop_oneof![6 => Just(fixtures::names()), 1 => some_names()];
    let none = prop_oneof![4 => Just(false), 1 => Just(true)];
    let key = prop_oneof![6 => Just(false), 1 => Just(true)];
    let before = proptest::option::of(select(vec!["1s", "720h", "999999h", "nonsense"]));
    let asked = (
        proptest::bool::weighted(0.1),
        proptest::option::weighted(0.3, instant()),
        proptest::option::weighted(
            0.3,
            select(vec!["superseded", "keyCompromise once more", "nonsense"]),
        ),
    );
    (names, none, key, before, instant(), any::<bool>(), asked)
        .prop_map(move |(names, none, rsa, before, created, deleted, asked)| {
            let mut o = o.clone();
            let (suspend, renew_at, revoke) = asked;
            o.revoke = revoke.map(str::to_owned);
            o.spec.suspend = suspend;
            o.renew_at = renew_at.map(|at| at.to_string());
            o.spec.dns_names = names;
            if none {
                o.spec.fallback = Some(Fallback {
                    mode: FallbackMode::None,
                    ..Fallback::default()
                });
            }
            if rsa {
                o = o.with_key(KeyAlgorithm::Rsa, 2048);
            }
            o.spec.renew_before = before.map(str::to_owned);
            o.created_at = created;
            o.deleted = deleted && none;
            o
        })
        .boxed()
}

fn with_status(o: Observed) -> BoxedStrategy<Observed> {
    let failure = (instant(), any::<bool>(), some(any::<bool>()));
    let ready = (any::<bool>(), instant());
    (some(failure), some(instant()), some(0_u32..6), some(ready))
        .prop_map(move |(failure, next, failed, ready)| {
            let mut o = o.clone();
            o.status.last_failure = failure.map(|(time, permanent, same)| FailureStatus {
                time: whole_seconds(time),
                reason: Reason::OrderFailed.as_str().into(),
                message: "it failed".into(),
                fingerprint: same.map(|same| {
                    if same {
                        o.fingerprint()
                    } else {
                        "other".into()
                    }
                }),
                ingresses: None,
                permanent,
            });
            o.status.next_attempt_time = next.map(whole_seconds);
            o.status.failed_attempts = failed;
            if let Some((status, since)) = ready {
                o = o.with_ready(status, 0);
                o.status.conditions[0].last_transition_time = whole_seconds(since);
            }
            o
        })
        .boxed()
}

/// Of one of the certificates, or of one long gone; sane or not.
fn renewal_info() -> BoxedStrategy<RenewalInfoStatus> {
    let window = some((instant(), instant(), some(instant())));
    (
        select(vec!["id.01", "id.02", "id.09"]),
        window,
        instant(),
        0_u32..9,
    )
        .prop_map(|(id, window, next, failures)| RenewalInfoStatus {
            certificate_id: id.into(),
            window: window.map(|(start, end, since)| WindowStatus {
                start: whole_seconds(start),
                end: whole_seconds(end),
                known_since: since.map(whole_seconds),
            }),
            explanation_url: None,
            next_poll_time: whole_seconds(next),
            failures,
            failure: None,
        })
        .boxed()
}

/// Any observation at all.
pub(in crate::plan) fn any_observed() -> BoxedStrategy<Observed> {
    let rare = |p| proptest::bool::weighted(p);
    let solver = prop_oneof![
        3 => Just(SolverState::Ready),
        1 => Just(SolverState::Absent),
        1 => instant().prop_map(|since| SolverState::Starting { since, what: "image".into() }),
    ];
    let last_good = some((facts(), marks()));
    let around = (
        secret(),
        last_good,
        some(key_kind()),
        solver,
        rare(0.7),
        (rare(0.1), rare(0.1), rare(0.1), rare(0.1)),
        (
            proptest::option::weighted(0.3, instant()),
            proptest::option::weighted(0.3, instant()),
        ),
        proptest::option::weighted(0.3, instant()),
        proptest::option::weighted(0.2, instant()),
    );
    let certificate = spec(observed())
        .prop_flat_map(issuer)
        .prop_flat_map(with_order)
        .prop_flat_map(with_status);
    let polling = (
        proptest::option::weighted(0.1, instant()),
        some(renewal_info()),
        some(select(vec![Served::Fresh, Served::NoEntryPoint])),
    );
    (certificate, around, polling)
        .prop_map(
            |(
                mut o,
                (secret, good, key, solver, slot, rarely, gates, unwritable, intent),
                (turn, info, served),
            )| {
                let (owned, refused, strayed, unroutable) = rarely;
                let (gate, limit) = gates;
                o.secret = secret;
                o.companion.last_good = good;
                o.companion.strayed = strayed;
                o.unroutable = unroutable.then(|| "no ingress class".to_owned());
                o.forwarder = match (unroutable, owned, refused, strayed) {
                    (true, ..) => ForwarderState::NotAllowed("no rights".to_owned()),
                    (_, true, ..) | (_, _, true, _) => ForwarderState::Needed(SolverState::Absent),
                    (_, _, _, true) => ForwarderState::Needed(solver.clone()),
                    (false, false, false, false) => ForwarderState::Unneeded,
                };
                if o.status.order.is_none() || key.is_none() {
                    o.companion.pending_key = key;
                }
                o.solver = solver;
                o.tried = slot || strayed;
                o.slot = slot;
                o.secret_owner = owned.then(|| "other".to_owned());
                o.refusal = refused.then(|| Refusal {
                    reason: Reason::NameNotAllowed,
                    message: "not allowed".into(),
                });
                o.gate = gate.map(|until| Gate {
                    until,
                    reason: Reason::CAUnavailable,
                    message: "closed".into(),
                });
                o.limit = limit.map(|until| Gate {
                    until,
                    reason: Reason::RateLimited,
                    message: "used up".into(),
                });
                o.unwritable = unwritable.map(|at| build_refused("site-tls", at, "denied"));
                o.intent = intent;
                o.poll_turn = turn;
                o.served = served;
                o.status.renewal_info = info;
                o
            },
        )
        .boxed()
}

/// A start from which a certificate can be had: whatever happened before, nobody forbids it and the CA is willing.
pub(in crate::plan) fn willing_start() -> BoxedStrategy<Observed> {
    any_observed()
        .prop_filter_map("can be had", |mut o| {
            o.deleted = false;
            o.spec.suspend = false;
            o.renew_at = o
                .renew_at
                .filter(|at| at.parse::<Timestamp>().is_ok_and(|at| at <= now()));
            o.secret_owner = None;
            o.refusal = None;
            o.unroutable = None;
            if matches!(o.forwarder, ForwarderState::NotAllowed(_)) {
                o.forwarder = ForwarderState::Unneeded;
            }
            o.unwritable = o
                .unwritable
                .filter(|g| g.until <= later(now(), crate::plan::RECHECK));
            if let SecretObservation::Ours(secret) = &mut o.secret {
                secret.immutable = false;
            }
            o.spec.dns_names.retain(|n| !n.starts_with('*'));
            if o.spec.dns_names.is_empty() {
                o.spec.dns_names = fixtures::names();
            }
            // Waits of years are no start, and neither are events from the future.
            o.gate = o.gate.filter(|g| g.until < at(DAY));
            o.limit = o.limit.filter(|l| l.until < at(DAY));
            o.poll_turn = o.poll_turn.filter(|t| *t < at(DAY));
            o.status.next_attempt_time = o.status.next_attempt_time.filter(|t| t.0 < at(DAY));
            o.intent = o.intent.filter(|t| *t <= now());
            let obstacle = match &o.secret {
                // Nor one that comes up while something else is waited for.
                SecretObservation::Foreign(secret) => [now(), at(DAY)]
                    .iter()
                    .any(|t| find_obstacle(&o, secret, *t).is_some()),
                SecretObservation::WrongType(_) => true,
                SecretObservation::Missing | SecretObservation::Ours(_) => false,
            };
            if obstacle {
                o.secret = SecretObservation::Missing;
            }
            let ahead = |c: &CertificateFacts| c.not_before > now();
            if o.issued().is_some_and(ahead) {
                return None;
            }
            o.companion.last_good = o.companion.last_good.filter(|(c, _)| !ahead(c));
            if let OrderObservation::Read(read) = &mut o.order {
                read.view.read_at = read.view.read_at.min(now());
                read.view.retry_after = None;
                read.changed_at = read.changed_at.map(|t| t.min(now()));
                let dead = |p| matches!(p, ProofState::Ended | ProofState::Processing);
                if read.view.authorizations.iter().any(|a| dead(a.state)) {
                    return None;
                }
                for a in &mut read.view.authorizations {
                    if a.state == ProofState::Pending {
                        read.accepted.retain(|url| *url != challenge_url(&a.name));
                    }
                }
                let proved = read
                    .view
                    .authorizations
                    .iter()
                    .all(|a| a.state == ProofState::Valid);
                if read.view.state == OrderState::Pending && proved {
                    read.view.state = OrderState::Ready;
                }
            }
            if let OrderObservation::Failed { fault, at, .. } = &mut o.order {
                fault.retry_after = None;
                *at = (*at).min(now());
            }
            for (_, reach) in &mut o.reach {
                if let Reach::Wrong(seen) | Reach::Unreachable(seen) | Reach::Unverified(seen) =
                    reach
                {
                    seen.at = seen.at.min(now());
                    seen.since = seen.since.min(seen.at);
                }
            }
            if let SolverState::Starting { since, .. } = &mut o.solver {
                *since = (*since).min(now());
            }
            if let ForwarderState::Needed(SolverState::Starting { since, .. }) = &mut o.forwarder {
                *since = (*since).min(now());
            }
            Some(o)
        })
        .boxed()
}
