use super::*;
use crate::fault::{Fault, FaultClass, Problem};

const ACCOUNT: &str = "https://ca.example/acct/1";
const HOUR: i64 = 3_600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn order(wanted: &[&str]) -> NewOrder {
    NewOrder {
        account: ACCOUNT.into(),
        names: names(wanted),
        urgent: false,
        replaces: false,
        asked_anew: false,
    }
}

fn urgent(wanted: &[&str]) -> NewOrder {
    NewOrder {
        urgent: true,
        ..order(wanted)
    }
}

fn denial(decision: Decision) -> Denial {
    match decision {
        Decision::Granted => panic!("granted"),
        Decision::NotBefore(denial) => denial,
    }
}

/// The ledger of one directory and its limits.
#[derive(Default)]
struct Book(Spent);

impl Book {
    fn decide(&self, order: &NewOrder, now: Timestamp) -> Decision {
        self.0.decide(&Model::lets_encrypt(), order, 0, now)
    }

    fn place(&mut self, order: &NewOrder, now: Timestamp) -> Vec<String> {
        assert_eq!(self.decide(order, now), Decision::Granted);
        self.0.take(&Model::lets_encrypt(), order, now)
    }

    fn refused(
        &mut self,
        order: &NewOrder,
        detail: &str,
        retry_after: Option<i64>,
    ) -> Option<Limit> {
        let fault = Fault {
            class: FaultClass::RateLimited,
            problem: Some(Problem {
                kind: "rateLimited".into(),
                detail: detail.into(),
                subproblems: Vec::new(),
            }),
            http_status: Some(429),
            retry_after: retry_after.map(at),
            help_url: None,
            unsent: false,
            detail: String::new(),
        };
        self.0.learn(&Model::lets_encrypt(), order, &fault, at(0))
    }
}

#[test]
fn the_fifth_certificate_of_a_set_is_kept_for_an_emergency() {
    let mut book = Book::default();
    let site = order(&["a.example"]);
    for i in 0..4 {
        book.place(&site, at(i * 60));
    }
    let held = denial(book.decide(&site, at(HOUR)));
    assert_eq!(held.limit, Limit::NameSet);
    assert_eq!(held.at.duration_since(at(0)).as_hours(), 33);
    assert_eq!(
        held.message,
        "no order is placed, to stay within the CA's limit of certificates for this exact set of names (5 in 7 days): it is used up \
         but for one that is kept for a certificate that is lost or about to expire"
    );
    book.place(&urgent(&["a.example"]), at(HOUR));
    let empty = book.decide(&urgent(&["a.example"]), at(HOUR));
    assert_eq!(denial(empty).limit, Limit::NameSet);
    assert_eq!(
        book.decide(&order(&["b.example"]), at(HOUR)),
        Decision::Granted
    );
}

#[test]
fn names_below_one_registered_domain_share_its_limit() {
    let mut book = Book::default();
    for i in 0..45 {
        book.place(
            &order(&[&format!("n{i}.shop.co.uk"), "www.shop.co.uk"]),
            at(i * 40),
        );
    }
    let denial = denial(book.decide(&order(&["new.shop.co.uk"]), at(HOUR)));
    assert_eq!(denial.limit, Limit::RegisteredDomain("shop.co.uk".into()));
    assert!(
        denial
            .message
            .contains("for shop.co.uk and all names below it (50 in 7 days)"),
        "{}",
        denial.message
    );
    assert_eq!(
        book.decide(&order(&["new.other.co.uk"]), at(HOUR)),
        Decision::Granted
    );
}

#[test]
fn an_account_waits_for_its_next_token_and_another_does_not() {
    let mut book = Book::default();
    // The last one may still be on its way to the CA when the next is decided about.
    for i in 0..269 {
        book.place(&order(&[&format!("n{i}.example")]), at(0));
    }
    let next = denial(book.decide(&order(&["z.example"]), at(1)));
    assert_eq!((next.limit, next.at), (Limit::Orders, at(30)));
    let budget = book
        .0
        .budget(&Model::lets_encrypt(), ACCOUNT, at(1))
        .unwrap();
    assert_eq!(
        (budget.orders, budget.capacity, budget.next),
        (0, 270, Some(at(30)))
    );
    let other = NewOrder {
        account: "https://ca.example/acct/2".into(),
        ..order(&["z.example"])
    };
    assert_eq!(book.decide(&other, at(1)), Decision::Granted);
    assert_eq!(
        book.decide(&urgent(&["z.example"]), at(1)),
        Decision::Granted
    );
    let third = book
        .0
        .decide(&Model::lets_encrypt(), &order(&["z.example"]), 2, at(1));
    assert_eq!(denial(third).at, at(30 + 2 * 36), "two are ahead");
}

