//! Years of thousands of certificates in seconds: what the decisions add up to.
//!
//! `make simulate` tells a larger run with a plot of its load; `SEED`, `CERTIFICATES` and `DAYS` in the environment change it.

mod actor;
mod ca;
mod clock;
mod dice;
mod tally;
mod world;

use std::time::Instant;

use tally::Tally;
use world::{Script, World};

fn setting(name: &str, usual: u32) -> u32 {
    let given = std::env::var(name).ok();
    given.map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}"))
    })
}

fn run(script: &Script) -> Tally {
    let begun = Instant::now();
    let tally = World::new(script.clone()).run();
    println!(
        "{} certificates, {} days, seed {}: {:.1} s",
        script.certificates,
        script.days,
        script.seed,
        begun.elapsed().as_secs_f64()
    );
    println!("{tally}");
    if std::env::var("PLOT").is_ok() {
        println!("{}", tally.plot());
    }
    tally
}

#[test]
fn two_years_of_three_thousand_certificates_break_no_limit_and_lose_no_certificate() {
    let script = Script {
        seed: setting("SEED", 1).into(),
        certificates: usize::try_from(setting("CERTIFICATES", 3_000)).unwrap(),
        days: setting("DAYS", 730).into(),
    };
    let tally = run(&script);
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
}
