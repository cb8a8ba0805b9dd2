//! Thousands of certificates due at once: the operator did not run for two days.

use std::collections::BTreeMap;

use evercert_core::lanes::MOVES;

use super::*;

const COUNT: usize = 3_000;
/// The one that expires two hours after the start.
const SHORT: usize = 2_222;
/// The one that is new: it comes amid all that.
const NEW: usize = COUNT;
const NEW_COMES: Seconds = 120.0;
const LIFETIME: Seconds = 90.0 * DAY;
/// An order that the CA works on for longer is the CA's time.
const SLOW: Seconds = 60.0;

/// The time over which a mass renewal is spread here.
const SPREAD: Seconds = 1_200.0;

/// What became of one: when its order was placed, how long that took, and when its old certificate would have expired.
struct Renewed {
    index: usize,
    placed: Seconds,
    lasted: Seconds,
    expires: Seconds,
    namespace: String,
    /// When its renewal was due.
    due: Seconds,
}

impl World {
    fn after_a_shutdown() -> Self {
        let mut world = Self::new(Script {
            certificates: COUNT + 1,
            days: 1.0,
            ..Script::default()
        });
        world.events.clear();
        world.downs.clear();
        world.ca.outages.clear();
        for index in 0..COUNT {
            let left = match index {
                SHORT => 2.0 * HOUR,
                _ => world.dice.between(2.0, 25.0) * DAY,
            };
            world.issued_before(index, left, LIFETIME);
            world.wake(index, 1.0);
        }
        world.actors[NEW].born = NEW_COMES;
        world.actors[NEW].good_until = NEW_COMES;
        world.actors[NEW].dead.clear();
        world.wake(NEW, NEW_COMES);
        world
    }

    /// All are in the middle of their lives, and the CA says of each that its window is over: it is going to revoke them.
    fn before_a_revocation(spread: Seconds) -> Self {
        let mut world = Self::new(Script {
            certificates: COUNT,
            days: 1.0,
            revocation: Some(0.0),
            ..Script::default()
        });
        world.events.clear();
        world.downs.clear();
        world.ca.outages.clear();
        for index in 0..COUNT {
            let left = world.dice.between(40.0, 80.0) * DAY;
            world.issued_before(index, left, LIFETIME);
            let o = &mut world.actors[index].observed;
            o.renewal_spread = SignedDuration::from_secs_f64(spread);
            world.wake(index, 1.0);
        }
        world
    }

    /// A certificate of an earlier run, known to the CA and to the ledger, that has so long to live.
    pub(super) fn issued_before(&mut self, index: usize, left: Seconds, lifetime: Seconds) {
        let came = left - lifetime;
        let actor = &mut self.actors[index];
        (actor.born, actor.lifetime, actor.good_until) = (came - 1.0, lifetime, left);
        actor.dead.clear();
        let o = &mut actor.observed;
        let names = o.wanted_names();
        let facts = build_facts("01", names.clone(), instant(came, 0.0), lifetime);
        let marks = Marks {
            issuer: Some(o.issuer_id()),
            directory: Some(DIRECTORY.into()),
            names: Some(names.clone()),
            profile: None,
            issued_at: Some(instant(came, 0.0)),
            revoke: None,
        };
        o.companion.last_good = Some((facts.clone(), marks.clone()));
        self.ca.issue(&names, came);
        let at = instant(came, 0.0);
        self.ledger.succeed(ACCOUNT, &names, facts.not_after, at);
        o.secret = SecretObservation::Ours(TlsSecret {
            content: Ok(facts),
            marks,
            fallback: false,
            immutable: false,
            marks_in_step: true,
        });
    }

    /// Goes on until nothing happens any more that day; gives them as their orders were placed.
    fn renew_all(&mut self) -> Vec<Renewed> {
        let expires: Vec<Seconds> = self.actors.iter().map(|a| a.good_until).collect();
        self.run_until(6.0 * HOUR);
        let of = |(index, actor): (usize, &Actor)| Renewed {
            index,
            placed: actor.placed_at,
            lasted: actor.good_until - actor.lifetime - actor.placed_at,
            expires: expires[index],
            namespace: actor.observed.key.namespace.clone(),
            due: actor.due,
        };
        let mut all: Vec<Renewed> = self.actors.iter().enumerate().map(of).collect();
        all.sort_by(|a, b| a.placed.total_cmp(&b.placed));
        all
    }
}

