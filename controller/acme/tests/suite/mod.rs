//! What the adapter does at any CA that keeps to RFC 8555. Each test is for every [`Authority`]; [`adapter_tests`] makes them
//! tests of one.

mod accounts;
mod revocation;

use std::sync::Arc;
use std::time::{Duration, Instant};

use evercert_acme::{
    Acme, ConnectError, Directory, DirectoryConfig, ExternalAccount, OrderRequest,
};
use evercert_api::Identifier;
use evercert_core::fault::FaultClass;
use evercert_core::order::{OrderState, OrderView, ProofState};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::GeneralName;

pub(crate) use accounts::{
    account_gets_another_key_and_stays_the_same,
    account_is_bound_to_the_external_account_that_the_ca_wants,
    external_account_that_is_wanted_and_lacking_is_the_issuers_matter, key_finds_its_account_again,
};
pub(crate) use revocation::certificate_is_revoked_by_its_account_and_a_second_time_counts_as_done;

use crate::support::{account_key, ensure_account, now};

/// A running CA on loopback that believes every challenge and uses no authorization twice. It ends with its value.
pub(crate) trait Authority: Sized {
    /// Starts one; `None`, with the reason printed, where there is none to start.
    async fn start(shape: &Shape) -> Option<Self>;

    /// How it is reached, with its own trust.
    fn config(&self) -> DirectoryConfig;

    /// A URL of its own where nothing is.
    fn nothing(&self, at: Nothing) -> String;

    /// What it has counted.
    fn count(&self, what: Counted) -> usize;
}

/// What is special about a CA.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// How many good nonces in a hundred it refuses.
    pub(crate) nonce_refusals: u8,
    /// Whether a new account must be bound to [`EXTERNAL_ACCOUNT`].
    pub(crate) external_account: bool,
    /// Names that are refused, with all below them.
    pub(crate) blocked: &'static [&'static str],
    /// Chains beside the default one.
    pub(crate) alternates: usize,
}

/// Key id, and MAC key in base64url.
pub(crate) const EXTERNAL_ACCOUNT: (&str, &str) = (
    "kid-1",
    "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
);

/// What every CA here calls itself in CAA records.
pub(crate) const CAA_IDENTITY: &str = "ca.example";

/// What is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Nothing {
    Account,
    Order,
}

/// What a CA counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counted {
    /// Requests for a new order.
    NewOrderRequests,
    /// Requests to finalize one.
    FinalizeRequests,
    /// Accounts made.
    Accounts,
    /// Orders made.
    Orders,
}

/// Makes the suite the tests of an [`Authority`].
macro_rules! adapter_tests {
    ($authority:ty) => {
        $crate::suite::adapter_tests!(
            $authority:
            ten_names_go_from_order_to_chain,
            addresses_are_ordered_as_identifiers_of_their_own_type,
            key_finds_its_account_again,
            another_process_finishes_an_order_by_its_url,
            order_of_another_account_is_gone,
            order_goes_through_although_three_of_four_nonces_are_refused,
            request_mostly_goes_through_although_four_of_five_nonces_are_refused,
            external_account_that_is_wanted_and_lacking_is_the_issuers_matter,
            account_is_bound_to_the_external_account_that_the_ca_wants,
            chains_beside_the_default_one_are_read_from_the_links,
            account_gets_another_key_and_stays_the_same,
            certificate_is_revoked_by_its_account_and_a_second_time_counts_as_done,
            refused_name_is_named,
            request_for_other_names_is_refused_at_finalize,
            authorization_given_back_has_ended,
            directory_tells_terms_and_trust_is_only_in_the_bundle
        );
    };
    ($authority:ty: $($name:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            $crate::suite::$name::<$authority>().await;
        })*
    };
}
pub(crate) use adapter_tests;

pub(crate) async fn connect(ca: &impl Authority) -> Arc<Directory> {
    Directory::connect(ca.config(), now()).await.unwrap()
}

pub(crate) async fn account(ca: &impl Authority) -> Arc<dyn Acme> {
    ensure_account(&connect(ca).await, &account_key(), None)
        .await
        .unwrap()
}

