//! Labels, annotations and data keys that Evercert writes on objects or reads from them.

/// The API group of every resource and the prefix of every label and annotation.
pub const GROUP: &str = "evercert.dev";

/// Field manager of everything that the controller applies, one suffix for each concern (`evercert-secret`, …).
pub const FIELD_MANAGER: &str = "evercert";

/// Field manager of the Certificates that Ingresses are the source of: one that it has applied is the source's.
pub const SOURCE_MANAGER: &str = "evercert-source";
/// Label on a namespace: `disabled` has its Ingresses left alone, `enabled` has them looked at where only labelled ones are.
pub const INGRESS_SOURCE: &str = "evercert.dev/ingress-source";

/// Label on every Secret that Evercert writes; its value is the Secret's role. Only an index: it is put back when stripped.
pub const SECRET_ROLE_LABEL: &str = "evercert.dev/secret";
/// Role of a TLS Secret named by a Certificate.
pub const ROLE_TLS: &str = "tls";
/// Role of the companion Secret: pending key and last good certificate.
pub const ROLE_COMPANION: &str = "companion";
/// Role of an ACME account's key.
pub const ROLE_ACCOUNT: &str = "account";

/// Label on the objects of the route and solver projections.
pub const COMPONENT_LABEL: &str = "evercert.dev/component";
/// Value of [`COMPONENT_LABEL`] on routes: Service, slices and Ingresses that lead to the solver.
pub const COMPONENT_ROUTE: &str = "route";
/// Value of [`COMPONENT_LABEL`] on the solver's Deployment and Service.
pub const COMPONENT_SOLVER: &str = "solver";
/// Value of [`COMPONENT_LABEL`] on forwarders: the pods in the namespaces of Certificates that pass challenges on to the solver.
pub const COMPONENT_FORWARDER: &str = "forwarder";

/// Annotation on a TLS Secret: the Certificate (by name) that owns it.
pub const CERTIFICATE_NAME: &str = "evercert.dev/certificate-name";
/// Annotation on a TLS Secret: `Kind/name` of the issuer that signed.
pub const ISSUER: &str = "evercert.dev/issuer";
/// Annotation on a TLS Secret: the ACME directory that signed, or `self-signed`.
pub const DIRECTORY: &str = "evercert.dev/directory";
/// Annotation on a TLS Secret: the names wanted when it was issued, sorted, joined by commas.
pub const NAMES: &str = "evercert.dev/names";
/// Annotation on a TLS Secret: the CA's profile that was ordered, where one was named.
pub const PROFILE: &str = "evercert.dev/profile";
/// Annotation on a TLS Secret: the instant of issue, RFC 3339.
pub const ISSUED_AT: &str = "evercert.dev/issued-at";
/// Annotation on a Certificate: an instant, RFC 3339; a renewal is begun when it has come, once for each new value.
pub const RENEW_AT: &str = "evercert.dev/renew-at";
/// Annotation on a Certificate: a reason for which the certificate in place is revoked after its renewal, once for each new value.
/// On its companion: that value, from before the renewal until the certificate is revoked.
pub const REVOKE: &str = "evercert.dev/revoke";
/// Annotation on a TLS Secret: the value of [`REVOKE`] that its certificate was issued after.
pub const REVOKE_HEEDED: &str = "evercert.dev/revoke-heeded";
/// Annotation on a companion: the issuer, `Kind/name`, that signed the certificate that is to be revoked.
pub const REVOKE_ISSUER: &str = "evercert.dev/revoke-issuer";
/// Annotation on a companion: the ACME directory where the certificate that is to be revoked was issued.
pub const REVOKE_DIRECTORY: &str = "evercert.dev/revoke-directory";
/// Annotation on a companion: SHA-256 (hex) of the leaves that were revoked, the newest first, joined by commas.
pub const REVOKED: &str = "evercert.dev/revoked";
/// Annotation on a TLS Secret: SHA-256 (hex) of the fallback's leaf; the mark holds only while it equals the leaf in place.
pub const FALLBACK: &str = "evercert.dev/fallback";
/// Annotation on a TLS Secret: the labels and annotations that `spec.secretTemplate` put there, so that they can be taken away.
pub const TEMPLATE: &str = "evercert.dev/template";
/// Annotation on a TLS Secret: the `spec.outputFormats` that are in it.
pub const FORMATS: &str = "evercert.dev/formats";
/// Annotation on a TLS Secret that is deleted with its Certificate: its own UID, so that a copy of it is not meant.
pub const DELETE_WITH: &str = "evercert.dev/delete-with-certificate";
/// Annotation on the Secret of an account's key that was made since the one before was lost: the URL of the lost account.
pub const REPLACES_ACCOUNT: &str = "evercert.dev/replaces-account";
/// Annotation on an Issuer or ClusterIssuer: each new value, an instant say, has the account's key replaced by a new one.
pub const ROTATE_ACCOUNT_KEY: &str = "evercert.dev/rotate-account-key";
/// Annotation on the Secret of an account's key: the value of [`ROTATE_ACCOUNT_KEY`] that was last heeded.
pub const KEY_ROTATION: &str = "evercert.dev/key-rotation";
/// Annotation on a namespace: `allow` lets other namespaces have certificates for the names that its Ingresses hold.
pub const NAME_SHARING: &str = "evercert.dev/name-sharing";

/// Data key of a certificate chain, PEM, leaf first.
pub const TLS_CRT: &str = "tls.crt";
/// Data key of a private key, PEM (PKCS #8).
pub const TLS_KEY: &str = "tls.key";
/// Data key of the key and the chain in one, PEM.
pub const TLS_COMBINED: &str = "tls-combined.pem";
/// Companion's data key of the key of the order under way, PEM (PKCS #8).
pub const PENDING_KEY: &str = "pending.key";
/// Companion's data key of the chain that is to be revoked, PEM, leaf first.
pub const REVOKE_CRT: &str = "revoke.crt";
/// Companion's data key of the key of that certificate, PEM (PKCS #8).
pub const REVOKE_KEY: &str = "revoke.key";
/// Data key of the account's next key, PEM (PKCS #8), until the CA has confirmed it.
pub const NEXT_KEY: &str = "next.key";
/// The data key in the challenges' ConfigMap.
pub const CHALLENGES_KEY: &str = "challenges.json";
/// Name of the ConfigMap with the open challenges, in the operator's namespace.
pub const CHALLENGES_NAME: &str = "evercert-challenges";
/// Name of the solver's Deployment and Service, in the operator's namespace.
pub const SOLVER_NAME: &str = "evercert-solver";
/// Name of the port of the solver's Service, its slices and the routes.
pub const SOLVER_PORT_NAME: &str = "http";
/// The path under which HTTP-01 answers are looked for (RFC 8555 §8.3).
pub const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";
