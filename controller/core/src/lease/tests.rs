use super::*;

const OWN: &str = "a";

fn own() -> Candidacy {
    Candidacy {
        identity: OWN.to_owned(),
        duration: Duration::from_secs(10),
    }
}

fn at(seconds: u64) -> Uptime {
    Uptime::new(Duration::from_secs(seconds))
}

fn record(holder: &str, renewed: i64) -> LeaseRecord {
    LeaseRecord {
        holder: Some(holder.to_owned()),
        duration_seconds: Some(10),
        transitions: Some(3),
        renewed: Some(Timestamp::from_second(renewed).unwrap()),
    }
}

fn seen(record: LeaseRecord, since: u64) -> Seen {
    Seen::look(None, Some(record), at(since))
}

/// Taken at 100, renewed there, the next renewal due at 102.
fn claim() -> Claim {
    Claim {
        transition: 3,
        since: at(100),
        next: at(102),
    }
}

fn standby(seen: &Seen, now: u64) -> LeaseStep {
    plan_lease(&own(), None, seen, at(now))
}

fn holder(seen: &Seen, now: u64) -> LeaseStep {
    plan_lease(&own(), Some(&claim()), seen, at(now))
}

#[test]
fn a_lease_that_is_not_there_or_is_nobodys_is_taken_at_once() {
    let none = Seen::look(None, None, at(5));
    assert_eq!(standby(&none, 5), LeaseStep::Take { transition: 0 });
    for nobody in [None, Some(String::new())] {
        let given_back = LeaseRecord {
            holder: nobody,
            ..record("b", 0)
        };
        assert_eq!(
            standby(&seen(given_back, 5), 5),
            LeaseStep::Take { transition: 4 }
        );
    }
}

#[test]
fn a_standby_waits_a_whole_claim_from_what_it_last_saw_whatever_the_holders_clock_says() {
    // Renewed an age ago, or ages ahead.
    for renewed in [-9_000_000_000, 0, 9_000_000_000] {
        let lease = seen(record("b", renewed), 100);
        let wait = LeaseStep::Wait { until: at(110) };
        assert_eq!(standby(&lease, 100), wait, "renewed {renewed}");
        assert_eq!(standby(&lease, 109), wait);
        assert_eq!(standby(&lease, 110), LeaseStep::Take { transition: 4 });
    }
}

#[test]
fn each_renewal_begins_the_wait_anew_and_another_look_does_not() {
    let first = seen(record("b", 50), 100);
    let again = Seen::look(Some(&first), Some(record("b", 50)), at(107));
    assert_eq!(standby(&again, 107), LeaseStep::Wait { until: at(110) });
    // Renewed by a clock that was set back: it is a renewal all the same.
    let renewed = Seen::look(Some(&again), Some(record("b", 49)), at(108));
    assert_eq!(standby(&renewed, 110), LeaseStep::Wait { until: at(118) });
    let gone = Seen::look(Some(&renewed), None, at(109));
    assert_eq!(standby(&gone, 109), LeaseStep::Take { transition: 0 });
}

#[test]
fn odd_values_of_another_make_the_wait_no_shorter_than_the_own_claim_and_no_longer_than_a_minute() {
    for (said, waits) in [
        (None, 10),
        (Some(i32::MIN), 10),
        (Some(-1), 10),
        (Some(0), 10),
        (Some(1), 10),
        (Some(15), 15),
        (Some(60), 60),
        (Some(i32::MAX), 60),
    ] {
        let odd = LeaseRecord {
            duration_seconds: said,
            ..record("b", 0)
        };
        let until = at(100 + waits);
        assert_eq!(
            standby(&seen(odd, 100), 100),
            LeaseStep::Wait { until },
            "{said:?}"
        );
    }
    for (before, next) in [(None, 0), (Some(-7), 1), (Some(i32::MAX), 0)] {
        let odd = LeaseRecord {
            holder: None,
            transitions: before,
            ..record("b", 0)
        };
        let take = LeaseStep::Take { transition: next };
        assert_eq!(standby(&seen(odd, 0), 0), take, "{before:?}");
    }
}

#[test]
fn one_that_starts_again_under_its_name_does_not_wait_for_itself() {
    let own = seen(record(OWN, 0), 100);
    assert_eq!(standby(&own, 100), LeaseStep::Take { transition: 4 });
}

#[test]
fn a_holder_renews_when_it_is_due_and_counts_from_before_its_request() {
    let lease = seen(record(OWN, 0), 101);
    assert_eq!(holder(&lease, 101), LeaseStep::Hold { until: at(102) });
    assert_eq!(holder(&lease, 102), LeaseStep::Renew);
    assert_eq!(holder(&lease, 109), LeaseStep::Renew);
    assert_eq!(holder(&lease, 110), LeaseStep::Stop(Lost::RanOut));
    // The machine slept.
    assert_eq!(holder(&lease, 9_999), LeaseStep::Stop(Lost::RanOut));
}

#[test]
fn a_holder_waits_no_longer_than_its_claim_lasts() {
    let late = Claim {
        next: at(200),
        ..claim()
    };
    let lease = seen(record(OWN, 0), 101);
    let step = plan_lease(&own(), Some(&late), &lease, at(101));
    assert_eq!(step, LeaseStep::Hold { until: at(110) });
}

#[test]
fn a_holder_stops_at_once_when_the_lease_is_anothers() {
    let by = |holder: &str| {
        LeaseStep::Stop(Lost::Taken {
            by: Some(holder.to_owned()),
        })
    };
    assert_eq!(holder(&seen(record("b", 0), 101), 101), by("b"));
    // Another process of the same name.
    let twin = LeaseRecord {
        transitions: Some(4),
        ..record(OWN, 0)
    };
    assert_eq!(holder(&seen(twin, 101), 101), by(OWN));
    let cleared = LeaseRecord {
        holder: Some(String::new()),
        ..record(OWN, 0)
    };
    assert_eq!(
        holder(&seen(cleared, 101), 101),
        LeaseStep::Stop(Lost::Taken { by: None })
    );
}

#[test]
fn a_holder_puts_a_deleted_lease_back_when_its_renewal_is_due() {
    let gone = Seen::look(None, None, at(101));
    assert_eq!(holder(&gone, 101), LeaseStep::Hold { until: at(102) });
    assert_eq!(holder(&gone, 102), LeaseStep::Renew);
    assert_eq!(holder(&gone, 110), LeaseStep::Stop(Lost::RanOut));
}

#[test]
fn a_holder_has_stopped_before_a_standby_that_saw_its_last_renewal_begins() {
    // The request was sent at 100 and seen by the other at 100 at the earliest, whatever the clocks show: 70 there.
    let lease = seen(record(OWN, 0), 100);
    let (mut stopped, mut began) = (None, None);
    let other = Candidacy {
        identity: "b".to_owned(),
        ..own()
    };
    let others_view = seen(record(OWN, 0), 70);
    for second in 0..30 {
        if holder(&lease, 100 + second) == LeaseStep::Stop(Lost::RanOut) {
            stopped = stopped.or(Some(second));
        }
        let step = plan_lease(&other, None, &others_view, at(70 + second));
        if matches!(step, LeaseStep::Take { .. }) {
            began = began.or(Some(second));
        }
    }
    assert_eq!((stopped, began), (Some(10), Some(10)));
}

#[test]
fn a_claim_is_renewed_every_fifth_of_its_time_and_tried_again_sooner() {
    assert_eq!(own().renew_every(), Duration::from_secs(2));
    assert_eq!(own().retry_after(), Duration::from_secs(1));
}
