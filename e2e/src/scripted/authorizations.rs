//! Authorizations and their challenges (RFC 8555 §7.5, §8).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::answer::Reply;
use super::caa;
use super::endpoint::Resource;
use super::identifier::Identifier;
use super::jws::{Jws, random_token};
use super::problem::Problem;
use super::script::Verdict;
use super::settings::{Profile, Validation};
use super::state::{Authorization, AuthorizationState, Challenge, ChallengeState, State};
use super::validate::Job;

const HTTP_01: &str = "http-01";

impl State {
    /// An authorization for `identifier`: a valid one that may serve again, else a new one.
    pub(super) fn authorize(
        &mut self,
        account: u64,
        identifier: &Identifier,
        profile: &Profile,
    ) -> u64 {
        let now = self.now();
        let (base, wildcard) = (identifier.base(), identifier.is_wildcard());
        if self.settings.reuses_authorizations {
            let mut all = self.authorizations.iter();
            let valid = all.find(|(_, other)| {
                other.account == account
                    && other.identifier == base
                    && other.wildcard == wildcard
                    && other.state_at(now) == AuthorizationState::Valid
            });
            if let Some((number, _)) = valid {
                return *number;
            }
        }
        // A wildcard is not proved by HTTP-01; of the others the client has to choose.
        let kinds: &[&str] = if wildcard {
            &["dns-01"]
        } else {
            &["dns-01", HTTP_01, "tls-alpn-01"]
        };
        let challenge = |kind: &&str| Challenge {
            kind: (*kind).to_owned(),
            token: random_token(),
            state: ChallengeState::Pending,
            error: None,
            validated: None,
        };
        let number = self.number();
        self.authorizations.insert(
            number,
            Authorization {
                account,
                identifier: base,
                wildcard,
                state: AuthorizationState::Pending,
                expires: now + profile.order_lifetime,
                lifetime: SignedDuration::try_from(profile.authorization_lifetime)
                    .unwrap_or(SignedDuration::MAX),
                challenges: kinds.iter().map(challenge).collect(),
            },
        );
        number
    }

    /// The state at an instant; what the CA has forgotten has expired.
    pub(super) fn authorization_state(&self, number: u64, now: Timestamp) -> AuthorizationState {
        let authorization = self.authorizations.get(&number);
        authorization.map_or(AuthorizationState::Expired, |a| a.state_at(now))
    }

    /// RFC 8555 §7.5, §7.5.2.
    pub(super) fn authorization(
        &mut self,
        number: u64,
        account: u64,
        jws: &Jws,
    ) -> Result<Reply, Problem> {
        let now = self.now();
        let authorization = self.own_authorization(number, account)?;
        if !jws.is_get() {
            let change: Value = jws.read()?;
            if change.get("status").and_then(Value::as_str) != Some("deactivated") {
                return Err(Problem::malformed(
                    "an authorization can only be deactivated",
                ));
            }
            match authorization.state_at(now) {
                AuthorizationState::Pending | AuthorizationState::Valid => {
                    authorization.state = AuthorizationState::Deactivated;
                }
                AuthorizationState::Invalid
                | AuthorizationState::Deactivated
                | AuthorizationState::Expired => {
                    return Err(Problem::malformed("the authorization has ended"));
                }
            }
        }
        let authorization = authorization.clone();
        let challenges: Vec<Value> = authorization
            .challenges
            .iter()
            .map(|challenge| self.challenge_json(number, challenge))
            .collect();
        let state = authorization.state_at(now);
        let mut body = json!({
            "identifier": authorization.identifier.to_json(), "status": word(state),
            "expires": authorization.expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "challenges": challenges,
        });
        if authorization.wildcard {
            body["wildcard"] = json!(true);
        }
        Ok(self.polled(
            Reply::json(200, &body),
            state == AuthorizationState::Pending,
        ))
    }

    /// RFC 8555 §7.5.1.
    pub(super) fn challenge(
        &mut self,
        number: u64,
        kind: &str,
        account: u64,
        jws: &Jws,
    ) -> Result<Reply, Problem> {
        let now = self.now();
        let accepts = !jws.is_get();
        if accepts && !jws.read::<Value>()?.is_object() {
            return Err(Problem::malformed("a challenge is accepted with {}"));
        }
        let thumbprint = self.accounts.get(&account).map(|a| a.key.thumbprint());
        let authorization = self.own_authorization(number, account)?;
        let (state, identifier) = (
            authorization.state_at(now),
            authorization.identifier.clone(),
        );
        let challenge = authorization.challenges.iter_mut().find(|c| c.kind == kind);
        let challenge = challenge.ok_or_else(|| Problem::not_found("challenge"))?;
        let mut job = None;
        if accepts {
            match (challenge.state, state) {
                (ChallengeState::Pending, AuthorizationState::Pending) => {
                    challenge.state = ChallengeState::Processing;
                    job = Some(Job {
                        authorization: number,
                        kind: kind.to_owned(),
                        identifier,
                        token: challenge.token.clone(),
                        thumbprint: thumbprint.unwrap_or_default(),
                    });
                }
                // Twice accepted is once accepted.
                (ChallengeState::Processing | ChallengeState::Valid, _) => {}
                (ChallengeState::Pending | ChallengeState::Invalid, _) => {
                    return Err(Problem::malformed("the challenge is not pending"));
                }
            }
        }
        let challenge = challenge.clone();
        self.jobs.extend(job);
        let up = self.url(&Resource::Authorization(number));
        let undecided = matches!(
            challenge.state,
            ChallengeState::Pending | ChallengeState::Processing
        );
        let reply = Reply::json(200, &self.challenge_json(number, &challenge));
        let reply = reply.header("link", &format!("<{up}>;rel=\"up\""));
        Ok(self.polled(reply, undecided))
    }

