//! Certificates that the API server refuses, and some at the edge that it takes.

use serde_json::{Value, json};

use super::{Case, NOT_A_PROFILE, long, merged, object};

const KIND: &str = "Certificate";
const CEL: &str = "x-kubernetes-validations";

fn base() -> Value {
    json!({"secretName": "site-tls", "dnsNames": ["www.example.com"], "issuerRef": {"name": "ca"}})
}

/// A Certificate with `change` merged into a good spec.
fn case(
    path: &'static str,
    keyword: &'static str,
    change: &Value,
    says: impl Into<String>,
) -> Case {
    Case {
        kind: KIND,
        path,
        keyword,
        spec: merged(&base(), change),
        says: says.into(),
    }
}

fn name_case(bad: &str, why: &str) -> Case {
    let says = format!("spec.dnsNames[1]: Invalid value: {bad:?}: {why}");
    case(
        "spec.dnsNames[]",
        CEL,
        &json!({"dnsNames": ["www.example.com", bad]}),
        says,
    )
}

pub(super) fn bad() -> Vec<Case> {
    let mut cases = names();
    cases.extend(references());
    cases.extend(renewal());
    cases.extend(keys_and_fallback());
    cases.extend(own_fallback());
    cases.extend(the_secret());
    cases
}

/// So many addresses.
fn addresses(many: u32) -> Vec<String> {
    (0..many).map(|n| format!("198.18.7.{n}")).collect()
}

fn address_case(bad: &str, why: &str) -> Case {
    let says = format!("spec.ipAddresses[1]: Invalid value: {bad:?}: {why}");
    case(
        "spec.ipAddresses[]",
        CEL,
        &json!({"ipAddresses": ["198.18.0.1", bad]}),
        &says,
    )
}

fn names() -> Vec<Case> {
    let many: Vec<String> = (0..101).map(|n| format!("n{n}.example.com")).collect();
    let not_a_name = "is not a host name: labels of letters, digits and inner hyphens, 63 at most each, joined by single dots, \
                      none at the end";
    let label = format!("{}.example.com", "a".repeat(64));
    let mut cases = vec![
        case(
            "spec",
            CEL,
            &json!({"dnsNames": null}),
            "spec.dnsNames: Required value: list the host names of the certificate, or its addresses in ipAddresses, 1 to 100 in all",
        ),
        case(
            "spec",
            CEL,
            &json!({"dnsNames": [], "ipAddresses": []}),
            "spec.dnsNames: Required value: list the host names of the certificate, or its addresses in ipAddresses, 1 to 100 in all",
        ),
        case(
            "spec",
            CEL,
            &json!({"dnsNames": many[..60], "ipAddresses": addresses(41)}),
            "spec.ipAddresses: Invalid value: with dnsNames there are more than 100: a certificate has 100 names and addresses at most",
        ),
        case(
            "spec.ipAddresses",
            "maxItems",
            &json!({"ipAddresses": addresses(101)}),
            "spec.ipAddresses: Too many: 101: must have at most 100 items",
        ),
        case(
            "spec.ipAddresses",
            "x-kubernetes-list-type",
            &json!({"ipAddresses": ["198.18.0.1", "2001:db8::1", "198.18.0.1"]}),
            "spec.ipAddresses[2]: Duplicate value: \"198.18.0.1\"",
        ),
        case(
            "spec.ipAddresses[]",
            "maxLength",
            &json!({"ipAddresses": ["0".repeat(40)]}),
            "spec.ipAddresses[0]: Too long: may not be more than 39 bytes",
        ),
        case(
            "spec.dnsNames",
            "maxItems",
            &json!({"dnsNames": many}),
            "spec.dnsNames: Too many: 101: must have at most 100 items",
        ),
        case(
            "spec.dnsNames",
            "x-kubernetes-list-type",
            &json!({"dnsNames": ["a.example.com", "b.example.com", "a.example.com"]}),
            "spec.dnsNames[2]: Duplicate value: \"a.example.com\"",
        ),
        case(
            "spec.dnsNames[]",
            "maxLength",
            &json!({"dnsNames": [format!("{}com", "a.".repeat(126))]}),
            "spec.dnsNames[0]: Too long: may not be more than 253 bytes",
        ),
        name_case(
            "*.example.com",
            "is a wildcard, and HTTP-01, the only challenge there is, cannot prove one: list the host names themselves",
        ),
        name_case(
            "Shop.example.com",
            "has upper-case letters: write it in lower case",
        ),
        name_case(
            "bücher.example.com",
            "is not in its ASCII form: write the IDNA A-labels (xn--...)",
        ),
        name_case(
            "localhost",
            "has one label only, and no CA signs that: write the full name, such as www.example.com",
        ),
    ];
    let addresses = ["198.18.0.1", "fe80::1", "web.12"];
    cases.extend(addresses.map(|bad| {
        name_case(
            bad,
            "is an IP address or ends like one: dnsNames takes host names only, write an address into ipAddresses",
        )
    }));
    let no_address = [
        "www.example.com",
        "198.18.0.1:80",
        "[2001:db8::1]",
        "10.0.0.0/8",
        "fe80::1%eth0",
        "198.18.0.256",
        "::ffff:198.18.0.1",
    ];
    cases.extend(no_address.map(|bad| {
        address_case(
            bad,
            "is not an IP address: write one such as 192.0.2.1 or 2001:db8::1, without port, brackets, zone or network",
        )
    }));
    cases.extend(["2001:DB8::1", "2001:db8:0:0::1"].map(|bad| {
        address_case(
            bad,
            "is not in its canonical form: write it in lower case, with '::' for the longest run of zeros and no zero in front",
        )
    }));
    let malformed = [
        "a..example.com",
        ".example.com",
        "a.example.com.",
        "-a.example.com",
        "a-.example.com",
        "a_b.example.com",
    ];
    cases.extend(malformed.map(|bad| name_case(bad, not_a_name)));
    cases.push(name_case(&label, not_a_name));
    cases
}

