use evercert_api::Reason;
use evercert_api::certificate::RenewalInfoStatus;
use jiff::Timestamp;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::cases::config;
use crate::need::find_need;
use crate::observe::{Gate, Marks};
use crate::plan::fixtures::{DAY, at, good, marks, now, observed};
use crate::plan::{Step, fixtures, plan};
use crate::renewal::plan_renewal_after;
use crate::report::{Change, apply_change, build_status};

const HOUR: i64 = 3_600;

fn info(start: i64, end: i64) -> RenewalInfo {
    RenewalInfo {
        start: at(start),
        end: at(end),
        explanation_url: None,
        retry_after: None,
    }
}

fn failed(lasting: bool) -> Result<RenewalInfo, NoRenewalInfo> {
    Err(NoRenewalInfo {
        lasting,
        retry_after: None,
        detail: "it does not answer in time".into(),
    })
}

/// [`good`] in place, from a CA with renewal information that was asked so. Nothing is spread.
fn told(answer: &Result<RenewalInfo, NoRenewalInfo>) -> Observed {
    let mut o = observed()
        .with_certificate(good())
        .with_last_good(good())
        .offering_renewal_info();
    let noted = note_poll(None, "id.01", good().not_after, answer, now());
    o.status.renewal_info = Some(noted);
    o.renewal_spread = SignedDuration::ZERO;
    o
}

fn secret(o: &Observed) -> &TlsSecret {
    o.issued_secret().unwrap()
}

/// Seconds from now on.
fn renewal(o: &Observed) -> i64 {
    let facts = o.certificate().unwrap();
    let at = plan_renewal_after(o, facts, secret(o).marks.issued_at).at;
    at.duration_since(now()).as_secs()
}

#[test]
fn a_new_certificate_is_asked_about_at_once_and_then_when_the_ca_says() {
    let mut o = observed()
        .with_certificate(good())
        .with_last_good(good())
        .offering_renewal_info();
    assert_eq!(plan(&o, now()).step, Step::PollRenewalInfo);
    let mut wait = |retry_after: Option<i64>| {
        let mut answer = info(DAY, 2 * DAY);
        answer.retry_after = retry_after.map(at);
        let noted = note_poll(None, "id.01", good().not_after, &Ok(answer), now());
        let mut status = o.status.clone();
        apply_change(&o, &mut status, &Change::Polled(noted), now());
        o.status = status;
        let next = plan(&o, now());
        assert_eq!((next.row, &next.step), ("settle", &Step::Wait));
        next.wake.duration_since(now()).as_secs()
    };
    assert_eq!(wait(None), 6 * HOUR, "a missing Retry-After");
    assert_eq!(wait(Some(3 * HOUR)), 3 * HOUR);
    assert_eq!(wait(Some(5)), 60, "a minute at least");
    assert_eq!(wait(Some(-100)), 60);
    assert_eq!(wait(Some(400 * DAY)), DAY, "a day at most");
    assert_eq!(plan(&o, at(DAY)).row, "settle");
    assert_eq!(plan(&o, at(DAY - 1)).step, Step::Wait);
    assert_eq!(plan(&o, at(DAY)).step, Step::PollRenewalInfo);
}