#[test]
fn story_25_three_thousand_due_at_once_are_renewed_soonest_expiry_first_and_a_new_one_does_not_wait()
 {
    let mut world = World::after_a_shutdown();
    let all = world.renew_all();
    let tally = &world.tally;
    assert_eq!(tally.issued, COUNT + 1, "each once");
    assert_eq!(tally.orders, COUNT + 1, "each by one order");
    assert!(tally.refused.is_empty(), "{:#?}", tally.refused);
    assert_eq!((tally.expired_by_us, tally.fallbacks), (0, 0));

    // Those before it had their places when it was first looked at.
    let places = MOST_ORDERS / 8;
    let rank = all.iter().position(|r| r.index == SHORT).unwrap();
    assert!(
        rank <= places,
        "the one with two hours left is number {rank}"
    );

    let mut last: BTreeMap<&str, Seconds> = BTreeMap::new();
    for renewed in all.iter().skip(places + 1).filter(|r| r.index != NEW) {
        let before = last.insert(&renewed.namespace, renewed.expires);
        assert!(
            before.is_none_or(|before| before <= renewed.expires),
            "out of turn"
        );
    }

    let new = all.iter().find(|r| r.index == NEW).unwrap();
    let waited = new.placed + new.lasted - NEW_COMES;
    assert!(waited < 60.0, "the new one came after {waited} s");

    // So many orders at a time move; the last of them end when they end.
    let quick: Vec<&Renewed> = all.iter().filter(|r| r.lasted < SLOW).collect();
    let moves = MOVES.as_secs_f64();
    let work: Seconds = quick.iter().map(|r| r.lasted.min(moves)).sum();
    let shortest = 0.99 * work / f64::from(u32::try_from(places).unwrap());
    let mut ends: Vec<Seconds> = quick.iter().map(|r| r.placed + r.lasted).collect();
    ends.sort_by(f64::total_cmp);
    let most = ends[ends.len() * 99 / 100];
    println!(
        "the new one after {waited:.1} s, 99 % after {most:.0} s, {shortest:.0} s at least; {} passes",
        tally.passes
    );
    assert!(
        most <= 1.2 * shortest,
        "99 % after {most} s, {shortest} s at least"
    );
    let each = tally.passes / COUNT;
    assert!(each < 60, "{each} passes for each of them");
    let most = world.actors.iter().map(|actor| actor.passes).max();
    let busiest = tally.busiest_second;
    println!("{most:?} passes at most for one, {busiest} in the busiest second");
    assert!(most < Some(200), "{most:?} passes for one of them");
    assert!(busiest <= 4 * COUNT, "{busiest} passes in a second");
}

/// Of those of a namespace that were due, none had its order before one that expires sooner; so many had to wait.
fn assert_soonest_first(all: &[Renewed]) -> usize {
    // Instants have whole seconds, and from being due to a place it is some passes.
    let at_once = 2.0;
    for (rank, first) in all.iter().enumerate() {
        let overtaken = all[rank + 1..].iter().find(|later| {
            later.namespace == first.namespace
                && later.expires < first.expires
                && later.due + at_once < first.placed
        });
        assert!(overtaken.is_none(), "out of turn");
    }
    let waited = |renewed: &&Renewed| renewed.placed - renewed.due > 10.0;
    all.iter().filter(waited).count()
}

/// The most orders in a minute.
fn busiest_minute(all: &[Renewed]) -> usize {
    let minutes = all.iter().map(|from| {
        all.iter()
            .filter(|r| (from.placed..from.placed + 60.0).contains(&r.placed))
            .count()
    });
    minutes.max().unwrap_or(0)
}

#[test]
fn story_10_windows_that_move_to_the_past_at_once_are_renewed_over_the_operators_setting() {
    let mut world = World::before_a_revocation(SPREAD);
    let all = world.renew_all();
    let tally = &world.tally;
    assert_eq!((tally.issued, tally.orders), (COUNT, COUNT), "each once");
    assert_eq!(tally.replacing, COUNT, "each says what it replaces");
    assert!(tally.refused.is_empty(), "{:#?}", tally.refused);
    assert_eq!((tally.expired_by_us, tally.fallbacks), (0, 0));
    assert_soonest_first(&all);
    // They are asked about for five minutes.
    let asked = 0.1 * f64::from(u32::try_from(COUNT).unwrap());
    let (first, last) = (all[0].placed, all[COUNT - 1].placed);
    println!(
        "from {first:.0} s to {last:.0} s, {} in the busiest minute",
        busiest_minute(&all)
    );
    assert!(first < 60.0 && last > SPREAD && last < asked + SPREAD + 60.0);
    let even = COUNT / 20;
    assert!(busiest_minute(&all) < even * 3 / 2, "all at once");
}

#[test]
fn story_10_without_a_spread_they_are_renewed_as_fast_as_there_are_places_soonest_expiry_first() {
    let mut world = World::before_a_revocation(0.0);
    let all = world.renew_all();
    assert_eq!(world.tally.orders, COUNT, "each once");
    let waited = assert_soonest_first(&all);
    assert!(waited > COUNT / 2, "only {waited} had to wait for a place");
    assert!(
        busiest_minute(&all) > COUNT / 20 * 21 / 20,
        "{} in a minute",
        busiest_minute(&all)
    );
}
