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

/// What became of one: when its order was placed, how long that took, and when its old certificate would have expired.
struct Renewed {
    index: usize,
    placed: Seconds,
    lasted: Seconds,
    expires: Seconds,
    namespace: String,
}

impl World {
    fn after_a_shutdown() -> Self {
        let mut world = Self::new(Script {
            seed: 1,
            certificates: COUNT + 1,
            days: 1.0,
            model: Model::of(DIRECTORY),
            revocation: None,
        });
        world.events.clear();
        world.downs.clear();
        world.ca.outages.clear();
        for index in 0..COUNT {
            let left = match index {
                SHORT => 2.0 * HOUR,
                _ => world.dice.between(2.0, 25.0) * DAY,
            };
            world.issued_before(index, left);
            world.wake(index, 1.0);
        }
        world.actors[NEW].born = NEW_COMES;
        world.actors[NEW].good_until = NEW_COMES;
        world.actors[NEW].dead.clear();
        world.wake(NEW, NEW_COMES);
        world
    }

    /// A certificate of an earlier run, known to the CA and to the ledger, that has so long to live.
    fn issued_before(&mut self, index: usize, left: Seconds) {
        let came = left - LIFETIME;
        let actor = &mut self.actors[index];
        (actor.born, actor.lifetime, actor.good_until) = (came - 1.0, LIFETIME, left);
        actor.dead.clear();
        let o = &mut actor.observed;
        let names = o.wanted_names();
        let facts = build_facts("01", names.clone(), instant(came, 0.0), LIFETIME);
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
        while let Some(Reverse((millis, _, event))) = self.events.pop() {
            self.now = seconds(millis);
            if self.now >= 6.0 * HOUR {
                break;
            }
            self.happen(&event);
        }
        let of = |(index, actor): (usize, &Actor)| Renewed {
            index,
            placed: actor.placed_at,
            lasted: actor.good_until - actor.lifetime - actor.placed_at,
            expires: expires[index],
            namespace: actor.observed.key.namespace.clone(),
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
}
