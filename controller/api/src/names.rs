//! DNS names, parsed once into a form that every later comparison can rely on.

use std::fmt;

/// A host name in the form that a certificate carries: lower case, A-labels, no trailing dot, not a wildcard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

/// Why a text is not a name that HTTP-01 can prove. The sentence names the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("the name is empty: write a host name such as www.example.com")]
    Empty,
    /// A wildcard (RFC 8555 §8.3 offers no proof of one over HTTP).
    #[error("{0:?} is a wildcard, and HTTP-01 cannot prove one: list the host names themselves")]
    Wildcard(String),
    /// An upper-case letter.
    #[error("{0:?} has upper-case letters: write it in lower case")]
    UpperCase(String),
    /// Letters outside of ASCII.
    #[error("{0:?} is not in its ASCII form: write the IDNA A-labels (xn--…)")]
    NotAscii(String),
    /// The text is an IP address.
    #[error("{0:?} is an IP address: dnsNames takes host names only")]
    IpAddress(String),
    /// Anything else that RFC 1123 §2.1 forbids.
    #[error(
        "{0:?} is not a host name: labels of letters, digits and inner hyphens, 63 at most, joined by dots, 253 in all, at least two labels"
    )]
    Malformed(String),
}

impl DnsName {
    /// Parses a host name of at least two labels (RFC 1123 §2.1, RFC 5890 A-labels).
    ///
    /// # Errors
    /// [`NameError`] with a sentence that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.starts_with("*.") || text == "*" {
            return Err(NameError::Wildcard(text.to_owned()));
        }
        if !text.is_ascii() {
            return Err(NameError::NotAscii(text.to_owned()));
        }
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NameError::UpperCase(text.to_owned()));
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Err(NameError::IpAddress(text.to_owned()));
        }
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if text.len() > 253 || !text.contains('.') || !text.split('.').all(label) {
            return Err(NameError::Malformed(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_taken_as_they_are() {
        for good in [
            "a.b",
            "www.example.com",
            "xn--bcher-kva.example",
            "1.example",
        ] {
            assert_eq!(
                DnsName::parse(good).map(|n| n.to_string()),
                Ok(good.to_owned())
            );
        }
    }

    #[test]
    fn every_refusal_says_what_to_write_instead() {
        assert_eq!(DnsName::parse(""), Err(NameError::Empty));
        assert_eq!(
            DnsName::parse("*.a.b"),
            Err(NameError::Wildcard("*.a.b".into()))
        );
        assert_eq!(
            DnsName::parse("A.b"),
            Err(NameError::UpperCase("A.b".into()))
        );
        assert_eq!(
            DnsName::parse("bücher.example"),
            Err(NameError::NotAscii("bücher.example".into()))
        );
        assert_eq!(
            DnsName::parse("198.18.0.1"),
            Err(NameError::IpAddress("198.18.0.1".into()))
        );
        for bad in ["localhost", "a..b", "-a.b", "a-.b", "a_b.c", "a.b."] {
            assert_eq!(
                DnsName::parse(bad),
                Err(NameError::Malformed(bad.into())),
                "{bad}"
            );
        }
    }
}
