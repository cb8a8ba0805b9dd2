//! Accounts (RFC 8555 §7.3).

use super::*;

pub(crate) async fn key_finds_its_account_again<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let key = account_key();
    let directory = connect(&ca).await;
    let unknown = directory.account(&key, None, now()).await.err().unwrap();
    assert_eq!(unknown.class, FaultClass::Account);
    assert_eq!(unknown.problem.unwrap().kind, "accountDoesNotExist");

    let made = ensure_account(&directory, &key, Some("a@example.test"))
        .await
        .unwrap();
    // Another process, with nothing but the key.
    let found = connect(&ca).await.account(&key, None, now()).await.unwrap();
    assert_eq!(found.account_uri(), made.account_uri());
    assert_eq!(ca.count(Counted::Accounts), 1);

    let forgotten = ca.nothing(Nothing::Account);
    let stranger = directory
        .account(&key, Some(&forgotten), now())
        .await
        .unwrap()
        .into_acme();
    let fault = stranger
        .new_order(OrderRequest::of(&names(&["a.example.test"])), now())
        .await
        .unwrap_err();
    assert_eq!(fault.class, FaultClass::Account, "{fault:?}");

    let contact = ensure_account(&directory, &key, Some("no address"))
        .await
        .err()
        .unwrap();
    assert_eq!(contact.class, FaultClass::Account, "{contact:?}");
}

pub(crate) async fn external_account_that_is_wanted_and_lacking_is_the_issuers_matter<
    A: Authority,
>() {
    let Some(ca) = A::start(&Shape {
        external_account: true,
        ..Shape::default()
    })
    .await
    else {
        return;
    };
    let directory = connect(&ca).await;
    assert!(directory.external_account_required());
    let fault = ensure_account(&directory, &account_key(), None)
        .await
        .err()
        .unwrap();
    assert_eq!(fault.class, FaultClass::Account);
    assert_eq!(fault.problem.unwrap().kind, "externalAccountRequired");
}

pub(crate) async fn account_is_bound_to_the_external_account_that_the_ca_wants<A: Authority>() {
    let Some(ca) = A::start(&Shape {
        external_account: true,
        ..Shape::default()
    })
    .await
    else {
        return;
    };
    let directory = connect(&ca).await;
    let key = account_key();
    let (kid, mac_key) = EXTERNAL_ACCOUNT;
    let external =
        |kid: &str, mac_key: &str| ExternalAccount::parse(kid, mac_key.as_bytes()).unwrap();
    for wrong in [
        external("kid-2", mac_key),
        external(kid, "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmc"),
    ] {
        let fault = directory
            .new_account(&key, Some(&wrong), now())
            .await
            .err()
            .unwrap();
        assert!(fault.http_status.is_some_and(|s| s < 500), "{fault:?}");
        assert_ne!(fault.class, FaultClass::Unavailable, "{fault:?}");
    }
    assert_eq!(ca.count(Counted::Accounts), 0);
    let made = directory
        .new_account(&key, Some(&external(kid, mac_key)), now())
        .await
        .unwrap();
    let found = directory.account(&key, None, now()).await.unwrap();
    assert_eq!(found.account_uri(), made.account_uri());
    let order = found
        .into_acme()
        .new_order(OrderRequest::of(&names(&["a.example.test"])), now())
        .await
        .unwrap();
    assert_eq!(order.state, OrderState::Pending);
    assert_eq!(ca.count(Counted::Accounts), 1);
}

pub(crate) async fn account_gets_another_key_and_stays_the_same<A: Authority>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let directory = connect(&ca).await;
    let (old, new) = (account_key(), account_key());
    let before = directory.new_account(&old, None, now()).await.unwrap();
    let uri = before.account_uri().to_owned();
    let changed = before.change_key(&new, now()).await.unwrap();
    assert_eq!(changed.account_uri(), uri);
    let acme = changed.into_acme();
    acme.new_order(OrderRequest::of(&names(&["a.example.test"])), now())
        .await
        .unwrap();

    let found = directory.account(&new, None, now()).await.unwrap();
    assert_eq!(found.account_uri(), uri);
    let fault = directory.account(&old, None, now()).await.err().unwrap();
    assert!(fault.is_unknown_account(), "{fault:?}");
    assert_eq!(ca.count(Counted::Accounts), 1);
}