#[test]
fn only_its_own_ca_is_asked_about_a_certificate_while_it_is_valid_and_the_ca_answers() {
    let o = || {
        observed()
            .with_certificate(good())
            .with_last_good(good())
            .offering_renewal_info()
    };
    let polls = |o: &Observed, seconds: i64| next_poll(o, secret(o), at(seconds)).is_some();
    assert!(polls(&o(), 0));
    assert!(!polls(&o(), 51 * DAY), "expired");
    let mut other = marks();
    other.directory = Some("https://other.example/d".into());
    assert!(!polls(&o().with_marks(other), 0));
    assert!(
        !polls(&observed().with_certificate(good()), 0),
        "not offered"
    );
    let mut unnamed = good();
    unnamed.renewal_id = None;
    assert!(!polls(&o().with_certificate(unnamed), 0));
    // Signed by an alternate, whose CA is asked while the first is chosen.
    let mut by_alternate = o().with_marks(Marks {
        issuer: Some("Issuer/b".into()),
        directory: Some("https://b.example/dir".into()),
        ..marks()
    });
    assert!(!polls(&by_alternate, 0));
    by_alternate.others = vec![fixtures::other("Issuer/b", Some("https://b.example/dir"))];
    assert!(polls(&by_alternate, 0));
    by_alternate = by_alternate.gated_until(90);
    let turn = |o: &Observed| next_poll(o, secret(o), now());
    let why = "that is the first's directory";
    assert_eq!(turn(&by_alternate), Some(now()), "{why}");
    by_alternate.others[0].gate = by_alternate.gate.clone();
    assert_eq!(turn(&by_alternate), Some(at(90)));
    let held = o().gated_until(90);
    assert_eq!(plan(&held, now()).step, Step::Wait);
    assert_eq!(plan(&held, now()).wake, at(90));
    let mut queued = o();
    queued.poll_turn = Some(at(7));
    assert_eq!(
        (plan(&queued, now()).step, plan(&queued, now()).wake),
        (Step::Wait, at(7))
    );
    assert_eq!(plan(&queued, at(7)).step, Step::PollRenewalInfo);
    let gate = Gate {
        until: at(-1),
        ..held.gate.unwrap()
    };
    assert_eq!(
        plan(
            &Observed {
                gate: Some(gate),
                ..o()
            },
            now()
        )
        .step,
        Step::PollRenewalInfo
    );
}

#[test]
fn a_poll_that_was_planned_further_away_than_a_day_is_made_now() {
    let mut o = told(&Ok(info(DAY, 2 * DAY)));
    let set = |o: &mut Observed, seconds| {
        if let Some(info) = &mut o.status.renewal_info {
            info.next_poll_time = whole_seconds(at(seconds));
        }
    };
    set(&mut o, 2 * DAY);
    assert_eq!(plan(&o, now()).step, Step::PollRenewalInfo);
    set(&mut o, HOUR);
    assert_eq!(plan(&o, now()).wake, at(HOUR));
}

#[test]
fn failures_that_last_are_tried_again_in_six_hours_and_others_sooner_at_first() {
    let polled = |known: Option<&RenewalInfoStatus>, answer: &Result<_, _>| {
        note_poll(known, "id.01", good().not_after, answer, now())
    };
    let wait = |info: &RenewalInfoStatus| info.next_poll_time.0.duration_since(now()).as_secs();
    let lasting = polled(None, &failed(true));
    assert_eq!((wait(&lasting), lasting.failures), (6 * HOUR, 1));
    let mut known: Option<RenewalInfoStatus> = None;
    let mut waits = Vec::new();
    for _ in 0..12 {
        known = Some(polled(known.as_ref(), &failed(false)));
        waits.push(known.as_ref().map(wait).unwrap() / 60);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]);
    assert!(
        known
            .as_ref()
            .unwrap()
            .failure
            .as_deref()
            .unwrap()
            .contains("in time")
    );
    let mut said = failed(true);
    if let Err(why) = &mut said {
        why.retry_after = Some(at(HOUR));
    }
    assert_eq!(wait(&polled(None, &said)), HOUR, "unless the CA says when");
    let good = polled(known.as_ref(), &Ok(info(DAY, 2 * DAY)));
    assert_eq!((good.failures, good.failure), (0, None));
}

#[test]
fn a_failure_leaves_the_window_that_was_known_for_this_certificate_only() {
    let first = note_poll(
        None,
        "id.01",
        good().not_after,
        &Ok(info(DAY, 2 * DAY)),
        now(),
    );
    let after = note_poll(
        Some(&first),
        "id.01",
        good().not_after,
        &failed(false),
        now(),
    );
    assert_eq!((&after.window, after.failures), (&first.window, 1));
    let other = note_poll(
        Some(&first),
        "id.02",
        good().not_after,
        &failed(false),
        now(),
    );
    assert_eq!((other.window, other.failures), (None, 1));
}

