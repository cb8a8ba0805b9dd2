//! The crate as its callers see it: PEM in, facts or a sentence out.

use crate::{
    AccountKeyError, ChainError, KeyError, Marking, PrivateKeyPem, account_key_der, build_csr,
    check_chain, find_root, generate_account_key, generate_key, key_kind, read_leaf, read_pair,
    self_signed,
};
use evercert_api::Identifier;
use evercert_api::certificate::{KeyAlgorithm, PrivateKey};
use evercert_core::facts::{CertificateFacts, Damage, KeyKind};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair, SerialNumber,
};
use x509_parser::prelude::{
    FromDer, GeneralName, ParsedExtension, X509Certificate, X509CertificationRequest,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn names(list: &[&str]) -> Vec<Identifier> {
    list.iter().map(|n| Identifier::parse(n).unwrap()).collect()
}

fn spec(algorithm: KeyAlgorithm, size: u16) -> PrivateKey {
    PrivateKey {
        algorithm,
        size: Some(size),
        ..PrivateKey::default()
    }
}

fn new_key() -> PrivateKeyPem {
    generate_key(&PrivateKey::default()).unwrap()
}

fn self_signed_now(key: &PrivateKeyPem, list: &[&str]) -> String {
    self_signed(
        key.as_bytes(),
        &names(list),
        at("2026-01-01T00:00:00Z"),
        at("2026-04-01T00:00:00Z"),
        Marking::Fallback,
    )
    .unwrap()
}

/// A leaf for `list` and the CA above it, as a CA sends them.
fn issued(key: &PrivateKeyPem, list: &[&str]) -> String {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let mut leaf =
        CertificateParams::new(list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
    leaf.not_before = rcgen::date_time_ymd(2026, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(2026, 4, 1);
    let pair = KeyPair::from_pem(key.as_str()).unwrap();
    leaf.signed_by(&pair, &Issuer::new(ca, ca_key))
        .unwrap()
        .pem()
        + &ca_pem
}

#[test]
fn every_key_of_the_spec_is_made_read_again_and_signs() {
    let kinds = [
        (KeyAlgorithm::Ecdsa, 256, KeyKind::Ecdsa(256)),
        (KeyAlgorithm::Ecdsa, 384, KeyKind::Ecdsa(384)),
        (KeyAlgorithm::Rsa, 2048, KeyKind::Rsa(2048)),
        (KeyAlgorithm::Rsa, 3072, KeyKind::Rsa(3072)),
        (KeyAlgorithm::Rsa, 4096, KeyKind::Rsa(4096)),
    ];
    for (algorithm, size, kind) in kinds {
        let key = generate_key(&spec(algorithm, size)).unwrap();
        assert!(
            key.as_str().starts_with("-----BEGIN PRIVATE KEY-----"),
            "{kind:?} is not PKCS #8"
        );
        assert_eq!(key_kind(key.as_bytes()), Ok(kind));
        assert_eq!(KeyKind::wanted(&spec(algorithm, size)), kind);
        let facts = read_pair(
            self_signed_now(&key, &["a.example"]).as_bytes(),
            key.as_bytes(),
        )
        .unwrap();
        assert_eq!((facts.key, facts.self_signed), (kind, true));
    }
}

#[test]
fn sizes_that_no_algorithm_has_are_refused() {
    let refused = |a, s| generate_key(&spec(a, s)).unwrap_err();
    assert_eq!(
        refused(KeyAlgorithm::Ecdsa, 2048),
        KeyError::UnsupportedSize("ECDSA")
    );
    assert_eq!(
        refused(KeyAlgorithm::Rsa, 256),
        KeyError::UnsupportedSize("RSA")
    );
    assert_eq!(
        refused(KeyAlgorithm::Rsa, 1024),
        KeyError::UnsupportedSize("RSA")
    );
}

#[test]
fn a_key_does_not_show_in_debug_output() {
    assert_eq!(format!("{:?}", new_key()), "PrivateKeyPem(…)");
}

#[test]
fn facts_of_an_issued_certificate_are_those_of_its_leaf() {
    let key = new_key();
    let facts = read_pair(
        issued(&key, &["b.example", "A.example", "b.example"]).as_bytes(),
        key.as_bytes(),
    )
    .unwrap();
    assert_eq!(facts.names, ["a.example", "b.example"]);
    assert_eq!(
        (facts.not_before, facts.not_after),
        (at("2026-01-01T00:00:00Z"), at("2026-04-01T00:00:00Z"))
    );
    assert_eq!((facts.key, facts.self_signed), (KeyKind::Ecdsa(256), false));
    assert_eq!(facts.fingerprint.len(), 64);
    assert!(
        !facts.serial.is_empty()
            && facts
                .serial
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    );
}

#[test]
fn each_damage_has_its_word() {
    let (key, other) = (new_key(), new_key());
    let chain = issued(&key, &["a.example"]);
    let pair = |c: &str, k: &str| read_pair(c.as_bytes(), k.as_bytes()).map(|_| ());
    assert_eq!(pair("", key.as_str()), Err(Damage::MissingData));
    assert_eq!(pair(&chain, " \n"), Err(Damage::MissingData));
    assert_eq!(
        pair("no PEM", key.as_str()),
        Err(Damage::InvalidCertificate)
    );
    assert_eq!(
        pair(key.as_str(), key.as_str()),
        Err(Damage::InvalidCertificate)
    );
    assert_eq!(pair(&chain, "no PEM"), Err(Damage::InvalidKeyPair));
    assert_eq!(pair(&chain, other.as_str()), Err(Damage::InvalidKeyPair));
    assert_eq!(pair(&chain, &chain), Err(Damage::InvalidKeyPair));
    assert_eq!(
        pair(&"a".repeat(2 << 20), key.as_str()),
        Err(Damage::InvalidCertificate)
    );
    assert_eq!(
        pair(&chain, &format!("{}{}", "a\n".repeat(40_000), key.as_str())),
        Err(Damage::InvalidKeyPair)
    );
    assert_eq!(read_leaf(b"").map(|_| ()), Err(Damage::MissingData));
    assert_eq!(pair(&chain, key.as_str()), Ok(()));
}

#[test]
fn a_chain_cut_anywhere_is_read_as_damaged_and_never_panics() {
    let key = new_key();
    let chain = issued(&key, &["a.example"]);
    let leaf_end = chain.find("-----END").unwrap();
    for cut in 0..chain.len() {
        let result = read_leaf(&chain.as_bytes()[..cut]);
        // Between the sections, and at the last line break, nothing is missing that could be noticed.
        assert!(
            cut > leaf_end || result.is_err(),
            "cut at {cut}: {result:?}"
        );
    }
    let in_second = chain.rfind("-----END").unwrap();
    assert_eq!(
        read_leaf(&chain.as_bytes()[..in_second]),
        Err(Damage::InvalidCertificate)
    );
    for cut in 0..key.as_bytes().len() - "-----\n".len() {
        assert!(
            read_pair(chain.as_bytes(), &key.as_bytes()[..cut]).is_err(),
            "key cut at {cut}"
        );
    }
}

#[test]
fn a_flipped_character_anywhere_never_panics_and_never_makes_another_certificate_of_it() {
    let key = new_key();
    let chain = self_signed_now(&key, &["a.example", "b.example"]);
    let whole = read_leaf(chain.as_bytes()).unwrap();
    for place in 0..chain.len() {
        for with in [b'A', b'/', b'-', b'\n', 0, 0xff] {
            let mut bytes = chain.clone().into_bytes();
            bytes[place] = with;
            if let Ok(facts) = read_leaf(&bytes)
                && facts.self_signed
            {
                // What lies outside of the signed part may change the fingerprint, and nothing else.
                let fingerprint = whole.fingerprint.clone();
                assert_eq!(
                    CertificateFacts {
                        fingerprint,
                        ..facts
                    },
                    whole,
                    "at {place}"
                );
            }
            let mut bytes = key.clone().into_bytes();
            if let Some(byte) = bytes.get_mut(place) {
                *byte = with;
                let _ = read_pair(chain.as_bytes(), &bytes);
                let _ = account_key_der(&bytes);
            }
        }
    }
}

#[test]
fn keys_as_openssl_writes_them_are_read_too() {
    // `openssl ecparam -name prime256v1 -genkey`: parameters first, then SEC 1.
    let sec1 = include_bytes!("../testdata/sec1.pem");
    assert_eq!(key_kind(sec1), Ok(KeyKind::Ecdsa(256)));
    assert!(account_key_der(sec1).is_ok());
    // `openssl genrsa -traditional 2048`: PKCS #1.
    let pkcs1 = include_bytes!("../testdata/pkcs1.pem");
    assert_eq!(key_kind(pkcs1), Ok(KeyKind::Rsa(2048)));
    assert_eq!(account_key_der(pkcs1), Err(AccountKeyError::NotP256));
    assert_eq!(account_key_der(b"secret"), Err(AccountKeyError::NotPem));
    assert_eq!(key_kind(b"secret"), Err(KeyError::Unreadable));
}

#[test]
fn an_account_key_is_p256_and_its_der_is_the_same_each_time() {
    let key = generate_account_key().unwrap();
    assert_eq!(key_kind(key.as_bytes()), Ok(KeyKind::Ecdsa(256)));
    assert_eq!(
        account_key_der(key.as_bytes()),
        account_key_der(key.as_bytes())
    );
    let p384 = generate_key(&spec(KeyAlgorithm::Ecdsa, 384)).unwrap();
    assert_eq!(
        account_key_der(p384.as_bytes()),
        Err(AccountKeyError::NotP256)
    );
}

#[test]
fn a_request_has_the_names_and_an_empty_subject() {
    let list = [
        "a.example",
        "a-name-that-is-much-longer-than-the-sixty-four-letters.of-a.common-name.example",
    ];
    let key = new_key();
    let der = build_csr(key.as_bytes(), &names(&list)).unwrap();
    let (rest, request) = X509CertificationRequest::from_der(&der).unwrap();
    assert!(rest.is_empty());
    request.verify_signature().unwrap();
    assert_eq!(request.certification_request_info.subject.iter().count(), 0);
    let found: Vec<String> = request
        .requested_extensions()
        .unwrap()
        .filter_map(|e| {
            if let ParsedExtension::SubjectAlternativeName(san) = e {
                Some(san)
            } else {
                None
            }
        })
        .flat_map(|san| san.general_names.iter().map(ToString::to_string))
        .collect();
    assert_eq!(found, list.map(|n| format!("DNSName({n})")));
    assert!(build_csr(key.as_bytes(), &[]).is_err());
}

#[test]
fn addresses_are_asked_for_and_read_as_addresses() {
    let list = ["198.18.0.2", "2001:db8::1", "a.example"];
    let key = new_key();
    let der = build_csr(key.as_bytes(), &names(&list)).unwrap();
    let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
    assert_eq!(request.certification_request_info.subject.iter().count(), 0);
    let mut found = Vec::new();
    for extension in request.requested_extensions().unwrap() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension {
            found.extend(san.general_names.iter().map(|name| match name {
                GeneralName::IPAddress(bytes) => format!("address of {} bytes", bytes.len()),
                other => other.to_string(),
            }));
        }
    }
    assert_eq!(
        found,
        [
            "address of 4 bytes",
            "address of 16 bytes",
            "DNSName(a.example)"
        ]
    );
    let facts = read_leaf(self_signed_now(&key, &list).as_bytes()).unwrap();
    assert_eq!(facts.names, list);
}

#[test]
fn the_common_name_is_never_an_address() {
    let signed = |list: &[&str], marking| {
        let (from, to) = (at("2026-01-01T00:00:00Z"), at("2026-04-01T00:00:00Z"));
        let pem = self_signed(new_key().as_bytes(), &names(list), from, to, marking).unwrap();
        let facts = read_leaf(pem.as_bytes()).unwrap();
        assert_eq!(facts.names, list);
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let leaf = pem.parse_x509().unwrap();
        let mut names = leaf.subject().iter_common_name();
        names.next().unwrap().as_str().unwrap().to_owned()
    };
    let own = |list: &[&str]| signed(list, Marking::SelfSignedIssuer);
    assert_eq!(own(&["198.18.0.2", "a.example"]), "a.example");
    for list in [&["198.18.0.2"][..], &["198.18.0.2", "2001:db8::1"]] {
        for marking in [Marking::SelfSignedIssuer, Marking::Fallback] {
            let name = signed(list, marking);
            assert!(name.parse::<std::net::IpAddr>().is_err(), "{name}");
        }
    }
}

#[test]
fn a_fallback_carries_a_name_that_nobody_takes_for_a_ca() {
    let key = generate_key(&spec(KeyAlgorithm::Rsa, 2048)).unwrap();
    let pem = self_signed_now(&key, &["a.example"]);
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
    assert_eq!(
        certificate.subject().to_string(),
        "CN=Evercert fallback: not issued by a CA"
    );
    assert_eq!(certificate.issuer(), certificate.subject());
    assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth && !extended.any);
}

#[test]
fn a_self_signed_issuer_signs_in_the_first_name_and_never_twice_with_one_serial() {
    let key = new_key();
    let (from, to) = (at("2026-01-01T00:00:00Z"), at("2026-04-01T00:00:00Z"));
    let sign = |list: &[&str]| {
        self_signed(
            key.as_bytes(),
            &names(list),
            from,
            to,
            Marking::SelfSignedIssuer,
        )
        .unwrap()
    };
    let subject = |pem: &str| {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        X509Certificate::from_der(&block.contents)
            .unwrap()
            .1
            .subject()
            .to_string()
    };
    assert_eq!(subject(&sign(&["b.example", "a.example"])), "CN=b.example");
    assert_eq!(
        subject(&sign(&[&format!("{}.example", "a".repeat(60))])),
        "CN=Evercert self-signed"
    );
    let serial = |pem: String| read_leaf(pem.as_bytes()).unwrap().serial;
    assert_ne!(serial(sign(&["a.example"])), serial(sign(&["a.example"])));
    assert!(
        self_signed(
            key.as_bytes(),
            &names(&["a.example"]),
            to,
            from,
            Marking::Fallback
        )
        .is_err()
    );
}

#[test]
fn a_certificate_without_end_is_valid_as_long_as_instants_go() {
    let key = new_key();
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let pem = params
        .self_signed(&KeyPair::from_pem(key.as_str()).unwrap())
        .unwrap()
        .pem();
    assert_eq!(read_leaf(pem.as_bytes()).unwrap().not_after, Timestamp::MAX);
}

#[test]
fn a_chain_is_stored_only_if_it_fits_the_order() {
    let (key, other) = (new_key(), new_key());
    let now = at("2026-02-01T00:00:00Z");
    let wanted = names(&["a.example", "www.b.example"]);
    let chain = issued(&key, &["a.example", "*.b.example"]);
    let check = |chain: &str, key: &PrivateKeyPem, now| {
        check_chain(chain.as_bytes(), key.as_bytes(), &wanted, now)
    };

    assert_eq!(
        check(&chain, &key, now).unwrap().names,
        ["*.b.example", "a.example"]
    );
    assert_eq!(check(&chain, &other, now), Err(ChainError::WrongKey));
    assert_eq!(
        check(&chain, &key, at("2026-04-01T00:00:00Z")),
        Err(ChainError::Expired(at("2026-04-01T00:00:00Z")))
    );
    assert_eq!(check("<html>", &key, now), Err(ChainError::NotPem));
    assert_eq!(
        check(&format!("{chain}{}", key.as_str()), &key, now),
        Err(ChainError::NotOnlyCertificates)
    );
    assert_eq!(
        check(
            &format!("{chain}-----BEGIN X-----\n-----END X-----\n"),
            &key,
            now
        ),
        Err(ChainError::NotOnlyCertificates)
    );
    assert_eq!(
        check(&chain.repeat(11), &key, now),
        Err(ChainError::TooLong(22))
    );
    let broken = format!("{chain}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_eq!(check(&broken, &key, now), Err(ChainError::Unreadable(2)));
    let missing = check(&issued(&key, &["a.example"]), &key, now).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "the certificate from the CA is not for www.b.example: its names are a.example"
    );
}

#[test]
fn a_certificate_from_a_ca_whose_clock_is_ahead_is_accepted_and_tells_so_by_its_start() {
    let key = new_key();
    let now = at("2026-01-01T00:00:00Z") - SignedDuration::from_mins(10);
    let facts = check_chain(
        issued(&key, &["a.example"]).as_bytes(),
        key.as_bytes(),
        &names(&["a.example"]),
        now,
    )
    .unwrap();
    assert!(facts.not_before > now && !facts.is_valid_at(now));
}

#[test]
fn the_root_of_a_chain_is_the_issuer_of_its_last_certificate() {
    let key = new_key();
    let chain = self_signed_now(&key, &["a.example"]);
    let root = find_root(chain.as_bytes()).unwrap();
    assert!(!root.is_empty());
    let two = format!("{chain}{}", named("Root Two"));
    assert_eq!(find_root(two.as_bytes()).as_deref(), Some("Root Two"));
    assert_eq!(find_root(b""), None);
    assert_eq!(find_root(b"no PEM"), None);
}

/// A self-signed certificate of this name.
fn named(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

/// The certificate of RFC 9773, appendix A, by its two parts that count.
#[test]
fn the_identifier_of_renewal_information_is_that_of_rfc_9773() {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_identifier_method = KeyIdMethod::PreSpecified(vec![
        0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0, 0xae,
        0x2c, 0xde, 0x01, 0xc8, 0xd4,
    ]);
    let mut leaf = CertificateParams::new(vec!["www.example.com".to_owned()]).unwrap();
    leaf.use_authority_key_identifier_extension = true;
    // Its first bit is set: DER puts a zero octet before it, which belongs to the identifier.
    leaf.serial_number = Some(SerialNumber::from_slice(&[0x87, 0x65, 0x43, 0x21]));
    let key = KeyPair::generate().unwrap();
    let pem = leaf
        .signed_by(&key, &Issuer::new(ca, ca_key))
        .unwrap()
        .pem();
    let facts = read_leaf(pem.as_bytes()).unwrap();
    assert_eq!(
        facts.renewal_id.as_deref(),
        Some("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
    );
}
