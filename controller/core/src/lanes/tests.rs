use super::*;
use crate::plan::fixtures::{DAY, NAMES, at, certificate, now, observed};

const DIRECTORY: &str = "https://ca.example/directory";
const MOST: usize = 80;
/// An eighth of them.
const MOVING: usize = 10;

fn new(namespace: &str, name: usize, since: i64) -> Placed {
    Placed {
        candidate: Candidate {
            key: ObjectKey::new(namespace, format!("c{name:03}")),
            lane: Lane::New,
            expires: None,
            failed: false,
            directory: DIRECTORY.to_owned(),
        },
        since: at(since),
        handed_over: false,
    }
}

fn many(namespace: &str, count: usize, since: i64) -> Vec<Placed> {
    (0..count).map(|name| new(namespace, name, since)).collect()
}

fn failed(mut placed: Placed) -> Placed {
    placed.candidate.failed = true;
    placed
}

fn expiring(mut placed: Placed, lane: Lane, in_seconds: i64) -> Placed {
    placed.candidate.lane = lane;
    placed.candidate.expires = Some(at(in_seconds));
    placed
}

fn grants(waiting: &[Placed], under_way: &[Placed]) -> Vec<String> {
    plan_grants(waiting, under_way, MOST, &BTreeMap::new(), now())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn one_that_waits_alone_begins() {
    assert_eq!(grants(&[new("a", 1, 0)], &[]), ["a/c001"]);
    assert_eq!(
        plan_grants(&[new("a", 1, 0)], &[], 1, &BTreeMap::new(), now()).len(),
        1
    );
}

#[test]
fn a_quarter_moves_at_a_time_and_first_come_is_first_served() {
    let mut waiting = many("a", 30, 0);
    waiting.reverse();
    waiting.push(new("a", 999, -1));
    let granted = grants(&waiting, &[]);
    assert_eq!(granted.len(), MOVING);
    assert_eq!(granted.first().map(String::as_str), Some("a/c999"));
    assert_eq!(grants(&waiting, &many("b", MOVING, -4)), [""; 0]);
}

#[test]
fn what_does_not_move_keeps_nobody_waiting() {
    let stuck = many("a", MOVING, -5);
    assert_eq!(grants(&many("b", 30, 0), &stuck).len(), MOVING);
    assert_eq!(next_grant(&stuck, now()), None);
    assert_eq!(next_grant(&many("a", 3, -4), now()), Some(at(1)));
    let mut with_the_ca = many("a", MOVING, 0);
    for placed in &mut with_the_ca {
        placed.handed_over = true;
    }
    assert_eq!(grants(&many("b", 30, 0), &with_the_ca).len(), MOVING);
    assert_eq!(next_grant(&with_the_ca, now()), None);
}

#[test]
fn a_namespace_holds_at_most_as_many_as_are_left_over() {
    let stuck = many("a", MOST / 2, -60);
    assert_eq!(grants(&many("a", 5, 0), &stuck), [""; 0]);
    assert_eq!(grants(&many("b", 30, 0), &stuck).len(), MOVING);
    let more = [stuck, many("b", MOST / 4, -60)].concat();
    assert_eq!(grants(&many("b", 5, 0), &more), [""; 0]);
    assert_eq!(grants(&many("c", 5, 0), &more).len(), 5);
}

#[test]
fn all_together_never_exceed_the_cap() {
    let stuck: Vec<Placed> = (0..MOST)
        .map(|name| new(&format!("n{name}"), name, -60))
        .collect();
    assert_eq!(grants(&many("a", 5, 0), &stuck), [""; 0]);
}

#[test]
fn namespaces_take_turns() {
    let waiting = [many("a", 30, -9), many("b", 2, 0)].concat();
    let granted = grants(&waiting, &[]);
    assert_eq!(
        granted.get(..4).unwrap(),
        ["a/c000", "b/c000", "a/c001", "b/c001"]
    );
}

#[test]
fn names_that_failed_before_come_last_and_hold_a_quarter_at_most() {
    let again: Vec<Placed> = many("a", 30, -9).into_iter().map(failed).collect();
    assert_eq!(grants(&again, &[]).len(), MOVING / 4);
    let waiting = [again.clone(), vec![new("a", 999, 0)]].concat();
    assert_eq!(grants(&waiting, &[]).first().unwrap(), "a/c999");
    let stuck: Vec<Placed> = many("b", MOST / 4, -60).into_iter().map(failed).collect();
    assert_eq!(grants(&again, &stuck), [""; 0]);
    assert_eq!(grants(&[new("b", 999, 0)], &stuck).len(), 1);
}

#[test]
fn what_is_about_to_expire_comes_first_soonest_expiry_first() {
    let waiting = [
        new("a", 1, -9),
        expiring(new("a", 2, 0), Lane::Expiring, 7200),
        failed(expiring(new("a", 3, 0), Lane::Expiring, 60)),
        expiring(new("a", 4, 0), Lane::Expiring, 3600),
    ];
    assert_eq!(
        grants(&waiting, &[]),
        ["a/c004", "a/c002", "a/c003", "a/c001"]
    );
}

#[test]
fn new_ones_do_not_wait_for_all_renewals() {
    let renewals: Vec<Placed> = (0..300_u16)
        .map(|name| {
            let expires = 20 * DAY - i64::from(name);
            expiring(new("a", name.into(), -60), Lane::Renewal, expires)
        })
        .collect();
    let waiting = [renewals, vec![new("b", 999, 0)]].concat();
    let granted = grants(&waiting, &[]);
    assert_eq!(granted.get(..3).unwrap(), ["b/c999", "a/c299", "a/c298"]);
}

#[test]
fn lane_follows_from_what_is_in_place() {
    let lane = |not_after: i64| {
        let facts = certificate("01", &NAMES, -80 * DAY, not_after);
        let o = observed().with_certificate(facts);
        let candidate = Candidate::of(&o, now());
        assert_eq!(candidate.expires, Some(at(not_after)));
        candidate.lane
    };
    assert_eq!(lane(10 * DAY), Lane::Renewal);
    assert_eq!(lane(DAY - 1), Lane::Expiring);
    assert_eq!(lane(-DAY), Lane::Expiring);
    assert_eq!(Candidate::of(&observed(), now()).lane, Lane::New);
}

#[test]
fn one_that_a_person_has_changed_since_it_failed_is_as_good_as_new() {
    let mut o = observed().backing_off_until(-1);
    assert!(Candidate::of(&o, now()).failed);
    o.spec.dns_names.push("c.example".into());
    assert!(!Candidate::of(&o, now()).failed);
}

#[test]
fn after_an_outage_five_begin_in_the_first_minute_soonest_expiry_first_and_other_cas_are_unharmed()
{
    let short = SignedDuration::from_secs(59);
    assert_eq!(Ramp::after(short, now()), None);
    let ramp = Ramp::after(SignedDuration::from_hours(72), now()).unwrap();
    let mut ramps = BTreeMap::from([(DIRECTORY.to_owned(), ramp)]);
    let waiting: Vec<Placed> = (0..20)
        .map(|n| {
            expiring(
                new("a", n, 0),
                Lane::Expiring,
                10_000 - i64::try_from(n).unwrap(),
            )
        })
        .collect();
    let begin = |ramps: &BTreeMap<String, Ramp>, seconds| {
        plan_grants(&waiting, &[], MOST, ramps, at(seconds))
    };
    assert_eq!(begin(&ramps, 0), [], "those who waited gather");
    assert_eq!(ramp.next(at(0)), at(1));
    assert!(ramp.voids(at(0)) && !ramp.voids(at(1)));
    let five = begin(&ramps, 1);
    let names: Vec<&str> = five.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["c019", "c018", "c017", "c016", "c015"]);
    for _ in five {
        ramps.get_mut(DIRECTORY).unwrap().take();
    }
    assert_eq!(begin(&ramps, 59), []);
    let mut other = new("a", 30, 0);
    other.candidate.directory = "https://other.example/directory".to_owned();
    let beside = plan_grants(
        &[waiting.clone(), vec![other]].concat(),
        &[],
        MOST,
        &ramps,
        at(59),
    );
    assert_eq!(beside.len(), 1, "the other CA's");
    assert_eq!(begin(&ramps, 60).len(), MOVING);
    assert_eq!(ramp.allows(at(-5)), Some(0), "a pass that began before");
    assert_eq!(ramp.allows(at(-61)), None, "a clock that was set back");
}