    /// A validation has ended.
    pub(super) fn decided(&mut self, job: &Job, verdict: &Result<(), Problem>) {
        let now = self.now();
        let name = &job.identifier.value;
        let Some(authorization) = self.authorizations.get_mut(&job.authorization) else {
            return;
        };
        let account = authorization.account;
        if authorization.state_at(now) != AuthorizationState::Pending {
            return;
        }
        let lifetime = authorization.lifetime;
        for challenge in &mut authorization.challenges {
            if challenge.kind == job.kind {
                challenge.state = match verdict {
                    Ok(()) => ChallengeState::Valid,
                    Err(_) => ChallengeState::Invalid,
                };
                challenge.validated = Some(now);
                challenge.error = verdict.clone().err();
            }
        }
        if verdict.is_ok() {
            authorization.state = AuthorizationState::Valid;
            self.made.validated += 1;
            authorization.expires = now + lifetime;
        } else {
            authorization.state = AuthorizationState::Invalid;
        }
        let note = match verdict {
            Ok(()) => format!("{} is valid", job.kind),
            Err(problem) => format!("{} is invalid, {problem}", job.kind),
        };
        self.note(account, std::slice::from_ref(name), note);
        self.count_validation(account, name, verdict.is_ok());
    }

    /// What the script held back of a name begins again.
    pub(super) fn resume(&mut self, name: &str) {
        let (resumed, held) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|job| job.identifier.value == name);
        self.held = held;
        self.jobs.extend::<Vec<Job>>(resumed);
    }

    /// RFC 8659, for names.
    fn check_caa(&self, job: &Job) -> Result<(), Problem> {
        let authorization = self.authorizations.get(&job.authorization);
        let Some(authorization) = authorization.filter(|a| a.identifier.address().is_none()) else {
            return Ok(());
        };
        let asked = caa::Asked {
            identities: &self.settings.caa_identities,
            account: &self.account_url(authorization.account),
            method: &job.kind,
        };
        caa::check(&self.settings.caa, &job.identifier.value, &asked)
    }

    /// Validations that have to be made; those that the script has decided are decided.
    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        let mut open = Vec::new();
        for job in std::mem::take(&mut self.jobs) {
            if let Err(refused) = self.check_caa(&job) {
                self.decided(&job, &Err(refused));
                continue;
            }
            match self.play.verdict(&job.identifier.value).cloned() {
                None if self.settings.validation == Validation::Believing => {
                    self.decided(&job, &Ok(()));
                }
                None => open.push(job),
                Some(Verdict::Held) => self.held.push(job),
                Some(Verdict::Valid) => self.decided(&job, &Ok(())),
                Some(Verdict::Invalid(problem)) => self.decided(&job, &Err(problem)),
            }
        }
        open
    }

    fn own_authorization(
        &mut self,
        number: u64,
        account: u64,
    ) -> Result<&mut Authorization, Problem> {
        let authorization = self.authorizations.get_mut(&number);
        let authorization = authorization.ok_or_else(|| Problem::not_found("authorization"))?;
        if authorization.account == account {
            Ok(authorization)
        } else {
            Err(Problem::unauthorized(
                "the authorization is of another account",
            ))
        }
    }

    fn polled(&self, reply: Reply, undecided: bool) -> Reply {
        match self.settings.poll {
            Some(seconds) if undecided => reply.header("retry-after", &seconds.to_string()),
            _ => reply,
        }
    }

    fn challenge_json(&self, number: u64, challenge: &Challenge) -> Value {
        let status = match challenge.state {
            ChallengeState::Pending => "pending",
            ChallengeState::Processing => "processing",
            ChallengeState::Valid => "valid",
            ChallengeState::Invalid => "invalid",
        };
        let url = self.url(&Resource::Challenge(number, challenge.kind.clone()));
        let mut json = json!({
            "type": challenge.kind, "url": url, "status": status, "token": challenge.token,
        });
        if let Some(error) = &challenge.error {
            json["error"] = error.to_json();
        }
        if let Some(at) = challenge.validated {
            json["validated"] = json!(at);
        }
        json
    }
}

impl Authorization {
    /// The state, with the time that has passed.
    fn state_at(&self, now: Timestamp) -> AuthorizationState {
        match self.state {
            AuthorizationState::Pending | AuthorizationState::Valid if self.expires <= now => {
                AuthorizationState::Expired
            }
            state => state,
        }
    }
}

fn word(state: AuthorizationState) -> &'static str {
    match state {
        AuthorizationState::Pending => "pending",
        AuthorizationState::Valid => "valid",
        AuthorizationState::Invalid => "invalid",
        AuthorizationState::Deactivated => "deactivated",
        AuthorizationState::Expired => "expired",
    }
}