fn references() -> Vec<Case> {
    let not_an_object = "must be an object's name: lower case letters, digits, '-' and '.', beginning and ending with a letter or digit";
    vec![
        Case {
            kind: KIND,
            path: "",
            keyword: "required spec",
            spec: Value::Null,
            says: "spec: Required value".into(),
        },
        case(
            "spec",
            "required secretName",
            &json!({"secretName": null}),
            "spec.secretName: Required value",
        ),
        case(
            "spec.secretName",
            CEL,
            &json!({"secretName": "Site TLS"}),
            format!("spec.secretName: Invalid value: \"Site TLS\": {not_an_object}"),
        ),
        case(
            "spec.secretName",
            "maxLength",
            &json!({"secretName": long("s", 254)}),
            "spec.secretName: Too long: may not be more than 253 bytes",
        ),
        case(
            "spec",
            "required issuerRef",
            &json!({"issuerRef": null}),
            "spec.issuerRef: Required value",
        ),
        case(
            "spec.issuerRef",
            "required name",
            &json!({"issuerRef": {"name": null, "kind": "Issuer"}}),
            "spec.issuerRef.name: Required value",
        ),
        case(
            "spec.issuerRef.name",
            CEL,
            &json!({"issuerRef": {"name": ""}}),
            format!("spec.issuerRef.name: Invalid value: \"\": {not_an_object}"),
        ),
        case(
            "spec.issuerRef.name",
            "maxLength",
            &json!({"issuerRef": {"name": long("i", 254)}}),
            "spec.issuerRef.name: Too long: may not be more than 253 bytes",
        ),
        case(
            "spec.alternateIssuerRefs",
            "maxItems",
            &json!({"alternateIssuerRefs": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}, {"name": "e"}, {"name": "f"}]}),
            "spec.alternateIssuerRefs: Too many: 6: must have at most 5 items",
        ),
        case(
            "spec.alternateIssuerRefs[]",
            "required name",
            &json!({"alternateIssuerRefs": [{"kind": "Issuer"}]}),
            "spec.alternateIssuerRefs[0].name: Required value",
        ),
        case(
            "spec.alternateIssuerRefs[].name",
            CEL,
            &json!({"alternateIssuerRefs": [{"name": ""}]}),
            format!("spec.alternateIssuerRefs[0].name: Invalid value: \"\": {not_an_object}"),
        ),
        case(
            "spec.alternateIssuerRefs[].name",
            "maxLength",
            &json!({"alternateIssuerRefs": [{"name": long("i", 254)}]}),
            "spec.alternateIssuerRefs[0].name: Too long: may not be more than 253 bytes",
        ),
        case(
            "spec.alternateIssuerRefs[].kind",
            "enum",
            &json!({"alternateIssuerRefs": [{"name": "a", "kind": "Vault"}]}),
            "spec.alternateIssuerRefs[0].kind: Unsupported value: \"Vault\": supported values: \"Issuer\", \"ClusterIssuer\"",
        ),
        case(
            "spec.issuerRef.kind",
            "enum",
            &json!({"issuerRef": {"kind": "Vault"}}),
            "spec.issuerRef.kind: Unsupported value: \"Vault\": supported values: \"Issuer\", \"ClusterIssuer\"",
        ),
    ]
}

