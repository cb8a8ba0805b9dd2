//! A CA with the buckets of Let's Encrypt (acme.md §1), counted in tokens by itself: it shares no line with the model in
//! `evercert_core::limits` that is put to the test here.

use std::collections::{HashMap, HashSet};

use evercert_core::limits::registered_domain;

/// Seconds of true time.
pub(crate) type Seconds = f64;

#[derive(Clone, Copy)]
struct Size {
    capacity: f64,
    refill: Seconds,
}

const ORDERS: Size = Size {
    capacity: 300.0,
    refill: 36.0,
};
const DOMAIN: Size = Size {
    capacity: 50.0,
    refill: 604_800.0 / 50.0,
};
const NAME_SET: Size = Size {
    capacity: 5.0,
    refill: 604_800.0 / 5.0,
};
const FAILURES: Size = Size {
    capacity: 5.0,
    refill: 720.0,
};
const STREAK: Size = Size {
    capacity: 1_152.0,
    refill: 86_400.0,
};

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// No answer that a CA would give.
    Down,
    /// A limit, in the CA's words, and when to come again.
    Limit(String, Seconds),
}

#[derive(Default)]
pub(crate) struct Ca {
    tokens: HashMap<String, (f64, Seconds)>,
    issued: HashSet<String>,
    /// From when to when it does not answer.
    pub(crate) outages: Vec<(Seconds, Seconds)>,
    /// Since when it wants certificates renewed that came before: it is going to revoke them.
    pub(crate) revocation: Option<Seconds>,
    /// Since when it wants certificates renewed at once that came before, and does not say why.
    pub(crate) pull: Option<Seconds>,
    /// From when to when it wants everything renewed sooner, to lighten its load of later.
    pub(crate) shift: Option<(Seconds, Seconds)>,
}

/// The page that says why certificates are revoked.
pub(crate) const INCIDENT: &str = "https://ca.example/incident";

impl Ca {
    pub(crate) fn is_up(&self, at: Seconds) -> bool {
        !self
            .outages
            .iter()
            .any(|(from, to)| *from <= at && at < *to)
    }

    /// Makes an order, or says why not. Certificates are counted when they are issued.
    pub(crate) fn new_order(
        &mut self,
        account: &str,
        names: &[String],
        replaces: bool,
        at: Seconds,
    ) -> Result<(), Refusal> {
        if !self.is_up(at) {
            return Err(Refusal::Down);
        }
        if replaces {
            return Ok(());
        }
        let set = names.join(",");
        for name in names {
            self.look(
                &format!("f{account}{name}"),
                FAILURES,
                at,
                "failed authorizations (5)",
                name,
            )?;
            self.look(
                &format!("p{account}{name}"),
                STREAK,
                at,
                "failed authorizations (1152)",
                name,
            )?;
        }
        self.look(
            &format!("s{set}"),
            NAME_SET,
            at,
            "certificates (5) already issued for this exact set",
            "",
        )?;
        if !self.issued.contains(&set) {
            for domain in domains(names) {
                self.look(
                    &format!("d{domain}"),
                    DOMAIN,
                    at,
                    "certificates (50) already issued",
                    &domain,
                )?;
            }
            self.look(&format!("o{account}"), ORDERS, at, "new orders (300)", "")?;
            self.take(format!("o{account}"), ORDERS, at);
        }
        Ok(())
    }

    /// Begin and end of the window for a certificate (RFC 9773 §4.2), and whether it is about to be revoked.
    pub(crate) fn window(
        &self,
        came: Seconds,
        lifetime: Seconds,
        at: Seconds,
    ) -> Option<(Seconds, Seconds, bool)> {
        let revoked = self
            .revocation
            .filter(|since| came < *since && *since <= at);
        let shifted = self.shift.is_some_and(|(from, to)| from <= at && at < to);
        let ideal = came + lifetime * if shifted { 0.5 } else { 2.0 / 3.0 };
        let is_before = |pull: &Seconds| came < *pull && *pull <= at;
        self.is_up(at)
            .then(|| match revoked.or_else(|| self.pull.filter(is_before)) {
                Some(since) => (since - 3_600.0, since, revoked.is_some()),
                None => (ideal - lifetime / 50.0, ideal + lifetime / 50.0, false),
            })
    }

