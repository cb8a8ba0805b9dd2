//! DNS names and IP addresses, parsed once into a form that every later comparison can rely on.

use std::fmt;
use std::net::IpAddr;

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
    #[error("{0:?} is an IP address: dnsNames takes host names only, write it into ipAddresses")]
    IpAddress(String),
    /// The text is no IP address.
    #[error("{0:?} is not an IP address: write one such as 192.0.2.1 or 2001:db8::1")]
    NoAddress(String),
    /// An IP address in another form than the canonical one.
    #[error("{0:?} is not in its canonical form: write {1}")]
    NotCanonical(String, String),
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
        if text.parse::<IpAddr>().is_ok() {
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

/// What a certificate is for (RFC 8555 §7.1.4, RFC 8738): a host name, or an IP address in its canonical form (RFC 5952).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier {
    text: String,
    address: Option<IpAddr>,
}

impl Identifier {
    /// Parses a host name or an IP address, in any of its forms; an IPv4 address as an IPv6 one (RFC 4291 §2.5.5.2) is the former.
    ///
    /// # Errors
    /// [`NameError`] of a text that is neither.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Ok(match text.parse::<IpAddr>().map(|a| a.to_canonical()) {
            Ok(address) => Self {
                text: address.to_string(),
                address: Some(address),
            },
            Err(_) => Self {
                text: DnsName::parse(text)?.0,
                address: None,
            },
        })
    }

    /// Parses an IP address of a spec, which must be written in its canonical form.
    ///
    /// # Errors
    /// [`NameError::NoAddress`] or [`NameError::NotCanonical`].
    pub fn parse_address(text: &str) -> Result<Self, NameError> {
        let address: IpAddr = text
            .parse()
            .map_err(|_| NameError::NoAddress(text.to_owned()))?;
        let address = address.to_canonical();
        let canonical = address.to_string();
        if canonical != text {
            return Err(NameError::NotCanonical(text.to_owned(), canonical));
        }
        Ok(Self {
            text: canonical,
            address: Some(address),
        })
    }

    /// The name or the address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address, where it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The Host header of a request for a name or an address (RFC 9112 §3.2): an IPv6 address stands in brackets.
#[must_use]
pub fn host_header(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        Ok(IpAddr::V4(_)) | Err(_) => name.to_owned(),
    }
}

/// The name or the address of a Host header without port, dot at the end and brackets, as [`Identifier`] writes it. `None` for a
/// port that is no number, and for brackets around anything but an IPv6 address.
#[must_use]
pub fn parse_host(authority: &str) -> Option<String> {
    let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        let is_port = after.is_empty() || after.strip_prefix(':').is_some_and(port);
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return is_port.then(|| address.to_string());
    }
    let host = match authority.rsplit_once(':') {
        Some((host, given)) if port(given) && !host.contains(':') => host,
        Some(_) => return None,
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    Some(host.to_ascii_lowercase())
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
    fn address_is_an_identifier_in_its_canonical_form_only() {
        // RFC 5952 §4, each rule once.
        for (text, canonical) in [
            ("198.18.0.1", "198.18.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
            ("2001:db8::0:1", "2001:db8::1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
            ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("0:0:0:0:0:0:0:0", "::"),
            ("::198.18.0.1", "::c612:1"),
            ("::ffff:198.18.0.1", "198.18.0.1"),
            ("::FFFF:c612:1", "198.18.0.1"),
        ] {
            let parsed = Identifier::parse(text).unwrap();
            assert_eq!(parsed.as_str(), canonical);
            assert_eq!(parsed.address(), canonical.parse().ok());
            let strict = Identifier::parse_address(text);
            if text == canonical {
                assert_eq!(strict, Ok(parsed));
            } else {
                let wanted = NameError::NotCanonical(text.into(), canonical.into());
                assert_eq!(strict, Err(wanted));
            }
        }
        assert_eq!(Identifier::parse("a.example").unwrap().address(), None);
        let mapped = Identifier::parse_address("::ffff:198.18.0.1").unwrap_err();
        assert!(mapped.to_string().ends_with("write 198.18.0.1"), "{mapped}");
        for bad in [
            "a.example",
            "198.18.0.1:80",
            "[::1]",
            "10.0.0.0/8",
            "fe80::1%eth0",
            "",
        ] {
            let error = Identifier::parse_address(bad).unwrap_err();
            assert_eq!(error, NameError::NoAddress(bad.into()));
        }
    }

    #[test]
    fn host_header_of_an_address_is_the_address() {
        let table = [
            ("A.example:80", Some("a.example")),
            ("a.example.", Some("a.example")),
            ("198.18.0.2:80", Some("198.18.0.2")),
            ("198.18.0.2", Some("198.18.0.2")),
            ("[2001:DB8::1]:80", Some("2001:db8::1")),
            ("[2001:db8:0:0::1]", Some("2001:db8::1")),
            ("[::1]:80", Some("::1")),
            ("198.18.0.1:", Some("198.18.0.1")),
            ("2001:db8::1", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]x", None),
            ("[a.example]", None),
            ("a.example:http", None),
        ];
        for (header, host) in table {
            assert_eq!(parse_host(header).as_deref(), host, "{header}");
        }
        for name in ["a.example", "198.18.0.2", "2001:db8::1"] {
            assert_eq!(parse_host(&host_header(name)).as_deref(), Some(name));
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