#[test]
fn a_renewal_of_the_same_names_counts_for_its_set_alone() {
    let mut book = Book::default();
    let site = order(&["a.example"]);
    assert_eq!(book.place(&site, at(0)).len(), 3);
    book.0
        .succeed(ACCOUNT, &site.names, at(90 * 24 * HOUR), at(0));
    let taken = book.place(&site, at(60 * 24 * HOUR));
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(taken[0].starts_with("set/"), "{taken:?}");
    let replacing = NewOrder {
        replaces: true,
        ..site
    };
    assert!(book.place(&replacing, at(60 * 24 * HOUR)).is_empty());
}

#[test]
fn a_ca_without_published_limits_renews_what_is_due_and_stops_what_goes_round_in_circles() {
    let model = Model::of("https://ca.example/directory");
    let mut spent = Spent::default();
    let site = order(&["a.example"]);
    // An hour of life, renewed after half of it, for two days.
    for i in 0..96 {
        let now = at(i * HOUR / 2);
        spent.tick(&model, now);
        assert_eq!(spent.decide(&model, &site, 0, now), Decision::Granted);
        spent.take(&model, &site, now);
        spent.succeed(
            ACCOUNT,
            &site.names,
            later(now, SignedDuration::from_hours(1)),
            now,
        );
    }
    let mut placed = 0;
    for i in 0..HOUR {
        let now = at(48 * HOUR + i);
        for set in [&site, &order(&["a.example", "b.example"])] {
            if spent.decide(&model, set, 0, now) == Decision::Granted {
                spent.take(&model, set, now);
                spent.succeed(
                    ACCOUNT,
                    &set.names,
                    later(now, SignedDuration::from_hours(24 * 90)),
                    now,
                );
                placed += 1;
            }
        }
    }
    assert!(
        (2..=24).contains(&placed),
        "{placed} orders in an hour of two that undo each other's names"
    );
}

#[test]
fn failures_of_a_name_hold_it_back_whatever_the_set_and_success_ends_their_row() {
    let model = Model::lets_encrypt();
    let mut book = Book::default();
    for i in 0..3 {
        book.0
            .fail(&model, ACCOUNT, &names(&["a.example"]), at(i * 60));
    }
    let held = denial(book.decide(&urgent(&["a.example", "b.example"]), at(180)));
    assert_eq!(
        (held.limit, held.at),
        (Limit::Failures("a.example".into()), at(HOUR))
    );
    assert_eq!(
        book.decide(&order(&["b.example"]), at(180)),
        Decision::Granted
    );
    for i in 0..1_100 {
        book.0
            .fail(&model, ACCOUNT, &names(&["a.example"]), at(i * HOUR));
    }
    let day = 24 * HOUR;
    let held = denial(book.decide(&order(&["a.example"]), at(50 * day)));
    assert_eq!(held.limit, Limit::Streak("a.example".into()));
    book.0
        .succeed(ACCOUNT, &names(&["a.example"]), at(90 * day), at(50 * day));
    assert_eq!(
        book.decide(&order(&["a.example"]), at(50 * day)),
        Decision::Granted
    );
}

#[test]
fn an_order_that_failed_gives_back_what_is_counted_by_certificates() {
    let mut book = Book::default();
    let site = order(&["a.example"]);
    for i in 0..20 {
        let taken = book.place(&site, at(i * 60));
        book.0.give_back(&Model::lets_encrypt(), &taken);
    }
    let budget = book
        .0
        .budget(&Model::lets_encrypt(), ACCOUNT, at(0))
        .unwrap();
    assert!(budget.orders < 260, "{budget:?}");
}

