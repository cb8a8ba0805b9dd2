//! A CA that is down for days.

use super::*;

const COUNT: usize = 200;
/// Those inside their renewal window.
const DUE: usize = 20;
const OUTAGE: Seconds = 72.0 * HOUR;
const LIFETIME: Seconds = 90.0 * DAY;
/// Pauses of a quarter of the outage, from 15 s to ten minutes: so many before they are the longest, and then one each.
const PROBES: usize = 25 + 72 * 6;

#[test]
fn story_1_a_ca_that_is_down_for_three_days_is_probed_seldom_and_twenty_of_two_hundred_follow_soonest_first()
 {
    let mut world = World::new(Script {
        certificates: COUNT,
        days: 4.0,
        ..Script::default()
    });
    world.events.clear();
    world.downs.clear();
    world.ca.outages = vec![(0.0, OUTAGE)];
    for index in 0..COUNT {
        // Those have a namespace each, so that none of them waits for its turn.
        let left = if index < DUE {
            world.dice.between(10.0, 20.0) * DAY
        } else {
            world.dice.between(40.0, 80.0) * DAY
        };
        world.issued_before(index, left, LIFETIME);
        world.wake(index, 1.0);
    }
    let before: Vec<Seconds> = world.actors.iter().map(|a| a.good_until).collect();
    world.run_until(OUTAGE);
    assert_eq!(world.tally.orders, 0);
    let probes = world.tally.probes;
    assert!((72 * 6 / 2..=PROBES).contains(&probes), "{probes} probes");
    for actor in &world.actors {
        let status = &actor.observed.status;
        assert_eq!(status.failed_attempts, None, "an outage is no attempt");
        assert!(actor.observed.is_served_well(world.clock()));
    }
    assert_eq!(world.tally.fallbacks, 0, "a Secret was touched");

    world.run_until(OUTAGE + HOUR);
    let mut renewed: Vec<(Seconds, Seconds)> = (0..COUNT)
        .filter(|index| world.actors[*index].good_until > before[*index])
        .map(|index| (world.actors[index].placed_at, before[index]))
        .collect();
    renewed.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!((renewed.len(), world.tally.orders), (DUE, DUE), "each once");
    let first = renewed[0].0;
    println!(
        "{probes} probes; the first order {:.0} s after the CA's return, the last {:.0} s",
        first - OUTAGE,
        renewed[DUE - 1].0 - OUTAGE
    );
    assert!(first < OUTAGE + 601.0, "it was looked for in time");
    let at_first = renewed.iter().filter(|(at, _)| *at < first + 58.0).count();
    assert!(at_first <= 5, "{at_first} in the first minute");
    for (rank, (placed, expires)) in renewed.iter().enumerate() {
        let overtaken = renewed[rank + 1..]
            .iter()
            .any(|(later, sooner)| later - placed > 0.5 && sooner < expires);
        assert!(!overtaken, "out of turn: {renewed:?}");
    }
}
