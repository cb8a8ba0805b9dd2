//! The CA says that its limit is met: nothing of that scope is asked before its time, all else goes on, and it is said plainly.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use evercert_api::{Certificate, CertificateSpec, Issuer, condition};
use evercert_e2e::Story;
use evercert_e2e::scripted::{
    Answer, Endpoint, Limit, Limits, Problem, RetryAfter, ScriptedCa, Settings,
};
use evercert_e2e::story::{SOON, issuer_yaml};
use jiff::{SignedDuration, Timestamp};

use crate::midway::never_failed;
use crate::{Tale, tales};

/// How long the CA wants to be left alone.
const WAIT: SignedDuration = SignedDuration::from_secs(20);
/// The same with up to a tenth on top, and the order that follows.
const LATER: Duration = Duration::from_mins(1);

pub(crate) fn tales() -> Vec<Tale> {
    let mut all = tales![
        a_ca_that_takes_no_accounts_for_now_is_asked_for_one_at_its_time,
        a_limit_of_registrations_is_that_of_every_new_issuer_of_its_directory,
        a_limit_at_new_nonce_is_told_as_a_limit,
        a_limit_at_new_nonce_holds_everybody_back_and_costs_no_attempt,
        a_paused_name_is_told_with_its_page_and_goes_on_when_a_person_has_opened_it,
        a_ca_that_sheds_load_is_unavailable_and_costs_no_attempt,
    ];
    all.extend(CASES.iter().map(|case| {
        let name = format!(
            "quota::the_limit_of_{}_is_obeyed_and_nothing_else_waits",
            case.name
        );
        Tale::new(name, move |story| Box::pin(limited(story, case)))
    }));
    all
}

/// A limit in Let's Encrypt's words.
struct Case {
    name: &'static str,
    /// `{}` is the name, `{domain}` its registered domain.
    detail: &'static str,
    form: Form,
    /// What the condition says of it.
    told: &'static str,
    /// Whether another name below the same registered domain has to wait too.
    covers_domain: bool,
    /// Whether every order of the account has to wait.
    covers_account: bool,
}

/// How the CA says when to come again.
#[derive(Clone, Copy)]
enum Form {
    Seconds,
    Date,
    Words,
}

const CASES: &[Case] = &[
    Case {
        name: "certificates_for_a_registered_domain",
        detail: "too many certificates (50) already issued for \"{domain}\" in the last 168h0m0s",
        form: Form::Seconds,
        told: "{domain}",
        covers_domain: true,
        covers_account: false,
    },
    Case {
        name: "certificates_for_an_exact_set_of_names",
        detail: "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s",
        form: Form::Words,
        told: "exact set",
        covers_domain: false,
        covers_account: false,
    },
    Case {
        name: "new_orders",
        detail: "too many new orders (300) from this account in the last 3h0m0s",
        form: Form::Date,
        told: "new orders",
        covers_domain: true,
        covers_account: true,
    },
    Case {
        name: "failed_authorizations",
        detail: "too many failed authorizations (5) for \"{}\" in the last 1h0m0s",
        form: Form::Words,
        told: "{}",
        covers_domain: false,
        covers_account: false,
    },
];