#[test]
fn a_window_that_cannot_be_is_refused_and_the_own_schedule_goes_on() {
    let own = renewal(&observed().with_certificate(good()));
    for (start, end) in [(0, 0), (DAY, 0), (50 * DAY, 51 * DAY), (60 * DAY, 90 * DAY)] {
        let o = told(&Ok(info(start, end)));
        assert_eq!(renewal(&o), own, "{start} {end}");
        let noted = o.status.renewal_info.unwrap();
        assert!(noted.window.is_none() && noted.failure.unwrap().contains("not believed"));
        assert_eq!(noted.next_poll_time.0, at(6 * HOUR));
    }
    let mut forged = told(&Ok(info(DAY, 2 * DAY)));
    let window = forged
        .status
        .renewal_info
        .as_mut()
        .and_then(|i| i.window.as_mut());
    window.unwrap().end = whole_seconds(at(-DAY));
    assert_eq!(renewal(&forged), own, "a forged status");
}

#[test]
fn the_instant_is_in_the_window_spread_by_a_hash_and_the_same_after_a_restart() {
    let mut ats: Vec<i64> = (0..1_000)
        .map(|i| {
            let mut o = told(&Ok(info(DAY, 3 * DAY)));
            o.key.name = format!("site{i}");
            assert_eq!(renewal(&o), renewal(&o.clone()));
            renewal(&o)
        })
        .collect();
    ats.sort_unstable();
    assert!(ats.iter().all(|at| (DAY..=3 * DAY).contains(at)));
    for quarter in ats.chunks(250) {
        let width = quarter[249] - quarter[0];
        assert!((DAY / 3..DAY).contains(&width), "{width}");
    }
    let (own, o) = (
        renewal(&observed().with_certificate(good())),
        told(&Ok(info(40 * DAY, 41 * DAY))),
    );
    assert!(renewal(&o) > own, "later than the own schedule, too");
    assert!(renewal(&told(&Ok(info(46 * DAY, 49 * DAY)))) <= 50 * DAY - 90 * DAY / 20);
}

#[test]
fn a_window_in_the_past_makes_a_renewal_due_and_says_who_asks_and_where_to_read() {
    let mut answer = info(-2 * DAY, -DAY);
    answer.explanation_url = Some("https://ca.example/incident".into());
    let o = told(&Ok(answer));
    let need = find_need(&o, now()).unwrap();
    assert_eq!((need.reason, need.still_good), (Reason::Renewing, true));
    assert!(
        need.message.contains("the CA asks for its renewal"),
        "{}",
        need.message
    );
    assert!(
        need.message.contains("https://ca.example/incident"),
        "{}",
        need.message
    );
    assert_eq!(find_replaced(&o), Some("id.01"));
    let status = build_status(&o, &plan(&o, now()), now());
    assert!(status.renewal_info.is_some());
    let backing_off = o.with_pending_key().backing_off_until(60);
    assert_eq!(
        plan(&backing_off, now()).row,
        "backing off",
        "the own backoff holds"
    );
}

/// Seen elsewhere: the window of the old certificate, applied to the new one, made five certificates in ten seconds.
#[test]
fn a_window_of_the_certificate_before_says_nothing_about_the_new_one() {
    let mut o = told(&Ok(info(-2 * DAY, -DAY)));
    assert!(find_need(&o, now()).is_some());
    let mut new = good();
    new.renewal_id = Some("id.02".into());
    o = o.with_certificate(new.clone()).with_last_good(new);
    assert_eq!(find_need(&o, now()), None);
    assert_eq!(find_replaced(&o), None, "its CA was not asked about it yet");
    let next = plan(&o, now());
    assert_eq!(next.step, Step::PollRenewalInfo);
    assert!(build_status(&o, &next, now()).renewal_info.is_none());
}

