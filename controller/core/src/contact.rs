//! An account's contact: told to the CA once (RFC 8555 §7.3.2).

/// The contacts that the account is to be given, if the CA is to be told any.
///
/// `told` is what the CA says of the account, nothing where it says nothing; `given` is the address that it was last given by
/// us. A CA that keeps no contacts is told each address once, and an address that we did not give is only replaced.
#[must_use]
pub fn plan_contact(
    wanted: Option<&str>,
    told: &[String],
    given: Option<&str>,
) -> Option<Vec<String>> {
    let mailto = |address: &str| format!("mailto:{address}");
    let is_told = |address: &str| told == [mailto(address)];
    match (wanted, given) {
        (Some(wanted), _) if is_told(wanted) => None,
        (Some(wanted), Some(given)) if wanted == given && told.is_empty() => None,
        (Some(wanted), _) => Some(vec![mailto(wanted)]),
        (None, Some(given)) if is_told(given) || told.is_empty() => Some(Vec::new()),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a@example.test";
    const B: &str = "b@example.test";

    #[test]
    fn a_ca_is_told_a_contact_when_it_does_not_have_it_and_once_when_it_keeps_none() {
        let told = |address: &str| vec![format!("mailto:{address}")];
        let none: Vec<String> = Vec::new();
        let table = [
            // It has it, whoever gave it.
            (Some(A), told(A), None, None),
            (Some(A), told(A), Some(A), None),
            // It keeps none, and was told.
            (Some(A), none.clone(), Some(A), None),
            (Some(A), none.clone(), None, Some(told(A))),
            (Some(A), none.clone(), Some(B), Some(told(A))),
            // It has another.
            (Some(A), told(B), Some(A), Some(told(A))),
            (Some(A), told(B), None, Some(told(A))),
            // None is wanted any more: what we gave goes, what others gave stays.
            (None, told(A), Some(A), Some(none.clone())),
            (None, none.clone(), Some(A), Some(none.clone())),
            (None, told(B), Some(A), None),
            (None, told(B), None, None),
            (None, none.clone(), None, None),
        ];
        for (wanted, told, given, expected) in table {
            assert_eq!(
                plan_contact(wanted, &told, given),
                expected,
                "{wanted:?} {told:?} {given:?}"
            );
        }
    }
}