fn renewal() -> Vec<Case> {
    let duration =
        "must be a duration above zero in hours, minutes and seconds, such as 720h, 1h30m or 90s";
    let percentage = "must be 1 to 66: a renewal with more than two thirds of the lifetime left would only spend orders";
    let mut cases = vec![
        case(
            "spec",
            CEL,
            &json!({"renewBefore": "720h", "renewBeforePercentage": 30}),
            "spec.renewBeforePercentage: Forbidden: renewBefore and renewBeforePercentage exclude each other: keep one of them",
        ),
        case(
            "spec.renewBefore",
            "maxLength",
            &json!({"renewBefore": "1000000h1000000m1000000s"}),
            "spec.renewBefore: Too long: may not be more than 21 bytes",
        ),
    ];
    cases.extend(
        ["30d", "0s", "", "1m1h", "-1h", "1.5h", "1234567h"].map(|bad| {
            let says = format!("spec.renewBefore: Invalid value: {bad:?}: {duration}");
            case("spec.renewBefore", CEL, &json!({"renewBefore": bad}), says)
        }),
    );
    cases.extend([-1, 0, 67, 300].map(|bad| {
        let says = format!("spec.renewBeforePercentage: Invalid value: {bad}: {percentage}");
        case(
            "spec.renewBeforePercentage",
            CEL,
            &json!({"renewBeforePercentage": bad}),
            says,
        )
    }));
    cases
}

fn keys_and_fallback() -> Vec<Case> {
    let ecdsa = "spec.privateKey.size: Invalid value: an ECDSA key has size 256 or 384; the sizes 2048, 3072 and 4096 want \
                 algorithm RSA";
    let rsa = "spec.privateKey.size: Invalid value: an RSA key has size 2048, 3072 or 4096; the sizes 256 and 384 want algorithm \
               ECDSA";
    let mut cases = vec![
        case(
            "spec.privateKey.algorithm",
            "enum",
            &json!({"privateKey": {"algorithm": "Ed25519"}}),
            "spec.privateKey.algorithm: Unsupported value: \"Ed25519\": supported values: \"ECDSA\", \"RSA\"",
        ),
        case(
            "spec.privateKey.rotationPolicy",
            "enum",
            &json!({"privateKey": {"rotationPolicy": "Sometimes"}}),
            "spec.privateKey.rotationPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\"",
        ),
        case(
            "spec.profile",
            "required name",
            &json!({"profile": {"policy": "Required"}}),
            "spec.profile.name: Required value",
        ),
        case(
            "spec.profile.name",
            CEL,
            &json!({"profile": {"name": "tls server"}}),
            format!("spec.profile.name: Invalid value: \"tls server\": {NOT_A_PROFILE}"),
        ),
        case(
            "spec.profile.name",
            "maxLength",
            &json!({"profile": {"name": "a".repeat(65)}}),
            "spec.profile.name: Too long: may not be more than 64 bytes",
        ),
        case(
            "spec.profile.policy",
            "enum",
            &json!({"profile": {"name": "tlsserver", "policy": "Maybe"}}),
            "spec.profile.policy: Unsupported value: \"Maybe\": supported values: \"Preferred\", \"Required\"",
        ),
        case(
            "spec.fallback.mode",
            "enum",
            &json!({"fallback": {"mode": "Plain"}}),
            "spec.fallback.mode: Unsupported value: \"Plain\": supported values: \"SelfSigned\", \"Secret\", \"None\"",
        ),
    ];
    // Without an algorithm it is the default's, ECDSA.
    cases.push(case(
        "spec.privateKey",
        CEL,
        &json!({"privateKey": {"size": 2048}}),
        ecdsa,
    ));
    cases.extend([0, 521, 70000].map(|size| {
        case(
            "spec.privateKey",
            CEL,
            &json!({"privateKey": {"algorithm": "ECDSA", "size": size}}),
            ecdsa,
        )
    }));
    cases.extend([256, 1024, -2048].map(|size| {
        case(
            "spec.privateKey",
            CEL,
            &json!({"privateKey": {"algorithm": "RSA", "size": size}}),
            rsa,
        )
    }));
    cases
}

