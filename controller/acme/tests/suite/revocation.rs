//! Revocation (RFC 8555 §7.6).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use evercert_acme::OrderRequest;
use evercert_core::fault::FaultClass;
use evercert_core::revocation::RevocationReason;

use super::{Authority, Shape, TEN, account, issue, names};
use crate::support::now;

pub(crate) async fn certificate_is_revoked_by_its_account_and_a_second_time_counts_as_done<
    A: Authority,
>() {
    let Some(ca) = A::start(&Shape::default()).await else {
        return;
    };
    let acme = account(&ca).await;
    let order = acme
        .new_order(OrderRequest::of(&names(&TEN)), now())
        .await
        .unwrap();
    let chain = issue(&*acme, &order.url, &TEN).await;
    let (leaf, _) = chain.split_once("-----END").unwrap();
    let leaf: String = leaf.lines().skip(1).collect();
    let leaf = BASE64_STANDARD.decode(leaf).unwrap();
    let reason = RevocationReason::Superseded;
    let stranger = account(&ca).await;
    let fault = stranger.revoke(&leaf, reason, now()).await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Permanent, "{fault:?}");
    assert_eq!(fault.problem.unwrap().kind, "unauthorized");
    for _ in 0..2 {
        acme.revoke(&leaf, reason, now()).await.unwrap();
    }
}