pub(crate) fn names(texts: &[&str]) -> Vec<Identifier> {
    texts
        .iter()
        .map(|t| Identifier::parse(t).unwrap())
        .collect()
}

/// A request for `names` with a key of its own, DER.
pub(crate) fn csr(names: &[&str]) -> Vec<u8> {
    let mut params =
        CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

/// Reads the order until it is in `state`.
pub(crate) async fn read_until(acme: &dyn Acme, url: &str, state: OrderState) -> OrderView {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let view = acme.read_order(url, now()).await.unwrap();
        if view.state == state {
            return view;
        }
        assert!(Instant::now() < deadline, "{view:?}");
        tokio::task::yield_now().await;
    }
}

/// From the order's URL to the chain.
pub(crate) async fn issue(acme: &dyn Acme, url: &str, texts: &[&str]) -> String {
    let view = acme.read_order(url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    assert_eq!(challenges.len(), texts.len());
    acme.accept(&challenges, now()).await.unwrap();
    read_until(acme, url, OrderState::Ready).await;
    acme.finalize(url, &csr(texts), now()).await.unwrap();
    read_until(acme, url, OrderState::Valid).await;
    acme.certificate(url, now()).await.unwrap().pem
}

const TEN: [&str; 10] = [
    "j.ten.test",
    "i.ten.test",
    "h.ten.test",
    "g.ten.test",
    "f.ten.test",
    "e.ten.test",
    "d.ten.test",
    "c.ten.test",
    "b.ten.test",
    "a.ten.test",
];

pub(crate) async fn ten_names_go_from_order_to_chain<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let acme = account(&ca).await;
    let order = acme
        .new_order(OrderRequest::of(&names(&TEN)), now())
        .await
        .unwrap();
    assert_eq!(
        (order.state, order.authorizations.len()),
        (OrderState::Pending, 0)
    );
    assert!(order.expires.is_some_and(|e| e > now()));

    let view = acme.read_order(&order.url, now()).await.unwrap();
    assert!(view.is_for(&names(&TEN)));
    assert_eq!(view.authorizations.len(), 10);
    for authorization in &view.authorizations {
        let challenge = authorization.challenge.as_ref().unwrap();
        assert_eq!(
            (authorization.state, challenge.state),
            (ProofState::Pending, ProofState::Pending)
        );
        assert!(
            challenge
                .key_authorization
                .starts_with(&format!("{}.", challenge.token))
        );
    }

    let chain = issue(&*acme, &order.url, &TEN).await;
    assert!(chain.starts_with("-----BEGIN CERTIFICATE-----"), "{chain}");
    let again = acme.certificate(&order.url, now()).await.unwrap();
    assert_eq!(again.pem, chain);
    assert_eq!(ca.count(Counted::NewOrderRequests), 1);
}

/// RFC 8738. One family at a time: Pebble, which compares the addresses of an order with those of a request in the order of their
/// bytes, has those of an IPv4 address in two lengths.
pub(crate) async fn addresses_are_ordered_as_identifiers_of_their_own_type<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let acme = account(&ca).await;
    for (address, length) in [("198.18.0.2", 4), ("2001:db8::1", 16)] {
        let all = [address, "www.example.test"];
        let order = acme
            .new_order(OrderRequest::of(&names(&all)), now())
            .await
            .unwrap();
        let view = acme.read_order(&order.url, now()).await.unwrap();
        assert!(view.is_for(&names(&all)), "{view:?}");
        let authorizations = view.authorizations.iter();
        let mut proved: Vec<&str> = authorizations.map(|a| a.name.as_str()).collect();
        proved.sort_unstable();
        assert_eq!(proved, all);

        let chain = issue(&*acme, &order.url, &all).await;
        let (_, pem) = parse_x509_pem(chain.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        let extension = leaf.subject_alternative_name().unwrap().unwrap();
        let found = extension.value.general_names.iter().map(|name| match name {
            GeneralName::IPAddress(bytes) => format!("{} bytes", bytes.len()),
            GeneralName::DNSName(name) => (*name).to_owned(),
            other => panic!("{other}"),
        });
        let mut found: Vec<String> = found.collect();
        found.sort_unstable();
        assert_eq!(found, [format!("{length} bytes"), all[1].to_owned()]);
    }
}