fn own_fallback() -> Vec<Case> {
    let not_an_object = "must be an object's name: lower case letters, digits, '-' and '.', beginning and ending with a letter or digit";
    let own = |name: Value| json!({"fallback": {"mode": "Secret", "secretRef": {"name": name}}});
    vec![
        case(
            "spec.fallback",
            CEL,
            &json!({"fallback": {"mode": "Secret"}}),
            "spec.fallback.secretRef: Required value: mode Secret wants the name of the Secret with your own certificate in secretRef",
        ),
        case(
            "spec.fallback",
            CEL,
            &json!({"fallback": {"secretRef": {"name": "wildcard"}}}),
            "spec.fallback.secretRef: Forbidden: secretRef goes with mode Secret: set the mode, or remove secretRef",
        ),
        case(
            "spec",
            CEL,
            &own(json!("site-tls")),
            "spec.fallback.secretRef.name: Invalid value: is the Secret of this Certificate itself: name another one, with your own \
             certificate in it",
        ),
        case(
            "spec.fallback.secretRef",
            "required name",
            &own(Value::Null),
            "spec.fallback.secretRef.name: Required value",
        ),
        case(
            "spec.fallback.secretRef.name",
            CEL,
            &own(json!("Wild Card")),
            format!("spec.fallback.secretRef.name: Invalid value: \"Wild Card\": {not_an_object}"),
        ),
        case(
            "spec.fallback.secretRef.name",
            "maxLength",
            &own(json!(long("s", 254))),
            "spec.fallback.secretRef.name: Too long: may not be more than 253 bytes",
        ),
        case(
            "spec.fallback.trigger",
            "enum",
            &json!({"fallback": {"trigger": "Never"}}),
            "spec.fallback.trigger: Unsupported value: \"Never\": supported values: \"OnFailure\", \"Immediately\"",
        ),
    ]
}

