//! What a step does in the model: at the CA, in the ledger, to the Secret.

use super::*;

impl World {
    pub(super) fn execute(&mut self, index: usize, next: &Plan, now: Timestamp) -> Change {
        match &next.step {
            Step::PlaceOrder => return self.place(index, now),
            Step::Record(failure) => return Change::Failed(failure.clone()),
            Step::PollRenewalInfo => return Change::Polled(self.poll(index, now)),
            _ => {}
        }
        let o = &mut self.actors[index].observed;
        match &next.step {
            Step::PrepareKey => o.companion.pending_key = Some(KeyKind::Ecdsa(256)),
            Step::DropPendingKey => o.companion.pending_key = None,
            Step::KeepCopy => {
                if let SecretObservation::Ours(secret) = &o.secret {
                    let facts = secret.content.clone().ok();
                    o.companion.last_good = facts.map(|f| (f, secret.marks.clone()));
                }
            }
            Step::WriteFallback { .. } => {
                assert!(!o.is_served_well(now), "a usable certificate was given up");
                self.tally.fallbacks += 1;
                let facts = build_facts("fa", o.wanted_names(), now, 90.0 * DAY);
                o.secret = SecretObservation::Ours(TlsSecret {
                    content: Ok(facts),
                    marks: Marks::default(),
                    fallback: true,
                    immutable: false,
                    marks_in_step: true,
                });
            }
            Step::Restore => {
                if let Some((facts, marks)) = o.companion.last_good.clone() {
                    o.secret = SecretObservation::Ours(TlsSecret {
                        content: Ok(facts),
                        marks,
                        fallback: false,
                        immutable: false,
                        marks_in_step: true,
                    });
                }
            }
            Step::Wait | Step::Queue(_) => {}
            step => panic!("not played here: {step:?}"),
        }
        Change::None
    }

    fn place(&mut self, index: usize, now: Timestamp) -> Change {
        if let Some((since, _)) = self.breaker {
            self.ask_after_outage(index, since, now);
            return Change::None;
        }
        let order = self.new_order(index, now);
        let taken = self.ledger.take(&self.model, &order, now);
        // A request takes its time on the way.
        let arrives = self.now + self.dice.between(0.01, 5.0);
        let replaces = order.replaces;
        match self.ca.new_order(ACCOUNT, &order.names, replaces, arrives) {
            Ok(()) => {
                self.tally.order(self.now);
                self.tally.replacing += usize::from(replaces);
                if let Some(pulled) = self.tally.pulled.get_mut(&index) {
                    pulled.orders += usize::from(pulled.after.is_none());
                }
                let slow = self.dice.is(0.01);
                let lasts = if slow {
                    self.dice.between(60.0, 4_000.0)
                } else {
                    self.dice.between(0.5, 8.0)
                };
                let now_true = self.now;
                let renewal = self.actors[index].observed.status.renewal_time.as_ref();
                let due = renewal.map_or(now_true, |at| self.true_time(at.0));
                let actor = &mut self.actors[index];
                (actor.placed_at, actor.due) = (now_true, due);
                actor.taken = taken;
                let issuer = actor.observed.issuer_id();
                self.later(index, lasts, true);
                Change::Placed(OrderStatus {
                    url: format!("{ACCOUNT}/order/{index}"),
                    issuer,
                    names: order.names,
                    created_at: whole_seconds(now),
                    expires: None,
                    profile: None,
                })
            }
            Err(Refusal::Down) => {
                self.ledger.give_back(&self.model, &taken);
                self.note_outage(now);
                let key = self.actors[index].observed.key.clone();
                self.free(&key);
                Change::None
            }
            Err(Refusal::Limit(words, again)) => {
                self.tally.order(self.now);
                self.tally.refuse(&words);
                self.ledger.give_back(&self.model, &taken);
                let mut refused = fault(FaultClass::RateLimited, &words);
                refused.retry_after = Some(instant(again, self.skew));
                self.ledger.learn(&self.model, &order, &refused, now);
                Change::Failed(failure(Reason::RateLimited, refused))
            }
        }
    }

    /// When this one may ask: one after the other.
    pub(super) fn turn(&mut self, index: usize) -> Seconds {
        let actor = &mut self.actors[index];
        if let Some(turn) = actor.turn.filter(|turn| self.now - turn <= 10.0) {
            actor.turn = Some(turn).filter(|turn| *turn > self.now);
            return turn;
        }
        let turn = self.next_poll.max(self.now);
        self.next_poll = turn + 0.1;
        actor.turn = Some(turn).filter(|turn| *turn > self.now);
        turn
    }

    fn poll(&mut self, index: usize, now: Timestamp) -> RenewalInfoStatus {
        self.tally.poll(self.now);
        let actor = &self.actors[index];
        let came = actor.good_until - actor.lifetime;
        let window = self.ca.window(came, actor.lifetime, self.now);
        let answer = window.map(|(start, end, revoked)| RenewalInfo {
            start: instant(start, 0.0),
            end: instant(end, 0.0),
            explanation_url: revoked.then(|| INCIDENT.to_owned()),
            retry_after: now.checked_add(SignedDuration::from_hours(6)).ok(),
        });
        let answer = answer.ok_or_else(|| NoRenewalInfo {
            lasting: false,
            retry_after: None,
            detail: "it does not answer".into(),
        });
        let o = &actor.observed;
        let facts = o.certificate().unwrap();
        let id = facts.renewal_id.as_deref().unwrap();
        note_poll(
            o.status.renewal_info.as_ref(),
            id,
            facts.not_after,
            &answer,
            now,
        )
    }

