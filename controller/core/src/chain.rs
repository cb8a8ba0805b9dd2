//! Which of a CA's chains is taken, and what is said of the one in place.

/// The root that is preferred and the one that the chain in place leads to, in a sentence; `None` when they are the same. Never a
/// reason to issue again: a CA may change its hierarchy at any time.
#[must_use]
pub fn find_chain_note(preferred: &str, root: &str) -> Option<String> {
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
        assert_eq!(find_chain_note("A", "A"), None);
        let said = find_chain_note("A", "B").unwrap();
        assert!(
            said.contains("leads to B") && said.contains("preferredChain is A"),
            "{said}"
        );
    }
}