#[test]
fn a_ca_that_always_says_at_once_gets_an_order_in_six_hours_at_most() {
    let o = told(&Ok(info(-2 * DAY, -DAY)));
    let facts = o.certificate().unwrap();
    let came = |seconds| plan_renewal_after(&o, facts, Some(at(seconds))).at;
    assert_eq!(came(-60), at(6 * HOUR - 60));
    assert_eq!(
        came(49 * DAY),
        at(45 * DAY + DAY / 2),
        "a twentieth is left"
    );
    assert!(came(-DAY) <= now());
}

#[test]
fn an_order_replaces_what_its_own_ca_knows_and_what_shares_a_name() {
    let o = || told(&Ok(info(-2 * DAY, -DAY)));
    assert_eq!(find_replaced(&o()), Some("id.01"));
    assert_eq!(
        find_replaced(&o().with_names(&["b.example", "x.example"])),
        Some("id.01")
    );
    assert_eq!(find_replaced(&o().with_names(&["x.example"])), None);
    assert_eq!(
        find_replaced(&told(&failed(true))),
        None,
        "the CA does not know it"
    );
    let mut other = marks();
    other.directory = Some("https://other.example/d".into());
    assert_eq!(find_replaced(&o().with_marks(other)), None);
    let withdrawn = o().with_issuer("Issuer/ca", "https://ca.example/directory");
    assert_eq!(find_replaced(&withdrawn), None, "it offers none any more");
}

#[test]
fn it_is_news_when_a_renewal_comes_sooner() {
    let facts = good();
    let news = |sooner: i64, known, new| is_news(at(sooner), now(), &facts, (known, new));
    assert!(news(5 * DAY, None, None));
    assert!(!news(DAY, None, None), "little");
    assert!(news(DAY, None, Some("https://a")));
    assert!(
        !news(DAY, Some("https://a"), Some("https://a")),
        "told before"
    );
    assert!(!news(-DAY, None, Some("https://a")), "later");
    assert!(!news(0, None, Some("https://a")));
}

#[test]
fn a_window_that_was_over_when_it_was_first_known_is_spread_over_the_operators_setting() {
    let over = info(-2 * DAY, -DAY);
    let crowd = |spread: i64| {
        let mut ats: Vec<i64> = (0..1_000)
            .map(|i| {
                let mut o = told(&Ok(over.clone()));
                o.key.name = format!("site{i}");
                o.renewal_spread = SignedDuration::from_secs(spread);
                assert_eq!(renewal(&o), renewal(&o.clone()), "after a restart");
                renewal(&o)
            })
            .collect();
        ats.sort_unstable();
        ats
    };
    let ats = crowd(1_200);
    assert!(ats.iter().all(|at| (0..=1_200).contains(at)), "{ats:?}");
    for quarter in ats.chunks(250) {
        let width = quarter[249] - quarter[0];
        assert!((200..400).contains(&width), "{width}");
    }
    assert!(crowd(0).iter().all(|at| *at == 0), "no spread");
    let most = 90 * DAY / 20;
    let ats = crowd(90 * DAY);
    assert!(ats.iter().all(|at| (0..=most).contains(at)), "{ats:?}");
    assert!(ats[999] > most / 2, "a twentieth of the lifetime");

    // One that is open, and one that passed while it was known, are as ever.
    let mut open = told(&Ok(info(-DAY, DAY)));
    open.renewal_spread = SignedDuration::from_secs(1_200);
    let same = renewal(&open);
    open.renewal_spread = SignedDuration::ZERO;
    assert_eq!(renewal(&open), same);
}

