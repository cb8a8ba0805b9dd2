//! The adapter at a CA's bad days, over real connections.

use std::time::{Duration, Instant};

use evercert_acme::{Acme, ConnectError, Directory, OrderRequest, WireError};
use evercert_core::fault::{Fault, FaultClass};
use evercert_core::order::{OrderState, OrderView, ProofState};
use evercert_e2e::scripted::{
    Answer, Endpoint, Limit, Limits, Problem, RetryAfter, RetryStyle, ScriptedCa, Settings,
    Signing, Validation, Verdict,
};
use jiff::SignedDuration;

use crate::suite::{Authority, account, connect, csr, issue, names, read_until};
use crate::support::{account_key, ensure_account, now};

const NAME: &str = "a.example.test";

async fn believing(settings: Settings) -> ScriptedCa {
    let validation = Validation::Believing;
    ScriptedCa::start(Settings {
        validation,
        ..settings
    })
    .await
    .unwrap()
}

async fn new_order(acme: &dyn Acme) -> Result<OrderView, Fault> {
    acme.new_order(OrderRequest::of(&names(&[NAME])), now())
        .await
}

/// An order whose challenges are accepted, ready.
async fn ready(acme: &dyn Acme) -> String {
    let url = new_order(acme).await.unwrap().url;
    let view = acme.read_order(&url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    acme.accept(&challenges, now()).await.unwrap();
    read_until(acme, &url, OrderState::Ready).await;
    url
}

#[tokio::test]
async fn a_limit_says_when_in_every_way_that_lets_encrypt_says_it() {
    let limits = Limits::none().with(Limit::Orders, 2, Duration::from_mins(10));
    let ca = believing(Settings {
        limits: limits.clone(),
        ..Settings::default()
    })
    .await;
    let acme = account(&ca).await;
    new_order(&*acme).await.unwrap();
    new_order(&*acme).await.unwrap();
    assert_eq!(ca.tokens(Limit::Orders, acme.account_uri()), Some(0));
    for style in [RetryStyle::Seconds, RetryStyle::Date, RetryStyle::Missing] {
        ca.script()
            .settings(|settings| settings.limits = limits.clone().telling(style));
        let fault = new_order(&*acme).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::RateLimited, "{fault:?}");
        let wait = fault.retry_after.unwrap().duration_since(now());
        let expected = SignedDuration::from_mins(4)
            ..SignedDuration::from_mins(5) + SignedDuration::from_secs(2);
        assert!(expected.contains(&wait), "{style:?}: {wait:?}");
    }
    // Another account has its own budget.
    new_order(&*account(&ca).await).await.unwrap();
    assert_eq!(ca.count().placed, 3);
}

#[tokio::test]
async fn a_key_that_has_an_account_is_not_given_to_another_one() {
    let ca = believing(Settings::default()).await;
    let directory = connect(&ca).await;
    let (one, two) = (account_key(), account_key());
    let first = directory.new_account(&one, None, now()).await.unwrap();
    directory.new_account(&two, None, now()).await.unwrap();
    let uri = first.account_uri().to_owned();
    let fault = first.change_key(&two, now()).await.err().unwrap();
    assert_eq!(fault.http_status, Some(409), "{fault:?}");
    let found = directory.account(&one, None, now()).await.unwrap();
    assert_eq!(found.account_uri(), uri);
}

#[tokio::test]
async fn a_paused_name_shows_its_page_and_no_empty_nonce_is_sent() {
    let ca = believing(Settings::default()).await;
    let acme = account(&ca).await;
    ca.script().pause(NAME);
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(fault.http_status, Some(429));
    assert!(fault.help_url.is_some_and(|url| url.contains("/unpause")));
    ca.script().unpause();
    let page = "https://scripted.example/sfe/v1/unpause?jwt=x";
    for answer in [
        Answer::paused(NAME, page),
        Answer::paused(NAME, page).with_nonce(""),
    ] {
        ca.script().next_order(answer);
        let fault = new_order(&*acme).await.unwrap_err();
        assert_eq!(fault.help_url.as_deref(), Some(page));
    }
    new_order(&*acme).await.unwrap();
    assert_eq!(ca.count().turned_away, 0, "{}", ca.journal());
}