/// What stands on the Secret beside the certificate.
fn the_secret() -> Vec<Case> {
    let ours = "has a key under evercert.dev/, and these are Evercert's own: choose another prefix";
    let many: serde_json::Map<String, Value> =
        (0..33).map(|n| (format!("k{n}"), json!("v"))).collect();
    let template = |part: &str, pairs: Value| json!({"secretTemplate": {part: pairs}});
    vec![
        case(
            "spec.secretTemplate.labels",
            CEL,
            &template("labels", json!({"evercert.dev/secret": "tls"})),
            format!("spec.secretTemplate.labels: Forbidden: {ours}"),
        ),
        case(
            "spec.secretTemplate.annotations",
            CEL,
            &template("annotations", json!({"evercert.dev/certificate-name": "x"})),
            format!("spec.secretTemplate.annotations: Forbidden: {ours}"),
        ),
        case(
            "spec.secretTemplate.labels",
            "maxProperties",
            &template("labels", Value::Object(many.clone())),
            "spec.secretTemplate.labels: Too many: 33: must have at most 32 items",
        ),
        case(
            "spec.secretTemplate.annotations",
            "maxProperties",
            &template("annotations", Value::Object(many)),
            "spec.secretTemplate.annotations: Too many: 33: must have at most 32 items",
        ),
        case(
            "spec.secretTemplate.labels{}",
            "maxLength",
            &template("labels", json!({"team": long("x", 64)})),
            "spec.secretTemplate.labels.team: Too long: may not be more than 63 bytes",
        ),
        case(
            "spec.secretTemplate.labels{}",
            CEL,
            &template("labels", json!({"team": "-a b"})),
            "spec.secretTemplate.labels[team]: Invalid value: \"-a b\": is no label's value: letters, digits, '-', '_' and '.', 63 at most, \
             beginning and ending with a letter or digit",
        ),
        case(
            "spec.secretTemplate.annotations{}",
            "maxLength",
            &template("annotations", json!({"note": long("x", 4097)})),
            "spec.secretTemplate.annotations.note: Too long: may not be more than 4096 bytes",
        ),
        case(
            "spec.outputFormats[]",
            "enum",
            &json!({"outputFormats": ["PKCS12"]}),
            "spec.outputFormats[0]: Unsupported value: \"PKCS12\": supported values: \"CombinedPEM\"",
        ),
        case(
            "spec.outputFormats",
            "maxItems",
            &json!({"outputFormats": ["CombinedPEM", "CombinedPEM"]}),
            "spec.outputFormats: Too many: 2: must have at most 1 item",
        ),
        case(
            "spec.deletionPolicy",
            "enum",
            &json!({"deletionPolicy": "Orphan"}),
            "spec.deletionPolicy: Unsupported value: \"Orphan\": supported values: \"Retain\", \"Delete\"",
        ),
    ]
}

pub(super) fn good() -> Vec<Value> {
    let longest = format!(
        "{}.{}.{}.{}",
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(61)
    );
    let many: Vec<String> = (0..100).map(|n| format!("n{n}.example.com")).collect();
    let patches = [
        json!({}),
        json!({"dnsNames": ["a.b", "xn--bcher-kva.example", "1.example", "a.1b", longest]}),
        json!({"dnsNames": many, "secretName": long("s.", 253)}),
        json!({"dnsNames": null, "ipAddresses": ["198.18.0.2", "2001:db8::1", "fe80::1", "127.0.0.1"]}),
        json!({"dnsNames": many[..50], "ipAddresses": addresses(50)}),
        json!({"renewBefore": "15s"}),
        json!({"renewBefore": "999999h999999m999999s"}),
        json!({"renewBeforePercentage": 66, "fallback": {"mode": "None"}, "issuerRef": {"kind": "ClusterIssuer"}}),
        json!({"privateKey": {}, "fallback": {}}),
        json!({"alternateIssuerRefs": [{"name": "a"}, {"name": "a", "kind": "ClusterIssuer"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]}),
        json!({"suspend": true, "profile": {"name": "a".repeat(64), "policy": "Required"}}),
        json!({"suspend": false, "profile": {"name": "tlsserver"}}),
        json!({"privateKey": {"size": 384, "rotationPolicy": "Never"}}),
        json!({"privateKey": {"algorithm": "RSA"}}),
        json!({"privateKey": {"algorithm": "RSA", "size": 3072}}),
        json!({"fallback": {"mode": "Secret", "secretRef": {"name": "wildcard"}, "trigger": "Immediately"}}),
        json!({"secretTemplate": {}, "outputFormats": [], "deletionPolicy": "Delete"}),
        json!({"secretTemplate": {"labels": {"team": "a-b_c.d", "empty": ""}, "annotations": {"my.evercert.dev/x": "anything at all"}}}),
        json!({"outputFormats": ["CombinedPEM"], "deletionPolicy": "Retain"}),
    ];
    let mut objects: Vec<Value> = patches
        .iter()
        .map(|change| object(KIND, &merged(&base(), change)))
        .collect();
    // A field written as null is as good as absent.
    let mut null = object(KIND, &base());
    null["spec"]["renewBefore"] = Value::Null;
    null["spec"]["renewBeforePercentage"] = json!(30);
    objects.push(null);
    objects
}
