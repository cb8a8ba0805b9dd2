//! Reading a status that anybody may have written.
//!
//! Whoever may write a status may write into it what the schema lets through and this version cannot read. One such object must
//! not keep the controller from reading all the others, so a field of a status that cannot be read counts as absent.

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

/// The field's value, or its default when it cannot be read. Fails only where the text is not JSON at all.
pub(crate) fn field<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Value::deserialize(deserializer).map(|value| serde_json::from_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Certificate, Issuer};

    #[test]
    fn a_forged_status_costs_its_own_fields_only() {
        let forged = json!({
            "apiVersion": "evercert.dev/v1", "kind": "Certificate", "metadata": {"name": "site", "namespace": "shop"},
            "spec": {"secretName": "site-tls", "dnsNames": ["a.example"], "issuerRef": {"name": "ca"}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00x1+99:99"}],
                "order": {"url": 7}, "notAfter": "soon", "failedAttempts": -1, "serialNumber": "0a", "later": {"kept": true},
            },
        });
        let status = serde_json::from_value::<Certificate>(forged)
            .unwrap()
            .status
            .unwrap();
        assert!(status.conditions.is_empty());
        assert_eq!(
            (status.order, status.not_after, status.failed_attempts),
            (None, None, None)
        );
        assert_eq!(status.serial_number.as_deref(), Some("0a"));
        assert_eq!(status.unknown.get("later"), Some(&json!({"kept": true})));
    }

    #[test]
    fn a_forged_issuer_status_costs_its_own_fields_only() {
        let forged = json!({
            "apiVersion": "evercert.dev/v1", "kind": "Issuer", "metadata": {"name": "ca", "namespace": "shop"},
            "spec": {"selfSigned": {}}, "status": {"conditions": [{}], "accountURI": [], "directory": "https://ca.example/dir"},
        });
        let status = serde_json::from_value::<Issuer>(forged)
            .unwrap()
            .status
            .unwrap();
        assert!(status.conditions.is_empty() && status.account_uri.is_none());
        assert_eq!(status.directory.as_deref(), Some("https://ca.example/dir"));
    }
}
