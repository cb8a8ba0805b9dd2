//! Which of a CA's chains is taken, and what is said of the one in place.

/// The root that is preferred and the one that the chain in place leads to, in a sentence; `None` when they are the same, or
/// when either is not known. Never a reason to issue again: a CA may change its hierarchy at any time.
#[must_use]
pub fn find_chain_note(preferred: Option<&str>, root: Option<&str>) -> Option<String> {
    let (preferred, root) = (preferred?, root?);
    (preferred != root).then(|| {
        format!(
            "its chain leads to {root}, the issuer's spec.acme.preferredChain is {preferred}: the CA did not offer that one, or it is \
             taken with the next certificate"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_to_another_root_than_the_preferred_one_is_said() {
        assert_eq!(find_chain_note(None, Some("A")), None);
        assert_eq!(find_chain_note(Some("A"), None), None);
        assert_eq!(find_chain_note(Some("A"), Some("A")), None);
        let said = find_chain_note(Some("A"), Some("B")).unwrap();
        assert!(
            said.contains("leads to B") && said.contains("preferredChain is A"),
            "{said}"
        );
    }
}