async fn limited(story: Story<'_>, case: &Case) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let (host, beside) = (story.host("limited"), story.host("beside"));
    let domain = format!("{}.test", story.namespace);
    let elsewhere = format!("www.{}-elsewhere.test", story.namespace);
    let say = |text: &str| text.replace("{domain}", &domain).replace("{}", &host);
    let theirs = format!("www.{}-theirs.test", story.namespace);
    if case.covers_account {
        let another = issuer_yaml("Issuer", "another", &ca.directory(), ca.bundle());
        story.apply(&another).await?;
        story.issuer_ready("another").await?;
    }
    let until = in_whole_seconds()?;
    ca.script()
        .on(Endpoint::NewOrder)
        .naming(&host)
        .once(refusal(&say(case.detail), case.form, until));
    story
        .certificate("limited", std::slice::from_ref(&host))
        .await?;
    let message = story
        .condition_says("limited", condition::RATE_LIMITED, &say(case.told), SOON)
        .await?;
    ensure!(message.contains("Next attempt at"), "{message}");
    story
        .certificate("beside", std::slice::from_ref(&beside))
        .await?;
    story
        .certificate("elsewhere", std::slice::from_ref(&elsewhere))
        .await?;
    for (name, host, waits) in [
        ("beside", &beside, case.covers_domain),
        ("elsewhere", &elsewhere, case.covers_account),
    ] {
        if waits {
            story
                .condition_says(name, condition::RATE_LIMITED, "Next attempt at", SOON)
                .await?;
        } else {
            story.ready(name, SOON).await?;
            let placed = asked(&ca, host);
            ensure!(
                placed.iter().all(|at| *at < until),
                "{host} waited: {placed:?}"
            );
        }
    }
    if case.covers_account {
        // It is the account's limit, and no other's at the same directory.
        let by_another =
            |spec: &mut CertificateSpec| "another".clone_into(&mut spec.issuer_ref.name);
        let names = [theirs.clone()];
        story.certificate_with("theirs", &names, by_another).await?;
        none_left(&story, &ca, until).await?;
        story.ready("theirs", SOON).await?;
        let placed = asked(&ca, &theirs);
        ensure!(
            placed.len() == 1 && placed.iter().all(|at| *at < until),
            "{theirs} waited: {placed:?}"
        );
    }
    for name in ["limited", "beside", "elsewhere"] {
        story.ready(name, LATER).await?;
    }
    let of_host = asked(&ca, &host);
    ensure!(
        of_host.len() == 2 && of_host.iter().skip(1).all(|at| *at >= until),
        "not before {until}: {of_host:?}\n{}",
        ca.journal()
    );
    for (host, waits) in [
        (&beside, case.covers_domain),
        (&elsewhere, case.covers_account),
    ] {
        let placed = asked(&ca, host);
        ensure!(placed.len() == 1, "{host}: {placed:?}\n{}", ca.journal());
        ensure!(
            !waits || placed.iter().all(|at| *at >= until),
            "{host}: {placed:?}"
        );
    }
    let ready: Certificate = story.api::<Certificate>().get("limited").await?;
    let status = ready.status.context("no status")?;
    ensure!(
        condition::find(&status.conditions, condition::RATE_LIMITED).is_none(),
        "{:?}",
        status.conditions
    );
    Ok(())
}

/// An Issuer of the same account says that none may be ordered, and when again, to the minute; without a question to the CA.
async fn none_left(story: &Story<'_>, ca: &ScriptedCa, until: Timestamp) -> Result<()> {
    let other = issuer_yaml("Issuer", "other", &ca.directory(), ca.bundle());
    let mut other: serde_json::Value = serde_json::from_str(&other)?;
    other["spec"]["acme"]["accountKeySecretRef"]["name"] = "ca-account".into();
    story.apply(&other.to_string()).await?;
    let status = story.issuer_ready("other").await?.status;
    let budget = status.and_then(|s| s.budget).context("no budget")?;
    let next = budget.next_order_time.as_ref().map(|at| at.0);
    let at_most = until + SignedDuration::from_mins(2);
    ensure!(
        budget.orders == 0
            && next.is_some_and(|at| until <= at && at < at_most && at.as_second() % 60 == 0),
        "none before {until}: {budget:?}"
    );
    Ok(())
}

/// An instant in words or as a date has whole seconds.
fn in_whole_seconds() -> Result<Timestamp> {
    Ok(Timestamp::from_second(
        (Timestamp::now() + WAIT).as_second() + 1,
    )?)
}

/// When orders for a name were asked for.
fn asked(ca: &ScriptedCa, host: &str) -> Vec<Timestamp> {
    let journal = ca.journal().of(Endpoint::NewOrder).naming(host);
    journal.entries().iter().map(|entry| entry.at).collect()
}

fn refusal(detail: &str, form: Form, until: Timestamp) -> Answer {
    let words = format!(
        "{detail}, retry after {} UTC: see https://letsencrypt.org/docs/rate-limits/",
        until.strftime("%Y-%m-%d %H:%M:%S")
    );
    match form {
        Form::Seconds => {
            let seconds = until.duration_since(Timestamp::now()).as_secs() + 1;
            let seconds = u64::try_from(seconds).unwrap_or_default();
            Answer::rate_limited(detail).retry_after(&RetryAfter::Seconds(seconds))
        }
        Form::Date => Answer::rate_limited(detail).retry_after(&RetryAfter::At(until)),
        Form::Words => Answer::rate_limited(&words),
    }
}

