//! Years of thousands of certificates in seconds: what the decisions add up to.
//!
//! `make simulate` tells a larger run with a plot of its load; `SEED`, `CERTIFICATES` and `DAYS` in the environment change it.

// A test fails by panicking, in the functions that tests share too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod actor;
mod ca;
mod clock;
mod dice;
mod tally;
mod world;

use std::time::Instant;

use actor::DIRECTORY;
use evercert_core::limits::{Bucket, Model};

use tally::{Pulled, Tally};
use world::{Flaw, PULLED, Script, World};

fn setting(name: &str, usual: u32) -> u32 {
    let given = std::env::var(name).ok();
    given.map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

fn run(script: &Script) -> Tally {
    let (tally, told) = run_and_tell(script);
    println!("{told}");
    tally
}

/// A run, and what people are told of it.
fn run_and_tell(script: &Script) -> (Tally, String) {
    #[allow(clippy::disallowed_methods)] // a run tells how long it took; no decision is made by it
    let begun = Instant::now();
    let tally = World::new(script.clone()).run();
    let told = format!(
        "{} certificates, {} days, seed {}: {:.1} s\n{tally}",
        script.certificates,
        script.days,
        script.seed,
        begun.elapsed().as_secs_f64()
    );
    (tally, told)
}

#[test]
fn a_ledger_that_allows_more_than_the_ca_is_found_out() {
    let lax = |bucket: Option<Bucket>| {
        bucket.map(|b| Bucket {
            capacity: 10 * b.capacity,
            ..b
        })
    };
    let model = Model::of(DIRECTORY);
    let script = Script {
        certificates: 2_400,
        days: 6.0,
        model: Model {
            orders: lax(model.orders),
            domain: lax(model.domain),
            ..model
        },
        ..Script::default()
    };
    let refused = run(&script).refused;
    let of = |words: &str| refused.keys().any(|refusal| refusal.contains(words));
    assert!(of("new orders") && of("already issued"), "{refused:#?}");
}

#[test]
fn two_years_of_three_thousand_certificates_break_no_limit_and_lose_no_certificate() {
    let script = Script {
        seed: setting("SEED", 1).into(),
        certificates: usize::try_from(setting("CERTIFICATES", 3_000)).unwrap(),
        days: setting("DAYS", 730).into(),
        pull: Some(400.0),
        ..Script::default()
    };
    let (tally, told) = run_and_tell(&script);
    println!("{told}");
    if std::env::var("PLOT").is_ok() {
        println!("{}", tally.plot());
    }
    // What a test prints is not shown while it succeeds; the figures are for people all the same.
    if let Ok(file) = std::env::var("EVERCERT_SIMULATION") {
        std::fs::write(file, told + "\n").unwrap();
    }
    assert!(
        tally.refused.is_empty(),
        "refused by a limit: {:#?}",
        tally.refused
    );
    assert_eq!(
        tally.expired_by_us, 0,
        "expired while CA and operator were up"
    );
    assert!(
        tally.worst_hour() <= 4,
        "{} failures of a name in an hour",
        tally.worst_hour()
    );
    assert!(
        tally.issued >= script.certificates,
        "nearly nothing was issued"
    );
    let pulled = &tally.pulled;
    assert!(
        script.days < 402.0 || pulled.len() > script.certificates / 12,
        "{} windows moved into the past",
        pulled.len()
    );
    let late = pulled.values().filter(|p| is_late(p)).count();
    assert_eq!(late, 0, "not renewed when the CA asked for it");
    let again = pulled.values().filter(|p| p.orders != 1).count();
    assert_eq!(again, 0, "not ordered once for it: {pulled:?}");
}

/// Whether it was not renewed in the time after the CA asked for it.
fn is_late(pulled: &Pulled) -> bool {
    pulled.after.is_none_or(|after| after > PULLED)
}

#[test]
fn windows_in_the_past_that_nobody_reads_are_counted_as_late() {
    let tally = run(&Script {
        certificates: 400,
        days: 22.0,
        pull: Some(15.0),
        flaw: Some(Flaw::AsksNobody),
        ..Script::default()
    });
    let late = tally.pulled.values().filter(|p| is_late(p)).count();
    assert!(late > 5, "{late} of {:?}", tally.pulled);
}

#[test]
fn renewals_that_come_months_late_are_counted_as_certificates_that_expired() {
    let tally = run(&Script {
        certificates: 200,
        days: 150.0,
        flaw: Some(Flaw::SleepsThroughRenewals),
        ..Script::default()
    });
    assert!(tally.expired_by_us > 100, "{}", tally.expired_by_us);
    assert!(tally.without > 0.0, "{} s without", tally.without);
}

#[test]
fn certificates_that_nobody_asks_about_are_counted_as_revoked_while_in_place() {
    let tally = run(&Script {
        certificates: 600,
        days: 25.5,
        revocation: Some(24.0),
        flaw: Some(Flaw::AsksNobody),
        ..Script::default()
    });
    assert!(tally.revoked_late > 200, "{}", tally.revoked_late);
    assert_eq!(tally.polls, 0);
}

#[test]
fn a_mass_revocation_is_over_within_a_day_spread_out_and_against_no_limit() {
    let script = Script {
        seed: setting("SEED", 1).into(),
        days: 25.5,
        revocation: Some(24.0),
        ..Script::default()
    };
    let tally = run(&script);
    assert!(tally.refused.is_empty(), "{:#?}", tally.refused);
    assert_eq!(tally.expired_by_us, 0);
    assert_eq!(
        tally.revoked_late, 0,
        "still in place when they are revoked"
    );
    let replaced = tally.replaced_after.len();
    assert!(replaced > 1_000, "{replaced} were replaced");
    assert!(
        tally.replacing >= replaced,
        "{} orders said what they replace",
        tally.replacing
    );
    assert!(
        tally.busiest_poll <= 600,
        "{} polls in a minute",
        tally.busiest_poll
    );
    let first_hour = tally
        .replaced_after
        .iter()
        .filter(|after| **after < 3_600.0);
    assert!(first_hour.count() < replaced / 2, "all at once");
}