#[tokio::test]
async fn an_outage_of_any_kind_is_an_outage_and_passes() {
    let mut ca = believing(Settings::default()).await;
    let mut config = Authority::config(&ca);
    config.request_timeout = Duration::from_millis(500);
    let directory = Directory::connect(config.clone(), now()).await.unwrap();
    let acme = ensure_account(&directory, &account_key(), None)
        .await
        .unwrap();
    let outages = [
        (
            Answer::unavailable().retry_after(&RetryAfter::Seconds(60)),
            Some(503),
        ),
        (Answer::page(502, "<html>Bad Gateway</html>"), Some(502)),
        (Answer::page(200, "<html>Welcome</html>"), Some(200)),
        (Answer::internal_error(), Some(500)),
        (Answer::malformed(), Some(201)),
        (Answer::never(), None),
        (Answer::lost(), None),
        (Answer::real().cut(), None),
        (Answer::real().after(Duration::from_secs(2)), None),
        (Answer::real().trickling(Duration::from_secs(4)), None),
    ];
    for (answer, status) in outages {
        let played = format!("{answer:?}");
        ca.script().next_order(answer);
        let fault = new_order(&*acme).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Unavailable, "{played}: {fault:?}");
        if status != Some(201) {
            assert_eq!(fault.http_status, status, "{played}: {fault:?}");
        }
        new_order(&*acme).await.unwrap();
    }
    // Ten that came through, and those four of which only the answer was lost.
    assert_eq!(ca.count().placed, 14, "{}", ca.journal());

    ca.go_down().await;
    let fault = new_order(&*acme).await.unwrap_err();
    assert!(
        fault.class == FaultClass::Unavailable && fault.unsent,
        "{fault:?}"
    );
    let refused = Directory::connect(config, now()).await.err().unwrap();
    let cause = WireError::Refused;
    assert!(matches!(refused, ConnectError::Unreachable { cause: c, .. } if c == cause));
    ca.come_back().await.unwrap();
    new_order(&*acme).await.unwrap();
}

#[tokio::test]
async fn a_slow_answer_within_the_time_out_is_an_answer() {
    let ca = believing(Settings::default()).await;
    let acme = account(&ca).await;
    let begin = Instant::now();
    let slow = Duration::from_millis(300);
    ca.script()
        .next_order(Answer::real().after(slow).trickling(slow));
    new_order(&*acme).await.unwrap();
    assert!(begin.elapsed() >= slow * 2);
}

#[tokio::test]
async fn processing_is_told_with_and_without_a_time_and_a_lost_answer_loses_nothing() {
    let ca = believing(Settings::default()).await;
    let acme = account(&ca).await;
    let url = ready(&*acme).await;
    ca.script().signing(Signing::Held);
    ca.script().next_finalize(Answer::lost());
    let fault = acme.finalize(&url, &csr(&[NAME]), now()).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.unsent),
        (FaultClass::Unavailable, false)
    );
    // It was done, and is not done twice.
    let view = acme.finalize(&url, &csr(&[NAME]), now()).await.unwrap();
    assert_eq!(view.state, OrderState::Processing);
    for (told, at) in [(None, false), (Some(RetryAfter::Seconds(7)), true)] {
        ca.script().processing_retry_after(told);
        let view = acme.read_order(&url, now()).await.unwrap();
        assert_eq!(
            (view.state, view.retry_after.is_some()),
            (OrderState::Processing, at)
        );
    }
    let early = acme.certificate(&url, now()).await.unwrap_err();
    assert_eq!(early.class, FaultClass::NotReady);
    ca.script().finish_processing();
    let chain = acme.certificate(&url, now()).await.unwrap().pem;
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(
        ca.journal().of(Endpoint::Finalize).len(),
        1,
        "{}",
        ca.journal()
    );
}

#[tokio::test]
async fn an_order_that_is_refused_at_last_says_so_for_each_name() {
    let ca = believing(Settings::default()).await;
    let acme = account(&ca).await;
    let url = ready(&*acme).await;
    let compound = Problem::new(403, "compound", "several").naming(NAME, "caa", "forbidden");
    ca.script().signing(Signing::Fails(compound));
    let view = acme.finalize(&url, &csr(&[NAME]), now()).await.unwrap();
    let error = view.error.unwrap();
    assert_eq!(
        (view.state, error.kind.as_str()),
        (OrderState::Invalid, "compound")
    );
    let blamed = error.subproblems.first().unwrap();
    assert_eq!(
        (blamed.identifier.as_deref(), blamed.kind.as_str()),
        (Some(NAME), "caa")
    );

    // The same before the order is there.
    let refused = Problem::new(403, "compound", "several")
        .naming(NAME, "rejectedIdentifier", "forbidden")
        .naming("b.example.test", "caa", "forbidden");
    ca.script().next_order(Answer::problem(&refused));
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Permanent);
    assert!(
        fault.detail.contains("b.example.test: caa"),
        "{}",
        fault.detail
    );
}