#[test]
fn what_a_ca_says_closes_the_limit_that_it_names_and_no_other() {
    let shop = ["www.shop.example", "api.shop.example"];
    let until =
        "retry after 2027-01-15 10:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/";
    let table = [
        (
            format!(
                "too many certificates (50) already issued for \"shop.example\" in the last 168h0m0s, {until}"
            ),
            Limit::RegisteredDomain("shop.example".into()),
        ),
        (
            format!(
                "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, {until}"
            ),
            Limit::NameSet,
        ),
        (
            format!("too many new orders (300) from this account in the last 3h0m0s, {until}"),
            Limit::Orders,
        ),
        (
            format!(
                "too many failed authorizations (5) for \"api.shop.example\" in the last 1h0m0s, {until}"
            ),
            Limit::Failures("api.shop.example".into()),
        ),
    ];
    let others = [
        order(&["n.shop.example"]),
        order(&["www.other.example"]),
        order(&["www.other.example", "api.shop.example"]),
    ];
    for (detail, limit) in table {
        let mut book = Book::default();
        assert_eq!(
            book.refused(&order(&shop), &detail, Some(HOUR)),
            Some(limit.clone())
        );
        let held = denial(book.decide(&order(&shop), at(1)));
        assert_eq!((&held.limit, held.by_ca), (&limit, true));
        assert!(
            at(HOUR) <= held.at && held.at <= at(HOUR + HOUR / 10),
            "{}",
            held.at
        );
        let goes_on = others
            .each_ref()
            .map(|other| book.decide(other, at(1)) == Decision::Granted);
        let expected = match limit {
            Limit::RegisteredDomain(_) => [false, true, false],
            Limit::NameSet => [true, true, true],
            Limit::Orders => [false, false, false],
            Limit::Failures(_) | Limit::Streak(_) => [true, true, false],
        };
        assert_eq!(goes_on, expected, "{detail}");
        assert_eq!(
            book.decide(&urgent(&shop), held.at),
            Decision::Granted,
            "then one is tried"
        );
        book.0.take(&Model::lets_encrypt(), &order(&shop), held.at);
    }
}

#[test]
fn a_refusal_that_names_no_instant_waits_for_the_next_token_of_the_model() {
    let mut book = Book::default();
    let site = order(&["a.example"]);
    book.refused(&site, "too many new orders (300) from this account", None);
    let held = denial(book.decide(&urgent(&["b.example"]), at(0)));
    assert!(at(36) <= held.at && held.at < at(40), "{}", held.at);
}

#[test]
fn a_refusal_that_is_not_understood_holds_the_set_and_the_account_for_a_while() {
    let mut book = Book::default();
    let site = order(&["a.example"]);
    book.refused(&site, "slow down", Some(6 * HOUR));
    let held = denial(book.decide(&site, at(0)));
    assert!(
        at(6 * HOUR) <= held.at && held.at <= at(7 * HOUR),
        "{}",
        held.at
    );
    let other = denial(book.decide(&order(&["b.example"]), at(0)));
    assert!(at(600) <= other.at && other.at <= at(660), "{}", other.at);
}

#[test]
fn a_ca_is_believed_for_a_day_at_most() {
    let mut book = Book::default();
    let site = order(&["a.example"]);
    book.refused(
        &site,
        "too many certificates (5) already issued for this exact set",
        Some(30 * 24 * HOUR),
    );
    let held = denial(book.decide(&urgent(&["a.example"]), at(0)));
    assert!(held.at <= at(34 * HOUR), "{}", held.at);
}

#[test]
fn a_paused_name_is_tried_once_a_day() {
    let mut book = Book::default();
    let both = order(&["a.example", "b.example"]);
    let fault = "Your account is temporarily prevented from requesting certificates for b.example and possibly others. Please \
                 visit: https://portal.example/sfe/v1/unpause?jwt=x";
    let limit = book.refused(&both, fault, None);
    assert_eq!(limit, Some(Limit::Streak("b.example".into())));
    let held = denial(book.decide(&both, at(0)));
    assert!(held.at >= at(24 * HOUR), "{}", held.at);
    assert_eq!(
        book.decide(&order(&["a.example"]), at(0)),
        Decision::Granted
    );
}

#[test]
fn what_was_written_long_ago_goes() {
    let mut book = Book::default();
    book.place(&order(&["a.example"]), at(0));
    book.0
        .succeed(ACCOUNT, &names(&["a.example"]), at(90 * 24 * HOUR), at(0));
    assert!(book.0.tick(&Model::lets_encrypt(), at(30 * 24 * HOUR)));
    assert!(!book.0.is_empty());
    assert!(book.0.tick(&Model::lets_encrypt(), at(100 * 24 * HOUR)));
    assert!(book.0.is_empty());
}

#[test]
fn a_person_who_has_changed_something_ends_the_wait_of_a_paused_name_and_a_success_forgets_it() {
    let mut book = Book::default();
    let site = order(&["a.example"]);
    let detail = "prevented from requesting certificates for a.example. Please visit: https://portal.example/sfe/v1/unpause?jwt=x";
    book.refused(&site, detail, None);
    assert!(matches!(
        book.decide(&site, at(HOUR)),
        Decision::NotBefore(_)
    ));
    let anew = NewOrder {
        asked_anew: true,
        ..order(&["a.example", "b.example"])
    };
    assert_eq!(book.decide(&anew, at(HOUR)), Decision::Granted);
    book.0.succeed(
        ACCOUNT,
        &names(&["a.example"]),
        at(90 * 24 * HOUR),
        at(HOUR),
    );
    assert_eq!(book.decide(&site, at(HOUR)), Decision::Granted);
}