async fn a_ca_that_takes_no_accounts_for_now_is_asked_for_one_at_its_time(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.stage.scripted_ca(Settings::default()).await?;
    let until = in_whole_seconds()?;
    let words = "too many new registrations (10) from this IP address in the last 3h0m0s";
    ca.script()
        .on(Endpoint::NewAccount)
        .once(refusal(words, Form::Date, until));
    story
        .apply(&issuer_yaml("Issuer", "ca", &ca.directory(), ca.bundle()))
        .await?;
    story
        .until(
            "ca",
            "the Issuer says which limit it is",
            SOON,
            |issuer: &Issuer| {
                let status = issuer.status.as_ref();
                let ready = status.and_then(|s| condition::find(&s.conditions, condition::READY));
                ready.is_some_and(|r| {
                    r.reason == "RateLimited" && r.message.contains("registrations")
                })
            },
        )
        .await?;
    story
        .until("ca", "the Issuer is Ready", LATER, |issuer: &Issuer| {
            let status = issuer.status.as_ref();
            status.is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
        })
        .await?;
    let journal = ca.journal().of(Endpoint::NewAccount);
    let early = journal.filter(|entry| entry.at < until);
    // The first was refused for the key (only an existing account was asked for), or for the limit.
    let refused = early.filter(|entry| entry.problem.as_deref() == Some("rateLimited"));
    ensure!(refused.len() == 1, "{journal}");
    let after = refused.entries().first().context("no refusal")?.at;
    ensure!(
        journal.since(after).filter(|e| e.at < until).len() == 1,
        "{journal}"
    );
    Ok(())
}

async fn a_limit_of_registrations_is_that_of_every_new_issuer_of_its_directory(
    story: Story<'_>,
) -> Result<()> {
    // One account, and the next in a while.
    let window = Duration::from_secs(40);
    let limits = Limits::none().with(Limit::Accounts, 1, window);
    let ca = story
        .stage
        .scripted_ca(Settings {
            limits,
            ..Settings::default()
        })
        .await?;
    let apply = async |name: &str| {
        let issuer = issuer_yaml("Issuer", name, &ca.directory(), ca.bundle());
        story.apply(&issuer).await
    };
    apply("first").await?;
    story.issuer_ready("first").await?;
    // All at once.
    let new = ["second", "third", "fourth", "fifth", "sixth", "seventh"];
    for name in new {
        apply(name).await?;
    }
    for name in new {
        let says = |issuer: &Issuer| {
            let status = issuer.status.as_ref();
            let ready = status.and_then(|s| condition::find(&s.conditions, condition::READY));
            ready.is_some_and(|r| r.reason == "RateLimited" && r.message.contains("registrations"))
        };
        story
            .until(name, "the Issuer says which limit it is", SOON, says)
            .await?;
    }
    let journal = ca.journal().of(Endpoint::NewAccount);
    let refused = journal.filter(|entry| entry.problem.as_deref() == Some("rateLimited"));
    ensure!(refused.len() == 1, "{journal}");
    // Whoever names the key of an account that there is wants no new one.
    let again = issuer_yaml("Issuer", "again", &ca.directory(), ca.bundle());
    let mut again: serde_json::Value = serde_json::from_str(&again)?;
    again["spec"]["acme"]["accountKeySecretRef"]["name"] = "first-account".into();
    again["spec"]["acme"]["email"] = "again@example.com".into();
    story.apply(&again.to_string()).await?;
    story.issuer_ready("again").await?;

    ca.script()
        .settings(|settings| settings.limits = Limits::none());
    for name in new {
        let ready = |issuer: &Issuer| {
            let status = issuer.status.as_ref();
            status.is_some_and(|s| condition::is_true(&s.conditions, condition::READY))
        };
        story
            .until(name, "the Issuer is Ready", LATER * 2, ready)
            .await?;
    }
    let journal = ca.journal().of(Endpoint::NewAccount);
    let made = journal.filter(|entry| entry.status == Some(201));
    let at: Vec<Timestamp> = made.entries().iter().map(|entry| entry.at).collect();
    let [first, later @ ..] = at.as_slice() else {
        anyhow::bail!("no account was made\n{journal}");
    };
    // The CA says it in whole seconds, which count from before its answer.
    let least = SignedDuration::from_secs(13);
    let early = |at: &&Timestamp| at.duration_since(*first) < least;
    ensure!(
        later.len() == new.len() && !later.iter().any(|at| early(&at)),
        "{journal}"
    );
    let refused = journal.filter(|entry| entry.problem.as_deref() == Some("rateLimited"));
    ensure!(refused.len() == 1, "{journal}");
    Ok(())
}

