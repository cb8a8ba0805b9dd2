//! The external account that a new account is bound to (RFC 8555 §7.3.4).

use evercert_acme::ExternalAccount;
use evercert_api::Reason;
use evercert_api::children::stable_hash;
use evercert_api::issuer::AcmeIssuer;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::object::IssuerObject;
use super::ready::{NotReady, Stop};
use crate::apply;
use crate::secrets::data;

/// The external account that the spec names, if it names one. The inner error says why its MAC key cannot be used, which matters
/// only where an account is to be registered: after that its Secret may go.
pub(super) async fn gather(
    object: &IssuerObject,
    acme: &AcmeIssuer,
    secrets: &Api<Secret>,
) -> Result<Result<Option<ExternalAccount>, NotReady>, Stop> {
    let Some(binding) = &acme.external_account_binding else {
        return Ok(Ok(None));
    };
    let reference = &binding.key_secret_ref;
    let not = |why: String| {
        let message = format!("spec.acme.externalAccountBinding.keySecretRef: {why}");
        NotReady::refused(Reason::InvalidExternalAccount, message)
    };
    let secret = match apply::within(secrets.get_opt(&reference.name)).await {
        Err(error) if error.is_passing() => return Err(Stop::Api(error)),
        Err(error) => return Ok(Err(not(error.to_string()))),
        Ok(secret) => secret,
    };
    let Some(secret) = secret else {
        return Ok(Err(not(format!(
            "Secret {} does not exist in namespace {}: create it with the MAC key that the CA gave, or mend the name",
            reference.name, object.secrets_namespace
        ))));
    };
    let mac_key = data(&secret, &reference.key);
    let external = ExternalAccount::parse(&binding.key_id, mac_key);
    Ok(external.map(Some).ok_or_else(|| {
        not(format!(
            "Secret {} has no MAC key in base64url under {}: put it there as the CA gave it, or mend the key",
            reference.name, reference.key
        ))
    }))
}

/// A text that is another for another external account.
pub(super) fn fingerprint(external: Option<&ExternalAccount>) -> String {
    external.map_or_else(String::new, |external| {
        let mac_key: String = external.mac_key.iter().map(|b| char::from(*b)).collect();
        format!("{:x}", stable_hash(&[&external.key_id, &mac_key]))
    })
}

/// What a person does about a binding that the CA refuses.
pub(super) fn build_remedy(acme: &AcmeIssuer) -> String {
    let secret = acme
        .external_account_binding
        .as_ref()
        .map(|b| b.key_secret_ref.name.as_str())
        .unwrap_or_default();
    format!(
        "get a new key id and MAC key from the CA, since many CAs take each only once; write the id to \
         spec.acme.externalAccountBinding.keyID and the key into Secret {secret}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_id_or_another_mac_key_is_another_external_account() {
        let external = |id: &str, key: &str| ExternalAccount::parse(id, key.as_bytes());
        let texts = [
            external("a", "c2VjcmV0"),
            external("b", "c2VjcmV0"),
            external("a", "c2VjcmV1"),
            None,
        ]
        .map(|external| fingerprint(external.as_ref()));
        for (i, text) in texts.iter().enumerate() {
            assert!(
                !texts.iter().skip(i + 1).any(|other| other == text),
                "{texts:?}"
            );
        }
    }
}