    /// Before an order the CA is asked for something that costs nothing; where it answers, all begin in their turn.
    fn ask_after_outage(&mut self, index: usize, since: Timestamp, now: Timestamp) {
        let key = self.actors[index].observed.key.clone();
        if !self.ca.is_up(self.now) {
            self.note_outage(now);
            self.free(&key);
            return;
        }
        self.breaker = None;
        let has_order = |index: usize| self.actors[index].observed.status.order.is_some();
        // A place from before does not count.
        self.under_way.retain(|key, _| has_order(self.by_key[key]));
        if let Some(ramp) = Ramp::after(now.duration_since(since), now) {
            let next = self.true_time(ramp.next(now)) + 0.01;
            self.at(next, Event::Grant);
            self.at(next + 60.0, Event::Grant);
            self.ramps.insert(DIRECTORY.into(), ramp);
        }
        for index in 0..self.actors.len() {
            let is_waiting = self.actors[index].observed.gate.is_some();
            if is_waiting && self.actors[index].born <= self.now {
                self.wake(index, self.now + 0.02);
            }
        }
    }

    pub(super) fn note_outage(&mut self, now: Timestamp) {
        let since = self.breaker.map_or(now, |(since, _)| since);
        let until = now.checked_add(outage_wait(since, now)).unwrap();
        self.breaker = Some((since, until));
        self.tally.probes += 1;
    }

    /// The CA has an answer for an order, if it is up.
    pub(super) fn end_order(&mut self, index: usize) {
        if !self.ca.is_up(self.now) {
            self.later(index, 300.0, true);
            return;
        }
        self.account_for(index);
        let (now, at) = (self.clock(), self.now);
        let names = self.actors[index].observed.wanted_names();
        let taken = std::mem::take(&mut self.actors[index].taken);
        let is_dead = self.actors[index].is_dead(at);
        let change = if is_dead {
            let failed = names.first().cloned().into_iter().collect::<Vec<_>>();
            self.ca.fail(ACCOUNT, &failed[0], at);
            self.tally.fail(&failed[0], at);
            self.ledger.give_back(&self.model, &taken);
            self.ledger.fail(&self.model, ACCOUNT, &failed, now);
            let fault = fault(FaultClass::Validation, "it leads elsewhere");
            Change::Failed(failure(Reason::ValidationFailed, fault))
        } else {
            self.ca.issue(&names, at);
            for name in &names {
                self.ca.validated(ACCOUNT, name);
            }
            self.issue(index, now);
            Change::Cleared(Ending::issued("stored"))
        };
        let o = &mut self.actors[index].observed;
        let mut status = o.status.clone();
        apply_change(o, &mut status, &change, now);
        o.status = status;
        let key = o.key.clone();
        self.free(&key);
        self.wake(index, at + 0.02);
    }

    fn issue(&mut self, index: usize, now: Timestamp) {
        let at = self.now;
        let actor = &mut self.actors[index];
        let came = actor.good_until - actor.lifetime;
        let announced = self.ca.revocation.unwrap_or(f64::MAX);
        if actor.good_until > actor.born
            && came < announced
            && announced <= at
            && at < announced + DAY
        {
            self.tally.replaced_after.push(at - announced);
        }
        if let Some(pulled) = self.tally.pulled.get_mut(&index) {
            pulled
                .after
                .get_or_insert_with(|| at - self.ca.pull.unwrap_or(at));
        }
        let o = &mut actor.observed;
        let names = o.wanted_names();
        // By the CA's clock.
        let facts = build_facts("0c", names.clone(), instant(at, 0.0), actor.lifetime);
        self.ledger.succeed(ACCOUNT, &names, facts.not_after, now);
        let marks = Marks {
            issuer: Some(o.issuer_id()),
            directory: Some(DIRECTORY.into()),
            names: Some(names),
            profile: None,
            issued_at: Some(now),
            revoke: None,
        };
        o.companion = Companion {
            pending_key: None,
            last_good: Some((facts.clone(), marks.clone())),
            ..Companion::default()
        };
        o.secret = SecretObservation::Ours(TlsSecret {
            content: Ok(facts),
            marks,
            fallback: false,
            immutable: false,
            marks_in_step: true,
        });
        self.tally.issued += 1;
        if actor.good_until <= actor.born {
            self.tally.first(at - actor.born);
        }
        actor.good_until = at + actor.lifetime;
        actor.is_without = false;
    }

    /// Counts the time without a usable certificate since the last look, and whose fault it was.
    pub(super) fn account_for(&mut self, index: usize) {
        let actor = &mut self.actors[index];
        let (now, ended) = (self.now, actor.good_until);
        if ended <= actor.born || ended >= now {
            return;
        }
        // The next attempt may come a day after the name leads here again.
        let is_dead = |at: Seconds| {
            actor
                .dead
                .iter()
                .any(|(from, to)| *from <= at && at < *to + 1.2 * DAY)
        };
        self.tally.without += now - ended;
        // The first instant tells whose fault it is; the rest is counted from here on next time.
        if !std::mem::replace(&mut actor.is_without, true) {
            let up = |spans: &[(Seconds, Seconds)]| {
                !spans
                    .iter()
                    .any(|(from, to)| *from < ended && ended - FAULT < *to)
            };
            if is_dead(ended) {
                self.tally.expired_dead += 1;
            } else if up(&self.ca.outages) && up(&self.downs) {
                self.tally.expired_by_us += 1;
            } else {
                self.tally.expired_by_outage += 1;
            }
        }
        actor.good_until = now;
    }
}