    /// Signs.
    pub(crate) fn issue(&mut self, names: &[String], at: Seconds) {
        let set = names.join(",");
        self.take(format!("s{set}"), NAME_SET, at);
        if self.issued.insert(set) {
            for domain in domains(names) {
                self.take(format!("d{domain}"), DOMAIN, at);
            }
        }
    }

    /// Could not validate a name.
    pub(crate) fn fail(&mut self, account: &str, name: &str, at: Seconds) {
        self.take(format!("f{account}{name}"), FAILURES, at);
        self.take(format!("p{account}{name}"), STREAK, at);
    }

    pub(crate) fn validated(&mut self, account: &str, name: &str) {
        self.tokens.remove(&format!("p{account}{name}"));
    }

    fn left(&self, key: &str, size: Size, at: Seconds) -> f64 {
        let (tokens, seen) = self.tokens.get(key).copied().unwrap_or((size.capacity, at));
        (tokens + (at - seen).max(0.0) / size.refill).min(size.capacity)
    }

    fn look(
        &self,
        key: &str,
        size: Size,
        at: Seconds,
        what: &str,
        whose: &str,
    ) -> Result<(), Refusal> {
        let left = self.left(key, size, at);
        // What is lost in fractions is no token.
        if left >= 1.0 - 1e-6 {
            return Ok(());
        }
        let again = at + (1.0 - left) * size.refill;
        Err(Refusal::Limit(
            format!("too many {what} for \"{whose}\""),
            again,
        ))
    }

    fn take(&mut self, key: String, size: Size, at: Seconds) {
        let left = self.left(&key, size, at);
        self.tokens.insert(key, (left - 1.0, at));
    }
}

fn domains(names: &[String]) -> HashSet<String> {
    names.iter().map(|name| registered_domain(name)).collect()
}

#[test]
fn the_ca_counts() {
    let mut ca = Ca::default();
    let names = |i: usize| vec![format!("n{i}.example.com")];
    for i in 0..50 {
        assert_eq!(ca.new_order("a", &names(i), false, 0.0), Ok(()));
        ca.issue(&names(i), 0.0);
    }
    let refused = ca.new_order("a", &names(50), false, 0.0);
    assert!(matches!(refused, Err(Refusal::Limit(words, _)) if words.contains("\"example.com\"")));
    assert_eq!(
        ca.new_order("a", &names(0), false, 0.0),
        Ok(()),
        "a renewal"
    );
    assert_eq!(ca.new_order("a", &names(50), true, 0.0), Ok(()), "exempt");
    assert_eq!(ca.new_order("a", &names(50), false, 12_096.0), Ok(()));
    for _ in 0..4 {
        ca.issue(&names(0), 0.0);
    }
    let refused = ca.new_order("a", &names(0), false, 60.0);
    assert!(matches!(refused, Err(Refusal::Limit(words, _)) if words.contains("exact set")));
    let more = (0..400).filter(|i| {
        ca.new_order("a", &[format!("x{i}.org")], false, 20_000.0)
            .is_ok()
    });
    assert_eq!(more.count(), 300);
    for _ in 0..5 {
        ca.fail("a", "dead.net", 0.0);
    }
    assert!(ca.new_order("a", &["dead.net".into()], false, 0.0).is_err());
    assert_eq!(ca.new_order("b", &["dead.net".into()], false, 0.0), Ok(()));
    ca.outages.push((5.0, 6.0));
    assert_eq!(
        ca.new_order("b", &["good.net".into()], false, 5.5),
        Err(Refusal::Down)
    );
}
