//! Every effect by its name: what the operator changes in the cluster and at a CA, and nothing else.
//!
//! All of it passes `perform`, in two places: `apply.rs` for the cluster, `effect/ca.rs` for the CA. So nothing is changed without
//! saying what is done, and a test can stop the process at every place where a crash could leave something half done.

pub(crate) mod ca;
#[cfg(feature = "failpoints")]
pub mod failpoint;

use std::fmt;
use std::future::Future;

use crate::apply::Concern;

macro_rules! effects {
    ($($(#[$doc:meta])+ $effect:ident $name:literal $concern:ident)+) => {
        /// One kind of change, however many objects or names it is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Effect {
            $($(#[$doc])+ $effect,)+
        }

        impl Effect {
            /// Every effect.
            pub const ALL: &[Self] = &[$(Self::$effect),+];

            /// Its name, kebab-case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$effect => $name,)+
                }
            }

            /// What it is about.
            #[must_use]
            pub const fn concern(self) -> Concern {
                match self {
                    $(Self::$effect => Concern::$concern,)+
                }
            }
        }
    };
}

effects! {
    /// The Secret with an account's key is made: with a new key before it is used, or with the key that was in it.
    CreateAccountKey "create-account-key" Account
    /// An account is registered at the CA (RFC 8555 §7.3).
    NewAccount "new-account" Ca
    /// The account is given another contact (RFC 8555 §7.3.2).
    UpdateContact "update-contact" Ca
    /// The account's next key goes into the Secret, beside the present one.
    KeepNextAccountKey "keep-next-account-key" Account
    /// The account is given its next key (RFC 8555 §7.3.5).
    ChangeAccountKey "change-account-key" Ca
    /// The Secret holds one key again: the next, or the present one where the CA refuses another.
    SettleAccountKey "settle-account-key" Account
    /// The status of an Issuer or ClusterIssuer is written.
    WriteIssuerStatus "write-issuer-status" Status

    /// The intent to order goes into the ledger.
    RecordIntent "record-intent" Ledger
    /// What became of intents goes into the ledger, without a new one.
    SettleIntent "settle-intent" Ledger
    /// The key of the next certificate goes into the companion.
    KeepPendingKey "keep-pending-key" Companion
    /// The TLS Secret is written as a dry run, before an order is spent on it.
    TrySecret "try-secret" Secret
    /// The order is placed (RFC 8555 §7.4).
    NewOrder "new-order" Ca
    /// The order's URL goes into the status.
    RecordOrder "record-order" Status
    /// The CA is told that challenges are ready (RFC 8555 §7.5.1).
    AcceptChallenges "accept-challenges" Ca
    /// The CSR is sent (RFC 8555 §7.4).
    Finalize "finalize" Ca
    /// The issued certificate goes into the companion.
    KeepIssued "keep-issued" Companion
    /// The issued certificate goes into the TLS Secret.
    StoreIssued "store-issued" Secret
    /// The order goes out of the status, after a certificate or because it was given up.
    ClearOrder "clear-order" Status
    /// A key that no order needs goes out of the companion.
    DropPendingKey "drop-pending-key" Companion
    /// A failed attempt goes into the status, and the order out of it.
    RecordFailure "record-failure" Status
    /// A certificate that is to be revoked goes into the companion, before its renewal.
    NoteRevocation "note-revocation" Companion
    /// A certificate is revoked (RFC 8555 §7.6).
    Revoke "revoke" Ca
    /// The companion holds no certificate that is to be revoked any more, and the leaf of one that was.
    SettleRevocation "settle-revocation" Companion
    /// Authorizations of an order that was given up are given back (RFC 8555 §7.5.2).
    DeactivateAuthorizations "deactivate-authorizations" Ca
    /// What is said of a Certificate is written: conditions, dates, the next attempt.
    WriteStatus "write-status" Status
    /// An event is written.
    WriteEvent "write-event" Event

    /// A self-signed issuer's certificate goes into the companion.
    KeepSelfSigned "keep-self-signed" Companion
    /// A self-signed issuer's certificate goes into the TLS Secret.
    StoreSelfSigned "store-self-signed" Secret
    /// The last good certificate goes back into the TLS Secret.
    RestoreSecret "restore-secret" Secret
    /// A marked self-signed certificate goes into the TLS Secret.
    WriteFallback "write-fallback" Secret
    /// A Secret of somebody else that nobody claims gets label and annotations of ours.
    AdoptSecret "adopt-secret" Secret
    /// Labels, annotations and what follows from the spec are put in step in the TLS Secret.
    MendMarks "mend-marks" Secret
    /// A TLS Secret is deleted with its Certificate.
    DeleteSecret "delete-secret" Secret
    /// The good certificate in the TLS Secret is copied into the companion.
    KeepCopy "keep-copy" Companion
    /// A companion that was restored from a copy gets its owner back.
    OwnCompanion "own-companion" Companion

    /// The open challenges are written.
    ApplyChallenges "apply-challenges" Challenges
    /// The Service of a namespace's routes is written.
    ApplyRouteService "apply-route-service" Route
    /// The endpoints of a namespace's routes are written.
    ApplyRouteSlice "apply-route-slice" Route
    /// An Ingress with routes is written.
    ApplyRouteIngress "apply-route-ingress" Route
    /// The path of a challenge goes into a user's own Ingress.
    EditIngress "edit-ingress" Route
    /// The paths that no challenge needs go out of a user's own Ingress.
    RestoreIngress "restore-ingress" Route
    /// The Service of a namespace's routes is deleted, and with it what it owns.
    DeleteRouteService "delete-route-service" Route
    /// Endpoints that lead to nothing any more are deleted by themselves.
    DeleteRouteSlice "delete-route-slice" Route
    /// An Ingress with routes that nobody needs is deleted by itself.
    DeleteRouteIngress "delete-route-ingress" Route

    /// The solver's Deployment is written.
    ApplySolverDeployment "apply-solver-deployment" Solver
    /// The solver's Service is written.
    ApplySolverService "apply-solver-service" Solver
    /// The solver's Deployment is deleted.
    DeleteSolverDeployment "delete-solver-deployment" Solver
    /// The solver's Service is deleted.
    DeleteSolverService "delete-solver-service" Solver

    /// The Service or the Deployment of a namespace's forwarder is written.
    ApplyForwarder "apply-forwarder" Forwarder
    /// The Service of a namespace's forwarder is deleted, and with it what it owns.
    DeleteForwarder "delete-forwarder" Forwarder

    /// The Certificate of a source is written.
    ApplyCertificate "apply-certificate" Source
    /// A Certificate that no source asks for any more is deleted.
    RemoveCertificate "remove-certificate" Source

    /// The Lease is taken.
    TakeLease "take-lease" Lease
    /// The claim on the Lease is renewed.
    RenewLease "renew-lease" Lease
    /// The Lease is given up, so that another need not wait.
    ReleaseLease "release-lease" Lease
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Does `doing`, which is `effect`: one request, or one kind of request for one order.
pub(crate) async fn perform<T>(effect: Effect, doing: impl Future<Output = T>) -> T {
    #[cfg(feature = "failpoints")]
    failpoint::pass(effect, failpoint::Side::Before);
    tracing::trace!(%effect, "begins");
    let done = doing.await;
    #[cfg(feature = "failpoints")]
    failpoint::pass(effect, failpoint::Side::After);
    done
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_kebab_case_and_each_is_one_effects_own() {
        let names: BTreeSet<&str> = Effect::ALL.iter().map(|e| e.name()).collect();
        assert_eq!(names.len(), Effect::ALL.len());
        for name in names {
            let words = name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            assert!(
                words && !name.starts_with('-') && !name.ends_with('-'),
                "{name}"
            );
        }
    }
}