#[test]
fn what_is_asked_for_ever_since_is_known_since_it_was_asked_for_first() {
    let poll = |known: Option<&RenewalInfoStatus>, start, end, seconds| {
        let answer = Ok(info(start, end));
        note_poll(known, "id.01", good().not_after, &answer, at(seconds))
    };
    let since = |noted: &RenewalInfoStatus| {
        let window = noted.window.as_ref().unwrap();
        window.known_since.as_ref().map(|since| since.0)
    };
    let ahead = poll(None, DAY, 2 * DAY, 0);
    assert_eq!(since(&ahead), Some(now()));
    let again = poll(Some(&ahead), DAY, 2 * DAY, HOUR);
    assert_eq!(since(&again), Some(now()), "the same window");
    let over = poll(Some(&again), -DAY, -HOUR, 6 * HOUR);
    assert_eq!(since(&over), Some(at(6 * HOUR)), "it moved to the past");
    let back = poll(Some(&over), 11 * HOUR, 12 * HOUR, 13 * HOUR);
    assert_eq!(
        since(&back),
        Some(at(6 * HOUR)),
        "counted back from each poll"
    );
    let unanswered = note_poll(
        Some(&back),
        "id.01",
        good().not_after,
        &failed(false),
        at(14 * HOUR),
    );
    assert_eq!(since(&unanswered), Some(at(6 * HOUR)));
    let set_back = poll(Some(&over), -DAY, -HOUR, 5 * HOUR);
    assert_eq!(
        since(&set_back),
        Some(at(5 * HOUR)),
        "by a clock that was fast"
    );
    let calm = poll(Some(&back), 20 * DAY, 21 * DAY, 15 * HOUR);
    assert_eq!(since(&calm), Some(at(15 * HOUR)), "the CA thought better");
    let mut older = over;
    if let Some(window) = &mut older.window {
        window.known_since = None;
    }
    assert_eq!(
        since(&poll(Some(&older), -DAY, -HOUR, 7 * HOUR)),
        Some(at(7 * HOUR)),
        "of an earlier version"
    );
}

proptest! {
    #![proptest_config(config())]

    /// A CA says again and again that a window is over, whichever.
    #[test]
    fn polls_postpone_no_renewal_that_is_due_and_a_twentieth_of_the_lifetime_is_left(
        polls in vec((0..9 * DAY, 1..DAY, 1..DAY), 1..9),
        spread in 0..20 * DAY,
        issued in proptest::option::of(-39 * DAY..0_i64),
    ) {
        let mut o = told(&failed(false));
        o.renewal_spread = SignedDuration::from_secs(spread);
        o.status.renewal_info = None;
        let latest = 50 * DAY - 90 * DAY / 20;
        let (mut first, mut t) = (None, 0);
        for (gap, back, width) in polls {
            let answer = Ok(info(t - back - width, t - back));
            let noted = note_poll(
                o.status.renewal_info.as_ref(),
                "id.01",
                good().not_after,
                &answer,
                at(t),
            );
            o.status.renewal_info = Some(noted);
            let facts = o.certificate().unwrap();
            let due = plan_renewal_after(&o, facts, issued.map(at)).at;
            let due = due.duration_since(now()).as_secs();
            prop_assert!(due <= latest);
            prop_assert_eq!(*first.get_or_insert(due), due);
            t += gap;
        }
        let most = spread.min(90 * DAY / 20).max(issued.map_or(0, |at| at + 6 * HOUR));
        let due = first.unwrap_or_default();
        prop_assert!((0..=most).contains(&due), "{due} of {most}");
    }
}

#[test]
fn absurd_instants_do_no_harm() {
    let all = [Timestamp::MIN, Timestamp::UNIX_EPOCH, now(), Timestamp::MAX];
    for start in all {
        for end in all {
            for instant in all {
                let answer = RenewalInfo {
                    start,
                    end,
                    explanation_url: None,
                    retry_after: Some(instant),
                };
                let noted = note_poll(None, "id.01", Timestamp::MAX, &Ok(answer), instant);
                let mut o = told(&failed(true));
                o.status.renewal_info = Some(noted);
                let _ = plan(&o, instant);
                let _ = renewal(&o);
            }
        }
    }
}