#[tokio::test]
async fn what_the_ca_forgot_is_gone() {
    let ca = believing(Settings::default()).await;
    let key = account_key();
    let known = connect(&ca).await;
    let acme = ensure_account(&known, &key, None).await.unwrap();
    let url = ready(&*acme).await;
    ca.script().forget_orders();
    let fault = acme.read_order(&url, now()).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.http_status),
        (FaultClass::Gone, Some(404))
    );
    new_order(&*acme).await.unwrap();

    ca.script().forget_accounts();
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(fault.problem.unwrap().kind, "accountDoesNotExist");
    let again = ensure_account(&known, &key, None).await.unwrap();
    assert_ne!(again.account_uri(), acme.account_uri());
    issue(&*again, &new_order(&*again).await.unwrap().url, &[NAME]).await;

    ca.script().deactivate_accounts();
    let fault = new_order(&*again).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Account, "{fault:?}");
}

#[tokio::test]
async fn changed_terms_are_a_persons_matter() {
    let ca = believing(Settings::default()).await;
    let acme = account(&ca).await;
    let terms = "https://scripted.example/terms/2";
    ca.script().change_terms(terms);
    let fault = new_order(&*acme).await.unwrap_err();
    assert_eq!(
        (fault.class, fault.help_url.as_deref()),
        (FaultClass::Account, Some(terms))
    );
    ca.script().agree_to_terms();
    new_order(&*acme).await.unwrap();
}

#[tokio::test]
async fn a_failed_validation_is_told_for_its_name() {
    let ca = believing(Settings::default()).await;
    let acme = account(&ca).await;
    let caa = Problem::new(
        403,
        "caa",
        "CAA record for b.example.test prevents issuance",
    );
    ca.script()
        .validation("b.example.test", Verdict::Invalid(caa));
    let both = names(&[NAME, "b.example.test"]);
    let url = acme
        .new_order(OrderRequest::of(&both), now())
        .await
        .unwrap()
        .url;
    let view = acme.read_order(&url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    acme.accept(&challenges, now()).await.unwrap();
    let view = read_until(&*acme, &url, OrderState::Invalid).await;
    let failed: Vec<_> = view
        .authorizations
        .iter()
        .filter(|a| a.state == ProofState::Invalid)
        .filter_map(|a| Some((a.name.as_str(), a.challenge.as_ref()?.error.clone()?.kind)))
        .collect();
    assert_eq!(failed, [("b.example.test", "caa".to_owned())]);
}

#[tokio::test]
async fn a_name_whose_caa_records_forbid_this_ca_is_refused_at_validation_and_said() {
    let ca = believing(Settings::default()).await;
    let acme = account(&ca).await;
    let identity = ca_identity(&ca);
    let of_account = format!("{identity}; accounturi={}", acme.account_uri());
    let end = async |record: &str, state| {
        let records = [("example.test".to_owned(), vec![record.to_owned()])];
        ca.script()
            .settings(|settings| settings.caa = records.into());
        let url = new_order(&*acme).await.unwrap().url;
        let view = acme.read_order(&url, now()).await.unwrap();
        let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
        acme.accept(&challenges, now()).await.unwrap();
        read_until(&*acme, &url, state).await
    };
    let refused = end("elsewhere.example", OrderState::Invalid).await;
    let error = refused.authorizations[0]
        .challenge
        .clone()
        .unwrap()
        .error
        .unwrap();
    assert_eq!(error.kind, "caa", "{error:?}");
    assert!(
        error
            .detail
            .contains("CAA record for example.test prevents issuance"),
        "{error:?}"
    );
    end(
        &format!("{identity}; validationmethods=dns-01"),
        OrderState::Invalid,
    )
    .await;
    end(&of_account, OrderState::Ready).await;
}

/// What CAA records name the CA by, as its directory says.
fn ca_identity(ca: &ScriptedCa) -> String {
    let mut found = String::new();
    ca.script()
        .settings(|settings| found.clone_from(&settings.caa_identities[0]));
    found
}