async fn a_limit_at_new_nonce_is_told_as_a_limit(story: Story<'_>) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let host = story.host("www");
    // Whoever asks for an order has no nonce afterwards, and gets none.
    let words = "too many requests";
    ca.script().on(Endpoint::NewNonce).times(
        3,
        Answer::rate_limited(words).retry_after(&RetryAfter::Seconds(5)),
    );
    ca.script().on(Endpoint::NewOrder).once(
        Answer::rate_limited(words)
            .retry_after(&RetryAfter::Seconds(3))
            .without_nonce(),
    );
    story
        .certificate("www", std::slice::from_ref(&host))
        .await?;
    let message = story
        .condition_says("www", condition::READY, words, SOON)
        .await?;
    ensure!(!message.contains("nonce is missing"), "{message}");
    story.ready("www", LATER * 2).await?;
    Ok(())
}

async fn a_limit_at_new_nonce_holds_everybody_back_and_costs_no_attempt(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    // Whose order is refused leaves no nonce to the others.
    let refusal = Problem::new(400, "rejectedIdentifier", "not this name");
    ca.script()
        .next_order(Answer::problem(&refusal).without_nonce());
    story
        .certificate("refused", &[story.host("refused")])
        .await?;
    story
        .condition_says("refused", condition::READY, "not this name", SOON)
        .await?;
    let until =
        Timestamp::from_second((Timestamp::now() + SignedDuration::from_secs(30)).as_second())?;
    let limited = Answer::rate_limited("").retry_after(&RetryAfter::At(until));
    ca.script().on(Endpoint::NewNonce).once(limited);
    let names = ["first", "second", "third"];
    for name in names {
        story.certificate(name, &[story.host(name)]).await?;
        story
            .condition_says(
                name,
                condition::RATE_LIMITED,
                "has limited all requests",
                SOON,
            )
            .await?;
    }
    for name in names {
        story.ready(name, LATER).await?;
    }
    let journal = ca.journal();
    let refusals = journal.filter(|entry| entry.status == Some(429));
    let [refusal] = refusals.entries() else {
        anyhow::bail!("it was asked again\n{journal}");
    };
    let early = journal
        .requests()
        .filter(|e| e.at > refusal.at && e.at < until);
    ensure!(early.is_empty(), "{early}\nbefore {until}\n{journal}");
    for name in names {
        ensure!(asked(&ca, &story.host(name)).len() == 1, "{journal}");
        never_failed(&story, name).await?;
    }
    Ok(())
}

async fn a_paused_name_is_told_with_its_page_and_goes_on_when_a_person_has_opened_it(
    story: Story<'_>,
) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    let host = story.host("zombie");
    ca.script().pause(&host);
    story
        .certificate("zombie", std::slice::from_ref(&host))
        .await?;
    let message = story
        .condition_says("zombie", condition::PAUSED, "/unpause", SOON)
        .await?;
    ensure!(message.contains("Remedy: open that page"), "{message}");
    let next = story.api::<Certificate>().get("zombie").await?;
    let next = next
        .status
        .and_then(|s| s.next_attempt_time)
        .context("no nextAttemptTime")?;
    let wait = next.0.duration_since(Timestamp::now());
    ensure!(
        wait > SignedDuration::from_hours(23),
        "it is asked again in {wait}"
    );
    story.certificate("good", &[story.host("good")]).await?;
    story.ready("good", SOON).await?;
    ensure!(asked(&ca, &host).len() == 1, "{}", ca.journal());

    ca.script().unpause();
    // The page is open: whoever opened it says so by a change.
    story
        .certificate("zombie", &[host.clone(), story.host("more")])
        .await?;
    let ready = story.ready("zombie", SOON).await?;
    let status = ready.status.context("no status")?;
    ensure!(
        condition::find(&status.conditions, condition::PAUSED).is_none()
            && status.failed_attempts.is_none(),
        "{status:?}"
    );
    ensure!(asked(&ca, &host).len() == 2, "{}", ca.journal());
    Ok(())
}

async fn a_ca_that_sheds_load_is_unavailable_and_costs_no_attempt(story: Story<'_>) -> Result<()> {
    let ca = story.scripted_ca(Settings::default()).await?;
    ca.script()
        .next_order(Answer::busy().retry_after(&RetryAfter::Seconds(3)));
    story.certificate("www", &[story.host("www")]).await?;
    story
        .condition_says("www", condition::READY, "Service busy", SOON)
        .await?;
    let seen = story.api::<Certificate>().get("www").await?;
    let status = seen.status.context("no status")?;
    ensure!(
        condition::find(&status.conditions, condition::RATE_LIMITED).is_none()
            && status.failed_attempts.is_none(),
        "{status:?}"
    );
    story.ready("www", LATER).await?;
    ensure!(ca.count().orders == 2, "{}", ca.journal());
    Ok(())
}
