//! Reasons: the one word of a condition or an event, from a closed list.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The one word of a condition or an event. The list is closed, so that alerts and metrics can rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name),* }

        impl Reason {
            /// The word as it stands in a condition.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

reasons! {
    // Ready
    /// An issued certificate for the wanted names is in place.
    Issued,
    /// The Secret does not exist.
    SecretMissing,
    /// The Secret lacks `tls.crt` or `tls.key`.
    MissingData,
    /// The key in the Secret does not belong to the certificate in it.
    InvalidKeyPair,
    /// The certificate in the Secret cannot be read.
    InvalidCertificate,
    /// A fallback stands in.
    FallbackInPlace,
    /// The certificate was signed by another issuer than the spec names.
    IssuerChanged,
    /// The certificate was issued for other names than the spec names.
    NamesChanged,
    /// The key is not of the kind that the spec asks for.
    KeySpecChanged,
    /// The certificate in place has expired.
    Expired,
    /// The certificate in place is not valid yet by this machine's clock.
    NotYetValid,
    /// The certificate in place is due for renewal.
    Renewing,
    /// A person asked for a renewal by annotation.
    RenewRequested,
    /// A person asked by annotation for the certificate in place to be revoked.
    RevocationRequested,
    /// The certificate was revoked.
    Revoked,
    // Issuing
    /// A key for the next certificate is being made.
    GeneratingKey,
    /// The solver is being started.
    StartingSolver,
    /// The forwarder in the Certificate's namespace is being started.
    StartingForwarder,
    /// An order is being placed.
    PlacingOrder,
    /// The route to the solver is not answering yet.
    WaitingForRoute,
    /// The CA validates the names.
    Validating,
    /// The CA signs the certificate.
    Finalizing,
    /// The certificate is being stored.
    Storing,
    /// No order is under way.
    Idle,
    // Waiting or stalled
    /// The spec cannot be fulfilled as written.
    InvalidSpec,
    /// Another Certificate owns the Secret.
    SecretNameConflict,
    /// The Secret belongs to somebody else.
    SecretNotOurs,
    /// The Secret is not of type kubernetes.io/tls.
    SecretWrongType,
    /// The issuer does not exist.
    IssuerNotFound,
    /// The issuer is not ready.
    IssuerNotReady,
    /// The ClusterIssuer's policy does not allow a name in this namespace.
    NameNotAllowed,
    /// The CA does not offer the profile.
    ProfileNotOffered,
    /// DNS does not lead a name here, or forbids the CA.
    DNSNotReady,
    /// No ingress class for the route to the solver.
    NoIngressClass,
    /// A forwarder in the Certificate's namespace is needed, and the operator has no rights for it.
    PlacementNotAllowed,
    /// No order yet: the forwarder in the Certificate's namespace does not become ready.
    ForwarderNotReady,
    /// Another namespace holds a name.
    NameHeldElsewhere,
    /// The last attempt failed and the next one waits.
    BackingOff,
    /// The spec says that nothing new is started.
    Suspended,
    /// A slot among the orders under way is awaited.
    WaitingForSlot,
    /// The API server refuses the Secret.
    SecretNotWritable,
    /// Another writer keeps changing the Secret.
    SecretContested,
    /// The Secret is immutable, and another certificate is needed.
    SecretImmutable,
    /// No order ready: the solver does not become ready.
    SolverNotReady,
    /// A failed attempt.
    OrderFailed,
    /// The CA could not validate a name.
    ValidationFailed,
    /// The CA refuses a name or the whole request for good.
    Rejected,
    /// The CA limits the rate.
    RateLimited,
    /// The CA has paused a name until a person opens its page.
    Paused,
    /// The CA does not answer as it should.
    CAUnavailable,
    /// The CA does not offer the chain that the issuer prefers.
    ChainNotOffered,
    /// The order was lost at the CA, or its record by a crash.
    OrderLost,
    /// The order's time ran out.
    OrderExpired,
    /// The answer of the CA breaks the protocol or our checks.
    BadAnswer,
    /// An order that no longer fits was given up.
    OrderAbandoned,
    // Issuer
    /// The account is registered and the directory answers.
    AccountReady,
    /// The self-signed issuer needs nothing.
    SelfSigned,
    /// The terms of service are not agreed to.
    TermsNotAgreed,
    /// The directory URL is not allowed.
    InvalidDirectory,
    /// The URL answers, but not as an ACME directory.
    NotAnAcmeDirectory,
    /// The TLS certificate of the directory is not trusted.
    UntrustedDirectory,
    /// The CA bundle cannot be read.
    InvalidCABundle,
    /// The account's key cannot be used.
    InvalidAccountKey,
    /// Annotations of the routes that this Issuer may not set are left out.
    RouteAnnotationsRefused,
    /// The CA wants an external account binding.
    ExternalAccountRequired,
    /// The CA refuses the external account binding.
    EABRejected,
    /// The key of the external account binding cannot be read.
    InvalidExternalAccount,
    /// The CA has ended the account, for good.
    AccountDeactivated,
    /// The CA refuses the account.
    AccountRefused,
    /// The CA asks for a person's action.
    UserActionRequired,
    /// The key leads to another account than before.
    AccountReplaced,
    /// The account's key was put back into its Secret.
    AccountKeyRestored,
    /// The account has another key, as was asked for.
    AccountKeyChanged,
    /// The CA refuses another key for the account.
    AccountKeyNotChanged,
    // Served
    /// The entry point presents the certificate in the Secret.
    Fresh,
    /// The entry point presents an older certificate, or a fallback.
    Stale,
    /// The entry point presents another certificate.
    AnotherCertificate,
    /// The entry point presents no certificate.
    EntryPointUnreachable,
    /// No Ingress that covers the names has an address.
    NoEntryPoint,
    // Events
    /// An order was placed.
    OrderPlaced,
    /// A Secret that somebody else made was taken over.
    SecretAdopted,
    /// The CA asks for a renewal sooner than planned.
    RenewalAdvised,
    /// The CA refuses to revoke a certificate.
    RevocationRefused,
    /// A revocation was asked for, and is not any more.
    RevocationDropped,
    /// A changed profile takes effect at the next renewal.
    ProfilePending,
    /// The Secret was restored from the companion.
    SecretRestored,
    /// A fallback was written.
    FallbackWritten,
    /// `renewBefore` was cut to two thirds of the lifetime, or stretched to a twentieth.
    Clamped,
    /// The Kubernetes API refused a request.
    ApiError,
    // Events on an Ingress
    /// A Certificate was made for a `tls` entry.
    CertificateMade,
    /// A Certificate that no `tls` entry asks for any more was removed; its Secret is not.
    CertificateRemoved,
    /// A Certificate for a `tls` entry cannot be written.
    CertificateRefused,
    /// A Certificate that somebody else made has the name or the Secret.
    CertificateNotOurs,
    /// An annotation cannot be read, or does not go with another one.
    AnnotationInvalid,
    /// An annotation of ours is not known.
    AnnotationUnknown,
    /// An annotation of somebody else's spelling has no equal.
    AnnotationIgnored,
    /// There are annotations of ours, and none that names an issuer.
    NoIssuerNamed,
    /// A `tls` entry lacks its Secret's name or its hosts.
    EntryIncomplete,
    /// A `tls` entry has several hosts, and each is to have a certificate of its own.
    EntrySplit,
    /// A host cannot be in a certificate.
    HostLeftOut,
    /// Several `tls` entries or Ingresses name one Secret.
    SecretShared,
    /// The Ingress owns a Certificate of cert-manager.
    LeftToCertManager,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