pub(crate) async fn another_process_finishes_an_order_by_its_url<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let key = account_key();
    let first = ensure_account(&connect(&ca).await, &key, None)
        .await
        .unwrap();
    let order = first
        .new_order(OrderRequest::of(&names(&TEN)), now())
        .await
        .unwrap();
    let uri = first.account_uri().to_owned();
    drop(first);

    let second = connect(&ca)
        .await
        .account(&key, Some(&uri), now())
        .await
        .unwrap()
        .into_acme();
    let view = second.read_order(&order.url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    // Not ready: seen, and nothing sent.
    let early = second
        .finalize(&order.url, &csr(&TEN), now())
        .await
        .unwrap();
    assert_eq!(
        (early.state, early.authorizations.len()),
        (OrderState::Pending, 10)
    );
    let none_yet = second.certificate(&order.url, now()).await.unwrap_err();
    assert_eq!(none_yet.class, FaultClass::NotReady);
    // Every step twice, as after a crash between the CA's answer and its record.
    second.accept(&challenges, now()).await.unwrap();
    second.accept(&challenges, now()).await.unwrap();
    read_until(&*second, &order.url, OrderState::Ready).await;
    second.accept(&challenges, now()).await.unwrap();
    let request = csr(&TEN);
    second.finalize(&order.url, &request, now()).await.unwrap();
    second.finalize(&order.url, &request, now()).await.unwrap();
    read_until(&*second, &order.url, OrderState::Valid).await;
    assert!(
        second
            .certificate(&order.url, now())
            .await
            .unwrap()
            .pem
            .contains("BEGIN CERTIFICATE")
    );
    assert_eq!(ca.count(Counted::NewOrderRequests), 1);
    assert_eq!(ca.count(Counted::FinalizeRequests), 1);
}

pub(crate) async fn order_of_another_account_is_gone<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let order = account(&ca)
        .await
        .new_order(OrderRequest::of(&names(&["a.example.test"])), now())
        .await
        .unwrap();
    let fault = account(&ca)
        .await
        .read_order(&order.url, now())
        .await
        .unwrap_err();
    assert_eq!(fault.class, FaultClass::Gone, "{fault:?}");
    let unknown = ca.nothing(Nothing::Order);
    let fault = account(&ca)
        .await
        .read_order(&unknown, now())
        .await
        .unwrap_err();
    assert_eq!(
        (fault.class, fault.http_status),
        (FaultClass::Gone, Some(404)),
        "{fault:?}"
    );
}

pub(crate) async fn order_goes_through_although_three_of_four_nonces_are_refused<A: Authority>() {
    let Some(ca) = A::start(&Shape {
        nonce_refusals: 75,
        ..Shape::default()
    })
    .await
    else {
        return;
    };
    let mut config = ca.config();
    // At 60 attempts a request fails once in thirty million.
    config.nonce_attempts = 60;
    let directory = Directory::connect(config, now()).await.unwrap();
    let acme = ensure_account(&directory, &account_key(), None)
        .await
        .unwrap();
    let order = acme
        .new_order(OrderRequest::of(&names(&TEN)), now())
        .await
        .unwrap();
    issue(&*acme, &order.url, &TEN).await;
    assert_eq!(ca.count(Counted::Orders), 1);
    assert!(ca.count(Counted::NewOrderRequests) >= 1);
}

pub(crate) async fn request_mostly_goes_through_although_four_of_five_nonces_are_refused<
    A: Authority,
>() {
    let Some(ca) = A::start(&Shape {
        nonce_refusals: 80,
        ..Shape::default()
    })
    .await
    else {
        return;
    };
    let directory = connect(&ca).await;
    let key = account_key();
    let mut passed = 0;
    for _ in 0..60 {
        match directory.account(&key, None, now()).await.err().unwrap() {
            fault if fault.is_unknown_account() => passed += 1,
            fault => assert_eq!(fault.class, FaultClass::Unavailable, "{fault:?}"),
        }
    }
    // 52 are expected, with a deviation of 2.6.
    assert!(passed >= 36, "{passed} of 60");
}

pub(crate) async fn chains_beside_the_default_one_are_read_from_the_links<A: Authority>() {
    let Some(ca) = A::start(&Shape {
        alternates: 2,
        ..Shape::default()
    })
    .await
    else {
        return;
    };
    let acme = account(&ca).await;
    let order = acme
        .new_order(OrderRequest::of(&names(&TEN)), now())
        .await
        .unwrap();
    let default = issue(&*acme, &order.url, &TEN).await;
    let chain = acme.certificate(&order.url, now()).await.unwrap();
    assert_eq!((&chain.pem, chain.alternates.len()), (&default, 2));
    let leaf = |pem: &str| {
        pem.split_inclusive("-----END CERTIFICATE-----")
            .next()
            .map(str::to_owned)
    };
    let mut all = vec![chain.pem];
    for url in &chain.alternates {
        all.push(acme.alternate(url, now()).await.unwrap());
    }
    assert!(all.iter().all(|pem| leaf(pem) == leaf(&default)), "{all:?}");
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 3, "{all:?}");
    let foreign = acme.alternate("https://elsewhere.example/1", now()).await;
    assert_eq!(foreign.unwrap_err().class, FaultClass::Gone);
}

pub(crate) async fn refused_name_is_named<A: Authority>() {
    let Some(ca) = A::start(&Shape {
        blocked: &["blocked.test"],
        ..Shape::default()
    })
    .await
    else {
        return;
    };
    let acme = account(&ca).await;
    let fault = acme
        .new_order(
            OrderRequest::of(&names(&["good.test", "www.blocked.test"])),
            now(),
        )
        .await
        .unwrap_err();
    assert_eq!(
        (fault.class, fault.http_status),
        (FaultClass::Permanent, Some(400))
    );
    assert_eq!(fault.problem.unwrap().kind, "rejectedIdentifier");
    assert!(
        fault.detail.contains("www.blocked.test"),
        "{}",
        fault.detail
    );
}

pub(crate) async fn request_for_other_names_is_refused_at_finalize<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let acme = account(&ca).await;
    let order = acme
        .new_order(OrderRequest::of(&names(&["a.example.test"])), now())
        .await
        .unwrap();
    let view = acme.read_order(&order.url, now()).await.unwrap();
    let challenges: Vec<String> = view.open_challenges().map(|(_, c)| c.url.clone()).collect();
    acme.accept(&challenges, now()).await.unwrap();
    read_until(&*acme, &order.url, OrderState::Ready).await;
    let fault = acme
        .finalize(&order.url, &csr(&["b.example.test"]), now())
        .await
        .unwrap_err();
    assert!(
        fault.detail.starts_with("finalize at 127.0.0.1"),
        "{}",
        fault.detail
    );
    assert!(fault.problem.is_some());
}

pub(crate) async fn authorization_given_back_has_ended<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let acme = account(&ca).await;
    let order = acme
        .new_order(OrderRequest::of(&names(&["a.example.test"])), now())
        .await
        .unwrap();
    let view = acme.read_order(&order.url, now()).await.unwrap();
    let urls: Vec<String> = view.authorizations.iter().map(|a| a.url.clone()).collect();
    acme.deactivate(&urls, now()).await.unwrap();
    acme.deactivate(&urls, now()).await.unwrap();
    let view = acme.read_order(&order.url, now()).await.unwrap();
    assert!(
        view.authorizations
            .iter()
            .all(|a| a.state == ProofState::Ended),
        "{view:?}"
    );
}

pub(crate) async fn directory_tells_terms_and_trust_is_only_in_the_bundle<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let directory = connect(&ca).await;
    assert!(directory.terms_of_service().is_some_and(|t| !t.is_empty()));
    assert_eq!(directory.caa_identities(), [CAA_IDENTITY]);
    assert!(!directory.external_account_required());

    let mut config = ca.config();
    let Some(other) = A::start(&Shape::default()).await else {
        return;
    };
    config.ca_bundle = other.config().ca_bundle;
    let error = Directory::connect(config, now()).await.err().unwrap();
    assert!(matches!(error, ConnectError::Untrusted { .. }), "{error}");
}
